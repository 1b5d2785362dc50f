"""The order of a latent's events by value."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def descending(values: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Order of float32 values from the largest; equal ones in the order they are in. Sorted as packed integers."""
    bits = (values + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
    keys = np.where(bits >> 31, bits, bits ^ np.uint32(0x7FFFFFFF)).astype(np.uint64)
    packed = (keys << np.uint64(32)) | np.arange(len(values), dtype=np.uint64)
    packed.sort()
    return (packed & np.uint64(0xFFFFFFFF)).astype(np.int64)
