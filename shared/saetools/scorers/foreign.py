"""What the readers of other libraries' checkpoints have in common."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from saetools.errors import UserError, some_of
from saetools.files.provenance import Provenance
from saetools.scorers.record import TrainedScorer
from saetools.scorers.sae import SAE, SAEConfig, check_config


def setting(path: Path, settings: Mapping[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """A setting of another library's SAE. kind: int (1 to 2**31 - 1), bool, str or dict.

    Raises UserError where it is of another kind, or missing without a default.
    """
    found = settings.get(name)
    if found is None and default is not None:
        return default
    if type(found) is not kind or (isinstance(found, int) and kind is int and not 0 < found < 2**31):
        shown = repr(found) if len(repr(found)) < 40 else f"a {type(found).__name__}"
        raise UserError(
            f"{path}: its {name} is {shown}, expected {_KINDS[kind]}; the file is broken, get it again"
        )
    return found


_KINDS = {int: "a whole number from 1", bool: "true or false", str: "a name", dict: "settings by name"}


def take(path: Path, state: object, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """Tensors out of a state dict as float32.

    Raises UserError where one is missing, has another shape, or is not made of finite floating-point numbers.
    """
    if not isinstance(state, Mapping):
        raise UserError(f"{path}: it holds a {type(state).__name__}, expected tensors by name; get it again")
    taken = {}
    for name, shape in shapes.items():
        if name not in state:
            there = some_of([repr(str(key)[:40]) for key in sorted(map(str, state))], 8)
            raise UserError(f"{path}: {name} is missing among {there}; it is no SAE of a kind known here")
        tensor = state[name]
        if not isinstance(tensor, torch.Tensor) or not _is_plain(tensor):
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise UserError(
                f"{path}: {name} is made of {kind}, expected a dense tensor of floating-point numbers; it is broken"
            )
        if tuple(tensor.shape) != shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, but its settings say {shape}; the file is broken"
            )
        taken[name] = tensor.detach().float()
        if not torch.isfinite(taken[name]).all():
            raise UserError(f"{path}: {name} holds NaN or infinite values; take an earlier checkpoint")
    return taken


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether all of its numbers are there: strides of 0 make petabytes of one number."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or not tensor.is_floating_point():
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


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
