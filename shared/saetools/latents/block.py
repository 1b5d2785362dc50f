"""A block of latents in column order, as probes and rankings take it, and the order of their values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saetools.errors import UserError


@dataclass(frozen=True)
class Latents:
    """A block of latents in CSC order: latent k is active in `indptr[k]:indptr[k + 1]`.

    Each row at most once per latent, in any order. Explicit zeros are allowed and count as zeros.
    """

    indptr: npt.NDArray[np.int64]
    """{K+1}"""
    rows: npt.NDArray[np.integer]
    """{nnz} int32 or int64"""
    values: npt.NDArray[np.floating]
    """{nnz} float16 (widened to float32), float32 or float64"""
    n_rows: int

    def __post_init__(self) -> None:
        if self.indptr.ndim != 1 or self.indptr.size < 1 or self.indptr[0] != 0:
            raise UserError("latents: indptr must be a vector that starts with 0; write the latents again")
        if np.any(np.diff(self.indptr) < 0):
            raise UserError("latents: indptr decreases, expected a cumulative count; write the latents again")
        nnz = int(self.indptr[-1])
        if self.rows.shape != (nnz,) or self.values.shape != (nnz,):
            raise UserError(
                f"latents: indptr ends at {nnz} non-zeros, found {self.rows.size} rows and {self.values.size} "
                "values; write the latents again"
            )
        if nnz and (int(self.rows.min()) < 0 or int(self.rows.max()) >= self.n_rows):
            raise UserError(
                f"latents: rows reach from {self.rows.min()} to {self.rows.max()}, expected 0 to "
                f"{self.n_rows - 1}; do the latents and the labels belong together?"
            )
        if nnz and int(np.diff(self.indptr).max()) > self.n_rows:
            raise UserError(
                f"latents: a latent is active more often than there are rows ({self.n_rows}); rows repeat"
            )
        if self.rows.dtype not in (np.int32, np.int64):
            raise UserError(f"latents: rows are {self.rows.dtype}, expected int32 or int64")
        if self.values.dtype not in (np.float16, np.float32, np.float64):
            raise UserError(f"latents: values are {self.values.dtype}, expected float16, float32 or float64")
        if not all_finite(self.values):
            raise UserError("latents: found NaN or infinity, expected finite values; encode the images again")

    @property
    def n_latents(self) -> int:
        return self.indptr.size - 1


def all_finite(values: npt.NDArray[np.floating]) -> bool:
    """Whether no value is NaN or infinite: the sum tells, twice as fast as looking at each, unless it overflows."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = values.sum(dtype=np.float32 if values.dtype == np.float16 else values.dtype)
    return bool(np.isfinite(total)) or bool(np.isfinite(values).all())


def descending(values: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """The order of float32 values from the largest; equal ones keep their order. Sorted as packed integers."""
    bits = (values + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
    keys = np.where(bits >> 31, bits, bits ^ np.uint32(0x7FFFFFFF)).astype(np.uint64)
    packed = (keys << np.uint64(32)) | np.arange(len(values), dtype=np.uint64)
    packed.sort()
    return (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)
