"""From a column of nonzero values to its probes: gather, centre and scale, sum the labels, bin, minimise."""

import math

import numpy as np

from fit_probes.kernels.newton import (
    ACTIVE,
    BIAS,
    CE,
    DECREMENT,
    N_FIELDS,
    PASSES,
    POSITIVE_Z,
    POSITIVES,
    RIDGE,
    WEIGHT,
    ZERO_POSITIVES,
    fill_bins,
    minimise,
)
from saetools.compute.kernels.compiled import njit

# Columns of `total` {C, 4}, what is known of each class before any latent is looked at.
MASS, SOME_POSITIVE, SOME_NEGATIVE, LOGIT = range(4)
# Rows of `seen` {8, C + 1}, sums over a latent's nonzero values for each class.
S_MASS, S_Z, S_POSITIVE, S_NEGATIVE, S_POS_LOW, S_POS_HIGH, S_NEG_LOW, S_NEG_HIGH = range(8)

N_BINS = 1280
# Fewer nonzero values are summed directly: filling and solving the bins would cost more.
MIN_BINNED = 400


@njit(error_model="numpy", cache=True)
def gather(rows, values, start, stop, column_of_row, z, kept):
    """Non-zero values of kept rows into z, their rows into `kept`; returns how many."""
    n = 0
    for i in range(start, stop):
        value = np.float64(values[i])
        row = rows[i]
        if value != 0.0 and column_of_row[row] >= 0:
            z[n] = value
            kept[n] = row
            n += 1
    return n


@njit(error_model="numpy", cache=True)
def power_of_two(x):
    """2^-e for x = m 2^e with m in [0.5, 1): multiplying by it rounds nothing."""
    exponent = math.frexp(x)[1]
    return math.ldexp(1.0, -min(max(exponent, -1000), 1000))


@njit(error_model="numpy", cache=True)
def centre_and_scale(z, n_rows):
    """z := (z * first - mean) * second in place; returns first, mean, second, low, high and the sd over all rows.

    `mean` is over all rows, zeros included, so that the Hessian of a nearly constant latent does not cancel; both
    scales are powers of two. low, high: least and largest value, the zeros' included. sd is in the new unit.
    """
    largest = 0.0
    for i in range(z.size):
        largest = max(largest, abs(z[i]))
    first = power_of_two(largest)
    mean = 0.0
    for i in range(z.size):
        z[i] *= first
        mean += z[i]
    mean /= n_rows
    n_zero = n_rows - z.size
    low = -mean if n_zero > 0 else z[0] - mean
    high = low
    for i in range(z.size):
        z[i] -= mean
        low = min(low, z[i])
        high = max(high, z[i])
    second = power_of_two(max(abs(low), abs(high))) if high > low else 1.0
    squares = 0.0
    for i in range(z.size):
        z[i] *= second
        squares += z[i] * z[i]
    zero_z = -mean * second
    sd = math.sqrt((squares + n_zero * zero_z * zero_z) / n_rows)
    return first, mean, second, low * second, high * second, sd


@njit(error_model="numpy", cache=True)
def sums_of_classes(z, kept, column_of_row, seen):
    """Fill `seen` where each row has one class. A class's negatives are the active rows of all the others."""
    n_slots = seen.shape[1]
    for i in range(z.size):
        x = z[i]
        c = column_of_row[kept[i]]
        seen[S_MASS, c] += 1.0
        seen[S_Z, c] += x
        seen[S_POS_LOW, c] = min(seen[S_POS_LOW, c], x)
        seen[S_POS_HIGH, c] = max(seen[S_POS_HIGH, c], x)
    # Least and second least of the classes' minima; likewise the maxima.
    low = low_next = np.inf
    high = high_next = -np.inf
    low_at = high_at = -1
    for c in range(n_slots):
        if seen[S_POS_LOW, c] < low:
            low, low_next, low_at = seen[S_POS_LOW, c], low, c
        else:
            low_next = min(low_next, seen[S_POS_LOW, c])
        if seen[S_POS_HIGH, c] > high:
            high, high_next, high_at = seen[S_POS_HIGH, c], high, c
        else:
            high_next = max(high_next, seen[S_POS_HIGH, c])
    for c in range(n_slots):
        seen[S_POSITIVE, c] = seen[S_MASS, c]
        seen[S_NEGATIVE, c] = z.size - seen[S_MASS, c]
        seen[S_NEG_LOW, c] = low_next if c == low_at else low
        seen[S_NEG_HIGH, c] = high_next if c == high_at else high


