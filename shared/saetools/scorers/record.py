"""A scorer with all that is known of it, and its file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saetools.files.formats import SCORERS
from saetools.files.hdf5 import new_hdf5
from saetools.files.provenance import Provenance, canonical_json

if TYPE_CHECKING:
    from saetools.scorers.baselines import Linear
    from saetools.scorers.sae import SAE

LATENTS = ("frequency", "mean_value")  # of each latent in the evaluation
# setting of an SAE that was saved from Python with other weights: the uid of the first one
CHANGED_FROM = "changed_from"


@dataclass(frozen=True)
class TrainedScorer:
    """A scorer and what is known of it.

    kind: one of saetools.scorers.file.SAE_KINDS and LINEAR_KINDS
    trained_on: model, weights, hook, preprocess, layer, and the number of tokens seen
    evaluation: l0, mse, nmse, explained_variance, dead, dense, n_tokens (of an SAE)
    frequency_s {S}: share of the evaluation's tokens on which each latent fired; mean_value_s {S}: its mean value there
    """

    kind: str
    scorer: SAE | Linear
    provenance: Provenance
    trained_on: Mapping[str, Any]
    evaluation: Mapping[str, float] = field(default_factory=dict)
    frequency_s: torch.Tensor | None = None
    mean_value_s: torch.Tensor | None = None

    @property
    def d_model(self) -> int:
        return self.scorer.d_model


def save_scorer(target: Path, contents: TrainedScorer) -> None:
    """Write a scorer file, complete or not at all."""
    attributes: dict[str, Any] = {"kind": contents.kind, **contents.provenance.to_attributes()}
    attributes["trained_on"] = canonical_json(contents.trained_on)
    attributes["evaluation"] = canonical_json(contents.evaluation)
    settings, tensors = contents.scorer.contents()
    attributes |= settings
    for name in LATENTS:
        if (tensor := getattr(contents, f"{name}_s")) is not None:
            tensors[name] = tensor
    n_bytes = sum(4 * tensor.numel() for tensor in tensors.values()) + sum(
        len(str(v)) for v in attributes.values()
    )
    with new_hdf5(target, n_bytes) as file:
        for name, tensor in tensors.items():
            file[name] = np.ascontiguousarray(tensor.detach().cpu().numpy(), "<f4")
        for name, value in attributes.items():
            file.attrs[name] = value


def save_sae(path: Path, sae: SAE) -> None:
    """What `SAE.save` does."""
    save_scorer(path, sae_record(sae))


def sae_record(sae: SAE) -> TrainedScorer:
    """What is known of an SAE in memory: its own record, or a new one where its weights were changed since then."""
    found = sae.origin
    if found is not None and found.provenance.format == SCORERS.name and sae_digest(sae) == sae.origin_digest:
        return replace(found, scorer=sae)
    settings: dict[str, Any] = {"activation": sae.config.activation, "sparsity": sae.config.k}
    parents: Sequence[str] = ()
    if found is not None:
        settings = {**found.provenance.settings, CHANGED_FROM: found.provenance.uid}
        parents = found.provenance.parents
    # Of changed weights, what was counted and measured after the training holds no longer.
    trained_on = {name: value for name, value in sae.trained_on.items() if name != "tokens"}
    return TrainedScorer("sae", sae, Provenance.of(SCORERS, "saetools", settings, parents), trained_on)


def sae_digest(sae: SAE) -> str:
    """SHA-256 of the weights and of all else that decides what the SAE computes."""
    digest = hashlib.sha256(repr((sae.config, sae.scale)).encode())
    for name, tensor in sae.state_dict().items():
        digest.update(name.encode() + str(tensor.dtype).encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
