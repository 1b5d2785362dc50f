"""The loss of one probe over nonzero values, and how often it predicts the class."""

import math

from saetools.compute.kernels.compiled import njit


@njit(error_model="numpy", cache=True, nogil=True)
def loss_and_hits(values, y, w, b):
    """Over the nonzero values z with known y, with t = w z + b: the sum of ln(1 + e^t) - y t; the number with t >= 0,
    and how many of these have y >= 1/2; the number of all, the sum of their y, and how many have y >= 1/2."""
    loss = 0.0
    called = 0
    hits = 0
    known = 0
    mass = 0.0
    positives = 0
    for e in range(values.size):
        if not math.isnan(y[e]):
            t = w * values[e] + b
            loss += max(t, 0.0) + math.log1p(math.exp(-abs(t))) - y[e] * t
            called += t >= 0
            hits += t >= 0 and y[e] >= 0.5
            known += 1
            mass += y[e]
            positives += y[e] >= 0.5
    return loss, called, hits, known, mass, positives
