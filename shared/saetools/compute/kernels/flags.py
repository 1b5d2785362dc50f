"""How every kernel is compiled."""

import os
import platform
from typing import Any

# LLVM instructions of our own (see intrinsics.py) are proved on x86-64 only; other processors get the plain kernels.
# SAETOOLS_PLAIN_KERNELS: 1 takes the plain ones, 0 the others, whatever the processor is. What is not the processor's
# own kind is not cached, since numba's cache cannot tell the one from the other.
_OWN_KIND = "0" if platform.machine().lower() in ("x86_64", "amd64") else "1"
_CHOSEN = os.environ.get("SAETOOLS_PLAIN_KERNELS") or _OWN_KIND
PLAIN_KERNELS = _CHOSEN == "1"
CACHED = (_OWN_KIND == "1") == PLAIN_KERNELS

# Contraction and reordering of sums, but NaN and infinity keep their meaning: "nnan" would let a
# diverged run look like a sparse one.
FAST: dict[str, Any] = {
    "nogil": True,
    "cache": CACHED,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "arcp", "nsz", "afn"},
}
