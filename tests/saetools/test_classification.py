"""Accuracy, mean IoU and log-loss against scikit-learn, in blocks of any size; classes without a test row."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from saetools.metrics.classification import ClassTally, TraitTally


def test_classes() -> None:
    rng = np.random.default_rng(0)
    logits_nc, ids_n = 3 * rng.normal(size=(200, 5)), rng.integers(-1, 4, 200)  # nothing is of class 4
    logits_nc[3] += 1000  # no overflow
    tally = ClassTally(5)
    for start in range(0, 200, 37):
        tally.add(logits_nc[start : start + 37], ids_n[start : start + 37])
    kept = ids_n >= 0
    true, said = ids_n[kept], logits_nc[kept].argmax(1)
    assert (said == 4).any()
    scores = tally.scores()
    assert (scores["n_rows"], scores["n_classes"]) == (kept.sum(), 4)
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(true, said))
    recall_c = metrics.recall_score(true, said, labels=range(4), average=None)
    assert scores["mean_class_accuracy"] == pytest.approx(recall_c.mean())
    np.testing.assert_allclose(tally.accuracy_c[:4], recall_c)
    np.testing.assert_allclose(
        tally.iou_c[:4], metrics.jaccard_score(true, said, labels=range(4), average=None)
    )
    assert np.isnan(tally.accuracy_c[4]) and np.isnan(tally.iou_c[4])
    assert scores["mean_iou"] == pytest.approx(tally.iou_c[:4].mean())
    p_nc = special.softmax(logits_nc[kept], axis=1)
    assert scores["log_loss"] == pytest.approx(metrics.log_loss(true, p_nc, labels=range(5)))


def test_traits() -> None:
    rng = np.random.default_rng(1)
    logits_nc, table_nc = 2 * rng.normal(size=(150, 4)), rng.random((150, 4)) < 0.4
    known_nc = rng.random((150, 4)) < 0.8
    known_nc[:, 3] = False  # no label in test
    table_nc[:, 2] = True  # no negative
    tally = TraitTally(4)
    for start in range(0, 150, 40):
        rows = slice(start, start + 40)
        tally.add(logits_nc[rows], table_nc[rows], known_nc[rows])
    accuracy, balanced, loss = [], [], []
    for c in range(3):
        true, z = table_nc[known_nc[:, c], c], logits_nc[known_nc[:, c], c]
        accuracy.append(metrics.accuracy_score(true, z > 0))
        loss.append(metrics.log_loss(true, special.expit(z), labels=[False, True]))
        if c < 2:
            balanced.append(metrics.balanced_accuracy_score(true, z > 0))
    scores = tally.scores()
    assert scores["accuracy"] == pytest.approx(np.mean(accuracy))
    assert scores["mean_class_accuracy"] == pytest.approx(np.mean(balanced))
    assert scores["log_loss"] == pytest.approx(np.mean(loss))
    assert scores["n_classes"] == 3
    assert np.isnan(tally.balanced_c[2:]).all() and np.isnan(tally.accuracy_c[3])


def test_nothing_to_test() -> None:
    scores = ClassTally(3).scores()
    assert scores["n_rows"] == 0 and np.isnan(scores["accuracy"]) and np.isnan(scores["log_loss"])
