"""The loss of one probe on given events, and how often it says yes."""

import math

from numba import njit


@njit(error_model="numpy", cache=True, nogil=True)
def loss_and_hits(values, y, w, b):
    """Sum of ln(1 + e^t) - y t with t = w z + b over events with known y; and of those with t >= 0 the number, and
    how many have y >= 1/2; and the number of events with known y, and their y's sum and how many are >= 1/2."""
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
