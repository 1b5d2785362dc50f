"""Loss, gradient and Hessian sums of a logistic curve over a run of values.

With t = w z + b, s = 1 / (1 + exp(-t)) and v = s (1 - s) each function returns

    (sum ln(1 + e^t), sum s, sum s z, sum v, sum v z, sum v z^2)

No label takes part: the labels' share is -b sum(y) - w sum(y z), two numbers per pair. The loops are written so
that LLVM vectorises them; everything is float64.
"""

import math

import numpy as np

from saetools.compute.kernels.compiled import njit

RUN = 960
"""Most values per call: the product of 960 factors in (1, 2] stays below the largest float64."""

# exp(r) on |r| <= ln(2)/2 as its Taylor series to r^12: the rest is below 0.3466^13 / 13! = 1.7e-16.
C2, C3, C4, C5, C6, C7, C8, C9, C10, C11, C12 = (1.0 / math.factorial(n) for n in range(2, 13))
LOG2_E = 1.0 / math.log(2.0)
# ln 2 in two parts; the first has 21 trailing zero bits, so that k * LN2_HIGH is exact.
LN2_HIGH = 6.93147180369123816490e-01
LN2_LOW = 1.90821492927058770002e-10
# Added to an integer k, it leaves the exponent field of 2^k in the low bits of the sum's pattern.
EXPONENT_SHIFT = 6755399441055744.0 + 1023.0
# exp(-708) = 3e-308 is the smallest normal result; beyond it the tail is zero for every purpose here.
LARGEST = 708.0

# Not "fast": NaN and infinity keep their meaning in the callers, only sums may be regrouped.
REGROUP = {"contract", "nsz", "reassoc", "arcp"}


@njit(fastmath=REGROUP, error_model="numpy", inline="always")
def exp_negative(a):
    """exp(-a) for 0 <= a <= 708, relative error below 4e-16."""
    k = math.floor(0.5 - a * LOG2_E)
    r = (-a - k * LN2_HIGH) - k * LN2_LOW
    p = C12
    p = p * r + C11
    p = p * r + C10
    p = p * r + C9
    p = p * r + C8
    p = p * r + C7
    p = p * r + C6
    p = p * r + C5
    p = p * r + C4
    p = p * r + C3
    p = p * r + C2
    p = p * r + 1.0
    p = p * r + 1.0
    bits = np.float64(k + EXPONENT_SHIFT).view(np.int64) << 52
    return p * np.int64(bits).view(np.float64)


@njit(fastmath=REGROUP, error_model="numpy", cache=True)
def nonzero_sums(z, start, stop, w, b):
    """The six sums over z[start:stop], at most RUN values.

    sum ln(1 + e^t) = sum max(t, 0) + ln prod(1 + e^-|t|): one logarithm per run instead of one per value. Each
    factor is rounded once, so the sum is off by at most 1.2e-16 per value.
    """
    product = 1.0
    positive_part = 0.0
    sum_s = 0.0
    sum_sz = 0.0
    sum_v = 0.0
    sum_vz = 0.0
    sum_vzz = 0.0
    for i in range(start, stop):
        x = z[i]
        t = w * x + b
        e = exp_negative(min(abs(t), LARGEST))
        q = 1.0 + e
        larger = 1.0 / q
        smaller = e * larger
        s = larger if t >= 0.0 else smaller
        v = larger * smaller
        product *= q
        positive_part += max(t, 0.0)
        sum_s += s
        sum_sz += s * x
        vx = v * x
        sum_v += v
        sum_vz += vx
        sum_vzz += vx * x
    return positive_part + math.log(product), sum_s, sum_sz, sum_v, sum_vz, sum_vzz


@njit(fastmath=REGROUP, error_model="numpy", cache=True)
def bin_sums(z, n, spread, start, stop, w, b):
    """The six sums approximated from bins: mean z, count n, and sum of squared distances from the mean.

    To second order in the width of a bin: sum f(z_i) = n f(z) + f''(z) spread / 2. The gradient is that of the
    approximated loss; the Hessian leaves out the terms that could make it indefinite.
    """
    loss = 0.0
    sum_s = 0.0
    sum_sz = 0.0
    sum_v = 0.0
    sum_vz = 0.0
    sum_vzz = 0.0
    for i in range(start, stop):
        x = z[i]
        t = w * x + b
        e = exp_negative(min(abs(t), LARGEST))
        larger = 1.0 / (1.0 + e)
        smaller = e * larger
        s = larger if t >= 0.0 else smaller
        v = larger * smaller
        half = 0.5 * w * w * spread[i]
        s_mean = n[i] * s + half * v * (1.0 - 2.0 * s)
        # ln(1 + e) = 2 artanh(u), u = e / (2 + e) <= 1/3, to u^19: the rest is below 1e-11.
        u = e / (2.0 + e)
        uu = u * u
        series = 1.0 / 19.0
        series = series * uu + 1.0 / 17.0
        series = series * uu + 1.0 / 15.0
        series = series * uu + 1.0 / 13.0
        series = series * uu + 1.0 / 11.0
        series = series * uu + 1.0 / 9.0
        series = series * uu + 1.0 / 7.0
        series = series * uu + 1.0 / 5.0
        series = series * uu + 1.0 / 3.0
        series = series * uu + 1.0
        loss += n[i] * (max(t, 0.0) + 2.0 * u * series) + half * v
        sum_s += s_mean
        sum_sz += s_mean * x + w * v * spread[i]
        nv = n[i] * v
        sum_v += nv
        sum_vz += nv * x
        sum_vzz += nv * x * x + v * spread[i]
    return loss, sum_s, sum_sz, sum_v, sum_vz, sum_vzz
