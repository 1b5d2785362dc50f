"""Rows of the AP table: the best prototype of every trait, chosen on training images, tested on others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from saetools.metrics.average_precision import best_prototypes
from saetools.metrics.bootstrap import average_precision_weighted
from score_traits.score_files import ScoreFile
from score_traits.traits import Split

COLUMNS = [
    "scorer",
    "n_prototypes",
    "seed",
    "model",
    "layer",
    "n_train",
    "trait",
    "prototype",
    "ap_train",
    "ap",
    "prevalence",
    "n_pos",
    "n_test",
    "checkpoint",
    "d_sae",
    "activation",
    "objective",
    "sparsity",
    "lr",
    "l0",
    "mse",
    "nmse",
    "nmse_standardized",
]
AP_BYTES = 128 * 2**20  # of AP held at a time


class Scores(Protocol):
    """Scores of all rows for the prototypes with these numbers, float32 {n_rows, len(prototypes)}; of -1, zeros."""

    n_rows: int

    def columns(self, prototypes: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Choice:
    """The prototype of each trait: int64 {T}, -1 where no training image has it; its AP there, else NaN."""

    prototype_t: np.ndarray
    ap_t: np.ndarray


def choose_prototypes(
    scores: ScoreFile, split: Split, subsets: Sequence[np.ndarray], orders: Sequence[np.ndarray | None]
) -> list[Choice]:
    """The best prototype of every trait by AP on each subset of the split's rows (the first of equals).

    orders: for each subset None, or indices {M, len(subset)} that shuffle its labels M times; the choice
    is then of M T traits, shuffle by shuffle. One read of the scores serves all subsets.
    """
    labels = [_stacked(split.labels_nt[rows], order) for rows, order in zip(subsets, orders, strict=True)]
    valid = [
        None if split.valid_nt is None else _stacked(split.valid_nt[rows], order)
        for rows, order in zip(subsets, orders, strict=True)
    ]
    prototypes = [np.full(label.shape[1], -1, np.int64) for label in labels]
    best = [np.full(label.shape[1], np.nan) for label in labels]
    for first, block_nk in scores.blocks():
        for index, rows in enumerate(subsets):
            here = block_nk if len(rows) == len(block_nk) else block_nk[split.row_n[rows]]
            most = max(1, AP_BYTES // (8 * labels[index].shape[1]))
            found = best_prototypes(here, labels[index], valid_nt=valid[index], block=most)
            better = (found.ap_t > best[index]) | (np.isnan(best[index]) & ~np.isnan(found.ap_t))
            prototypes[index][better] = first + found.prototype_t[better]
            best[index][better] = found.ap_t[better]
    return [Choice(k_t, ap_t) for k_t, ap_t in zip(prototypes, best, strict=True)]


def ap_on_test(scores_nt: np.ndarray, test: Split) -> np.ndarray:
    """AP {T} of column t for trait t: of zeros the prevalence; NaN without positives."""
    once = np.ones((1, len(scores_nt)), np.int64)
    return average_precision_weighted(scores_nt, test.labels_nt, once, valid_nt=test.valid_nt)[0]


def evaluate(
    scores: Scores,
    test: Split,
    prototype_t: np.ndarray,
    measure: Callable[[np.ndarray, Split], np.ndarray],
    memory: int,
) -> np.ndarray:
    """measure(scores {n, T} of each trait's prototype, test), a few traits at a time so that they fit `memory`.

    A trait without a prototype (-1) is scored 0 throughout. The results are joined along their last axis.
    """
    n_traits = len(prototype_t)
    at_a_time = max(1, memory // (16 * max(1, scores.n_rows)))
    parts = []
    for first in range(0, n_traits, at_a_time):
        traits = slice(first, first + at_a_time)
        scores_nt = scores.columns(prototype_t[traits])
        if len(test.row_n) < scores.n_rows:
            scores_nt = scores_nt[test.row_n]
        parts.append(measure(scores_nt, test.of_traits(traits)))
    return np.concatenate(parts, axis=-1)


def rows_of(
    trait_names: Sequence[str], test: Split, choice: Choice, ap_t: np.ndarray, columns: dict[str, Any]
) -> pd.DataFrame:
    """One row per trait, in the order of COLUMNS; `columns` are those of the whole group of rows.

    A trait without a positive in train has no best prototype: then nothing was learnt, `prototype` and
    `ap_train` are empty, and `ap` is that of a constant scorer, the prevalence. `ap` is empty for a trait
    without a positive in test.
    """
    n_test, n_pos = test.n_known, test.n_positives
    chosen = choice.prototype_t >= 0
    table = pd.DataFrame(
        {
            **columns,
            "trait": list(trait_names),
            "prototype": pd.array(choice.prototype_t, dtype="Int64"),
            "ap_train": choice.ap_t,
            "ap": ap_t,
            "prevalence": np.divide(n_pos, n_test, out=np.full(len(n_pos), np.nan), where=n_test > 0),
            "n_pos": n_pos,
            "n_test": n_test,
        }
    )
    table.loc[~chosen, "prototype"] = pd.NA
    return table.reindex(columns=[*COLUMNS, *(name for name in table.columns if name not in COLUMNS)])


def training_subsets(n_images: int, sizes: Sequence[int | None], seed: int) -> list[np.ndarray]:
    """Images for every size (None: all), ascending; a smaller subset is part of every larger one."""
    order = np.random.default_rng([seed, 1]).permutation(n_images)
    return [np.sort(order[: n_images if size is None else size]) for size in sizes]


def _stacked(values_nt: np.ndarray, orders_mn: np.ndarray | None) -> np.ndarray:
    if orders_mn is None:
        return values_nt
    return np.hstack([values_nt[order] for order in orders_mn])
