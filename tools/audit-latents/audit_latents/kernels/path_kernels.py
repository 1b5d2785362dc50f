"""The path of an L1 logistic regression: Newton's method with coordinate descent inside (Friedman, Hastie and
Tibshirani, J. Stat. Softw. 33(1), 2010, sections 2.2 and 3), on what the strong rule keeps (Tibshirani et al., J. R.
Stat. Soc. B 74, 2012), each penalty from the solution of the one before.

The descent does not touch the images: it runs on the Hessian of the latents that are kept, so a sweep over M of them
takes M^2 steps. The Hessian is kept from penalty to penalty, with rows added for latents that come in, and made anew
only where the method converges slowly. The gradient is always that of the loss itself: an old Hessian changes how many
iterations are taken, not where they end.
"""

import math

import numpy as np

from saetools.compute.kernels.compiled import njit

# A weight p (1 - p) below this makes the quadratic model useless; glmnet's bound.
MIN_WEIGHT = 1e-5
MAX_SWEEPS = 1000
MAX_NEWTON = 50
SLOW = 0.05  # squared step over the squared step before, above which the Hessian is made anew


@njit(error_model="numpy", cache=True, nogil=True)
def column_dot(rows, x, first, last, image):
    """sum_e x_e image[rows_e]; four sums, for one alone waits for each of its additions."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    e = first
    while e + 4 <= last:
        a += x[e] * image[rows[e]]
        b += x[e + 1] * image[rows[e + 1]]
        c += x[e + 2] * image[rows[e + 2]]
        d += x[e + 3] * image[rows[e + 3]]
        e += 4
    while e < last:
        a += x[e] * image[rows[e]]
        e += 1
    return (a + b) + (c + d)


@njit(error_model="numpy", cache=True, nogil=True)
def gradients(indptr, rows, x, scale, residual, out):
    """out_k = 1/N scale_k sum_n x_nk residual_n"""
    for k in range(indptr.size - 1):
        out[k] = scale[k] * column_dot(rows, x, indptr[k], indptr[k + 1], residual) / residual.size


@njit(error_model="numpy", cache=True, nogil=True)
def large_gradients(indptr, rows, x, scale, norm, residual, least, then_residual, then, out):
    """out_k as `gradients` gives it wherever it is at least `least` in size, and 0 or that where it is less.

    `then` is the gradient at `then_residual`; by Cauchy and Schwarz it has moved by at most norm_k, the latent's root
    mean square, times that of the residual's change. Where that settles little, all are computed and kept as `then`.
    """
    n = residual.size
    moved = 0.0
    for i in range(n):
        moved += (residual[i] - then_residual[i]) ** 2
    moved = math.sqrt(moved / n) * (1.0 + 1e-9)
    asked = 0
    for k in range(out.size):
        asked += abs(then[k]) + norm[k] * moved >= least
    if 3 * asked > out.size:
        gradients(indptr, rows, x, scale, residual, out)
        then[:] = out
        then_residual[:] = residual
        return
    for k in range(out.size):
        out[k] = 0.0
        if abs(then[k]) + norm[k] * moved >= least:
            out[k] = scale[k] * column_dot(rows, x, indptr[k], indptr[k + 1], residual) / n


@njit(error_model="numpy", cache=True, nogil=True)
def residuals(y, eta, out):
    """out_n = y_n - p_n"""
    for i in range(y.size):
        out[i] = y[i] - 1.0 / (1.0 + math.exp(-eta[i]))


@njit(error_model="numpy", cache=True, nogil=True)
def add_hessian(indptr, rows, x, scale, weight, members, start, stop, hessian):
    """Fill rows and columns `start` to `stop` of hessian {M + 1, M + 1}: 1/N sum_n w_n x_ni x_nj for members i and j,
    x in units of the scale.

    Row 0 is the intercept's, whose x is 1; row m is that of latent members[m].
    """
    n = weight.size
    weighted = np.empty(n)
    for i in range(start, stop):
        if i == 0:
            weighted[:] = weight
            hessian[0, 0] = weight.sum() / n
            continue
        weighted[:] = 0.0
        for e in range(indptr[members[i]], indptr[members[i] + 1]):
            weighted[rows[e]] = weight[rows[e]] * scale[members[i]] * x[e]
        hessian[i, 0] = hessian[0, i] = weighted.sum() / n
        for j in range(1, i + 1):
            k = members[j]
            total = scale[k] * column_dot(rows, x, indptr[k], indptr[k + 1], weighted)
            hessian[i, j] = hessian[j, i] = total / n


@njit(error_model="numpy", cache=True, nogil=True)
def descend(hessian, size, slope, value, penalty, tolerance):
    """Sweeps of coordinate descent until no coordinate changes the logits by more than `tolerance` (mean square).

    Of -slope . d + 1/2 d . hessian d + penalty sum_i>0 |value_i + d_i|; value and slope (then slope - hessian d) are
    kept up to date.
    """
    for _ in range(MAX_SWEEPS):
        largest = 0.0
        for i in range(size):
            curvature = hessian[i, i]
            target = slope[i] + curvature * value[i]
            if i == 0:
                new = target / curvature
            else:
                shrunk = max(abs(target) - penalty, 0.0) / curvature
                new = shrunk if target > 0.0 else -shrunk
            change = new - value[i]
            if change != 0.0:
                value[i] = new
                for j in range(size):
                    slope[j] -= change * hessian[i, j]
                largest = max(largest, curvature * change * change)
        if largest < tolerance:
            break


@njit(error_model="numpy", cache=True, nogil=True)
def l1_path(indptr, rows, x, scale, norm, y, penalties, most, tolerance, entry, coefficient, beta):
    """Follow the falling `penalties` until `most` latents have entered; returns (steps taken, intercept).

    x: values, float32 as they are in the file: reading them is what the gradient costs; scale_k: what brings latent
    k's to one unit; norm_k: its root mean square then. entry_k: number of the step in which latent k first had
    a coefficient (untouched where it never had one), coefficient_k: the coefficient then. beta: those at the end.
    """
    n, n_latents = y.size, indptr.size - 1
    eta, weight, residual, delta = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    gradient = np.empty(n_latents)
    members = np.full(n_latents + 1, -1)  # members[0] stands for the intercept
    in_work = np.zeros(n_latents, np.bool_)
    known = 0  # so many leading members have their rows in the Hessian
    size = 1
    hessian = np.empty((64, 64))
    mean = y.mean()
    intercept = math.log(mean / (1.0 - mean))
    eta[:] = intercept
    residual[:] = y - mean
    gradients(indptr, rows, x, scale, residual, gradient)
    then_residual, then = residual.copy(), gradient.copy()
    before = penalties[0]
    entered = 0
    null_deviance = -(mean * math.log(mean) + (1.0 - mean) * math.log(1.0 - mean))
    for step in range(penalties.size):
        penalty = penalties[step]
        # Members that stay move to the front with their rows of the Hessian.
        in_work[:] = False
        stay = np.empty(size, np.int64)
        stay[0] = 0
        n_stay = 1
        for m in range(1, size):
            k = members[m]
            if beta[k] != 0.0 or abs(gradient[k]) >= 2.0 * penalty - before:
                in_work[k] = True
                stay[n_stay] = m
                members[n_stay] = k
                n_stay += 1
        if known > 0:
            for a in range(n_stay):
                for b in range(n_stay):
                    hessian[a, b] = hessian[stay[a], stay[b]]
            known = n_stay
        size = n_stay
        for k in range(n_latents):
            if (
                not in_work[k]
                and abs(gradient[k]) >= 2.0 * penalty - before
                and indptr[k + 1] > indptr[k]
                and gradient[k] != 0.0
            ):
                in_work[k] = True
                members[size] = k
                size += 1
        while True:
            if size > hessian.shape[0]:
                larger = np.empty((2 * size, 2 * size))
                larger[:known, :known] = hessian[:known, :known]
                hessian = larger
            slope, value = np.empty(size), np.empty(size)
            moved_before = math.inf
            for _ in range(MAX_NEWTON):
                if known == 0:
                    for i in range(n):
                        p = y[i] - residual[i]
                        weight[i] = max(p * (1.0 - p), MIN_WEIGHT)
                if known < size:
                    add_hessian(indptr, rows, x, scale, weight, members, known, size, hessian)
                    known = size
                slope[0], value[0] = residual.sum() / n, intercept
                for m in range(1, size):
                    k = members[m]
                    slope[m] = scale[k] * column_dot(rows, x, indptr[k], indptr[k + 1], residual) / n
                    value[m] = beta[k]
                descend(hessian, size, slope, value, penalty, 0.1 * tolerance)
                delta[:] = value[0] - intercept
                intercept = value[0]
                for m in range(1, size):
                    k = members[m]
                    change = value[m] - beta[k]
                    if change != 0.0:
                        beta[k] = value[m]
                        for e in range(indptr[k], indptr[k + 1]):
                            delta[rows[e]] += change * scale[k] * x[e]
                moved = 0.0
                for i in range(n):
                    eta[i] += delta[i]
                    moved += weight[i] * delta[i] * delta[i]
                residuals(y, eta, residual)
                moved /= n
                if moved < tolerance:
                    break
                if moved > SLOW * moved_before:
                    known, moved_before = 0, math.inf
                else:
                    moved_before = moved
            # What the strong rule asks for in the next step: less than this penalty, which is checked here.
            least = 2.0 * penalties[min(step + 1, penalties.size - 1)] - penalty
            large_gradients(indptr, rows, x, scale, norm, residual, least, then_residual, then, gradient)
            missed = False
            for k in range(n_latents):
                if not in_work[k] and abs(gradient[k]) > penalty * (1.0 + 1e-9):
                    in_work[k] = True
                    members[size] = k
                    size += 1
                    missed = True
            if not missed:
                break
        for m in range(1, size):
            k = members[m]
            if beta[k] != 0.0 and entry[k] < 0:
                entry[k] = step
                coefficient[k] = beta[k]
                entered += 1
        deviance = 0.0
        for i in range(n):
            deviance += max(eta[i], 0.0) + math.log1p(math.exp(-abs(eta[i]))) - y[i] * eta[i]
        before = penalty
        if entered >= most or deviance / n < 1e-3 * null_deviance:
            return step + 1, intercept
    return penalties.size, intercept
