"""Selection by products rounded to bfloat16, made exact by scoring all that their error leaves open."""

import numpy as np

from saetools.compute.kernels.compiled import njit
from saetools.compute.kernels.flags import FAST
from saetools.compute.kernels.intrinsics import narrow, prefetch, widen
from saetools.compute.kernels.selection import (
    add_candidates,
    below_kth_largest,
    choose_largest,
    maxima_of_sets,
)
from saetools.compute.selection import SIMD_WIDTH


@njit(**FAST)
def round_rows(_piece, lo, hi, exact_nd, bits_nd, norm_n, rounding_n):
    """bits = those of the nearest bfloat16; norm = |rounded|, rounding = |rounded - exact| of each row."""
    for row in range(lo, hi):
        square = np.float32(0)
        off = np.float32(0)
        for i in range(exact_nd.shape[1]):
            exact = exact_nd[row, i]
            bits = narrow(exact)
            bits_nd[row, i] = bits
            rounded = widen(bits)
            square += rounded * rounded
            off += (rounded - exact) * (rounded - exact)
        norm_n[row] = np.sqrt(square)
        rounding_n[row] = np.sqrt(off)


@njit(**FAST)
def _dot(x_bd, b, w_sd, s):
    dot = np.float32(0)
    for i in range(x_bd.shape[1]):
        dot += x_bd[b, i] * w_sd[s, i]
    return dot


@njit(**FAST)
def _four_dots(x_bd, b, w_sd, latents, first, dots):
    """dots[first : first + 4] of the latents there: four rows on their way from memory at a time."""
    s0, s1 = np.uint64(latents[first]), np.uint64(latents[first + 1])
    s2, s3 = np.uint64(latents[first + 2]), np.uint64(latents[first + 3])
    dot0, dot1, dot2, dot3 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
    for i in range(x_bd.shape[1]):
        x = x_bd[b, i]
        dot0 += x * w_sd[s0, i]
        dot1 += x * w_sd[s1, i]
        dot2 += x * w_sd[s2, i]
        dot3 += x * w_sd[s3, i]
    dots[first], dots[first + 1], dots[first + 2], dots[first + 3] = dot0, dot1, dot2, dot3


@njit(**FAST)
def _score(x_bd, b, w_sd, bias_s, latents, n, scores):
    """scores[:n] = <x_b, w> + bias of latents[:n], in float32."""
    i = 0
    while i + 4 <= n:
        for ahead in range(i + 4, min(i + 8, n)):
            prefetch(w_sd, np.uint64(latents[ahead]))
        _four_dots(x_bd, b, w_sd, latents, i, scores)
        i += 4
    while i < n:
        scores[i] = _dot(x_bd, b, w_sd, np.uint64(latents[i]))
        i += 1
    for i in range(n):
        scores[i] += bias_s[latents[i]]


