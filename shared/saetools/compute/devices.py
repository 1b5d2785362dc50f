"""Which device to compute on."""

from __future__ import annotations

import torch

from saetools.errors import UsageError, UserError


def choose_device(name: str) -> torch.device:
    """`auto` is cuda where there is one, else mps, else cpu; raises UserError where `name` is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"`device` {name}: expected auto, cpu, cuda, cuda:N or mps") from error
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(device.type, False):
        raise UserError(
            f"`device` {name}: this machine has none, or torch was built without it; use cpu or auto"
        )
    return device


def exact_type(device: torch.device) -> torch.dtype:
    """The type of sums that become metrics: float64, or float32 on mps, which has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def float64_device(device: torch.device) -> torch.device:
    """The device itself, or the CPU for mps, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def in_float64(x: torch.Tensor) -> torch.Tensor:
    """The same numbers as float64, on the tensor's own device where it has the type, else on the CPU."""
    return x.to(float64_device(x.device)).double()  # in this order: mps cannot convert on the way
