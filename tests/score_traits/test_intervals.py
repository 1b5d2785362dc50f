"""Intervals of AP and mAP: by their definitions, and how often they cover what they are called to cover."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from interval_coverage import CASES, Case, table_rows
from sklearn.metrics import average_precision_score

from saetools.labels.dense import KnownRows
from saetools.metrics.bootstrap import (
    average_precision_weighted,
    effective_positives,
    logit_interval,
)
from score_traits.uncertainty import Intervals, intervals, positive_groups, resampled_ap

DRAWS, RESAMPLES = 200, 400
PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def rows_in_page(name: str) -> dict[str, list[str]]:
    """The rows of the table after `<!-- table: name -->` by their first cell."""
    lines = (
        PAGE.read_text(encoding="utf-8").split(f"<!-- table: {name} -->\n")[1].split("\n\n")[0].splitlines()
    )
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_intervals_cover_as_the_metrics_page_says(case: Case) -> None:
    """What is called 95% covers 90% of 200 draws or more, per trait and for mAP; the page's figures are these."""
    found = table_rows(case)
    for name, (_, *cells) in zip(("trait coverage", "map coverage"), found, strict=True):
        shown = rows_in_page(name)[case.name]
        coverage = [float(cell.split()[0]) for cell in cells]
        used = coverage[3]
        assert used >= 0.90, (name, cells)
        assert coverage == pytest.approx([float(cell.split()[0]) for cell in shown], abs=0.03)
        widths = [float(row[3].split("(")[1].strip(")")) for row in (cells, shown)]
        assert widths[0] == pytest.approx(widths[1], rel=0.05)


def test_the_page_lists_the_cases_that_are_measured() -> None:
    for name in ("trait coverage", "map coverage"):
        assert list(rows_in_page(name)) == [case.name for case in CASES]


def logit_by_definition(ap: float, n: float) -> tuple[float, float]:
    """Boyd, Eng and Page, in plain float64; ends at 0 and 1 where AP is within half a positive of them."""
    h = 1 / (2 * (n + 1))
    theta = min(max(ap, h), 1 - h)
    eta, tau = math.log(theta / (1 - theta)), (n * theta * (1 - theta)) ** -0.5
    low, high = (1 / (1 + math.exp(-(eta + sign * 1.959963984540054 * tau))) for sign in (-1, 1))
    return 0.0 if ap <= h else low, 1.0 if ap >= 1 - h else high


def test_logit_interval_equals_the_definition() -> None:
    cases = [
        (0.0, 1.0),
        (1.0, 1.0),
        (0.5, 1.0),
        (0.02, 5.0),
        (0.3, 2.7),
        (0.9, 100.0),
        (1.0, 100.0),
        (0.0, 40.0),
    ]
    ap_t, n_t = np.array(cases).T
    expected = np.array([logit_by_definition(ap, n) for ap, n in cases]).T
    np.testing.assert_allclose(logit_interval(ap_t, n_t), expected, rtol=1e-12)
    assert expected[:, 2] == pytest.approx(
        [0.0194565, 0.9805435], abs=1e-7
    )  # one positive says nearly nothing
    assert expected[:, 5] == pytest.approx([0.8240314, 0.9453469], abs=1e-7)


def test_positive_groups_is_kish_s_number() -> None:
    """Two groups with 3 and 1 positives amount to 16 / 10; what is not known does not count."""
    group_n = np.array([0, 0, 0, 1, 1, 2, 2])
    labels_nt = np.array(
        [[1, 1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 1, 0, 1], [0] * 7, [1, 1, 0, 0, 0, 0, 1]], bool
    ).T
    valid_nt = np.ones_like(labels_nt)
    valid_nt[6, 3] = False
    test = KnownRows(np.arange(7), group_n, labels_nt, valid_nt)
    np.testing.assert_allclose(positive_groups(test, group_n), [1.6, 3, 0, 1])


def test_effective_positives_are_between_groups_and_positives() -> None:
    """From the variance of the resamples, AP (1 - AP) / (variance G / (G - 1)), where that says something."""
    rng = np.random.default_rng(0)
    resampled_rt = 0.5 + rng.standard_normal((50, 6)) * [0.1, 0.5, 0.01, 0.1, 0.1, 0]
    resampled_rt[7, 0] = np.nan
    groups_t = np.array([4, 4, 4, 1, 4, 4.0])
    ap_t = np.array([0.5, 0.5, 0.5, 0.5, 0.95, 0.5])
    found = effective_positives(ap_t, np.full(6, 40), groups_t, resampled_rt)
    variance = np.nanvar(resampled_rt[:, 0]) * 4 / 3
    assert found[0] == pytest.approx(0.25 / variance)
    assert 4 < found[0] < 40
    np.testing.assert_array_equal(found[1:], [4, 40, 1, 4, 40])
    one_each = effective_positives(ap_t, groups_t.astype(int), groups_t, resampled_rt)
    np.testing.assert_array_equal(one_each, groups_t)


