"""Scores of linear probes, worked out from the scores of the model's own units where they are needed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from score_traits.ridge import Probes, fit_ridge
from score_traits.score_files import ScoreFile
from score_traits.traits import Split

BLOCK_BYTES = 64 * 2**20


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


def fit_probes(features: ScoreFile, rows: np.ndarray, split: Split, split_rows: np.ndarray) -> Probes:
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
