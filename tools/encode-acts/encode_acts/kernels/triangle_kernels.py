"""From squared distances to the triangle code, in place: one pass of square roots, one of subtractions."""

import math

import numpy as np
from numba import njit

from saetools.compute.kernels.flags import FAST


@njit(**FAST)
def triangle_rows(_piece, lo, hi, z_bk, square_b):
    """z = mean_j d_j - d_k with d_k = sqrt(z_bk + square_b), below 0 where centroid k is farther than the mean.

    z comes as |v|^2 - 2 x . v, square as |x|^2; rounding can make their sum a little less than 0.
    """
    n = z_bk.shape[1]
    for b in range(lo, hi):
        square = square_b[b]
        total = np.float32(0)
        for k in range(n):
            d = math.sqrt(max(z_bk[b, k] + square, np.float32(0)))
            z_bk[b, k] = d
            total += d
        mean = total / np.float32(n)
        for k in range(n):
            z_bk[b, k] = mean - z_bk[b, k]
