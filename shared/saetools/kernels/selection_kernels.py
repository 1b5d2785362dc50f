"""Which latents are active: the largest pre-activations of a token, or those above a threshold."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from saetools.kernels.flags import FAST

BLOCK = 64


def _fmax32(_context, a, _b):
    if a != types.float32:
        return None
    signature = types.float32(types.float32, types.float32)

    def codegen(_context, builder, _signature, args):
        f32 = ir.FloatType()
        maxnum = builder.module.declare_intrinsic("llvm.maxnum", [f32], ir.FunctionType(f32, [f32, f32]))
        return builder.call(maxnum, args, fastmath=("nnan", "nsz"))

    return signature, codegen


# The larger of two float32, as LLVM's maxnum: unlike `max` or a comparison, a loop of it vectorises.
fmax32: Any = intrinsic(_fmax32)


def _widen(_context, value):
    if value == types.float32:
        return types.float32(value), lambda _context, _builder, _signature, args: args[0]
    if value != types.uint16:
        return None

    def codegen(_context, builder, _signature, args):
        wide = builder.zext(args[0], ir.IntType(32))
        return builder.bitcast(builder.shl(wide, ir.Constant(ir.IntType(32), 16)), ir.FloatType())

    return types.float32(value), codegen


# The float32 of a bfloat16's bits; a float32 as it is.
widen: Any = intrinsic(_widen)


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
def block_maxima(z_bs, bias_s, b, width, maxima):
    """maxima[block] = the largest z + bias of row b in each block of `width` latents (the last may be shorter).

    z in float32, or the bits of bfloat16. Loops of a constant length, for widths of 64 and 16, are eight times as fast.
    """
    s = z_bs.shape[1]
    n_full = s // width
    if width == 64:
        for block in range(n_full):
            largest = np.float32(-np.inf)
            for i in range(64):
                largest = fmax32(largest, widen(z_bs[b, block * 64 + i]) + bias_s[block * 64 + i])
            maxima[block] = largest
    elif width == 16:
        for block in range(n_full):
            largest = np.float32(-np.inf)
            for i in range(16):
                largest = fmax32(largest, widen(z_bs[b, block * 16 + i]) + bias_s[block * 16 + i])
            maxima[block] = largest
    else:
        for block in range(n_full):
            largest = np.float32(-np.inf)
            for i in range(block * width, block * width + width):
                largest = fmax32(largest, widen(z_bs[b, i]) + bias_s[i])
            maxima[block] = largest
    if n_full * width < s:
        largest = np.float32(-np.inf)
        for i in range(n_full * width, s):
            largest = fmax32(largest, widen(z_bs[b, i]) + bias_s[i])
        maxima[n_full] = largest


@njit(**FAST)
def top_k_rows(_piece, lo, hi, z_bs, bias_s, k, width, floor, latent_bk, value_bk):
    """latent, value = the k largest of z + bias of each row, ascending by latent; values below `floor` become it.

    Equal to a stable descending sort: of equal values the lower latents are taken. `width`: length of the
    blocks whose maxima give a lower bound on the k-th largest, so that only few blocks are looked at again;
    64, 16 or 1, and there must be at least k blocks.
    """
    s = z_bs.shape[1]
    n_blocks = (s + width - 1) // width
    maxima = np.empty(n_blocks, np.float32)
    candidate = np.empty(s, np.int32)
    score = np.empty(s, np.float32)
    ranked_score = np.empty(s, np.float32)
    for b in range(lo, hi):
        block_maxima(z_bs, bias_s, b, width, maxima)
        bound = below_kth_largest(maxima, n_blocks, k)
        n = 0
        for block in range(n_blocks):
            if maxima[block] >= bound:
                for i in range(block * width, min(block * width + width, s)):
                    value = z_bs[b, i] + bias_s[i]
                    if value >= bound:
                        candidate[n] = i
                        score[n] = value
                        n += 1
        for i in range(n):
            ranked_score[i] = score[i]
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
    """Lists them from event `ptr_b[b]` on, with f = z + bias where that exceeds theta, else 0."""
    s = z_bs.shape[1]
    for b in range(lo, hi):
        e = ptr_b[b]
        for start in range(0, s, BLOCK):
            stop = min(start + BLOCK, s)
            n = np.int32(0)
            for i in range(start, stop):
                n += np.int32(z_bs[b, i] + bias_s[i] > cut_s[i])
            if n > 0:
                for i in range(start, stop):
                    value = z_bs[b, i] + bias_s[i]
                    if value > cut_s[i]:
                        latent_e[e] = i
                        f_e[e] = value if value > theta_s[i] else np.float32(0)
                        e += 1
