"""How every kernel is compiled."""

import os
from typing import Any

# SAETOOLS_PLAIN_KERNELS=1: kernels without LLVM instructions of our own, see intrinsics.py. They are not cached, since
# numba's cache cannot tell them from the others.
PLAIN_KERNELS = os.environ.get("SAETOOLS_PLAIN_KERNELS") == "1"
CACHED = not PLAIN_KERNELS

# Contraction and reordering of sums, but NaN and infinity keep their meaning: "nnan" would let a
# diverged run look like a sparse one.
FAST: dict[str, Any] = {
    "nogil": True,
    "cache": CACHED,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "arcp", "nsz", "afn"},
}