def test_map_is_the_bootstrap_s_with_single_positives_apart() -> None:
    """By hand: traits 0 and 1 have two positives, trait 2 one, trait 3 none; resamples' means are .3, .4, .7 and .8."""
    labels_nt = np.zeros((9, 4), bool)
    labels_nt[[0, 1], 0] = labels_nt[[2, 3], 1] = labels_nt[4, 2] = True
    rows = np.arange(9)
    test = KnownRows(rows, rows, labels_nt, None)
    nan = math.nan
    ap_rt = np.array(
        [
            [0.5, 0.4, 0.5, nan],
            [0.2, 0.4, 1, nan],
            [0.4, nan, 0, nan],
            [0.9, 0.5, nan, nan],
            [nan, 0.8, 1, nan],
        ]
    )
    found = intervals(ap_rt, test, rows)
    expected = np.array([logit_by_definition(ap, n) for ap, n in ((0.5, 2), (0.4, 2), (0.5, 1))]).T
    np.testing.assert_allclose(found.ap_2t[:, :3], expected)
    assert np.isnan(found.ap_2t[:, 3]).all()
    low, high = np.quantile([0.3, 0.4, 0.7, 0.8], (0.025, 0.975))
    centre, bias = 0.45, 0.55 - 0.45
    of_two = np.array([min(low - bias, 2 * centre - high), max(high - bias, 2 * centre - low)])
    np.testing.assert_allclose(found.map_2, (2 * of_two + expected[:, 2]) / 3)


def draw(
    rng: np.random.Generator, n: int, prevalence_t: np.ndarray, gain_t: np.ndarray, *, zeros: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels {n, T}: normal, shifted for positives; images differ, so traits are correlated."""
    labels_nt = rng.random((n, len(gain_t))) < prevalence_t
    noise_nt = 0.4 * rng.standard_normal((n, 1)) + 0.9 * rng.standard_normal(labels_nt.shape)
    scores_nt = noise_nt + gain_t * labels_nt
    if zeros:  # as an SAE's latents have: most images tie at 0
        scores_nt = np.maximum(scores_nt - 1.2, 0)
    return scores_nt.astype(np.float32), labels_nt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "low", "high", "zeros"),
    [(400, 0.08, 0.3, False), (300, 0.1, 0.15, True), (1000, 0.03, 0.04, False)],
    ids=["mixed", "ties", "rare"],
)
def test_the_interval_of_map_covers_that_of_a_large_test_set(n, low, high, zeros) -> None:
    """At least 20 positives a trait; 90% to 99% of 200 draws, as an exact 95% interval would with 99.9% certainty."""
    rng = np.random.default_rng(11)
    prevalence_t, gain_t = np.linspace(low, high, 12), np.linspace(0.7, 2.5, 12)[::-1]
    scores_nt, labels_nt = draw(rng, 300_000, prevalence_t, gain_t, zeros=zeros)
    truth = np.mean([average_precision_score(y, s) for y, s in zip(labels_nt.T, scores_nt.T, strict=True)])
    covered, plain = 0, []
    for seed in range(DRAWS):
        while True:
            scores_nt, labels_nt = draw(rng, n, prevalence_t, gain_t, zeros=zeros)
            if labels_nt.sum(0).min() >= 20:
                break
        test = KnownRows(np.arange(n), np.arange(n), labels_nt, None)
        ap_rt = resampled_ap(scores_nt, test, test.image_n, RESAMPLES, seed)
        lower, upper = intervals(ap_rt, test, test.image_n).map_2
        covered += lower <= truth <= upper
        once = np.ones((1, n), int)
        plain.append(average_precision_weighted(scores_nt, labels_nt, once).mean())
    assert 0.90 * DRAWS <= covered <= 0.99 * DRAWS, covered / DRAWS
    assert np.mean(plain) > truth  # what a plain bootstrap would be centred on, and more


def of_groups(scores_nt: np.ndarray, test: KnownRows, group_n: np.ndarray) -> Intervals:
    return intervals(resampled_ap(scores_nt, test, group_n, 500, 0), test, group_n)


def test_rows_of_one_image_are_drawn_together() -> None:
    """Patches that repeat their image's score and label carry no more than the image: the same intervals."""
    rng = np.random.default_rng(0)
    labels_nt = rng.random((60, 1)) < 0.4
    scores_nt = (rng.standard_normal((60, 1)) + labels_nt).astype(np.float32)
    images = KnownRows(np.arange(60), np.arange(60), labels_nt, None)
    of_patch = np.repeat(np.arange(60), 30)
    patches = KnownRows(np.arange(1800), of_patch, labels_nt[of_patch], None)
    wide = of_groups(scores_nt, images, images.image_n)
    same = of_groups(scores_nt[of_patch], patches, patches.image_n)
    narrow = of_groups(scores_nt[of_patch], patches, np.arange(1800))
    for name in ("ap_2t", "map_2"):
        widths = [np.diff(getattr(found, name), axis=0).item() for found in (wide, same, narrow)]
        assert widths[1] == pytest.approx(widths[0], rel=0.25)
        assert widths[2] < 0.4 * widths[0]


def test_traits_without_positives_have_no_interval() -> None:
    labels_nt = np.zeros((30, 2), bool)
    labels_nt[:10, 0] = True
    scores_nt = np.random.default_rng(0).standard_normal((30, 2)).astype(np.float32)
    rows = np.arange(30)
    found = of_groups(scores_nt, KnownRows(rows, rows, labels_nt, None), rows)
    assert np.isnan(found.ap_2t[:, 1]).all()
    alone = of_groups(scores_nt[:, :1], KnownRows(rows, rows, labels_nt[:, :1], None), rows)
    np.testing.assert_allclose(found.map_2, alone.map_2)
    np.testing.assert_allclose(found.ap_2t[:, 0], alone.ap_2t[:, 0])
    nothing = of_groups(scores_nt, KnownRows(rows, rows, np.zeros_like(labels_nt), None), rows)
    assert np.isnan(nothing.map_2).all()
