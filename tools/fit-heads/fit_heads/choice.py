"""Folds of images, and the L2 strength that predicts the held-out ones best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fit_heads.solver import Data, Fit, fit, held_out_loss
from fit_heads.targets import Targets
from saetools.cli.progress import Progress
from saetools.shards.held_out import uniform_of_paths

GRID = tuple(np.geomspace(1, 1e-6, 13).tolist())  # half decades
RISES = 2  # in a row, after which weaker penalties are not tried
CV_TOLERANCE = (
    1e-5  # of the gradient; on CamVid the loss of held-out images is then within 2e-6 of the optimum's
)


@dataclass(frozen=True)
class Choice:
    """l2: the best; tried {L}, from the strongest on, and the cross-entropy {L} of held-out images at each."""

    l2: float
    tried: list[float]
    loss: list[float]


def order_images(
    paths: Sequence[str], class_n: np.ndarray | None, folds: int, seed: int
) -> tuple[np.ndarray, list[int]]:
    """Images {N} in the order of their folds, and the number of images in each fold, which differ by one at most.

    Decided by the paths and the seed alone. class_n {N}: of images that have one class each; every class is then
    spread over the folds as evenly as possible.
    """
    drawn_n = uniform_of_paths(paths, f"folds {seed}".encode()[:16])
    keys = (
        (np.array(paths, object), drawn_n) if class_n is None else (np.array(paths, object), drawn_n, class_n)
    )
    fold_n = np.empty(len(paths), np.int64)
    fold_n[np.lexsort(keys)] = np.arange(len(paths)) % folds
    return np.argsort(fold_n, kind="stable"), np.bincount(fold_n, minlength=folds).tolist()


def choose_l2(data: Data, targets: Targets, grid: Sequence[float]) -> Choice:
    """Fit without each fold in turn, from the strongest penalty on, each from the fit before; the least loss wins.

    The loss of a penalty is that of all held-out rows, each predicted by the fit without its fold: the mean over rows
    of softmax, the mean over traits of the means over their rows. Rows of a class that only their own fold has are left
    out, as traits are that are all yes or all no without it.
    """
    if len(grid) == 1:
        return Choice(float(grid[0]), [float(grid[0])], [float("nan")])
    starts: list[Fit | None] = [None] * len(data.folds)
    tried: list[float] = []
    losses: list[float] = []
    with Progress("choosing L2", total=len(grid) * len(data.folds), unit="fits") as progress:
        for l2 in sorted(grid, reverse=True):
            sum_g, n_g = np.zeros(targets.n_groups), np.zeros(targets.n_groups)
            for fold in range(len(data.folds)):
                found = fit(data, targets, l2, start=starts[fold], left_out=fold, tolerance=CV_TOLERANCE)
                starts[fold] = found
                loss_g, rows_g = held_out_loss(data, targets, found, fold)
                sum_g, n_g = sum_g + loss_g, n_g + rows_g
                progress.advance(1, l2=f"{l2:.1e}")
            tried.append(float(l2))
            losses.append(float(np.mean(sum_g[n_g > 0] / n_g[n_g > 0])))
            if np.argmin(losses) < len(losses) - RISES:
                break
    return Choice(tried[int(np.argmin(losses))], tried, losses)
