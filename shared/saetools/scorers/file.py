"""Reads scorers: one HDF5 file each (docs/formats.md), or a checkpoint of another library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from saetools.errors import UserError
from saetools.files.formats import SCORERS
from saetools.files.hdf5 import open_hdf5
from saetools.files.provenance import Provenance
from saetools.scorers.baselines import Linear, Nearest
from saetools.scorers.hub import HUB, download
from saetools.scorers.record import LATENTS, TrainedScorer
from saetools.scorers.sae import SAE, SAEConfig, check_config, sae_digest
from saetools.scorers.saelens import read_saelens
from saetools.scorers.saev import read_saev

SAE_KINDS = ("sae", "untrained")  # untrained: as it was before its training
LINEAR_KINDS = ("random", "random-centred", "kmeans", "pca", "pca-both", "units-both", "linear")


def load_scorer(path: str | Path) -> TrainedScorer:
    """Read a scorer onto the CPU: ours, a `.pt` of the saev library, or a folder of SAELens.

    Raises UserError where it is broken, unknown or incomplete.
    """
    path = Path(path)
    if path.is_dir():
        return read_saelens(path)
    if path.suffix == ".pt":
        return read_saev(path)
    with open_hdf5(path, SCORERS) as file:
        provenance = Provenance.from_attributes(file.attrs, SCORERS, path)
        kind = _attribute(file, "kind", path)
        trained_on = json.loads(_attribute(file, "trained_on", path))
        evaluation = json.loads(file.attrs.get("evaluation", "{}"))
        if kind in SAE_KINDS:
            scorer: SAE | Linear = _read_sae(file, path)
            kind = "untrained" if trained_on.get("tokens") == 0 else kind  # of train-sae --tokens 0 too
        elif kind in LINEAR_KINDS:
            vectors = _read(file, "vectors", (None, None), path)
            bias = _read(file, "bias", (len(vectors),), path)
            scorer = Nearest(vectors) if kind == "kmeans" else Linear(vectors, bias)
        else:
            raise UserError(
                f"{path}: unknown kind of scorer {kind!r}; known are {', '.join(SAE_KINDS + LINEAR_KINDS)};"
                " update saetools"
            )
        latents = {
            f"{name}_s": _read(file, name, (scorer.n_prototypes,), path) for name in LATENTS if name in file
        }
    return TrainedScorer(kind, scorer, provenance, trained_on, evaluation, **latents)


def load_sae(path: str | Path) -> SAE:
    """Read an SAE: all that `load_scorer` reads, and `hf://OWNER/NAME/FILE` of the Hugging Face hub.

    Its `origin` is the file's record. Raises UserError where the file holds another kind of scorer.
    """
    if str(path).startswith(HUB):
        path = download(str(path))
    return with_origin(load_scorer(path), str(path))


def with_origin(found: TrainedScorer, what: str = "the scorer") -> SAE:
    """The SAE of a record, which it keeps as its `origin`; raises UserError, naming `what`, of another scorer."""
    sae = found.scorer
    if not isinstance(sae, SAE):
        raise UserError(
            f"{what}: found a scorer of kind {found.kind!r}, expected an SAE; use load_scorer for it"
        )
    sae.origin, sae.origin_digest = found, sae_digest(sae)
    return sae


def _read_sae(file: h5py.File, path: Path) -> SAE:
    settings = json.loads(_attribute(file, "config", path))
    if unknown := set(settings) - set(SAEConfig.__dataclass_fields__):
        raise UserError(f"{path}: unknown setting {min(unknown)!r} in its config; update saetools")
    config = SAEConfig(**settings)
    check_config(config, str(path))
    d, s = config.d_model, config.d_sae
    return SAE(
        config,
        W_enc=_read(file, "W_enc", (d, s), path),
        b_enc=_read(file, "b_enc", (s,), path),
        W_dec=_read(file, "W_dec", (s, d), path),
        b_dec=_read(file, "b_dec", (d,), path),
        threshold=_read(file, "threshold", (s,), path) if needs_threshold(config) else None,
        mean=_read(file, "mean", (d,), path),
        scale=float(_attribute(file, "scale", path)),
    )


def needs_threshold(config: SAEConfig) -> bool:
    return config.activation in ("batchtopk", "jumprelu")


def _attribute(file: h5py.File, name: str, path: Path) -> Any:
    if name not in file.attrs:
        raise UserError(
            f"{path}: the attribute {name!r} is missing; {SCORERS.name} files have it; train again"
        )
    return file.attrs[name]


def _read(file: h5py.File, name: str, shape: tuple[int | None, ...], path: Path) -> torch.Tensor:
    if name not in file:
        raise UserError(f"{path}: /{name} is missing; its kind of scorer needs it; train again")
    found = file[name].shape
    fits = len(found) == len(shape) and all(e in (None, f) for e, f in zip(shape, found, strict=True))
    if not fits:
        raise UserError(f"{path}: /{name} has shape {found}, expected {shape}; train again")
    values = np.empty(found, np.float32)
    file[name].read_direct(values)
    tensor = torch.from_numpy(values)
    # The sum tells at the speed of memory; it may itself be too large
    if not torch.isfinite(tensor.sum()) and not torch.isfinite(tensor).all():
        raise UserError(
            f"{path}: /{name} holds NaN or infinite values; train again with a lower learning rate"
        )
    return tensor
