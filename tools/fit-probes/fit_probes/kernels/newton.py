"""Safeguarded Newton for one latent and many classes at once.

A pass loads each run of values once and sums it for every class that is still under way. After the pass each class
either takes its new point and computes the next Newton step, or shortens the step that raised its loss.

The steps are invariant under affine changes of z, so z may be shifted and scaled by the caller.
"""

import math

import numpy as np

from fit_probes.kernels.logistic_sums import RUN, bin_sums, nonzero_sums
from saetools.compute.kernels.compiled import njit

# Columns of `pair`, the state of each class. The first eight are set by the caller.
POSITIVES, POSITIVE_Z, ZERO_POSITIVES, RIDGE, WEIGHT, BIAS, CE, DECREMENT = range(8)
OBJECTIVE, STEP_W, STEP_B, SLOPE, LENGTH, REACH, ACTIVE, CHECKED, PASSES, SINCE = range(8, 18)
N_FIELDS = 18

# At a squared decrement below this the loss no longer tells two points apart; see `next_point`.
TRUST_STEP = 1e-10
ARMIJO = 1e-4
MAX_PASSES = 200
# Passes granted to bring the step below its tolerance once the decrement is: rounding may keep it above.
EXTRA_PASSES = 40


@njit(error_model="numpy", cache=True)
def newton_step(gb, gw, hbb, hbw, hww):
    """(dw, db, g' H^-1 g) of the 2 x 2 system, by its Schur complement kept away from zero."""
    hbb = max(hbb, 1e-290)
    ratio = hbw / hbb
    schur = max(hww - ratio * hbw, 1e-15 * hww, 1e-290)
    dw = -(gw - ratio * gb) / schur
    db = -gb / hbb - ratio * dw
    return dw, db, max(-(gb * db + gw * dw), 0.0)


@njit(error_model="numpy", cache=True)
def next_point(state, sums, zero_z, n_zero, n_rows, low, high, decrement, reach, slack):
    """Judge the point that `sums` belongs to and move on from it; `state` is one row of `pair`.

    low, high: least and largest z of all rows. The class stops when g' H^-1 g <= decrement and the step changes no
    row's logit by more than `reach`; that last step is taken, and leaves an error of the order of reach^2.
    """
    w = state[WEIGHT]
    b = state[BIAS]
    ridge = state[RIDGE]
    # The zeros are one term. Written with exp(-|t|), and with the rarer label, so that nothing cancels.
    t = w * zero_z + b
    e = math.exp(-abs(t))
    larger = 1.0 / (1.0 + e)
    smaller = e * larger
    zero_negatives = n_zero - state[ZERO_POSITIVES]
    if t >= 0.0:
        zero_g = zero_negatives - n_zero * smaller
        zero_loss = n_zero * math.log1p(e) + t * zero_negatives
    else:
        zero_g = n_zero * smaller - state[ZERO_POSITIVES]
        zero_loss = n_zero * math.log1p(e) - t * state[ZERO_POSITIVES]
    zero_v = n_zero * larger * smaller

    ce = (sums[0] - w * state[POSITIVE_Z] - b * state[POSITIVES] + zero_loss) / n_rows
    ce_gb = (sums[1] - state[POSITIVES] + zero_g) / n_rows
    ce_gw = (sums[2] - state[POSITIVE_Z] + zero_g * zero_z) / n_rows
    hbb = (sums[3] + zero_v) / n_rows
    hbw = (sums[4] + zero_v * zero_z) / n_rows
    hww = (sums[5] + zero_v * zero_z * zero_z) / n_rows
    objective = ce + 0.5 * ridge * w * w
    state[PASSES] += 1.0

    if state[CHECKED] > 0.0:
        bound = (
            state[OBJECTIVE] - ARMIJO * state[LENGTH] * state[SLOPE] + slack * (1.0 + abs(state[OBJECTIVE]))
        )
        if not objective <= bound and state[LENGTH] > 1e-12 and state[PASSES] < MAX_PASSES:
            # The loss is generalised self-concordant (Bach 2010, section 2; Sun and Tran-Dinh 2019, section 4):
            # a Newton step that moves no logit by more than d decreases it when shortened to ln(1 + d) / d. That
            # is often timid, so approach it by geometric means.
            safe = math.log1p(state[REACH]) / state[REACH]
            shorter = min(0.5 * state[LENGTH], math.sqrt(state[LENGTH] * safe))
            state[WEIGHT] += (shorter - state[LENGTH]) * state[STEP_W]
            state[BIAS] += (shorter - state[LENGTH]) * state[STEP_B]
            state[LENGTH] = shorter
            return

    dw, db, squared = newton_step(ce_gb, ce_gw + ridge * w, hbb, hbw, hww + ridge)
    moved = max(abs(db + dw * low), abs(db + dw * high))
    state[CE] = ce
    state[DECREMENT] = squared
    if squared <= decrement:
        state[SINCE] += 1.0
    settled = squared <= decrement and (moved <= reach or state[SINCE] > EXTRA_PASSES)
    if settled or state[PASSES] >= MAX_PASSES:
        state[ACTIVE] = 0.0
        if settled and moved <= reach:
            state[WEIGHT] = w + dw
            state[BIAS] = b + db
            curvature = hbb * db * db + 2.0 * hbw * db * dw + hww * dw * dw
            state[CE] = ce + ce_gb * db + ce_gw * dw + 0.5 * curvature
        return
    # A step from a flat region may overshoot to where only the ridge pulls back; outliers need large logits though.
    length = min(1.0, max(16.0, 4.0 * abs(w * low + b), 4.0 * abs(w * high + b)) / max(moved, 1e-300))
    state[CHECKED] = 1.0
    if squared <= TRUST_STEP:
        state[CHECKED] = 0.0
        if moved > 0.5:
            length = math.log1p(moved) / moved
    state[OBJECTIVE] = objective
    state[STEP_W] = dw
    state[STEP_B] = db
    state[SLOPE] = squared
    state[LENGTH] = length
    state[REACH] = moved
    state[WEIGHT] = w + length * dw
    state[BIAS] = b + length * db


