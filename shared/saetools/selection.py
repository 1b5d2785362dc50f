"""How the compiled selection of the k largest is set up."""

from __future__ import annotations


def block_width(n_latents: int, k: int) -> int:
    """The block width for `top_k_rows`, so that a row has several times k blocks where that is possible."""
    for width in (64, 16):
        if n_latents >= 6 * k * width:
            return width
    return 16 if n_latents >= 2 * k * 16 else 1
