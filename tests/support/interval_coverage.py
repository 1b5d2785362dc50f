"""How often do the intervals of score-traits cover the AP of the population?

`python tests/support/interval_coverage.py` prints the table of docs/metrics.md.

Scores of negatives are normal with mean 0, those of positives with a mean of 0.3 to 3 (24 traits), so the AP of the
population is an integral. A part of the noise is one for all traits of an image, and one for all rows of a group.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from saetools.labels.dense import KnownRows
from saetools.metrics.bootstrap import average_precision_weighted, logit_interval
from score_traits.uncertainty import QUANTILES, intervals, resampled_ap

DRAWS, RESAMPLES = 200, 400
TIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": lambda scores: scores,
    "zeros": lambda scores: np.maximum(scores - 1.2, 0),  # as an SAE's latents: most images tie at 0
    "levels": np.floor,  # a handful of values in all
}


@dataclass(frozen=True)
class Case:
    """expected: positives a trait, or groups that have the trait; rows in a group; share of their rows that have it."""

    name: str
    expected: float
    n_groups: int
    ties: str = "none"
    rows: int = 1
    group_noise: float = 0.0
    share: float = 1.0
    n_traits: int = 24

    @property
    def gain_t(self) -> np.ndarray:
        return np.linspace(0.3, 3, self.n_traits)

    @property
    def deviation(self) -> float:
        return float(np.sqrt(0.97 + self.group_noise**2))

    def population_ap(self) -> np.ndarray:
        """AP {T} of infinitely many rows: the mean over positives of the precision at their scores."""
        prevalence = self.expected / self.n_groups * self.share
        if self.ties == "levels":
            level_g = np.arange(12.0, -13, -1)[:, None]
            recall_gt = 1 - ndtr((level_g - self.gain_t) / self.deviation)
            false_gt = 1 - ndtr(level_g / self.deviation)
            share_gt = np.diff(recall_gt, axis=0, prepend=0)
        else:
            quantile_g = (np.arange(20_000)[:, None] + 0.5) / 20_000
            score_gt = self.gain_t + self.deviation * ndtri(quantile_g)
            recall_gt, false_gt = 1 - quantile_g, 1 - ndtr(score_gt / self.deviation)
            share_gt = np.full(score_gt.shape, 1 / len(quantile_g))
        hits_gt = prevalence * recall_gt
        precision_gt = hits_gt / np.maximum(hits_gt + (1 - prevalence) * false_gt, 1e-300)
        if self.ties == "zeros":
            precision_gt = np.where(score_gt > 1.2, precision_gt, prevalence)
        return (share_gt * precision_gt).sum(0)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, KnownRows, np.ndarray]:
        """Scores {n, T}, the test split, and the group of each row; groups of 1 to 2 * rows - 1 rows."""
        sizes = rng.integers(1, 2 * self.rows, self.n_groups)
        group_n = np.repeat(np.arange(self.n_groups), sizes)
        shape = len(group_n), self.n_traits
        has_trait = rng.random((self.n_groups, self.n_traits)) < self.expected / self.n_groups
        labels_nt = has_trait[group_n] & (rng.random(shape) < self.share)
        noise_nt = 0.4 * rng.standard_normal((shape[0], 1)) + 0.9 * rng.standard_normal(shape)
        if self.group_noise:
            noise_nt += self.group_noise * rng.standard_normal((self.n_groups, self.n_traits))[group_n]
        scores_nt = TIES[self.ties](noise_nt + self.gain_t * labels_nt).astype(np.float32)
        rows = np.arange(shape[0])
        return scores_nt, KnownRows(rows, rows, labels_nt, None), group_n


IMAGES = [
    Case(f"{expected} positive{'s' * (expected > 1)}{tied}", expected, n_images, ties)
    for ties, tied in (("none", ""), ("zeros", ", most scores 0"), ("levels", ", few levels"))
    for expected, n_images in ((1, 200), (5, 400), (20, 400), (100, 1000))
    if ties != "levels" or expected in (5, 20)
]
GROUPS = [  # classes that have the trait or not, and patches
    Case("1 class of 40", 1, 40, rows=5, group_noise=0.5),
    Case("5 classes of 50", 5, 50, rows=5, group_noise=0.5),
    Case("20 classes of 100", 20, 100, rows=5, group_noise=0.5),
    Case("20 images of 100, a third of their 20 patches", 20, 100, "none", 20, 0.5, 0.33),
]
MANY = Case("20 positives, 100 traits", 20, 400, n_traits=100)
CASES = [*IMAGES, MANY, *GROUPS]


@dataclass(frozen=True)
class Coverage:
    """Share of the draws whose interval covers, and mean width; of traits also the share of the worst trait."""

    covered: float
    width: float
    worst: float = float("nan")

    def __str__(self) -> str:
        return f"{self.covered:.2f} ({self.width:.3f})"


Found = dict[str, np.ndarray]


def methods(
    ap_rt: np.ndarray, scores_nt: np.ndarray, test: KnownRows, group_n: np.ndarray
) -> tuple[Found, Found]:
    """Intervals {2, T} per trait and {2} of mAP, of score-traits (`used`) and of what was not chosen."""
    used = intervals(ap_rt, test, group_n)
    ap_t, resampled_rt = ap_rt[0], ap_rt[1:]
    some_t = ~np.isnan(ap_t)
    plain_t = average_precision_weighted(scores_nt, test.labels_nt, np.ones((1, len(scores_nt)), int))[0]
    logit_2t, debiased_2t = np.full((2, 2, len(ap_t)), np.nan)
    logit_2t[:, some_t] = logit_interval(plain_t[some_t], test.n_positives[some_t])
    debiased_2t[:, some_t] = logit_interval(ap_t[some_t], test.n_positives[some_t])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # traits that no resample holds
        per_trait_2t = np.nanquantile(resampled_rt, QUANTILES, axis=0)
        means_r = np.nanmean(resampled_rt[:, some_t], axis=1)
    low, high = np.nanquantile(means_r, QUANTILES)
    centre = ap_t[some_t].mean()
    moved = centre - np.nanmean(means_r)
    return (
        {"percentile": per_trait_2t, "logit, AP": logit_2t, "logit, AP°": debiased_2t, "used": used.ap_2t},
        {
            "percentile": np.array([low, high]),
            "basic": np.array([2 * centre - high, 2 * centre - low]),
            "recentred": np.array([low + moved, high + moved]),
            "used": used.map_2,
        },
    )


def measure(
    case: Case, draws: int = DRAWS, resamples: int = RESAMPLES
) -> tuple[dict[str, Coverage], dict[str, Coverage]]:
    """Coverage and width of each method, per trait and of mAP; over the draws that hold a positive."""
    rng = np.random.default_rng(17)
    truth_t = case.population_ap()
    inside: tuple[dict[str, list], dict[str, list]] = {}, {}
    widths: tuple[dict[str, list], dict[str, list]] = {}, {}
    for seed in range(draws):
        scores_nt, test, group_n = case.draw(rng)
        some_t = test.n_positives > 0
        if not some_t.any():
            continue
        ap_rt = resampled_ap(scores_nt, test, group_n, resamples, seed)
        found = methods(ap_rt, scores_nt, test, group_n)
        for what, truth in enumerate((truth_t, truth_t[some_t].mean())):
            for name, (low, high) in found[what].items():
                covers = np.where(np.isnan(low), np.nan, (low <= truth) & (truth <= high))
                inside[what].setdefault(name, []).append(covers)
                widths[what].setdefault(name, []).append(high - low)
    return tuple(  # type: ignore[return-value]
        {
            name: Coverage(
                float(np.nanmean(values)),
                float(np.nanmean(widths[what][name])),
                float(np.nanmin(np.nanmean(values, axis=0))),
            )
            for name, values in inside[what].items()
        }
        for what in range(2)
    )


def table_rows(case: Case) -> tuple[list[str], list[str]]:
    """The case's rows of the page's two tables: per trait (with the worst trait), and of mAP."""
    traits, maps = measure(case)
    return (
        [case.name, *map(str, traits.values()), f"{traits['used'].worst:.2f}"],
        [case.name, *map(str, maps.values())],
    )


if __name__ == "__main__":
    found = [table_rows(case) for case in CASES]
    for rows in zip(*found, strict=True):
        sys.stdout.write("\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n\n")
