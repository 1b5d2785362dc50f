"""The rows of one scorer in the AP table: the best prototype of each trait on train, and its AP on test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import pandas as pd

from saetools.labels.dense import DenseSplits, KnownRows
from saetools.metrics.average_precision import best_prototypes, mean_average_precision
from saetools.metrics.bootstrap import average_precision_weighted
from saetools.metrics.detection import best_threshold, detect
from score_traits.linear_probes import ProbeScores, fit_probes
from score_traits.scorer_runs import ScorerRun
from score_traits.scores import ScoreFile
from score_traits.uncertainty import intervals, resampled_ap, shuffles

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


@dataclass(frozen=True)
class ScoringSettings:
    """What is asked for beside the scorers and the traits.

    layers:    of the shards
    n_train:   numbers of training images; None for all
    pool:      as in saetools.metrics.pooling; not used for patch traits
    seeds:     one repeat each
    bootstrap: resamples of the test images; 0 for none
    bootstrap_by: `image` draws each test image by itself, `class` all test images of a class together
    null:      shuffles of the training labels; 0 for none
    memory:    bytes that scores may take in memory at a time
    """

    layers: Sequence[int]
    n_train: Sequence[int | None]
    pool: str
    seeds: Sequence[int]
    bootstrap: int
    bootstrap_by: str
    null: int
    memory: int

    def plain(self) -> dict[str, Any]:
        """The settings that decide the table, as JSON."""
        names = ("layers", "n_train", "pool", "seeds", "bootstrap", "bootstrap_by", "null")
        values = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclass(frozen=True)
class Subset:
    """The training rows of one seed and one number of images."""

    seed: int
    n_train: int
    rows: np.ndarray


def subsets_of(train: KnownRows, settings: ScoringSettings, seeds: Sequence[int]) -> list[Subset]:
    """The training subsets of every seed, in the order of `settings.n_train`."""
    found = []
    for seed in seeds:
        for images in training_subsets(train.n_images, settings.n_train, seed):
            found.append(Subset(seed, len(images), train.rows_of(images)))
    return found


def choice_rows(
    run: ScorerRun,
    scores: tuple[ScoreFile, ScoreFile],
    labels: DenseSplits,
    group_n: np.ndarray,
    settings: ScoringSettings,
    columns: dict[str, Any],
) -> Iterator[pd.DataFrame]:
    """Rows of a scorer whose best prototypes are chosen; scores: of the training and of the test images."""
    on_train, on_test = scores
    seeds = settings.seeds if run.seed is None else [run.seed]
    subsets = subsets_of(labels.train, settings, seeds)
    choices = choose_prototypes(on_train, labels.train, [s.rows for s in subsets], [None] * len(subsets))
    nulls: list[np.ndarray | None] = [None] * len(subsets)
    if settings.null:
        orders = [shuffles(len(s.rows), settings.null, s.seed) for s in subsets]
        shuffled = choose_prototypes(on_train, labels.train, [s.rows for s in subsets], orders)
        nulls = [found.prototype_t.reshape(settings.null, -1) for found in shuffled]
    for subset, choice, null_mt in zip(subsets, choices, nulls, strict=True):
        table = _rows(subset, choice, on_train, on_test, labels, group_n, settings, columns)
        if null_mt is not None:
            ap_mt = [
                evaluate(on_test, labels.test, prototype_t, ap_on_test, settings.memory)
                for prototype_t in null_mt
            ]
            _add_null(table, [mean_average_precision(ap_t) for ap_t in ap_mt])
        yield table


def probe_rows(
    run: ScorerRun,
    features: tuple[ScoreFile, ScoreFile],
    labels: DenseSplits,
    group_n: np.ndarray,
    settings: ScoringSettings,
    columns: dict[str, Any],
) -> Iterator[tuple[Subset, ProbeScores, pd.DataFrame]]:
    """Rows of `linear`, which is fitted on each subset, and its probes."""
    seeds = settings.seeds if run.seed is None else [run.seed]
    for subset in subsets_of(labels.train, settings, seeds):
        on_train, on_test = features
        rows = labels.train.row_n[subset.rows]
        probes = fit_probes(on_train, rows, labels.train, subset.rows)
        trained, tested = ProbeScores(on_train, probes), ProbeScores(on_test, probes)
        known = labels.train.some_rows(subset.rows)
        all_t = np.arange(len(labels.names))
        ap_t = evaluate(trained, known, all_t, ap_on_test, settings.memory)
        choice = Choice(np.where(known.n_positives > 0, all_t, -1), ap_t)
        table = _rows(subset, choice, trained, tested, labels, group_n, settings, columns)
        if settings.null:
            maps = []
            for order in shuffles(len(rows), settings.null, subset.seed):
                shuffled = fit_probes(on_train, rows, labels.train, subset.rows[order])
                on_shuffled = ProbeScores(on_test, shuffled)
                ap_t = evaluate(on_shuffled, labels.test, all_t, ap_on_test, settings.memory)
                maps.append(mean_average_precision(ap_t))
            _add_null(table, maps)
        yield subset, tested, table


def _rows(
    subset: Subset,
    choice: Choice,
    on_train: Scores,
    on_test: Scores,
    labels: DenseSplits,
    group_n: np.ndarray,
    settings: ScoringSettings,
    columns: dict[str, Any],
) -> pd.DataFrame:
    test = labels.test
    measured = partial(evaluate, on_test, test, choice.prototype_t, memory=settings.memory)
    ap_t = measured(measure=ap_on_test)
    columns = {**columns, "seed": subset.seed, "n_train": subset.n_train}
    table = rows_of(labels.names, test, choice, ap_t, columns)
    if settings.bootstrap:
        resample = partial(resampled_ap, group_n=group_n, n_resamples=settings.bootstrap, seed=subset.seed)
        found = intervals(measured(measure=resample), test, group_n)
        table["ap_low"], table["ap_high"] = found.ap_2t
        table["map_low"], table["map_high"] = found.map_2
    if labels.is_pairs:
        _add_detection(table, subset, choice, on_train, on_test, labels)
    return table


def _add_null(table: pd.DataFrame, maps: Sequence[float]) -> None:
    """Columns for the null distribution: mean and 95% quantile of mAP with shuffled labels."""
    table["null_map"] = np.mean(maps)
    table["null_map_95"] = np.quantile(maps, 0.95)


def _add_detection(
    table: pd.DataFrame,
    subset: Subset,
    choice: Choice,
    on_train: Scores,
    on_test: Scores,
    labels: DenseSplits,
) -> None:
    """Threshold, F1, precision and recall of each pair's prototype."""
    train = labels.train.some_rows(subset.rows)
    train_nt = on_train.columns(choice.prototype_t)[train.row_n]
    test_nt = on_test.columns(choice.prototype_t)[labels.test.row_n]
    found = []
    for pair, prototype in enumerate(choice.prototype_t):
        here, there = train.known_rows(pair), labels.test.known_rows(pair)
        threshold = best_threshold(train_nt[here, pair], train.labels_nt[here, pair])
        threshold = threshold if prototype >= 0 else float("nan")
        found.append(detect(test_nt[there, pair], labels.test.labels_nt[there, pair], threshold))
    for name in ("threshold", "f1", "precision", "recall"):
        table[name] = [getattr(detection, name) for detection in found]


