"""Weights from a local file, checked against the model that they are for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from saetools.errors import UserError, why_unreadable
from saetools.files.reading import io_errors
from saetools.files.torch_files import load_safetensors, load_torch


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a .safetensors file or a torch checkpoint (read without executing pickled code)."""
    if why := why_unreadable(path):
        raise UserError(f"{path}: {why}; expected weights")
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    with io_errors(path), path.open("rb") as file:
        state = load_torch(path, file)
    for key in ("state_dict", "model", "teacher"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: it holds no state dict of tensors; save model.state_dict() to it")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def fit_weights(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    path: Path,
    name: str,
    ignore: Sequence[str] = (),
) -> None:
    """Load the state dict into the module; raises UserError unless every tensor has its place and shape.

    ignore: prefixes (a classifier's) of tensors that the file may have and the module does not need.
    """
    wanted = module.state_dict()
    state = {key: value for key, value in state.items() if key in wanted or not _starts_with(key, ignore)}
    other = f"these are weights of another model than {name}"
    if missing := sorted(wanted.keys() - state.keys()):
        raise UserError(f"{path}: {len(missing)} tensors are missing, for example {missing[0]}; {other}")
    if surplus := sorted(state.keys() - wanted.keys()):
        raise UserError(f"{path}: {len(surplus)} tensors too many, for example {surplus[0]}; {other}")
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise UserError(
                f"{path}: {key} has shape {tuple(value.shape)}, expected {tuple(wanted[key].shape)}; {other}"
            )
        if value.is_floating_point() != wanted[key].is_floating_point() or value.layout != torch.strided:
            raise UserError(
                f"{path}: {key} is made of {value.dtype}, {value.layout}, expected dense {wanted[key].dtype}; {other}"
            )
    module.load_state_dict(dict(state))


def _starts_with(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(prefix + ".") for prefix in prefixes)


def digest_weights(module: torch.nn.Module) -> str:
    """SHA-256 over the names and float32 bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(name.encode() + b"\0")
        digest.update(values.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
