"""Selection by products rounded to bfloat16, made exact by scoring all that their error leaves open."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from saetools.kernels.flags import FAST
from saetools.kernels.selection_kernels import choose_largest, fmax32, kth_largest


def _widen(_context, bits):
    if bits != types.uint16:
        return None

    def codegen(_context, builder, _signature, args):
        wide = builder.zext(args[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(types.uint16), codegen


# The float32 of a bfloat16's bits.
widen: Any = intrinsic(_widen)


@njit(**FAST)
def _dot(x_bd, b, w_sd, s):
    dot = np.float32(0)
    for i in range(x_bd.shape[1]):
        dot += x_bd[b, i] * w_sd[s, i]
    return dot


@njit(**FAST)
def screened_top_k_rows(
    piece, lo, hi, z_bs, bias_s, x_bd, enc_sd, norm_b, norm_block, product, output, k, width,
    latent_bk, value_bk, n_piece,
):  # fmt: skip
    """As `top_k_rows` with floor 0, of x enc^T + bias; `z_bs` holds bits of bfloat16 approximations of x enc^T.

    Their error is at most `product` |x_b| |enc_s| + `output` |z|, with norms as upper bounds: `norm_b` of the tokens,
    `norm_block` of the longest row of each block of `width` (64 or 16) latents. So what exceeds the k-th largest lower
    bound with its upper bound is scored in float32, and the k largest are among it. `n_piece[piece]`: how many were.
    """
    s = z_bs.shape[1]
    n_full = s // width
    n_blocks = (s + width - 1) // width
    maxima = np.empty(n_blocks, np.float32)
    ranked = np.empty(n_blocks, np.float32)
    candidate = np.empty(s, np.int32)
    upper = np.empty(s, np.float32)
    ranked_score = np.empty(s, np.float32)
    for b in range(lo, hi):
        if width == 64:
            for block in range(n_full):
                largest = np.float32(-np.inf)
                for i in range(64):
                    largest = fmax32(largest, widen(z_bs[b, block * 64 + i]) + bias_s[block * 64 + i])
                maxima[block] = largest
        else:
            for block in range(n_full):
                largest = np.float32(-np.inf)
                for i in range(16):
                    largest = fmax32(largest, widen(z_bs[b, block * 16 + i]) + bias_s[block * 16 + i])
                maxima[block] = largest
        if n_full < n_blocks:
            largest = np.float32(-np.inf)
            for i in range(n_full * width, s):
                largest = fmax32(largest, widen(z_bs[b, i]) + bias_s[i])
            maxima[n_full] = largest
        loose = (product + np.float32(1.01) * output) * norm_b[b]  # since |z| < 1.01 |x| |enc|
        for block in range(n_blocks):
            ranked[block] = maxima[block] - loose * norm_block[block]
        bound = kth_largest(ranked, n_blocks, k)
        n = 0
        for block in range(n_blocks):
            if maxima[block] + loose * norm_block[block] >= bound:
                error = product * norm_b[b] * norm_block[block]
                for i in range(block * width, min(block * width + width, s)):
                    z = widen(z_bs[b, i])
                    value = z + bias_s[i]
                    margin = error + output * abs(z)
                    if value + margin >= bound:
                        candidate[n] = i
                        upper[n] = value + margin
                        ranked_score[n] = value - margin
                        n += 1
        if n >= k:
            bound = max(bound, kth_largest(ranked_score, n, k))
        kept = 0
        for i in range(n):
            if upper[i] >= bound:
                latent = candidate[i]
                score = _dot(x_bd, b, enc_sd, np.uint64(latent)) + bias_s[latent]
                candidate[kept] = latent
                upper[kept] = score
                ranked_score[kept] = score
                kept += 1
        n_piece[piece] += kept
        choose_largest(b, kept, k, candidate, upper, ranked_score, np.float32(0), latent_bk, value_bk)


BLOCK = 16  # latents; a loop of constant length


@njit(**FAST)
def count_candidate_rows(_piece, lo, hi, z_bs, bias_s, cut_s, norm_b, norm_block, product, output, n_b):
    """n_b = for how many latents of each row z + bias may exceed the cut; bounds as in `screened_top_k_rows`."""
    s = z_bs.shape[1]
    n_full = s // BLOCK
    for b in range(lo, hi):
        n = np.int32(0)
        for block in range(n_full):
            error = product * norm_b[b] * norm_block[block]
            for j in range(BLOCK):
                i = block * BLOCK + j
                z = widen(z_bs[b, i])
                n += np.int32(z + bias_s[i] + (error + output * abs(z)) > cut_s[i])
        for i in range(n_full * BLOCK, s):
            z = widen(z_bs[b, i])
            n += np.int32(
                z + bias_s[i] + (product * norm_b[b] * norm_block[n_full] + output * abs(z)) > cut_s[i]
            )
        n_b[b] = n


@njit(**FAST)
def score_candidate_rows(
    _piece, lo, hi, z_bs, bias_s, cut_s, norm_b, norm_block, product, output, theta_s, x_bd, enc_sd,
    ptr_b, latent_e, f_e,
):  # fmt: skip
    """Lists them from event `ptr_b[b]` on, f = z + bias in float32 where that exceeds theta, else 0.

    A latent of -1 marks those that do not exceed the cut.
    """
    s = z_bs.shape[1]
    n_full = s // BLOCK
    for b in range(lo, hi):
        e, end = ptr_b[b], ptr_b[b + 1]
        for block in range((s + BLOCK - 1) // BLOCK):
            error = product * norm_b[b] * norm_block[block]
            start, stop = block * BLOCK, min(block * BLOCK + BLOCK, s)
            if block < n_full:
                n = np.int32(0)
                for j in range(BLOCK):
                    z = widen(z_bs[b, start + j])
                    n += np.int32(z + bias_s[start + j] + (error + output * abs(z)) > cut_s[start + j])
                if n == 0:
                    continue
            for i in range(start, stop):
                z = widen(z_bs[b, i])
                if z + bias_s[i] + (error + output * abs(z)) > cut_s[i] and e < end:
                    value = _dot(x_bd, b, enc_sd, np.uint64(i)) + bias_s[i]
                    latent_e[e] = i if value > cut_s[i] else -1
                    f_e[e] = value if value > theta_s[i] else np.float32(0)
                    e += 1
        while e < end:  # where the compiler rounded a sum otherwise than when the candidates were counted
            latent_e[e] = -1
            f_e[e] = np.float32(0)
            e += 1
