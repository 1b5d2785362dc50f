"""Which latents are active: the largest pre-activations of a token, or those above a threshold."""

import numpy as np

from saetools.compute.kernels.compiled import njit
from saetools.compute.kernels.flags import FAST
from saetools.compute.kernels.intrinsics import (
    LARGEST,
    bits_at_least,
    fmax32,
    lowest_bit,
    raise_maxima,
    widen,
)
from saetools.compute.selection import SIMD_WIDTH

BLOCK = 64


@njit(**FAST)
def kth_largest(values, n, k):
    """The k-th largest of values[:n] (1 <= k <= n), which it reorders: Hoare's quickselect."""
    lo, hi = 0, n - 1
    want = k - 1
    while lo < hi:
        mid = (lo + hi) >> 1
        a, b, c = values[lo], values[mid], values[hi]
        pivot = max(min(a, b), min(max(a, b), c))
        i, j = lo, hi
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if want <= j:
            hi = j
        elif want >= i:
            lo = i
        else:
            break
    return values[want]


@njit(**FAST)
def below_kth_largest(values, n, k):
    """A number that at least k of values[:n] reach, and few more do (1 <= k <= n): bisection, as counting vectorises.

    Where NaN leaves fewer than k, so few reach it.
    """
    lo, hi = np.float32(np.inf), np.float32(-np.inf)
    for i in range(n):
        hi = fmax32(hi, values[i])
        lo = -fmax32(-lo, -values[i])
    for _ in range(24):
        middle = np.float32(0.5) * lo + np.float32(0.5) * hi
        n_reach = np.int32(0)
        for i in range(n):
            n_reach += np.int32(values[i] >= middle)
        if n_reach < k:
            hi = middle
        else:
            lo = middle
            if n_reach <= k + (k >> 4):
                break
    return lo


@njit(**FAST)
def choose_largest(b, n, k, candidate, score, ranked, floor, latent_bk, value_bk):
    """Row b of latent, value = the k largest of n candidates in their order; `ranked` is a copy of their scores.

    Of equal scores the earlier are taken. Where NaN leaves fewer than k, the values are NaN, so that the loss shows it.
    """
    kth = kth_largest(ranked, n, k) if n >= k else np.float32(np.nan)
    ties = k
    for i in range(n):
        if score[i] > kth:
            ties -= 1
    chosen = 0
    for i in range(n):
        value = score[i]
        if value > kth or (value == kth and ties > 0):
            if value == kth:
                ties -= 1
            latent_bk[b, chosen] = candidate[i]
            value_bk[b, chosen] = max(value, floor)
            chosen += 1
    while chosen < k:
        latent_bk[b, chosen] = 0
        value_bk[b, chosen] = np.float32(np.nan)
        chosen += 1


@njit(**FAST)
def _bounds(z_s, bias_s, i, error, share):
    """(lower, upper) bounds of latent i, as `raise_maxima` and `bits_at_least` have them."""
    z = widen(z_s[i])
    margin = error + share * min(abs(z), LARGEST)
    return z + bias_s[i] - margin, z + bias_s[i] + margin


