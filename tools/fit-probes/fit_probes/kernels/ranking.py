"""One latent's events in falling order: average precision, and the sums of a logistic curve's loss."""

import math

import numpy as np
from numba import njit


@njit(error_model="numpy", cache=True, nogil=True)
def average_precision_of_events(values, y, n_rows, n_positives):
    """AP of a score that is `values` at the events, falling, and 0 at all other rows; ties enter together.

    y: 1, 0, or negative where the event's row does not count; n_rows, n_positives: of all rows that count. NaN without
    a positive. The zeros are one group, wherever 0 stands among the values.
    """
    if n_positives == 0:
        return np.nan
    n_zero = n_rows
    zero_positives = n_positives
    for e in range(values.size):
        if y[e] >= 0:
            n_zero -= 1
            zero_positives -= y[e]
    seen = 0
    positives = 0
    total = 0.0
    zeros_done = False
    e = 0
    while e < values.size or not zeros_done:
        group = 0
        group_positives = 0
        if not zeros_done and (e == values.size or values[e] <= 0):
            group = n_zero
            group_positives = zero_positives
            zeros_done = True
            while e < values.size and values[e] == 0:
                group += y[e] >= 0
                group_positives += max(y[e], 0)
                e += 1
        else:
            value = values[e]
            while e < values.size and values[e] == value:
                group += y[e] >= 0
                group_positives += max(y[e], 0)
                e += 1
        seen += group
        positives += group_positives
        if group_positives > 0:
            total += group_positives * (positives / seen)
    return min(1.0, total / n_positives)


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
