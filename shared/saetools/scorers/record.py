"""A scorer with all that is known of it, and its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from saetools.files.hdf5 import new_hdf5
from saetools.files.provenance import Provenance, canonical_json
from saetools.scorers.baselines import Scorer

LATENTS = ("frequency", "mean_value")  # of each latent in the evaluation


class StoredScorer(Scorer, Protocol):
    """A scorer that has a file: an `SAE`, or a `Linear` one."""

    @property
    def d_model(self) -> int: ...

    def contents(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What its file holds: attributes, and float32 tensors by name."""
        ...


@dataclass(frozen=True)
class TrainedScorer:
    """A scorer and what is known of it.

    kind: one of saetools.scorers.file.SAE_KINDS and LINEAR_KINDS
    trained_on: model, weights, hook, preprocess, layer, and the number of tokens seen
    evaluation: l0, mse, nmse, explained_variance, dead, dense, n_tokens (of an SAE)
    frequency_s {S}: share of the evaluation's tokens on which each latent fired; mean_value_s {S}: its mean value there
    """

    kind: str
    scorer: StoredScorer
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
