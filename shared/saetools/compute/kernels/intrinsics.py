"""Operations of kernels, two of which numba compiles badly: these stand here twice.

`raise_maxima`, `bits_at_least` and `prefetch` are plain loops below, and LLVM instructions in llvm_intrinsics.py, which
replace them on x86-64, unless SAETOOLS_PLAIN_KERNELS=1 is set. `python benchmarks/intrinsics.py` measures each: plain,
`top_k_rows` takes 25 ms in place of 5 ms (17 ms with a plain raise_maxima, 11 ms with a plain bits_at_least). What
gained nothing there or in a plain loop (the larger of two numbers, bfloat16, the lowest bit) is not written in LLVM.

Tested by tests/saetools/test_selection_kernels.py, against float64 and in both ways, with equal results. The bounds of
llvmlite in shared/pyproject.toml are the versions that were tested. Should a new numba or llvmlite break
llvm_intrinsics.py, commands end with their error at the first kernel: set SAETOOLS_PLAIN_KERNELS=1 until it is mended.
It is not imported then, results are the same, and kernels are slower and compiled anew in each process.
"""

from typing import Any

import numpy as np

from saetools.compute.kernels.compiled import njit
from saetools.compute.kernels.flags import PLAIN_KERNELS
from saetools.compute.selection import SIMD_WIDTH

__all__ = ["LARGEST", "bits_at_least", "fmax32", "lowest_bit", "narrow", "prefetch", "raise_maxima", "widen"]

LARGEST = np.finfo(np.float32).max
# Contraction only: bounds must not be reordered into others.
PLAIN: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}


@njit(**PLAIN)
def fmax32(a, b):
    """The larger of two float32; NaN in b is passed over."""
    return b if b > a else a


@njit(**PLAIN)
def widen(bits):
    """The float32 of a bfloat16's bits (uint16); a float32 as it is."""
    if isinstance(bits, np.uint16):
        return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)
    return bits


@njit(**PLAIN)
def narrow(value):
    """The bits (uint16) of the nearest bfloat16, ties to the even one."""
    if value != value:
        return np.uint16(0x7FC0)
    bits = np.float32(value).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint16((bits + odd + np.uint32(0x7FFF)) >> np.uint32(16))


@njit(**PLAIN)
def plain_raise_maxima(z_s, bias_s, first, error, share, maxima, n):
    """maxima[n + j] becomes z + bias - (error + share |z|) of latent first + j where that is larger, for j < 16.

    z is a row of float32 or of the bits of bfloat16, bias and maxima are float32, error and share too; indices uint64.
    """
    for j in range(SIMD_WIDTH):
        i = first + np.uint64(j)
        z = widen(z_s[i])
        lower = (z + bias_s[i]) - (error + share * min(abs(z), LARGEST))
        at = n + np.uint64(j)
        if lower > maxima[at]:
            maxima[at] = lower


@njit(**PLAIN)
def plain_bits_at_least(z_s, bias_s, first, error, share, bound):
    """Bit j < 16 of an uint64: whether z + bias + (error + share |z|) >= bound for latent first + j. NaN is not."""
    bits = np.uint64(0)
    for j in range(SIMD_WIDTH):
        i = first + np.uint64(j)
        z = widen(z_s[i])
        if (z + bias_s[i]) + (error + share * min(abs(z), LARGEST)) >= bound:
            bits |= np.uint64(1) << np.uint64(j)
    return bits


@njit(**PLAIN)
def lowest_bit(bits):
    """The index of the lowest bit of an uint64 that is set; undefined for 0."""
    n = np.uint64(0)
    while not (bits >> n) & np.uint64(1):
        n += np.uint64(1)
    return n


@njit(**PLAIN)
def plain_prefetch(table, row):
    """Starts to bring the beginning of a row (an uint64) of a 2-D array into the cache; plain: nothing."""


if PLAIN_KERNELS:
    bits_at_least, prefetch, raise_maxima = plain_bits_at_least, plain_prefetch, plain_raise_maxima
else:
    from saetools.compute.kernels.llvm_intrinsics import bits_at_least, prefetch, raise_maxima
