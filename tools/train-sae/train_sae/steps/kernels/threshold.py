"""Thinning out events by a threshold, and the gradient of one that is trained."""

import numpy as np
from numba import njit

from saetools.compute.kernels.flags import FAST


@njit(**FAST)
def keep_largest(ptr_b, n_tokens, latent_e, f_e, least, ties):
    """Keeps, in place, the events with f > least and the first `ties` of those with f == least."""
    kept = 0
    start = ptr_b[0]
    for b in range(n_tokens):
        stop = ptr_b[b + 1]
        for e in range(start, stop):
            if f_e[e] > least or (f_e[e] == least and ties > 0):
                if f_e[e] == least:
                    ties -= 1
                latent_e[kept] = latent_e[e]
                f_e[kept] = f_e[e]
                kept += 1
        start = stop
        ptr_b[b + 1] = kept


@njit(**FAST)
def drop_marked(ptr_b, n_tokens, latent_e, f_e):
    """Drops, in place, the events whose latent is negative."""
    kept = 0
    start = ptr_b[0]
    for b in range(n_tokens):
        stop = ptr_b[b + 1]
        for e in range(start, stop):
            if latent_e[e] >= 0:
                latent_e[kept] = latent_e[e]
                f_e[kept] = f_e[e]
                kept += 1
        start = stop
        ptr_b[b + 1] = kept


@njit(**FAST)
def threshold_gradient(latent_e, f_e, df_e, theta_s, half, l1, l0, g_s):
    """g = dL/dlog(theta) by the rectangle estimate of width 2 half (arXiv 2407.14435, equations 11 and 12).

    Events are those above theta - half; f is 0 for the ones not above theta. `l1`, `l0`: derivatives of the sparsity
    terms with respect to an active f and to the count.
    """
    for e in range(len(latent_e)):
        s = latent_e[e]
        theta = theta_s[s]
        if f_e[e] == np.float32(0) or f_e[e] - theta < half:
            g_s[s] -= theta * (theta * (df_e[e] + l1) + l0) / (np.float32(2) * half)
