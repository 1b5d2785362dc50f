"""Logistic regression with an L2 penalty, solved to its optimum in float64.

    minimise over W {C, D}, b {C}:   sum_g loss_g / n_g + l2/2 sum_cd W_cd^2         z = W x~ + b,  x~ = (x - mean) / sd

with loss_g the cross-entropy of softmax over classes (one group g of n rows), or of a logit for each trait (groups of
their own, with the n_g rows whose label is known). mean and sd {D} are of the rows that are trained on; b is not
penalised. For classes it is scikit-learn's LogisticRegression(C=1 / (n l2)) on the standardised rows.

L-BFGS (Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 7.5, by scipy) takes few passes over the rows,
since it works in coordinates U in which the Hessian is near the identity: at the class shares p, with the correlation
matrix V diag(g) V^T of the features, it is p_c (1 - p_c) V diag(g) V^T + l2 I for class c, so

    W_c = V diag(p_c (1 - p_c) g + l2)^-1/2 U_c                                      b_c = (p_c (1 - p_c))^-1/2 U_c0

Softmax does not change where the same is added to all classes, so W and b less their mean over classes are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fit_heads.features import Features
from fit_heads.targets import Span, Targets, chance

MEMORY = 30  # pairs of steps and gradient differences that L-BFGS keeps
MAX_ITERATIONS = 2000
TOLERANCE = 1e-8  # of the largest component of the gradient with respect to U
ROWS_FOR_CORRELATIONS = 65536  # at most twice as many, evenly spaced: they decide the speed, not the result


@dataclass(frozen=True)
class Fit:
    """weight {C, D} and bias {C} for features as they are, in float64; a bias of -inf for an output without labels.

    loss: the minimum, penalty included; gradient: the largest component that is left; passes: over the rows.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    loss: float
    gradient: float
    passes: int


@dataclass(frozen=True)
class Moments:
    """Of n rows, less an origin: sums {D} and sums of squares {D}. They add up over folds."""

    n: int
    sum_d: torch.Tensor
    square_d: torch.Tensor

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.n - other.n, self.sum_d - other.sum_d, self.square_d - other.square_d)

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.sum_d + other.sum_d, self.square_d + other.square_d)


