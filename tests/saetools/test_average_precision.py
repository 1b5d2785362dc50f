"""AP against its definition written out in plain Python, and against scikit-learn."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from saetools.errors import UserError
from saetools.metrics.average_precision import average_precision, best_prototypes
from saetools.metrics.bootstrap import average_precision_weighted, debiased_average_precision

EXACT = 1e-12


def ap_by_definition(scores: np.ndarray, labels: np.ndarray, copies: np.ndarray | None = None) -> float:
    """sum (R_n - R_{n-1}) P_n in fractions, a threshold at each distinct score."""
    times = [1] * len(scores) if copies is None else [int(c) for c in copies]
    images = [(float(s), bool(y), c) for s, y, c in zip(scores, labels, times, strict=True)]
    positives = sum(c for _, y, c in images if y)
    if positives == 0:
        return float("nan")
    ap, recall_before = Fraction(0), Fraction(0)
    for threshold in sorted({s for s, _, _ in images}, reverse=True):
        taken = sum(c for s, _, c in images if s >= threshold)
        true = sum(c for s, y, c in images if s >= threshold and y)
        if taken:
            recall = Fraction(true, positives)
            ap += (recall - recall_before) * Fraction(true, taken)
            recall_before = recall
    return float(ap)


def table_by_definition(
    scores_nk: np.ndarray, labels_nt: np.ndarray, valid_nt: np.ndarray | None = None
) -> np.ndarray:
    keep_nt = np.ones(labels_nt.shape, bool) if valid_nt is None else valid_nt.astype(bool)
    return np.array(
        [
            [
                ap_by_definition(scores[keep], labels[keep])
                for labels, keep in zip(labels_nt.T, keep_nt.T, strict=True)
            ]
            for scores in scores_nk.T
        ]
    ).reshape(scores_nk.shape[1], labels_nt.shape[1])


def draw_scores(rng: np.random.Generator, kind: str, shape: tuple[int, int]) -> np.ndarray:
    scores: np.ndarray = rng.standard_normal(shape)
    if kind == "few":
        scores = np.round(scores)
    elif kind == "zeros":
        scores = np.maximum(scores - 1.645, 0)
    elif kind == "constant":
        scores[:] = scores[0]
    elif kind == "signed zeros":
        scores = np.where(scores > 0.5, 1.0, np.where(scores > 0, 0.0, -0.0))
    elif kind == "denormal":
        scores = rng.integers(-3, 4, shape) * float(np.finfo(np.float32).smallest_subnormal)
    elif kind == "wide":
        scores = np.sign(scores) * 10.0 ** rng.uniform(-44, 38, shape)
    return scores.astype(np.float32)


KINDS = ["plain", "few", "zeros", "constant", "signed zeros", "denormal", "wide"]
cases = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(KINDS),
        "n": st.integers(1, 40),
        "k": st.integers(1, 5),
        "t": st.integers(1, 70),  # more than two words of label bits
        "prevalence": st.sampled_from([0.0, 0.03, 0.3, 0.9, 1.0]),
        "seed": st.integers(0, 2**32 - 1),
    }
)


@given(cases, st.booleans())
@settings(max_examples=120, deadline=None)
def test_equals_the_definition(case: dict, masked: bool) -> None:
    rng = np.random.default_rng(case["seed"])
    scores = draw_scores(rng, case["kind"], (case["n"], case["k"]))
    labels = rng.random((case["n"], case["t"])) < case["prevalence"]
    valid = rng.random(labels.shape) < 0.7 if masked else None
    found = average_precision(scores, labels, valid_nt=valid)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, table_by_definition(scores, labels, valid), rtol=0, atol=EXACT)
    assert not (found > 1).any()


@given(cases, st.booleans())
@settings(max_examples=80, deadline=None)
def test_weighted_equals_the_definition(case: dict, masked: bool) -> None:
    rng = np.random.default_rng(case["seed"])
    n, t = case["n"], min(case["t"], 6)
    scores = draw_scores(rng, case["kind"], (n, t))
    labels = rng.random((n, t)) < case["prevalence"]
    valid = rng.random((n, t)) < 0.7 if masked else np.ones((n, t), bool)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=3)
    counts[0] = 0
    found = average_precision_weighted(scores, labels, counts, valid_nt=valid if masked else None)
    expected = [
        [ap_by_definition(scores[v, j], labels[v, j], row[v]) for j, v in enumerate(valid.T)]
        for row in counts
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)
    assert np.isnan(found[0]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_equals_sklearn(kind: str) -> None:
    """More columns than one thread takes, more images than a tile, all three radix passes, several threads."""
    rng = np.random.default_rng(KINDS.index(kind))
    scores = draw_scores(rng, kind, (3001, 300))
    labels = rng.random((3001, 40)) < np.geomspace(0.001, 0.9, 40)
    labels[:, 0], labels[:, 1], labels[:, 2] = False, True, False
    labels[17, 2] = True
    valid = rng.random(labels.shape) < 0.9
    found = average_precision(scores, labels, threads=3)
    masked = average_precision(scores, labels, valid_nt=valid, threads=2)
    assert np.isnan(found[:, 0]).all()
    assert np.isnan(masked[:, 0]).all()
    np.testing.assert_allclose(found[:, 1], 1, rtol=0, atol=EXACT)
    for k in (0, 15, 63, 64, 127, 128, 299):
        for t in (1, 2, 5, 20, 31, 32, 39):
            if not labels[valid[:, t], t].any():
                continue
            keep = valid[:, t]
            assert found[k, t] == pytest.approx(
                average_precision_score(labels[:, t], scores[:, k]), abs=EXACT
            )
            expected = average_precision_score(labels[keep, t], scores[keep, k])
            assert masked[k, t] == pytest.approx(expected, abs=EXACT)


def test_weighted_equals_sklearn_over_several_tiles() -> None:
    rng = np.random.default_rng(5)
    scores = draw_scores(rng, "zeros", (500, 7))
    labels = rng.random((500, 7)) < 0.2
    counts = rng.multinomial(500, np.full(500, 1 / 500), size=300)
    found = average_precision_weighted(scores, labels, counts)
    assert found.shape == (300, 7)
    for r in (0, 255, 256, 299):
        for t in range(7):
            expected = average_precision_score(labels[:, t], scores[:, t], sample_weight=counts[r])
            assert found[r, t] == pytest.approx(expected, abs=EXACT)


def test_counts_of_one_are_the_plain_ap() -> None:
    rng = np.random.default_rng(6)
    scores = draw_scores(rng, "few", (200, 9))
    labels = rng.random((200, 9)) < 0.2
    weighted = average_precision_weighted(scores, labels, np.ones((1, 200), np.uint8))
    np.testing.assert_allclose(weighted[0], np.diag(average_precision(scores, labels)), rtol=0, atol=EXACT)


def test_worked_by_hand() -> None:
    """Scores 3 2 2 1, positives the first and one of the tied: 1/2 * 1/1 + 1/2 * 2/3."""
    scores = np.array([[3], [2], [2], [1]], np.float32)
    labels = np.array([[1], [0], [1], [0]], np.uint8)
    assert average_precision(scores, labels)[0, 0] == pytest.approx(5 / 6, abs=1e-15)


def test_constant_scores_have_the_prevalence() -> None:
    labels = np.random.default_rng(0).random((1000, 50)) < 0.1
    labels[0] = True
    found = average_precision(np.zeros((1000, 1), np.float32), labels)
    np.testing.assert_allclose(found[0], labels.mean(axis=0), rtol=0, atol=EXACT)


def test_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    scores = draw_scores(rng, "few", (500, 20))
    labels = rng.random((500, 30)) < 0.2
    order = rng.permutation(500)
    np.testing.assert_allclose(
        average_precision(scores, labels), average_precision(scores[order], labels[order]), rtol=0, atol=EXACT
    )


def test_layout_and_threads_change_no_bit() -> None:
    rng = np.random.default_rng(2)
    scores = draw_scores(rng, "zeros", (300, 260))
    labels = rng.random((300, 33)) < 0.2
    found = average_precision(scores, labels, threads=1)
    read_only = scores.copy()
    read_only.flags.writeable = False
    for other in (np.asfortranarray(scores), np.repeat(scores, 2, axis=1)[:, ::2], read_only):
        np.testing.assert_array_equal(average_precision(other, labels, threads=4), found)


def test_all_valid_is_no_mask() -> None:
    rng = np.random.default_rng(3)
    scores = draw_scores(rng, "few", (300, 10))
    labels = (rng.random((300, 33)) < 0.2).astype(np.int64)
    masked = average_precision(scores, labels, valid_nt=np.ones_like(labels))
    np.testing.assert_allclose(masked, average_precision(scores, labels), rtol=0, atol=EXACT)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_best_prototypes(block: int) -> None:
    rng = np.random.default_rng(4)
    scores = draw_scores(rng, "zeros", (200, 40))
    scores[:, 30:] = scores[:, :10]  # every one of these ties with an earlier one
    labels = rng.random((200, 20)) < 0.3
    labels[:, 3] = False
    table = average_precision(scores, labels)
    best = best_prototypes(scores, labels, block=block)
    assert best.prototype_t[3] == -1
    assert np.isnan(best.ap_t[3])
    with_positives = np.arange(20) != 3
    np.testing.assert_array_equal(best.prototype_t[with_positives], table.argmax(axis=0)[with_positives])
    np.testing.assert_array_equal(best.ap_t, table.max(axis=0))
    assert best.prototype_t.max() < 30


def test_nothing_to_score() -> None:
    labels = np.ones((4, 3), bool)
    assert average_precision(np.empty((4, 0), np.float32), labels).shape == (0, 3)
    assert average_precision(np.ones((4, 2), np.float32), labels[:, :0]).shape == (2, 0)
    assert average_precision_weighted(np.ones((4, 3), np.float32), labels, np.empty((0, 4), int)).shape == (
        0,
        3,
    )
    assert (best_prototypes(np.empty((4, 0), np.float32), labels).prototype_t == -1).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("order", ["C", "F"])
def test_refuses_scores_that_are_not_finite(value: float, order: str) -> None:
    scores = np.zeros((90, 200), np.float32, order=order)  # type: ignore[call-overload]
    scores[77, 150] = value
    labels = np.ones((90, 200), bool)
    named = "image 77 and prototype 150"
    with pytest.raises(UserError, match=named):
        average_precision(scores, labels)
    with pytest.raises(UserError, match=named):
        average_precision(scores, labels, valid_nt=labels)
    with pytest.raises(UserError, match=named):
        best_prototypes(scores, labels, block=64)
    with pytest.raises(UserError, match=named):
        average_precision_weighted(scores, labels, np.ones((1, 90), int))


def test_refuses_what_does_not_fit() -> None:
    scores, labels = np.zeros((5, 2), np.float32), np.zeros((5, 2), bool)
    ones = np.ones((1, 5), int)
    with pytest.raises(ValueError, match="float64, expected float32"):
        average_precision(scores.astype(np.float64), labels)
    with pytest.raises(ValueError, match="scores: found shape"):
        average_precision(scores[:4], labels)
    with pytest.raises(ValueError, match="labels: found int64 with other values"):
        average_precision(scores, labels.astype(np.int64) - 1)
    with pytest.raises(ValueError, match="labels: found 0 images"):
        average_precision(scores[:0], labels[:0])
    with pytest.raises(ValueError, match="valid: found shape"):
        average_precision(scores, labels, valid_nt=labels[:, :1])
    with pytest.raises(ValueError, match="threads: found 0"):
        average_precision(scores, labels, threads=0)
    with pytest.raises(ValueError, match="block: found 0"):
        best_prototypes(scores, labels, block=0)
    with pytest.raises(ValueError, match="one for each of 2 traits"):
        average_precision_weighted(scores[:, :1], labels, ones)
    with pytest.raises(ValueError, match="expected integers of shape"):
        average_precision_weighted(scores, labels, np.ones((1, 5)))
    with pytest.raises(ValueError, match="expected 0 to 65535"):
        average_precision_weighted(scores, labels, ones * 65536)


def debiased_by_definition(scores: np.ndarray, labels: np.ndarray, copies: np.ndarray) -> float:
    """The formula of `debiased_average_precision`, positive by positive, in fractions."""
    order = np.argsort(-scores, kind="stable")
    images = [(float(scores[i]), bool(labels[i]), int(copies[i])) for i in order if copies[i]]
    all_positives = sum(m for _, y, m in images if y)
    if all_positives == 0:
        return float("nan")
    terms: list[tuple[int, Fraction | None]] = []
    for score, positive, m in images:
        if positive:
            c = sum(m2 for s2, y2, m2 in images if s2 >= score and y2)
            others = sum(m2 for s2, y2, m2 in images if s2 >= score and not y2)
            a, b = all_positives * (c - m), (all_positives - m) * others
            if c == all_positives:
                a, b = all_positives, others
            alone = c == m and others == 0
            terms.append((m, None if alone else Fraction(a, a + b) if a + b else Fraction(0)))
    after = next((p for _, p in terms if p is not None), Fraction(1))
    total = sum((m * ((1 + after) / 2 if p is None else p) for m, p in terms), Fraction(0))
    return float(total / all_positives)


@given(cases, st.booleans())
@settings(max_examples=80, deadline=None)
def test_debiased_equals_the_definition(case: dict, masked: bool) -> None:
    rng = np.random.default_rng(case["seed"])
    n, t = case["n"], min(case["t"], 6)
    scores = draw_scores(rng, case["kind"], (n, t))
    labels = rng.random((n, t)) < case["prevalence"]
    valid = rng.random((n, t)) < 0.7 if masked else np.ones((n, t), bool)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=4)
    counts[0], counts[1] = 0, 1
    found = debiased_average_precision(scores, labels, counts, valid_nt=valid if masked else None)
    expected = [
        [debiased_by_definition(scores[v, j], labels[v, j], row[v]) for j, v in enumerate(valid.T)]
        for row in counts
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)


def test_debiased_is_not_biased_where_ap_is() -> None:
    """Many small samples of one source: their mean meets the AP of a large one, the mean of plain AP does not."""
    rng = np.random.default_rng(3)

    def draw(n: int, t: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.random((n, t)) < 0.05
        return (rng.standard_normal((n, t)) + 1.5 * labels).astype(np.float32), labels

    large = draw(400_000, 2)
    truth = np.mean([average_precision_score(y, s) for s, y in zip(large[0].T, large[1].T, strict=True)])
    scores, labels = draw(400, 3000)
    ones = np.ones((1, 400), int)
    assert np.nanmean(debiased_average_precision(scores, labels, ones)) == pytest.approx(truth, abs=0.01)
    assert np.nanmean(average_precision_weighted(scores, labels, ones)) > truth + 0.02
