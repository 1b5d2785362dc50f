"""How the compiled selection of the k largest is set up."""

from __future__ import annotations

SIMD_WIDTH = 16  # latents looked at together


def set_depth(n_latents: int, k: int) -> int:
    """The size of the sets for `top_k_rows`: eight times k sets, where there are so many latents."""
    return max(1, n_latents // (8 * k))