@njit(**FAST)
def maxima_of_sets(z_s, bias_s, error_block, share, depth, maxima):
    """maxima[:n] = the largest lower bound z + bias - (error + share |z|) in each of n sets of at most `depth` latents;
    returns n.

    A set holds every 16th latent of a stretch, so that sixteen grow side by side, without a sum across lanes. z in
    float32, or the bits of bfloat16; an error for every block of 16 latents. `maxima` has room for 15 more than n.
    """
    s = len(z_s)
    n = 0
    for start in range(0, s, SIMD_WIDTH * depth):
        stop = min(start + SIMD_WIDTH * depth, s)
        for j in range(SIMD_WIDTH):
            maxima[n + j] = np.float32(-np.inf)
        for first in range(start, stop - SIMD_WIDTH + 1, SIMD_WIDTH):
            raise_maxima(
                z_s, bias_s, np.uint64(first), error_block[first // SIMD_WIDTH], share, maxima, np.uint64(n)
            )
        for i in range(stop - stop % SIMD_WIDTH, stop):
            at = n + i % SIMD_WIDTH
            maxima[at] = max(maxima[at], _bounds(z_s, bias_s, i, error_block[i // SIMD_WIDTH], share)[0])
        n += min(SIMD_WIDTH, stop - start)
    return n


@njit(**FAST)
def add_candidates(z_s, bias_s, error_block, share, bound, candidate, upper, lower):
    """Lists the latents whose upper bound z + bias + (error + share |z|) is at least `bound`, with both bounds of each;
    returns how many.

    Comparing sixteen at once and visiting the few that pass is several times as fast as a branch for each.
    """
    s = len(z_s)
    n = 0
    for block in range(len(error_block)):
        first = np.uint64(block * SIMD_WIDTH)
        error = error_block[block]
        bits = np.uint64(0)
        if block * SIMD_WIDTH + SIMD_WIDTH <= s:
            bits = bits_at_least(z_s, bias_s, first, error, share, bound)
        else:
            for i in range(block * SIMD_WIDTH, s):
                if _bounds(z_s, bias_s, i, error, share)[1] >= bound:
                    bits |= np.uint64(1) << np.uint64(i - block * SIMD_WIDTH)
        while bits != np.uint64(0):
            i = first + lowest_bit(bits)
            bits &= bits - np.uint64(1)
            candidate[n] = i
            lower[n], upper[n] = _bounds(z_s, bias_s, i, error, share)
            n += 1
    return n


@njit(**FAST)
def top_k_rows(_piece, lo, hi, z_bs, bias_s, k, depth, floor, latent_bk, value_bk):
    """latent, value = the k largest of z + bias of each row, ascending by latent; values below `floor` become it.

    Equal to a stable descending sort: of equal values the lower latents are taken. `depth`: the size of the sets whose
    maxima give a lower bound on the k-th largest, so that only few latents are looked at again, see `set_depth`.
    """
    s = z_bs.shape[1]
    no_error = np.zeros((s + SIMD_WIDTH - 1) // SIMD_WIDTH, np.float32)
    maxima = np.empty(s // depth + 2 * SIMD_WIDTH, np.float32)
    candidate = np.empty(s, np.int32)
    score = np.empty(s, np.float32)
    ranked_score = np.empty(s, np.float32)
    exact = np.float32(0)
    for b in range(lo, hi):
        n_sets = maxima_of_sets(z_bs[b], bias_s, no_error, exact, depth, maxima)
        bound = below_kth_largest(maxima, n_sets, k)
        n = add_candidates(z_bs[b], bias_s, no_error, exact, bound, candidate, score, ranked_score)
        choose_largest(b, n, k, candidate, score, ranked_score, floor, latent_bk, value_bk)


@njit(**FAST)
def count_above_rows(_piece, lo, hi, z_bs, bias_s, cut_s, n_b):
    """n_b = how many latents of each row have z + bias > cut."""
    for b in range(lo, hi):
        n = np.int32(0)
        for i in range(z_bs.shape[1]):
            n += np.int32(z_bs[b, i] + bias_s[i] > cut_s[i])
        n_b[b] = n


@njit(**FAST)
def take_above_rows(_piece, lo, hi, z_bs, bias_s, cut_s, theta_s, ptr_b, latent_e, f_e):
    """Lists them from position `ptr_b[b]` on, with f = z + bias where that exceeds theta, else 0."""
    s = z_bs.shape[1]
    for b in range(lo, hi):
        e = ptr_b[b]
        for start in range(0, s, BLOCK):
            stop = min(start + BLOCK, s)
            n = np.int32(0)
            for i in range(start, stop):
                n += np.int32(z_bs[b, i] + bias_s[i] > cut_s[i])
            # Every latent is written where the next kept one belongs; the position moves on behind kept ones:
            # a branch for each would be guessed wrongly half the time where half are kept.
            end, i = e + n, start
            while e < end and i < stop:
                value = z_bs[b, i] + bias_s[i]
                latent_e[e] = i
                f_e[e] = value if value > theta_s[i] else np.float32(0)
                e += np.int64(value > cut_s[i])
                i += 1
