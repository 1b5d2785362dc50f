"""How activations are stored on disk: types, rounding, the scale of int8, checksums, and back to float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from saetools.errors import UserError

if TYPE_CHECKING:
    import torch

# name of the type -> the NumPy type in the file. bfloat16 has none in HDF5, so its bits are stored.
STORED_TYPES: dict[str, np.dtype[Any]] = {
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype("<u2"),
    "float32": np.dtype("<f4"),
    "int8": np.dtype("<i1"),
}
# The smallest magnitudes that rounding to nearest turns into infinity.
OVERFLOW = {"float16": 65520.0, "bfloat16": float.fromhex("0x1.ffp127"), "float32": float("inf")}
INFINITY_BITS = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000}
INT8_MAX = 127
ROWS_IN_CACHE = 1024


def to_stored(
    acts: torch.Tensor, dtype: str, what: str, scale: torch.Tensor | None = None
) -> tuple[np.ndarray, int]:
    """Convert activations {..., D} to the stored type, rounding to nearest even.

    int8: the integers round(x / scale), scale {D}, clipped to [-127, 127].
    Returns them, and how many were clipped. Raises UserError, naming `what`, where a value is not finite
    or does not fit into a type that cannot be clipped.
    """
    import torch

    acts = acts.detach().float().contiguous()
    if not acts.numel():
        return np.empty(acts.shape, STORED_TYPES[dtype]), 0
    low, high = (float(value) for value in torch.aminmax(acts))  # NaN wherever there is one
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int((~torch.isfinite(acts)).sum())
        raise UserError(
            f"{what}: {count} activations are NaN or infinite before they are stored;"
            " the weights or the images are broken (try `device` cpu, or `precision` float32)"
        )
    if dtype == "int8":
        assert scale is not None, "int8 needs a scale"
        return _to_int8(acts, scale)
    if max(-low, high) >= OVERFLOW[dtype]:
        count = int((acts.abs() >= OVERFLOW[dtype]).sum())
        raise UserError(
            f"{what}: {count} activations do not fit into {dtype}"
            f" (largest magnitude {max(-low, high):.6g}); use `dtype` bfloat16 or float32"
        )
    if dtype == "bfloat16":
        return acts.bfloat16().cpu().view(torch.int16).numpy().view("<u2"), 0
    return acts.to(getattr(torch, dtype)).cpu().numpy(), 0


def _to_int8(acts: torch.Tensor, scale_d: torch.Tensor) -> tuple[np.ndarray, int]:
    import torch

    rows_bd = acts.reshape(-1, acts.shape[-1])
    stored_bd = torch.empty(rows_bd.shape, dtype=torch.int8)
    n_clipped = 0
    for start in range(0, len(rows_bd), ROWS_IN_CACHE):
        steps_bd = (rows_bd[start : start + ROWS_IN_CACHE] / scale_d).round_()
        low, high = (float(value) for value in torch.aminmax(steps_bd))
        if max(-low, high) > INT8_MAX:
            n_clipped += int((steps_bd.abs() > INT8_MAX).sum())
            steps_bd.clamp_(-INT8_MAX, INT8_MAX)
        stored_bd[start : start + ROWS_IN_CACHE] = steps_bd
    return stored_bd.view(acts.shape).numpy(), n_clipped


def to_tensor(stored: np.ndarray, dtype: str) -> torch.Tensor:
    """Stored activations as a tensor of their own type, not copied.

    Its `.float()` gives the float32 values (of int8: times the scale), ten times as fast as NumPy
    converts float16.
    """
    import torch

    if dtype == "bfloat16":
        return torch.from_numpy(stored.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(stored)


def has_non_finite(stored: np.ndarray, dtype: str) -> bool:
    """Whether stored activations hold NaN or infinity: an exponent of ones, of either sign.

    Two integer maxima at the speed of memory; float16 arithmetic is many times slower on a CPU.
    """
    if dtype == "int8" or not stored.size:
        return False
    bits = stored.view(f"<u{stored.itemsize}")
    infinity = int(INFINITY_BITS[dtype])
    sign = 1 << (8 * stored.itemsize - 1)
    return int(bits.view(f"<i{stored.itemsize}").max()) >= infinity or int(bits.max()) >= sign | infinity


def row_sums(stored: np.ndarray) -> np.ndarray:
    """Checksums uint64 {N} of the rows of a C-contiguous array {N, ...}: XXH3-64, at the speed of memory."""
    assert stored.flags.c_contiguous
    return np.array([xxhash.xxh3_64_intdigest(row.data) for row in stored.view(np.uint8)], np.uint64)


def word_sums(stored: np.ndarray) -> np.ndarray:
    """The checksums of version 1 of the format: the sum of a row's bytes modulo 2^64, taken as little-endian words.

    The words are of the largest size out of 8, 4, 2 and 1 bytes that divides a row. One changed word always shows;
    words that change places within a row do not.
    """
    n_rows = len(stored)
    row_bytes = int(np.prod(stored.shape[1:])) * stored.itemsize
    if not n_rows or not row_bytes:
        return np.zeros(n_rows, np.uint64)
    assert stored.flags.c_contiguous
    word = next(size for size in (8, 4, 2, 1) if row_bytes % size == 0)
    words = stored.reshape(n_rows, -1).view(f"<u{word}")
    return np.add.reduce(words, axis=1, dtype=np.uint64)


def int8_scale(acts_bd: torch.Tensor) -> torch.Tensor:
    """The scale {D} of int8 that stores these activations {B, D} with the smallest squared error.

    Per dimension, the largest magnitude is brought to 127 or, where outliers are rare, clipped: the best
    of a few shares of it. A dimension that is always zero has scale 1.
    """
    import torch

    largest_d = acts_bd.abs().amax(dim=0)
    best_d, least_d = torch.ones_like(largest_d), torch.full_like(largest_d, torch.inf)
    for share in SHARES_OF_LARGEST:
        scale_d = torch.where(largest_d > 0, largest_d * (share / INT8_MAX), 1.0)
        stored_bd = (acts_bd / scale_d).round_().clamp_(-INT8_MAX, INT8_MAX)
        error_d = (stored_bd.mul_(scale_d) - acts_bd).square_().sum(dim=0, dtype=torch.float64).float()
        better_d = error_d < least_d
        best_d, least_d = torch.where(better_d, scale_d, best_d), torch.where(better_d, error_d, least_d)
    return best_d


# Later images may exceed the first ones a little, so the largest share leaves some room.
SHARES_OF_LARGEST = (1.1, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