@njit(**FAST)
def screened_top_k_rows(
    z_bs, bias_s, x_bd, enc_sd, norm_b, rounding_b, norm_block, rounding_block, output, k, depth, latent_bk, value_bk
):  # fmt: skip
    """The k largest latents of each token, from approximate products z~ in bfloat16: `latent_bk`, `value_bk` {B, k}.

    As `top_k_rows` with floor 0, of x enc^T + bias; `z_bs` {B, S} holds the bits of z~ (uint16). x_bd {B, D} and
    enc_sd {S, D} are the exact factors; norm_b, rounding_b {B}, norm_block, rounding_block {blocks} and `output` bound
    the error, see `prescreen.Screen`; k, depth: as in `top_k_rows`.

    Their error is at most rounding_b norm_block + norm_b rounding_block + `output` |z~| for a latent of a block of
    `SIMD_WIDTH`. So what exceeds the k-th largest lower bound with its upper bound is scored in float32, and the k
    largest are among it. Returns how many were scored.
    """
    n_tokens, s = z_bs.shape
    n_scored = 0
    n_blocks = len(norm_block)
    error_block = np.empty(n_blocks, np.float32)
    maxima = np.empty(s // depth + 2 * SIMD_WIDTH, np.float32)
    candidate = np.empty(s, np.int32)
    upper = np.empty(s, np.float32)
    score = np.empty(s, np.float32)
    for b in range(n_tokens):
        norm, rounding = norm_b[b], rounding_b[b]
        for block in range(n_blocks):
            error_block[block] = rounding * norm_block[block] + norm * rounding_block[block]
        n_sets = maxima_of_sets(z_bs[b], bias_s, error_block, output, depth, maxima)
        bound = below_kth_largest(maxima, n_sets, k)
        n = add_candidates(z_bs[b], bias_s, error_block, output, bound, candidate, upper, score)
        if n >= k:
            bound = max(bound, below_kth_largest(score, n, k))
        kept = 0
        for i in range(n):
            if upper[i] >= bound:
                candidate[kept] = candidate[i]
                kept += 1
        n_scored += kept
        _score(x_bd, b, enc_sd, bias_s, candidate, kept, upper)
        for i in range(kept):
            score[i] = upper[i]
        choose_largest(b, kept, k, candidate, upper, score, np.float32(0), latent_bk, value_bk)
    return n_scored


@njit(**FAST)
def count_candidate_rows(
    _piece, lo, hi, z_bs, bias_s, cut_s, norm_b, rounding_b, norm_block, rounding_block, output, n_b
):  # fmt: skip
    """n_b {B} = for how many latents of each token z + bias may exceed `cut_s` {S}.

    z_bs and the bounds of its error as in `screened_top_k_rows`.
    """
    s = z_bs.shape[1]
    n_full = s // SIMD_WIDTH
    for b in range(lo, hi):
        n = np.int32(0)
        for block in range(n_full):
            error = rounding_b[b] * norm_block[block] + norm_b[b] * rounding_block[block]
            for j in range(SIMD_WIDTH):
                i = block * SIMD_WIDTH + j
                z = widen(z_bs[b, i])
                n += np.int32(z + bias_s[i] + (error + output * abs(z)) > cut_s[i])
        if n_full * SIMD_WIDTH < s:
            error = rounding_b[b] * norm_block[n_full] + norm_b[b] * rounding_block[n_full]
            for i in range(n_full * SIMD_WIDTH, s):
                z = widen(z_bs[b, i])
                n += np.int32(z + bias_s[i] + (error + output * abs(z)) > cut_s[i])
        n_b[b] = n


@njit(**FAST)
def score_candidate_rows(
    _piece, lo, hi, z_bs, bias_s, cut_s, norm_b, rounding_b, norm_block, rounding_block, output, theta_s, x_bd,
    enc_sd, ptr_b, latent_a, f_a,
):  # fmt: skip
    """Lists the latents that `count_candidate_rows` counted, with their values in float32.

    Those of token b are written to latent_a, f_a {A} from `ptr_b[b]` on: f = z + bias where that exceeds `theta_s` {S},
    else 0. A latent of -1 marks candidates that do not exceed `cut_s` {S}. Other arguments as in `screened_top_k_rows`.
    """
    s = z_bs.shape[1]
    n_full = s // SIMD_WIDTH
    for b in range(lo, hi):
        first, end = ptr_b[b], ptr_b[b + 1]
        a = first
        for block in range((s + SIMD_WIDTH - 1) // SIMD_WIDTH):
            error = rounding_b[b] * norm_block[block] + norm_b[b] * rounding_block[block]
            start, stop = block * SIMD_WIDTH, min(block * SIMD_WIDTH + SIMD_WIDTH, s)
            if block < n_full:
                n = np.int32(0)
                for j in range(SIMD_WIDTH):
                    z = widen(z_bs[b, start + j])
                    n += np.int32(z + bias_s[start + j] + (error + output * abs(z)) > cut_s[start + j])
                if n == 0:
                    continue
            for i in range(start, stop):
                z = widen(z_bs[b, i])
                if z + bias_s[i] + (error + output * abs(z)) > cut_s[i] and a < end:
                    latent_a[a] = i
                    a += 1
        _score(x_bd, b, enc_sd, bias_s, latent_a[first:a], a - first, f_a[first:a])
        for scored in range(first, a):
            i, value = latent_a[scored], f_a[scored]
            latent_a[scored] = i if value > cut_s[i] else -1
            f_a[scored] = value if value > theta_s[i] else np.float32(0)
        while a < end:  # where the compiler rounded a sum otherwise than when the candidates were counted
            latent_a[a] = -1
            f_a[a] = np.float32(0)
            a += 1
