"""Kernels on lists of active latents: decoding, gradients of the active values, sorting by latent, thinning out."""

import numpy as np

from saetools.compute.kernels.compiled import njit
from saetools.compute.kernels.flags import FAST
from saetools.compute.kernels.intrinsics import prefetch


@njit(**FAST)
def decode_rows(
    _piece,
    lo,
    hi,
    target_bd,
    offset_d,
    dec_sd,
    ptr_b,
    latent_a,
    f_a,
    ends_p,
    scale,
    row0,
    G_pbd,
    df_a,
    row_a,
    sse_bp,
):
    """Decode tokens [lo, hi): each prefix's residual and squared error, and the gradient of each active value.

    For each token b, its active latents a in [ptr_b[b], ptr_b[b + 1]), ascending by latent, and each prefix p:

        r_p       = offset + sum over a with latent_a < ends_p[p] of f_a dec[latent_a] - target_b
        sse_bp    = |r_p|^2
        G_pb      = scale * sum over q >= p of r_q
        df_a      = <G_pb, dec[latent_a]>,  p the first prefix that holds latent_a
        row_a     = row0 + p B + b          (where G_pb stands among the rows of all G)

    With scale = 2 / (P B D), df is the derivative of the mean over P prefixes, B tokens and D dimensions of r^2
    with respect to f, and f_a G_pb its derivative with respect to dec[latent_a].

    Reads target_bd {B, D}, offset_d {D} (b_dec, or 0 for AuxK), dec_sd {S, D}, ptr_b {B + 1}, latent_a and f_a {A},
    ends_p {P} (lengths of the prefixes, ascending). Writes G_pbd {P, B, D}, df_a, row_a {A} and sse_bp {B, P}.
    """
    n_tokens, d = target_bd.shape
    n_prefixes = len(ends_p)
    residual = np.empty(d, np.float32)
    for b in range(lo, hi):
        for i in range(d):
            residual[i] = offset_d[i] - target_bd[b, i]
        stop = ptr_b[b + 1]
        a = ptr_b[b]
        for p in range(n_prefixes):
            end = a
            while end < stop and latent_a[end] < ends_p[p]:
                row_a[end] = row0 + p * n_tokens + b
                end += 1
            while a + 4 <= end:
                s0, s1 = np.uint64(latent_a[a]), np.uint64(latent_a[a + 1])
                s2, s3 = np.uint64(latent_a[a + 2]), np.uint64(latent_a[a + 3])
                f0, f1, f2, f3 = f_a[a], f_a[a + 1], f_a[a + 2], f_a[a + 3]
                for ahead in range(a + 4, min(a + 8, stop)):
                    prefetch(dec_sd, np.uint64(latent_a[ahead]))
                for i in range(d):
                    residual[i] += (f0 * dec_sd[s0, i] + f1 * dec_sd[s1, i]) + (
                        f2 * dec_sd[s2, i] + f3 * dec_sd[s3, i]
                    )
                a += 4
            while a < end:
                s0, f0 = np.uint64(latent_a[a]), f_a[a]
                for i in range(d):
                    residual[i] += f0 * dec_sd[s0, i]
                a += 1
            sse = np.float32(0)
            for i in range(d):
                sse += residual[i] * residual[i]
                G_pbd[p, b, i] = scale * residual[i]
            sse_bp[b, p] = sse
        for p in range(n_prefixes - 2, -1, -1):
            for i in range(d):
                G_pbd[p, b, i] += G_pbd[p + 1, b, i]
        a = ptr_b[b]
        for p in range(n_prefixes):
            while a < stop and latent_a[a] < ends_p[p]:
                s0 = np.uint64(latent_a[a])
                dot = np.float32(0)
                for i in range(d):
                    dot += G_pbd[p, b, i] * dec_sd[s0, i]
                df_a[a] = dot
                a += 1


@njit(**FAST)
def count_latents(latent_a, n_s):
    """n_s[s] += at how many tokens latent s is active."""
    for a in range(len(latent_a)):
        n_s[latent_a[a]] += 1


@njit(**FAST)
def group_by_latent(latent_a, row_a, f_a, df_a, l1, signed, cursor_s, row_g, f_g, dz_g):
    """Sorts active latents by latent (a counting sort, so stable), with the gradient dz of the pre-activation:

        dz = df + l1 where f > 0, else 0;  dz = df everywhere if `signed` (codes that went through no ReLU)

    Reads latent_a, row_a, f_a, df_a {A} as `decode_rows` left them. Writes row_g, f_g, dz_g {A}, grouped by latent;
    `cursor_s` {S} is where each latent's next entry goes, and is moved on.
    """
    for a in range(len(latent_a)):
        s = latent_a[a]
        at = cursor_s[s]
        cursor_s[s] = at + 1
        row_g[at] = row_a[a]
        f_g[at] = f_a[a]
        if signed:
            dz_g[at] = df_a[a]
        elif f_a[a] > np.float32(0):
            dz_g[at] = df_a[a] + l1
        else:
            dz_g[at] = np.float32(0)


@njit(**FAST)
def keep_largest(ptr_b, n_tokens, latent_a, f_a, smallest, ties):
    """Keeps, in place, the entries with f > smallest and the first `ties` of those with f == smallest."""
    kept = 0
    start = ptr_b[0]
    for b in range(n_tokens):
        stop = ptr_b[b + 1]
        for a in range(start, stop):
            if f_a[a] > smallest or (f_a[a] == smallest and ties > 0):
                if f_a[a] == smallest:
                    ties -= 1
                latent_a[kept] = latent_a[a]
                f_a[kept] = f_a[a]
                kept += 1
        start = stop
        ptr_b[b + 1] = kept


@njit(**FAST)
def drop_marked(ptr_b, n_tokens, latent_a, f_a):
    """Drops, in place, the entries whose latent is negative."""
    kept = 0
    start = ptr_b[0]
    for b in range(n_tokens):
        stop = ptr_b[b + 1]
        for a in range(start, stop):
            if latent_a[a] >= 0:
                latent_a[kept] = latent_a[a]
                f_a[kept] = f_a[a]
                kept += 1
        start = stop
        ptr_b[b + 1] = kept


@njit(**FAST)
def threshold_gradient(latent_a, f_a, df_a, theta_s, half, l1, l0, g_s):
    """g = dL/dlog(theta) by the rectangle estimate of width 2 half (arXiv 2407.14435, equations 11 and 12).

    Listed are the latents above theta - half, with f = 0 for those not above theta. `l1`, `l0`: derivatives of the
    sparsity terms with respect to an active f and to the count. Reads latent_a, f_a, df_a {A}; adds to g_s {S}.
    """
    for a in range(len(latent_a)):
        s = latent_a[a]
        theta = theta_s[s]
        if f_a[a] == np.float32(0) or f_a[a] - theta < half:
            g_s[s] -= theta * (theta * (df_a[a] + l1) + l0) / (np.float32(2) * half)