@njit(error_model="numpy", cache=True)
def sums_of_table(z, kept, table, seen):
    """Fill `seen` from a table of labels: a row with 0 < y < 1 is both positive and negative."""
    mass, mass_z, positive, negative = seen[S_MASS], seen[S_Z], seen[S_POSITIVE], seen[S_NEGATIVE]
    pos_low, pos_high, neg_low, neg_high = (
        seen[S_POS_LOW],
        seen[S_POS_HIGH],
        seen[S_NEG_LOW],
        seen[S_NEG_HIGH],
    )
    for i in range(z.size):
        x = z[i]
        row = kept[i]
        for c in range(table.shape[1]):
            y = np.float64(table[row, c])
            mass[c] += y
            mass_z[c] += y * x
            positive[c] += 1.0 if y > 0.0 else 0.0
            negative[c] += 1.0 if y < 1.0 else 0.0
            pos_low[c] = min(pos_low[c], x if y > 0.0 else np.inf)
            pos_high[c] = max(pos_high[c], x if y > 0.0 else -np.inf)
            neg_low[c] = min(neg_low[c], x if y < 1.0 else np.inf)
            neg_high[c] = max(neg_high[c], x if y < 1.0 else -np.inf)


@njit(error_model="numpy", cache=True)
def is_separable(of, total, zero_z):
    """Whether a threshold on z has all positives (y > 0) on one side and all negatives (y < 1) on the other."""
    pos_low, pos_high = of[S_POS_LOW], of[S_POS_HIGH]
    neg_low, neg_high = of[S_NEG_LOW], of[S_NEG_HIGH]
    if total[SOME_POSITIVE] > of[S_POSITIVE]:
        pos_low, pos_high = min(pos_low, zero_z), max(pos_high, zero_z)
    if total[SOME_NEGATIVE] > of[S_NEGATIVE]:
        neg_low, neg_high = min(neg_low, zero_z), max(neg_high, zero_z)
    return neg_high <= pos_low or pos_high <= neg_low


@njit(error_model="numpy", cache=True)
def start_pair(state, of, total, z_sum, n_nonzero, n_rows, ridge):
    """Set up one class. Returns -1 when its labels are swapped: positives are the rarer ones among the active rows."""
    mass, positive_z, zero_mass = of[S_MASS], of[S_Z], max(total[MASS] - of[S_MASS], 0.0)
    sign = 1.0
    if mass > 0.5 * n_nonzero:
        sign = -1.0
        mass, positive_z = n_nonzero - mass, z_sum - positive_z
        zero_mass = max(n_rows - n_nonzero - zero_mass, 0.0)
    state[POSITIVES] = mass
    state[POSITIVE_Z] = positive_z
    state[ZERO_POSITIVES] = zero_mass
    state[RIDGE] = min(ridge, 1e290)
    state[WEIGHT] = 0.0
    state[BIAS] = sign * total[LOGIT]
    state[ACTIVE] = 1.0
    return sign


