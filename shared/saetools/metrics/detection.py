"""Whether a score above a threshold tells two classes apart: F1, precision and recall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Detection:
    """threshold is of the training images, the others of the test images; NaN where undefined."""

    threshold: float
    f1: float
    precision: float
    recall: float


def best_threshold(scores_n: np.ndarray, labels_n: np.ndarray) -> float:
    """The score at or above which F1 is largest (the highest of equals); NaN without a positive."""
    if not labels_n.any():
        return float("nan")
    order = np.argsort(-scores_n, kind="stable")
    sorted_n = scores_n[order]
    last_n = np.append(sorted_n[1:] != sorted_n[:-1], True)  # of its group of equal scores
    true_n = np.cumsum(labels_n[order])[last_n]
    taken_n = np.arange(1, len(order) + 1)[last_n]
    f1_n = 2 * true_n / (taken_n + labels_n.sum())
    return float(sorted_n[last_n][np.argmax(f1_n)])


def detect(scores_n: np.ndarray, labels_n: np.ndarray, threshold: float) -> Detection:
    """Precision TP / (TP + FP), recall TP / P, F1 2 TP / (TP + FP + P) of `score >= threshold`."""
    if np.isnan(threshold) or not labels_n.any():
        return Detection(threshold, float("nan"), float("nan"), float("nan"))
    taken_n = scores_n >= threshold
    true, taken, positives = int((taken_n & labels_n).sum()), int(taken_n.sum()), int(labels_n.sum())
    precision = true / taken if taken else float("nan")
    return Detection(threshold, 2 * true / (taken + positives), precision, true / positives)
