"""Bootstrap intervals in simulation: how often do they cover the mAP of a very large test set?"""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from saetools.resampled_average_precision import average_precision_weighted
from score_traits.traits import Split
from score_traits.uncertainty import intervals, resampled_ap

DRAWS, RESAMPLES = 200, 400


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
        test = Split(np.arange(n), np.arange(n), labels_nt, None)
        lower, upper = intervals(resampled_ap(scores_nt, test, RESAMPLES, seed)).map_2
        covered += lower <= truth <= upper
        once = np.ones((1, n), int)
        plain.append(average_precision_weighted(scores_nt, labels_nt, once).mean())
    assert 0.90 * DRAWS <= covered <= 0.99 * DRAWS, covered / DRAWS
    assert np.mean(plain) > truth  # what a plain bootstrap would be centred on, and more


def test_rows_of_one_image_are_drawn_together() -> None:
    """Patches that repeat their image's score and label carry no more than the image: the same interval."""
    rng = np.random.default_rng(0)
    labels_nt = rng.random((60, 1)) < 0.4
    scores_nt = (rng.standard_normal((60, 1)) + labels_nt).astype(np.float32)
    images = Split(np.arange(60), np.arange(60), labels_nt, None)
    of_patch = np.repeat(np.arange(60), 30)
    patches = Split(np.arange(1800), of_patch, labels_nt[of_patch], None)
    wide = intervals(resampled_ap(scores_nt, images, 500, 0)).map_2
    same = intervals(resampled_ap(scores_nt[of_patch], patches, 500, 0)).map_2
    alone = Split(np.arange(1800), np.arange(1800), labels_nt[of_patch], None)
    narrow = intervals(resampled_ap(scores_nt[of_patch], alone, 500, 0)).map_2
    assert np.diff(same) == pytest.approx(np.diff(wide), rel=0.25)
    assert np.diff(narrow) < 0.4 * np.diff(wide)


def test_traits_without_positives_have_no_interval() -> None:
    labels_nt = np.zeros((30, 2), bool)
    labels_nt[:10, 0] = True
    scores_nt = np.random.default_rng(0).standard_normal((30, 2)).astype(np.float32)
    found = intervals(resampled_ap(scores_nt, Split(np.arange(30), np.arange(30), labels_nt, None), 50, 0))
    assert np.isnan(found.ap_2t[:, 1]).all()
    np.testing.assert_allclose(found.map_2, found.ap_2t[:, 0])
    nothing = intervals(np.full((5, 2), np.nan))
    assert np.isnan(nothing.map_2).all()