@njit(error_model="numpy", cache=True, nogil=True)
def fit_columns(
    indptr,
    rows,
    values,
    order,
    column_of_row,
    table,
    total,
    prior_loss,
    n_rows,
    settings,
    codes,
    out,
    flags,
):
    """Fit the latents `order`, in this order, for every class.

    table: {N, C} labels, or {0, C} where each row has one class, `column_of_row`. total: {C, 4} as named above.
    settings: ridge, least ridge where separable, 1.0 for a ridge in standard deviations, decrement, reach.
    codes: the flag bits for never fires, constant, no positives, all positives, separable.
    out: {5, K, C} weight, bias, loss, decrement, passes. flags: {K, C}.
    """
    n_classes = total.shape[0]
    one_class = table.shape[0] == 0
    longest = np.int64(0)
    for i in range(order.size):
        longest = max(longest, indptr[order[i] + 1] - indptr[order[i]])
    buffer = np.empty(longest)
    kept_rows = np.empty(longest, rows.dtype)
    pair = np.zeros((n_classes, N_FIELDS))
    sums = np.zeros((n_classes, 6))
    seen = np.zeros((8, n_classes + 1))
    sign = np.ones(n_classes)
    histogram = np.zeros((N_BINS, 3))
    bins = np.zeros((3, N_BINS))
    for i in range(order.size):
        k = order[i]
        n = gather(rows, values, indptr[k], indptr[k + 1], column_of_row, buffer, kept_rows)
        z = buffer[:n]
        first, mean, second, low, high, sd = 1.0, 0.0, 1.0, 0.0, 0.0, 0.0
        if n > 0:
            first, mean, second, low, high, sd = centre_and_scale(z, n_rows)
        blank = 0
        if n == 0:
            blank = codes[0]
        elif not (high > low and sd > 0.0):
            blank = codes[1]
        zero_z = -mean * second
        n_zero = np.float64(n_rows - n)

        seen[:S_POS_LOW] = 0.0
        seen[S_POS_LOW] = seen[S_NEG_LOW] = np.inf
        seen[S_POS_HIGH] = seen[S_NEG_HIGH] = -np.inf
        if blank == 0:
            if one_class:
                sums_of_classes(z, kept_rows, column_of_row, seen)
            else:
                sums_of_table(z, kept_rows, table, seen)
        z_sum = np.sum(z)

        for c in range(n_classes):
            flag = blank
            if total[c, SOME_POSITIVE] == 0.0:
                flag |= codes[2]
            elif total[c, SOME_NEGATIVE] == 0.0:
                flag |= codes[3]
            pair[c, ACTIVE] = 0.0
            if flag == 0:
                ridge = settings[0]
                if is_separable(seen[:, c], total[c], zero_z):
                    flag = codes[4]
                    ridge = max(ridge, settings[1])
                unit = sd if settings[2] > 0.0 else first * second
                sign[c] = start_pair(pair[c], seen[:, c], total[c], z_sum, n, n_rows, ridge * unit * unit)
            else:
                out[0, k, c] = 0.0
                out[1, k, c] = total[c, LOGIT]
                out[2, k, c] = prior_loss[c]
            flags[k, c] = flag
        if blank != 0:
            continue

        if n >= MIN_BINNED:
            # Bins of the plain values resolve sparse latents best; of the centred ones, nearly constant latents.
            shift = mean * second if n_zero > 0 else 0.0
            scale = 1.0 / max(abs(low + shift), abs(high + shift), 1e-300)
            n_bins = fill_bins(z, scale, shift * scale, histogram, bins[0], bins[1], bins[2])
            minimise(
                pair,
                sums,
                bins[0, :n_bins],
                bins[1],
                bins[2],
                True,
                zero_z,
                n_zero,
                n_rows,
                low,
                high,
                1e-9,
                1e-4,
                1e-9,
            )
            for c in range(n_classes):
                if flags[k, c] == 0 or flags[k, c] == codes[4]:
                    pair[c, ACTIVE] = 1.0
        minimise(
            pair,
            sums,
            z,
            bins[1],
            bins[2],
            False,
            zero_z,
            n_zero,
            n_rows,
            low,
            high,
            settings[3],
            settings[4],
            1e-15,
        )
        for c in range(n_classes):
            if flags[k, c] == 0 or flags[k, c] == codes[4]:
                w = sign[c] * pair[c, WEIGHT]
                out[0, k, c] = w * second * first
                out[1, k, c] = sign[c] * pair[c, BIAS] - w * second * mean
                out[2, k, c] = pair[c, CE]
                out[3, k, c] = pair[c, DECREMENT]
                out[4, k, c] = pair[c, PASSES]
