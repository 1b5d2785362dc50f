"""The decoder on active latents: reconstruction, residual, and the gradient of each active value."""

import numpy as np
from numba import njit

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
    latent_e,
    f_e,
    ends_p,
    scale,
    row0,
    G_pbd,
    df_e,
    row_e,
    sse_bp,
):
    """For each token b, its events e in [ptr_b[b], ptr_b[b + 1]) ascending by latent, and each prefix p:

        r_p       = offset + sum over e with latent_e < ends_p[p] of f_e dec[latent_e] - target_b
        sse_bp    = |r_p|^2
        G_pb      = scale * sum over q >= p of r_q
        df_e      = <G_pb, dec[latent_e]>,  p the first prefix that holds latent_e
        row_e     = row0 + p B + b          (where G_pb stands among the rows of all G)

    With scale = 2 / (P B D), df is the derivative of the mean over P prefixes, B tokens and D dimensions of r^2
    with respect to f, and f_e G_pb its derivative with respect to dec[latent_e].
    """
    n_tokens, d = target_bd.shape
    n_prefixes = len(ends_p)
    residual = np.empty(d, np.float32)
    for b in range(lo, hi):
        for i in range(d):
            residual[i] = offset_d[i] - target_bd[b, i]
        stop = ptr_b[b + 1]
        e = ptr_b[b]
        for p in range(n_prefixes):
            end = e
            while end < stop and latent_e[end] < ends_p[p]:
                row_e[end] = row0 + p * n_tokens + b
                end += 1
            while e + 4 <= end:
                s0, s1 = np.uint64(latent_e[e]), np.uint64(latent_e[e + 1])
                s2, s3 = np.uint64(latent_e[e + 2]), np.uint64(latent_e[e + 3])
                f0, f1, f2, f3 = f_e[e], f_e[e + 1], f_e[e + 2], f_e[e + 3]
                for ahead in range(e + 4, min(e + 8, stop)):
                    prefetch(dec_sd, np.uint64(latent_e[ahead]))
                for i in range(d):
                    residual[i] += (f0 * dec_sd[s0, i] + f1 * dec_sd[s1, i]) + (
                        f2 * dec_sd[s2, i] + f3 * dec_sd[s3, i]
                    )
                e += 4
            while e < end:
                s0, f0 = np.uint64(latent_e[e]), f_e[e]
                for i in range(d):
                    residual[i] += f0 * dec_sd[s0, i]
                e += 1
            sse = np.float32(0)
            for i in range(d):
                sse += residual[i] * residual[i]
                G_pbd[p, b, i] = scale * residual[i]
            sse_bp[b, p] = sse
        for p in range(n_prefixes - 2, -1, -1):
            for i in range(d):
                G_pbd[p, b, i] += G_pbd[p + 1, b, i]
        e = ptr_b[b]
        for p in range(n_prefixes):
            while e < stop and latent_e[e] < ends_p[p]:
                s0 = np.uint64(latent_e[e])
                dot = np.float32(0)
                for i in range(d):
                    dot += G_pbd[p, b, i] * dec_sd[s0, i]
                df_e[e] = dot
                e += 1


@njit(**FAST)
def count_latents(latent_e, n_s):
    """n_s[s] += how many events have latent s."""
    for e in range(len(latent_e)):
        n_s[latent_e[e]] += 1


@njit(**FAST)
def group_by_latent(latent_e, row_e, f_e, df_e, l1, signed, cursor_s, row_g, f_g, dz_g):
    """Scatters events into latent order (a counting sort, so stable), with the gradient of the pre-activation:

        dz = df + l1 where f > 0, else 0;  dz = df everywhere if `signed` (codes that went through no ReLU)

    `cursor_s` {S}: where each latent's next event goes.
    """
    for e in range(len(latent_e)):
        s = latent_e[e]
        at = cursor_s[s]
        cursor_s[s] = at + 1
        row_g[at] = row_e[e]
        f_g[at] = f_e[e]
        if signed:
            dz_g[at] = df_e[e]
        elif f_e[e] > np.float32(0):
            dz_g[at] = df_e[e] + l1
        else:
            dz_g[at] = np.float32(0)
