"""How float32 activations are stored on disk, and brought back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from saetools.errors import UserError

if TYPE_CHECKING:
    import torch

# name of the type -> the NumPy type in the file. bfloat16 has none in HDF5, so its bits are stored.
STORED_TYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
}


def to_stored(acts: np.ndarray, dtype: str, what: str) -> np.ndarray:
    """Convert float32 activations to the stored type, rounding to nearest even.

    Raises UserError, naming `what`, where a value is not finite or does not fit into the type.
    """
    if not np.isfinite(acts).all():
        raise UserError(
            f"{what}: {np.count_nonzero(~np.isfinite(acts))} activations are NaN or infinite before they are"
            " stored; the weights or the images are broken (try --device cpu)"
        )
    if dtype == "float32":
        return acts.astype("<f4", copy=False)
    if dtype == "bfloat16":
        bits = acts.astype("<f4", copy=False).view("<u4")
        stored = ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16).astype("<u2")
        overflow = (stored & 0x7FFF) == 0x7F80
    else:
        with np.errstate(over="ignore"):
            stored = acts.astype("<f2")
        overflow = np.isinf(stored)
    if overflow.any():
        raise UserError(
            f"{what}: {np.count_nonzero(overflow)} activations do not fit into {dtype}"
            f" (largest magnitude {np.abs(acts).max():.6g}); use --dtype bfloat16 or float32"
        )
    return stored


def to_tensor(stored: np.ndarray, dtype: str) -> torch.Tensor:
    """Stored activations as a tensor of their own type, not copied.

    Its `.float()` gives the float32 values, ten times as fast as NumPy converts float16.
    """
    import torch

    if dtype == "bfloat16":
        return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(stored)
