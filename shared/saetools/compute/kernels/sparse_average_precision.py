"""Average precision of one latent from its nonzero values in falling order; all other rows are zeros.

`saetools.metrics.average_precision` says when to use which. Callers check the arguments.
"""

import numpy as np

from saetools.compute.kernels.compiled import njit


@njit(error_model="numpy", cache=True, nogil=True)
def latent_average_precision(values, y, n_rows, n_positives):
    """AP of a latent for one class: `values` {E} in falling order, 0 at all other rows; ties enter together.

    y {E}: 1 or 0 for the row of each value, negative where it is left out. n_rows, n_positives: of all rows that are
    not left out. NaN without a positive. Values of 0 and the rows without a value are one group of ties.
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
def latent_average_precision_by_class(values, class_e, image_e, weight_n, mass_c, ap_c):
    """AP of a latent for every class, into ap_c: `values` {E} in falling order, 0 at all other rows.

    Each row has one class: class_e {E} is that of a value's row, -1 where it is left out. Image n counts weight_n
    times, as in a bootstrap resample (all ones: the images as they are). mass_c: rows of each class, so weighted.
    NaN for a class without rows.
    """
    n_classes = mass_c.size
    count_c = np.zeros(n_classes)
    total_c = np.zeros(n_classes)
    left_c = mass_c.astype(np.float64)
    n_rows = left_c.sum()
    n_zero = n_rows
    for e in range(values.size):
        c = class_e[e]
        if c >= 0 and values[e] != 0:
            weight = weight_n[image_e[e]]
            left_c[c] -= weight
            n_zero -= weight
    seen = 0.0
    zeros_done = False
    e = 0
    while e < values.size or not zeros_done:
        if not zeros_done and (e == values.size or values[e] <= 0):
            zeros_done = True
            seen += n_zero
            for c in range(n_classes):
                count_c[c] += left_c[c]
                if left_c[c] > 0:
                    total_c[c] += left_c[c] * (count_c[c] / seen)
            while e < values.size and values[e] == 0:
                e += 1
            continue
        first = e
        while e < values.size and values[e] == values[first]:
            c = class_e[e]
            if c >= 0:
                weight = weight_n[image_e[e]]
                count_c[c] += weight
                seen += weight
            e += 1
        for i in range(first, e):
            c = class_e[i]
            if c >= 0 and weight_n[image_e[i]] > 0:
                total_c[c] += weight_n[image_e[i]] * (count_c[c] / seen)
    for c in range(n_classes):
        ap_c[c] = min(1.0, total_c[c] / mass_c[c]) if mass_c[c] > 0 else np.nan
