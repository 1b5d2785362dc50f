"""How every kernel is compiled."""

from typing import Any

# Contraction and reordering of sums, but NaN and infinity keep their meaning: "nnan" would let a
# diverged run look like a sparse one.
FAST: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "arcp", "nsz", "afn"},
}