@njit(error_model="numpy", cache=True)
def minimise(
    pair, sums, z, count, spread, binned, zero_z, n_zero, n_rows, low, high, decrement, reach, slack
):
    """Bring every row of `pair` with ACTIVE set to its optimum over the values z.

    pair: {C, N_FIELDS}; sums: {C, 6} scratch. With `binned`, z, count and spread describe bins (`bin_sums`).
    """
    n_active = 0
    for c in range(pair.shape[0]):
        if pair[c, ACTIVE] > 0.0:
            n_active += 1
            pair[c, CHECKED] = 0.0
            pair[c, PASSES] = 0.0
            pair[c, SINCE] = 0.0
    while n_active > 0:
        sums[:] = 0.0
        for start in range(0, z.size, RUN):
            stop = min(start + RUN, z.size)
            for c in range(pair.shape[0]):
                if pair[c, ACTIVE] > 0.0:
                    if binned:
                        part = bin_sums(z, count, spread, start, stop, pair[c, WEIGHT], pair[c, BIAS])
                    else:
                        part = nonzero_sums(z, start, stop, pair[c, WEIGHT], pair[c, BIAS])
                    sums[c, 0] += part[0]
                    sums[c, 1] += part[1]
                    sums[c, 2] += part[2]
                    sums[c, 3] += part[3]
                    sums[c, 4] += part[4]
                    sums[c, 5] += part[5]
        n_active = 0
        for c in range(pair.shape[0]):
            if pair[c, ACTIVE] > 0.0:
                next_point(pair[c], sums[c], zero_z, n_zero, n_rows, low, high, decrement, reach, slack)
                if pair[c, ACTIVE] > 0.0:
                    n_active += 1


@njit(error_model="numpy", cache=True)
def fill_bins(z, scale, shift, table, bin_z, bin_count, bin_spread):
    """Bins of equal relative width (1/32 to 1/64) of x = z * scale + shift over 20 octaves below 1, for each sign.

    table: {1280, 3} scratch, zeros before and after. Returns the number of bins filled.
    """
    half = table.shape[0] // 2
    for i in range(z.size):
        x = z[i] * scale + shift
        # The biased exponent and the first five bits of the fraction, as one number: 1.0 is at 1023 * 32.
        key = (np.float64(abs(x)).view(np.int64) >> 47) - (1023 * 32 - half)
        key = min(max(key, 0), half - 1)
        if x < 0.0:
            key += half
        table[key, 0] += 1.0
        table[key, 1] += z[i]
        table[key, 2] += z[i] * z[i]
    n = 0
    for key in range(table.shape[0]):
        if table[key, 0] > 0.0:
            mean = table[key, 1] / table[key, 0]
            bin_z[n] = mean
            bin_count[n] = table[key, 0]
            bin_spread[n] = max(table[key, 2] - mean * table[key, 1], 0.0)
            n += 1
            table[key, 0] = 0.0
            table[key, 1] = 0.0
            table[key, 2] = 0.0
    return n
