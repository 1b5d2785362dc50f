"""AP from sorted non-zeros, the order they are sorted in, and columns put together from pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from small_latents import write_latents

from saetools.latents import columns as latent_columns
from saetools.latents.block import descending
from saetools.latents.columns import Columns
from saetools.latents.reader import open_latents
from saetools.metrics.average_precision import latent_average_precision, latent_average_precision_by_class


@st.composite
def sparse_scores(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of all rows, many of them 0, of both signs or one; labels; and which rows count."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.integers(1, 200))
    z_n = rng.normal(draw(st.sampled_from([-2.0, 0.0, 2.0])), 1.0, n)
    if draw(st.booleans()):
        z_n = np.round(z_n)
    if draw(st.booleans()):
        z_n = np.abs(z_n)
    z_n[rng.random(n) < draw(st.sampled_from([0.0, 0.5, 0.97, 1.0]))] = 0
    y_n = rng.random(n) < draw(st.sampled_from([0.02, 0.5, 1.0]))
    return z_n.astype(np.float32), y_n, rng.random(n) < draw(st.sampled_from([0.6, 1.0]))


@settings(max_examples=200, deadline=None)
@given(sparse_scores())
def test_ap_of_events_equals_scikit_learn_on_all_rows(
    case: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    z_n, y_n, counts_n = case
    n, positives = int(counts_n.sum()), int((y_n & counts_n).sum())
    fired = np.flatnonzero(z_n)
    order = fired[descending(z_n[fired])]
    known = np.where(counts_n, y_n, -1).astype(np.int8)[order]
    found = latent_average_precision(z_n[order], known, n, positives)
    turned = latent_average_precision(-z_n[order][::-1], known[::-1].copy(), n, positives)
    if positives == 0:
        assert np.isnan(found) and np.isnan(turned)
    else:
        assert found == pytest.approx(average_precision_score(y_n[counts_n], z_n[counts_n]), abs=1e-12)
        assert turned == pytest.approx(average_precision_score(y_n[counts_n], -z_n[counts_n]), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(sparse_scores(), st.integers(0, 2**32))
def test_ap_of_all_classes_equals_scikit_learn(
    case: tuple[np.ndarray, np.ndarray, np.ndarray], seed: int
) -> None:
    """Rows of 5 images, each there 0 to 3 times, in one of 3 classes or in none."""
    z_n, _, counts_n = case
    rng = np.random.default_rng(seed)
    class_n = np.where(counts_n, rng.integers(0, 3, len(z_n)), -1)
    image_n, weight = rng.integers(0, 5, len(z_n)), rng.integers(0, 4, 5)
    copies_n = weight[image_n] * (class_n >= 0)
    mass_c = np.array([copies_n[class_n == c].sum() for c in range(3)])
    fired = np.flatnonzero(z_n)
    order = fired[descending(z_n[fired])]
    ap_c = np.empty(3)
    latent_average_precision_by_class(z_n[order], class_n[order], image_n[order], weight, mass_c, ap_c)
    for c in range(3):
        if mass_c[c] == 0:
            assert np.isnan(ap_c[c])
        else:
            expected = average_precision_score(class_n == c, z_n, sample_weight=copies_n)
            assert ap_c[c] == pytest.approx(expected, abs=1e-12)


def test_explicit_zeros_count_as_zeros() -> None:
    values, y = np.array([2.0, 0.0, 0.0, -1.0], np.float32), np.array([1, 1, 0, 1], np.int8)
    scores, labels = [2, 0, 0, -1, 0, 0], [1, 1, 0, 1, 1, 0]
    found = latent_average_precision(values, y, 6, 4)
    assert found == pytest.approx(average_precision_score(labels, scores), abs=1e-15)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_descending_is_a_stable_sort(values: list[float]) -> None:
    z_n = np.array(values, np.float32)
    np.testing.assert_array_equal(descending(z_n), np.argsort(-z_n, kind="stable"))


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("least", [1 << 16, 10])
def test_columns_are_the_transposed_rows(
    pooled: bool, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """least: events in a piece. With few of them everything goes through the spill file and into many blocks."""
    monkeypatch.setattr(latent_columns, "MIN_ACTIVE", least)
    rng = np.random.default_rng(0)
    f_npk = rng.normal(0, 1, (17, 5, 12)) * (rng.random((17, 5, 12)) < np.linspace(0, 1, 12))
    f_npk = f_npk.astype(np.float32)
    latents = open_latents([write_latents(tmp_path / "l", f_npk, n_shards=3)])
    keep = rng.random(17 if pooled else 85) < 0.7
    dense = (f_npk.max(axis=1) if pooled else f_npk.reshape(85, 12)) * keep[:, None]
    with Columns(latents.files, keep, pooled, 1, tmp_path) as columns:
        assert columns.spilled == (least == 10)
        found = np.zeros_like(dense)
        blocks = list(columns.blocks(max_latents=5))
        for first, block in blocks:
            for k in range(block.n_latents):
                run = slice(block.indptr[k], block.indptr[k + 1])
                assert (np.diff(block.rows[run]) > 0).all()
                found[block.rows[run], first + k] = block.values[run]
        assert sum(block.n_latents for _, block in blocks) == 12
        assert max(block.n_latents for _, block in blocks) <= 5
    np.testing.assert_array_equal(found, dense)
    assert [path.name for path in tmp_path.iterdir()] == ["l"]
