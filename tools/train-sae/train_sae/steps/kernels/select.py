"""Which latents are active: the kernels that encoding uses too."""

from saetools.kernels.selection_kernels import choose_largest, fmax32, kth_largest, top_k_rows

__all__ = ["choose_largest", "fmax32", "kth_largest", "top_k_rows"]