class Data:
    """Rows and their labels; what all fits on them share: moments of each fold, and the features' correlations."""

    def __init__(self, features: Features, targets: Targets, folds: Sequence[Span]) -> None:
        self.features, self.folds = features, list(folds)
        first, last = folds[0][0], folds[-1][1]
        _, x_bd = next(features.blocks(first, last))
        self.origin_d = x_bd.mean(0)
        self.moments = [self._moments(targets, span) for span in folds]
        whole = self.moments[0]
        for one in self.moments[1:]:
            whole = whole + one
        self.whole = whole
        mean_d, scale_d = self.standard(whole)
        gram_dd = torch.zeros(features.d_model, features.d_model, dtype=torch.float64, device=features.device)
        n, step = 0, max(1, (last - first) // ROWS_FOR_CORRELATIONS)
        for start, x_bd in features.blocks(first, last):
            kept = targets.used(start, start + len(x_bd))
            kept[torch.arange(start, start + len(x_bd), device=kept.device) % step != 0] = False
            z_bd = (x_bd[kept] - mean_d) * scale_d
            gram_dd.addmm_(z_bd.T, z_bd)
            n += len(z_bd)
        self.g_d, self.vectors_dd = torch.linalg.eigh(gram_dd / max(n, 1))
        self.g_d.clamp_(min=0)

    def standard(self, moments: Moments) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean {D} and 1 / sd {D}; 0 for a feature that does not vary, which so has no weight."""
        shift_d = moments.sum_d / moments.n
        sd_d = (moments.square_d / moments.n - shift_d.square()).clamp(min=0).sqrt()
        constant_d = sd_d <= 1e-7 * sd_d.max().clamp(min=1e-30)
        return self.origin_d + shift_d, torch.where(constant_d, 0, 1 / sd_d)

    def _moments(self, targets: Targets, span: Span) -> Moments:
        n, sums = 0, torch.zeros(2, self.features.d_model, dtype=torch.float64, device=self.features.device)
        for start, x_bd in self.features.blocks(*span):
            used_b = targets.used(start, start + len(x_bd))
            centred_bd = x_bd.sub_(self.origin_d).mul_(used_b[:, None])
            n += int(used_b.sum())
            sums[0] += centred_bd.sum(0)
            sums[1] += centred_bd.square_().sum(0)
        return Moments(n, sums[0], sums[1])


class Objective:
    """The function of U {C, D + 1}, flat, that is minimised, and its gradient; U_c0 is the bias.

    left_out: a fold whose rows are not used. Outputs without labels among the others have a logit of -inf throughout.
    passes: over the rows, so far.
    """

    def __init__(self, data: Data, targets: Targets, l2: float, left_out: int | None) -> None:
        self._data, self._targets, self._l2, self.passes = data, targets, l2, 0
        self._spans = [span for number, span in enumerate(data.folds) if number != left_out]
        moments = data.whole if left_out is None else data.whole - data.moments[left_out]
        self._mean_d, self._scale_d = data.standard(moments)
        p_c, logit_c = chance(targets, self._spans)
        _, known_c = targets.counts(self._spans)
        there_c = np.isfinite(logit_c)
        self._logit_c = self._tensor(np.where(there_c, logit_c, 0))
        self._there_c = self._tensor(there_c)
        self._absent_c = self._tensor(np.where(there_c, 0, -np.inf))
        self._weight_c = self._tensor(np.where(there_c, 1 / np.maximum(known_c, 1), 0))
        curvature_c = self._tensor(np.where(there_c, p_c * (1 - p_c), 1))
        self._stretch_cd = (curvature_c[:, None] * data.g_d + l2).rsqrt()
        self._stretch_c = curvature_c.rsqrt()
        self._logits = self._tensor(np.empty((data.features.block_rows, len(p_c))))

    def start(self, found: Fit | None) -> np.ndarray:
        """U of a fit, or of the class shares."""
        if found is None:
            w_cd, bias_c = torch.zeros_like(self._stretch_cd), self._logit_c
        else:
            w_cd = torch.where(self._scale_d > 0, found.weight / self._scale_d, 0)
            bias_c = torch.where(torch.isfinite(found.bias), found.bias + found.weight @ self._mean_d, 0)
        u_cd = (w_cd @ self._data.vectors_dd) / self._stretch_cd
        return torch.cat([(bias_c / self._stretch_c)[:, None], u_cd], 1).flatten().cpu().numpy()

    def point(self, u: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Weights {C, D} for standardised rows; weights and bias for the rows as they are."""
        u_cd = self._tensor(u.reshape(len(self._stretch_c), -1))
        w_cd = self._centred((u_cd[:, 1:] * self._stretch_cd) @ self._data.vectors_dd.T)
        bias_c = self._centred(u_cd[:, :1] * self._stretch_c[:, None])[:, 0] + self._absent_c
        raw_cd = w_cd * self._scale_d
        return w_cd, raw_cd, bias_c - raw_cd @ self._mean_d

    def __call__(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        self.passes += 1
        w_cd, raw_cd, raw_c = self.point(u)
        loss = torch.zeros((), dtype=torch.float64, device=raw_c.device)
        raw_gradient_cd, gradient_c = torch.zeros_like(raw_cd), torch.zeros_like(raw_c)
        for first, last in self._spans:
            for begin, x_bd in self._data.features.blocks(first, last):
                z_bc = torch.addmm(raw_c, x_bd, raw_cd.T, out=self._logits[: len(x_bd)])
                loss_g = self._targets.residual_(z_bc, begin, self._weight_c)
                loss += (
                    loss_g * (self._weight_c.max() if self._targets.is_softmax else self._weight_c)
                ).sum()
                raw_gradient_cd.addmm_(z_bc.T, x_bd)
                gradient_c += z_bc.sum(0)
        gradient_cd = (raw_gradient_cd - gradient_c[:, None] * self._mean_d) * self._scale_d + self._l2 * w_cd
        u_gradient_cd = (self._centred(gradient_cd) @ self._data.vectors_dd) * self._stretch_cd
        u_gradient_c1 = self._centred(gradient_c[:, None]) * self._stretch_c[:, None]
        value = loss + self._l2 / 2 * w_cd.square().sum()
        return float(value), torch.cat([u_gradient_c1, u_gradient_cd], 1).flatten().cpu().numpy()

    def _centred(self, x_cd: torch.Tensor) -> torch.Tensor:
        """Of classes, less the mean of those that are there; it is its own adjoint, for the gradient."""
        if not self._targets.is_softmax:
            return x_cd
        there_c1 = self._there_c[:, None]
        return (x_cd - (x_cd * there_c1).sum(0) / there_c1.sum()) * there_c1

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array.astype(np.float64)).to(self._data.features.device)


def fit(
    data: Data,
    targets: Targets,
    l2: float,
    *,
    start: Fit | None = None,
    left_out: int | None = None,
    tolerance: float = TOLERANCE,
) -> Fit:
    """The minimum on all rows, or on those outside of the fold `left_out`.

    start: a fit to begin with; else the class shares. targets: of data, or others of the same rows.
    """
    from scipy.optimize import minimize

    objective = Objective(data, targets, l2, left_out)
    options = {"maxcor": MEMORY, "ftol": 0.0, "gtol": tolerance, "maxls": 40}
    limits = {"maxiter": MAX_ITERATIONS, "maxfun": 2 * MAX_ITERATIONS}
    found = minimize(
        objective, objective.start(start), jac=True, method="L-BFGS-B", options={**options, **limits}
    )
    _, raw_cd, raw_c = objective.point(found.x)
    if targets.is_softmax:  # softmax does not change where all biases do
        raw_c = raw_c - raw_c[torch.isfinite(raw_c)].mean()
    return Fit(raw_cd, raw_c, float(found.fun), float(np.abs(found.jac).max()), objective.passes)


def held_out_loss(data: Data, targets: Targets, found: Fit, fold: int) -> tuple[np.ndarray, np.ndarray]:
    """Cross-entropy {n_groups} in nats of the rows of a fold, summed, and the number of rows {n_groups}.

    Rows of outputs that the fit does not have are left out.
    """
    there_c = torch.isfinite(found.bias)
    weight_c = torch.ones_like(found.bias)
    loss_g = torch.zeros(targets.n_groups, dtype=torch.float64, device=found.bias.device)
    for begin, x_bd in data.features.blocks(*data.folds[fold]):
        loss_g += targets.residual_(torch.addmm(found.bias, x_bd, found.weight.T), begin, weight_c)
    yes_c, known_c = targets.counts([data.folds[fold]])
    kept = there_c.cpu().numpy()
    n_g = np.array([yes_c[kept].sum()]) if targets.is_softmax else np.where(kept, known_c, 0)
    return loss_g.cpu().numpy(), n_g
