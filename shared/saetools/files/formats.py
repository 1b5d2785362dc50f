"""Every file format of saetools: its name, the newest version, the command that writes it. Normative: docs/formats.md.

A new format, or a new version of one, begins here. check-files checks each; collect-runs takes those of `TABLES`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A file format: its name in the files, and the newest version that this code writes and reads."""

    name: str
    version: int
    made_by: str  # the command that writes it, for the advice in errors
    sealed_from: int = 0  # the first version whose files have a seal (saetools.files.seal); 0 of CSV


# HDF5, NPZ
SHARDS = Format("saetools-activations", 2, "dump-acts", sealed_from=2)
SCORERS = Format("saetools-scorer", 2, "train-sae", sealed_from=2)
TRAINING_STATES = Format("saetools-training-state", 2, "train-sae", sealed_from=2)
LATENTS = Format("saetools-latents", 3, "encode-acts", sealed_from=3)
IMAGE_SCORES = Format("saetools-image-scores", 2, "score-traits", sealed_from=2)
PROBES = Format("saetools-probes", 2, "fit-probes", sealed_from=2)
HEADS = Format("saetools-head", 1, "fit-heads", sealed_from=1)
EDIT_PARTS = Format("saetools-edit-part", 1, "edit-latents", sealed_from=1)
EDIT_PREDICTIONS = Format("saetools-edit-predictions", 1, "edit-latents", sealed_from=1)

# CSV, each with a sidecar NAME.csv.json
AP_TABLE = Format("saetools-ap-table", 2, "score-traits")
TRAINING_METRICS = Format("saetools-training-metrics", 1, "train-sae")
PROBE_TABLE = Format("saetools-probe-table", 1, "fit-probes")
LATENT_TABLE = Format("saetools-latent-table", 1, "fit-probes")
PROBE_SUMMARY = Format("saetools-probe-summary", 2, "fit-probes")
LATENT_RANKING = Format("saetools-latent-ranking", 1, "audit-latents")
YIELD = Format("saetools-yield", 2, "audit-latents")
LATENT_PICTURES = Format("saetools-latent-pictures", 1, "render-visuals latents")
COLLECTED_RUNS = Format("saetools-collected-runs", 1, "collect-runs")
EDIT_EFFECTS = Format("saetools-edit-effects", 1, "edit-latents")
EDIT_FIDELITY = Format("saetools-edit-fidelity", 1, "edit-latents")

TABLES = (
    AP_TABLE,
    TRAINING_METRICS,
    PROBE_TABLE,
    LATENT_TABLE,
    PROBE_SUMMARY,
    LATENT_RANKING,
    YIELD,
    LATENT_PICTURES,
    COLLECTED_RUNS,
    EDIT_EFFECTS,
    EDIT_FIDELITY,
)
FORMATS = (
    SHARDS,
    SCORERS,
    TRAINING_STATES,
    LATENTS,
    IMAGE_SCORES,
    PROBES,
    HEADS,
    EDIT_PARTS,
    EDIT_PREDICTIONS,
    *TABLES,
)