class Scores(Protocol):
    """`columns(prototypes)`: scores of all rows for these prototypes, float32 {n_rows, n}; zeros for -1."""

    n_rows: int

    def columns(self, prototypes: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True)
class Choice:
    """The prototype of each trait: int64 {T}, -1 where no training image has it; its AP there, else NaN."""

    prototype_t: np.ndarray
    ap_t: np.ndarray


def choose_prototypes(
    scores: ScoreFile, split: KnownRows, subsets: Sequence[np.ndarray], orders: Sequence[np.ndarray | None]
) -> list[Choice]:
    """For each trait, the prototype with the highest AP on each subset of the split's rows (the first of equals).

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
            at_a_time = max(1, AP_BYTES // (8 * labels[index].shape[1]))
            found = best_prototypes(here, labels[index], valid_nt=valid[index], block=at_a_time)
            better = (found.ap_t > best[index]) | (np.isnan(best[index]) & ~np.isnan(found.ap_t))
            prototypes[index][better] = first + found.prototype_t[better]
            best[index][better] = found.ap_t[better]
    return [Choice(k_t, ap_t) for k_t, ap_t in zip(prototypes, best, strict=True)]


def ap_on_test(scores_nt: np.ndarray, test: KnownRows) -> np.ndarray:
    """AP {T} of column t for trait t; the prevalence for a column of zeros; NaN without positives."""
    once = np.ones((1, len(scores_nt)), np.int64)
    return average_precision_weighted(scores_nt, test.labels_nt, once, valid_nt=test.valid_nt)[0]


def evaluate(
    scores: Scores,
    test: KnownRows,
    prototype_t: np.ndarray,
    measure: Callable[[np.ndarray, KnownRows], np.ndarray],
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
        parts.append(measure(scores_nt, test.some_traits(traits)))
    return np.concatenate(parts, axis=-1)


def rows_of(
    trait_names: Sequence[str], test: KnownRows, choice: Choice, ap_t: np.ndarray, columns: dict[str, Any]
) -> pd.DataFrame:
    """One row per trait, in the order of COLUMNS; `columns` are those of the whole group of rows.

    For a trait without a positive training row there is no best prototype: `prototype` and `ap_train` are empty, and
    `ap` is that of a constant scorer, the prevalence. `ap` is empty for a trait without a positive test row.
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
