"""The rows of one scorer in the AP table, for all seeds and numbers of training images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from score_traits.ap_table import (
    Choice,
    Scores,
    ap_on_test,
    choose_prototypes,
    evaluate,
    rows_of,
    training_subsets,
)
from score_traits.detection import best_threshold, detect
from score_traits.jobs import Job
from score_traits.probe_scores import ProbeScores, fit_probes
from score_traits.score_files import ScoreFile
from score_traits.settings import ScoringSettings
from score_traits.traits import Labelled, Split
from score_traits.uncertainty import intervals, resampled_ap, shuffles


@dataclass(frozen=True)
class Subset:
    """The training rows of one seed and one number of images."""

    seed: int
    n_train: int
    rows: np.ndarray


def subsets_of(train: Split, settings: ScoringSettings, seeds: Sequence[int]) -> list[Subset]:
    """Every seed's training subsets, from the smallest number of images as it was asked for."""
    found = []
    for seed in seeds:
        for images in training_subsets(train.n_images, settings.n_train, seed):
            found.append(Subset(seed, len(images), train.rows_of(images)))
    return found


def counted_rows(
    job: Job,
    scores: tuple[ScoreFile, ScoreFile],
    labelled: Labelled,
    settings: ScoringSettings,
    columns: dict[str, Any],
) -> Iterator[pd.DataFrame]:
    """Rows of a scorer whose best prototypes are chosen; scores of the train and the test split."""
    on_train, on_test = scores
    seeds = settings.seeds if job.seed is None else [job.seed]
    subsets = subsets_of(labelled.train, settings, seeds)
    choices = choose_prototypes(on_train, labelled.train, [s.rows for s in subsets], [None] * len(subsets))
    nulls: list[np.ndarray | None] = [None] * len(subsets)
    if settings.null:
        orders = [shuffles(len(s.rows), settings.null, s.seed) for s in subsets]
        shuffled = choose_prototypes(on_train, labelled.train, [s.rows for s in subsets], orders)
        nulls = [found.prototype_t.reshape(settings.null, -1) for found in shuffled]
    for subset, choice, null_mt in zip(subsets, choices, nulls, strict=True):
        table = _rows(subset, choice, on_train, on_test, labelled, settings, columns)
        if null_mt is not None:
            run = partial(evaluate, on_test, labelled.test, measure=ap_on_test, memory=settings.memory)
            _add_null(table, [_map(run(prototype_t=prototype_t)) for prototype_t in null_mt])
        yield table


def probe_rows(
    job: Job,
    features: tuple[ScoreFile, ScoreFile],
    labelled: Labelled,
    settings: ScoringSettings,
    columns: dict[str, Any],
) -> Iterator[tuple[Subset, ProbeScores, pd.DataFrame]]:
    """Rows of `linear`, fitted anew on every subset; with it the probes."""
    seeds = settings.seeds if job.seed is None else [job.seed]
    for subset in subsets_of(labelled.train, settings, seeds):
        on_train, on_test = features
        rows = labelled.train.row_n[subset.rows]
        probes = fit_probes(on_train, rows, labelled.train, subset.rows)
        trained, tested = ProbeScores(on_train, probes), ProbeScores(on_test, probes)
        known = labelled.train.some_rows(subset.rows)
        all_t = np.arange(len(labelled.names))
        ap_t = evaluate(trained, known, all_t, ap_on_test, settings.memory)
        choice = Choice(np.where(known.n_positives > 0, all_t, -1), ap_t)
        table = _rows(subset, choice, trained, tested, labelled, settings, columns)
        if settings.null:
            maps = []
            for order in shuffles(len(rows), settings.null, subset.seed):
                shuffled = fit_probes(on_train, rows, labelled.train, subset.rows[order])
                on_shuffled = ProbeScores(on_test, shuffled)
                maps.append(_map(evaluate(on_shuffled, labelled.test, all_t, ap_on_test, settings.memory)))
            _add_null(table, maps)
        yield subset, tested, table


def _rows(
    subset: Subset,
    choice: Choice,
    on_train: Scores,
    on_test: Scores,
    labelled: Labelled,
    settings: ScoringSettings,
    columns: dict[str, Any],
) -> pd.DataFrame:
    test = labelled.test
    run = partial(evaluate, on_test, test, choice.prototype_t, memory=settings.memory)
    ap_t = run(measure=ap_on_test)
    columns = {**columns, "seed": subset.seed, "n_train": subset.n_train}
    table = rows_of(labelled.names, test, choice, ap_t, columns)
    if settings.bootstrap:
        group_n = labelled.test_groups
        resample = partial(resampled_ap, group_n=group_n, n_resamples=settings.bootstrap, seed=subset.seed)
        found = intervals(run(measure=resample), test, group_n)
        table["ap_low"], table["ap_high"] = found.ap_2t
        table["map_low"], table["map_high"] = found.map_2
    if labelled.is_pairs:
        _add_detection(table, subset, choice, on_train, on_test, labelled)
    return table


def _add_null(table: pd.DataFrame, maps: Sequence[float]) -> None:
    """The mean and the 95% quantile of what shuffled labels reached."""
    table["null_map"] = np.mean(maps)
    table["null_map_95"] = np.quantile(maps, 0.95)


def _map(ap_t: np.ndarray) -> float:
    known_t = ap_t[~np.isnan(ap_t)]
    return float(known_t.mean()) if len(known_t) else float("nan")


def _add_detection(
    table: pd.DataFrame,
    subset: Subset,
    choice: Choice,
    on_train: Scores,
    on_test: Scores,
    labelled: Labelled,
) -> None:
    """Threshold, F1, precision and recall of each pair's prototype."""
    train = labelled.train.some_rows(subset.rows)
    train_nt = on_train.columns(choice.prototype_t)[train.row_n]
    test_nt = on_test.columns(choice.prototype_t)[labelled.test.row_n]
    found = []
    for pair, prototype in enumerate(choice.prototype_t):
        here, there = train.known_rows(pair), labelled.test.known_rows(pair)
        threshold = best_threshold(train_nt[here, pair], train.labels_nt[here, pair])
        threshold = threshold if prototype >= 0 else float("nan")
        found.append(detect(test_nt[there, pair], labelled.test.labels_nt[there, pair], threshold))
    for name in ("threshold", "f1", "precision", "recall"):
        table[name] = [getattr(detection, name) for detection in found]
