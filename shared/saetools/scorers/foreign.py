"""What the readers of other libraries' checkpoints have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saetools.errors import UserError
from saetools.files.provenance import Provenance
from saetools.scorers.record import TrainedScorer
from saetools.scorers.sae import SAE, SAEConfig, check_config


def take(
    path: Path, state: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, torch.Tensor]:
    """Tensors out of a state dict as float32; raises UserError where one is missing or has another shape."""
    taken = {}
    for name, shape in shapes.items():
        if name not in state:
            raise UserError(
                f"{path}: {name} is missing among {sorted(state)}; it is no SAE of a kind known here"
            )
        if tuple(state[name].shape) != shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(state[name].shape)}, but its settings say {shape}; the file is broken"
            )
        taken[name] = state[name].float()
        if not torch.isfinite(taken[name]).all():
            raise UserError(f"{path}: {name} holds NaN or infinite values; take an earlier checkpoint")
    return taken


def make_sae(config: SAEConfig, tensors: Mapping[str, torch.Tensor]) -> SAE:
    """An SAE without input normalisation."""
    return SAE(
        config,
        tensors["W_enc"],
        tensors["b_enc"],
        tensors["W_dec"],
        tensors["b_dec"],
        tensors.get("threshold"),
    )


def foreign_scorer(
    path: Path, sae: SAE, uid: str, library: str, version: int, settings: Mapping[str, Any]
) -> TrainedScorer:
    """An SAE of another library as a scorer file. What it was trained on is not known."""
    check_config(sae.config, str(path))
    known = {"activation": sae.config.activation, "sparsity": sae.config.k, library: dict(settings)}
    provenance = Provenance(library, version, library, "", known, (), uid)
    return TrainedScorer("sae", sae, provenance, {})
