"""`linear`: a probe for every trait, fitted with the labels; the upper bound of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from saetools.labels.dense import KnownRows
from score_traits.scores import ScoreFile

BLOCK_BYTES = 64 * 2**20
# Penalties per row, for features of unit variance; the best one is chosen for every trait.
PENALTIES = np.geomspace(1e-3, 1e2, 11)

Blocks = Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Probes:
    """Scores are features {n, D} @ weight {T, D}.T + bias {T}; penalty {T} is what was chosen."""

    weight_td: np.ndarray
    bias_t: np.ndarray
    penalty_t: np.ndarray

    def __call__(self, features_nd: np.ndarray) -> np.ndarray:
        scores: np.ndarray = features_nd @ self.weight_td.T + self.bias_t
        return scores


def fit_ridge(blocks: Blocks) -> Probes:
    """Ridge regression of every trait on the features, each with the penalty of its least leave-one-out error.

    blocks yields (features {b, D}, targets {b, T}) and is called three times: 0 and 1 for known
    labels, NaN for unknown ones, which take the trait's mean and so pull nowhere. Features are brought to mean 0
    and variance 1 first. With G = Z^T Z = V diag(g) V^T, A = Z V and penalty p = n lambda:

        y_hat = mean(y) + A (V^T Z^T (y - mean(y)) / (g + p))
        leave-one-out error_i = (y_i - y_hat_i) / (1 - h_i)      h_i = 1/n + sum_d A_id^2 / (g_d + p)

    (Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd ed., section 7.10 and eq. 5.26.)
    Its ranking is that of Fisher's linear discriminant with shrinkage. float64; memory D^2, D T and a block.
    """
    n, mean_d, std_d, mean_t = _moments(blocks)

    def standardised() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for features_bd, targets_bt in blocks():
            known_bt = np.where(np.isnan(targets_bt), mean_t, targets_bt)
            yield (features_bd - mean_d) / std_d, known_bt - mean_t

    gram_dd = np.zeros((len(mean_d), len(mean_d)))
    cross_dt = np.zeros((len(mean_d), len(mean_t)))
    for z_bd, y_bt in standardised():
        gram_dd += z_bd.T @ z_bd
        cross_dt += z_bd.T @ y_bt
    g_d, vectors_dd = np.linalg.eigh(gram_dd)
    g_d = np.maximum(g_d, 0)
    rotated_dt = vectors_dd.T @ cross_dt
    error_lt = np.zeros((len(PENALTIES), len(mean_t)))
    for z_bd, y_bt in standardised():
        a_bd = z_bd @ vectors_dd
        for index, penalty in enumerate(n * PENALTIES):
            leverage_b = 1 / n + (a_bd**2) @ (1 / (g_d + penalty))
            residual_bt = y_bt - a_bd @ (rotated_dt / (g_d + penalty)[:, None])
            left_out_bt = residual_bt / np.maximum(1 - leverage_b, 1e-9)[:, None]
            error_lt[index] += (left_out_bt**2).sum(0)
    penalty_t = PENALTIES[error_lt.argmin(0)]
    weight_dt = vectors_dd @ (rotated_dt / (g_d[:, None] + n * penalty_t)) / std_d[:, None]
    return Probes(weight_dt.T.copy(), mean_t - mean_d @ weight_dt, penalty_t)


def _moments(blocks: Blocks) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """n, mean {D} and standard deviation {D} of the features, mean {T} of the known labels."""
    n = 0
    origin_d = sum_d = squares_d = positives_t = known_t = None
    for features_bd, targets_bt in blocks():
        x_bd = features_bd.astype(np.float64)
        if origin_d is None:
            origin_d = x_bd.mean(0)
            sum_d, squares_d = np.zeros_like(origin_d), np.zeros_like(origin_d)
            positives_t, known_t = np.zeros(targets_bt.shape[1]), np.zeros(targets_bt.shape[1])
        x_bd -= origin_d
        n += len(x_bd)
        sum_d += x_bd.sum(0)
        squares_d += (x_bd**2).sum(0)
        positives_t += np.nansum(targets_bt, 0)
        known_t += (~np.isnan(targets_bt)).sum(0)
    assert origin_d is not None and sum_d is not None and squares_d is not None
    assert positives_t is not None and known_t is not None
    shift_d = sum_d / n
    variance_d = np.maximum(squares_d / n - shift_d**2, 0)
    std_d = np.sqrt(variance_d)
    std_d[std_d <= 1e-7 * max(std_d.max(initial=0), 1e-30)] = np.inf  # a constant feature weighs nothing
    return n, origin_d + shift_d, std_d, positives_t / np.maximum(known_t, 1)


class ProbeScores:
    """Scores of every trait's own probe on all rows of `features`, the pooled units {rows, D}."""

    def __init__(self, features: ScoreFile, probes: Probes) -> None:
        self._features, self.probes = features, probes
        self.n_rows = features.n_rows

    def columns(self, prototypes: np.ndarray) -> np.ndarray:
        scores_nt = np.zeros((self.n_rows, len(prototypes)), np.float32)
        chosen = np.flatnonzero(prototypes >= 0)
        weight_td = self.probes.weight_td[prototypes[chosen]]
        bias_t = self.probes.bias_t[prototypes[chosen]]
        for start, stop in _spans(self.n_rows, self._features.n_prototypes):
            scores_nt[start:stop, chosen] = self._features.rows(start, stop) @ weight_td.T + bias_t
        return scores_nt


def fit_probes(features: ScoreFile, rows: np.ndarray, split: KnownRows, split_rows: np.ndarray) -> Probes:
    """Probes from some rows of the features, ascending, which are the rows `split_rows` of the split."""

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start, stop in _spans(features.n_rows, features.n_prototypes):
            first, last = np.searchsorted(rows, (start, stop))
            if first == last:
                continue
            here = split_rows[first:last]
            targets_bt = split.labels_nt[here].astype(np.float64)
            if split.valid_nt is not None:
                targets_bt[~split.valid_nt[here]] = np.nan
            yield features.rows(start, stop)[rows[first:last] - start].astype(np.float64), targets_bt

    return fit_ridge(blocks)


def _spans(n_rows: int, width: int) -> Iterator[tuple[int, int]]:
    at_a_time = max(1, BLOCK_BYTES // (8 * width))
    for start in range(0, n_rows, at_a_time):
        yield start, min(start + at_a_time, n_rows)
