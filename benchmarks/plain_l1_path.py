"""The plain L1 path for benchmarks/audit.py: coordinate descent on the images, with the Hessian's diagonal and all
logits computed again in every iteration. Simpler than audit_latents.kernels.path_kernels, and several times slower.
"""

import math

import numpy as np
from numba import njit

# A weight p (1 - p) below this makes the quadratic model useless; glmnet's bound.
MIN_WEIGHT = 1e-5
MAX_SWEEPS = 1000
MAX_NEWTON = 50


@njit(error_model="numpy", nogil=True)
def gradients(indptr, rows, x, residual, out):
    """out_k = 1/N sum_n x_nk residual_n"""
    for k in range(indptr.size - 1):
        total = 0.0
        for e in range(indptr[k], indptr[k + 1]):
            total += x[e] * residual[rows[e]]
        out[k] = total / residual.size


@njit(error_model="numpy", nogil=True)
def logits(indptr, rows, x, beta, intercept, eta):
    """eta_n = intercept + sum_k x_nk beta_k"""
    eta[:] = intercept
    for k in range(beta.size):
        if beta[k] != 0.0:
            for e in range(indptr[k], indptr[k + 1]):
                eta[rows[e]] += beta[k] * x[e]


@njit(error_model="numpy", nogil=True)
def descend(indptr, rows, x, curvature, work, n_work, weight, residual, beta, intercept, penalty, tolerance):
    """Sweeps over the latents work[:n_work] and the intercept until no logit changes by more than `tolerance`.

    Of the quadratic model 1/2N sum w (eta - z)^2 + penalty sum |beta|, with residual = w (z - eta), kept up to date.
    Returns the intercept.
    """
    n = residual.size
    total_weight = weight.sum()
    for _ in range(MAX_SWEEPS):
        largest = 0.0
        for i in range(n_work):
            k = work[i]
            gradient = 0.0
            for e in range(indptr[k], indptr[k + 1]):
                gradient += x[e] * residual[rows[e]]
            target = gradient / n + curvature[k] * beta[k]
            shrunk = max(abs(target) - penalty, 0.0) / curvature[k]
            new = shrunk if target > 0.0 else -shrunk
            change = new - beta[k]
            if change != 0.0:
                beta[k] = new
                for e in range(indptr[k], indptr[k + 1]):
                    residual[rows[e]] -= change * weight[rows[e]] * x[e]
                largest = max(largest, curvature[k] * change * change)
        change = residual.sum() / total_weight
        intercept += change
        for i in range(n):
            residual[i] -= change * weight[i]
        largest = max(largest, change * change * total_weight / n)
        if largest < tolerance:
            break
    return intercept


@njit(error_model="numpy", nogil=True)
def l1_path(indptr, rows, x, y, penalties, most, tolerance, entry, coefficient, beta):
    """Follow the falling `penalties` until `most` latents have entered; returns (steps taken, intercept).

    x: values with one unit for all latents. entry_k: number of the step in which latent k first had a coefficient
    (untouched where it never had one), coefficient_k: the coefficient then. beta: the coefficients at the end.
    """
    n, n_latents = y.size, indptr.size - 1
    eta, weight, residual = np.empty(n), np.empty(n), np.empty(n)
    gradient, curvature = np.empty(n_latents), np.empty(n_latents)
    work = np.empty(n_latents, np.int64)
    in_work = np.zeros(n_latents, np.bool_)
    mean = y.mean()
    intercept = math.log(mean / (1.0 - mean))
    residual[:] = y - mean
    gradients(indptr, rows, x, residual, gradient)
    before = penalties[0]
    entered = 0
    null_deviance = -(mean * math.log(mean) + (1.0 - mean) * math.log(1.0 - mean))
    for step in range(penalties.size):
        penalty = penalties[step]
        in_work[:] = False
        for k in range(n_latents):
            in_work[k] = beta[k] != 0.0 or abs(gradient[k]) >= 2.0 * penalty - before
        while True:
            n_work = 0
            for k in range(n_latents):
                if in_work[k] and indptr[k + 1] > indptr[k]:
                    work[n_work] = k
                    n_work += 1
            for _ in range(MAX_NEWTON):
                logits(indptr, rows, x, beta, intercept, eta)
                for i in range(n):
                    p = 1.0 / (1.0 + math.exp(-eta[i]))
                    weight[i] = max(p * (1.0 - p), MIN_WEIGHT)
                    residual[i] = y[i] - p
                for i in range(n_work):
                    k = work[i]
                    total = 0.0
                    for e in range(indptr[k], indptr[k + 1]):
                        total += weight[rows[e]] * x[e] * x[e]
                    curvature[k] = total / n
                old = eta.copy()
                intercept = descend(
                    indptr,
                    rows,
                    x,
                    curvature,
                    work,
                    n_work,
                    weight,
                    residual,
                    beta,
                    intercept,
                    penalty,
                    0.1 * tolerance,
                )
                logits(indptr, rows, x, beta, intercept, eta)
                moved = 0.0
                for i in range(n):
                    moved += weight[i] * (eta[i] - old[i]) ** 2
                if moved / n < tolerance:
                    break
            deviance = 0.0
            for i in range(n):
                residual[i] = y[i] - 1.0 / (1.0 + math.exp(-eta[i]))
                deviance += max(eta[i], 0.0) + math.log1p(math.exp(-abs(eta[i]))) - y[i] * eta[i]
            gradients(indptr, rows, x, residual, gradient)
            missed = False
            for k in range(n_latents):
                if not in_work[k] and abs(gradient[k]) > penalty * (1.0 + 1e-9):
                    in_work[k] = True
                    missed = True
            if not missed:
                break
        for k in range(n_latents):
            if beta[k] != 0.0 and entry[k] < 0:
                entry[k] = step
                coefficient[k] = beta[k]
                entered += 1
        before = penalty
        if entered >= most or deviance / n < 1e-3 * null_deviance:
            return step + 1, intercept
    return penalties.size, intercept
