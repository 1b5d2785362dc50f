"""numba kernels of the training steps.

Conventions: a kernel that is run by `Workers` takes (piece, lo, hi, ...) and writes only what belongs to its
rows [lo, hi) or its piece; float32 throughout, scalars included (one float64 scalar would widen a whole loop);
indices of gathered rows are uint64, which spares the check for negative ones. Nothing is bounds-checked here:
the callers validate. Editing a function that others inline needs a clean `__pycache__`.
"""
