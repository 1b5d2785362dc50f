"""How well logits name the class of a row, or say yes and no to traits: accuracy, mean IoU, log-loss. docs/metrics.md.

Counts and sums add up over blocks of rows. A class or trait without a test row has no accuracy (NaN), and no part in a
mean; what is predicted as such a class is an error of the row's own.
"""

from __future__ import annotations

import numpy as np


class ClassTally:
    """Rows of C classes, each named after its largest logit (the first of equals).

    rows_c, named_c, right_c int64 {C}: rows of each class; rows named so; rows of the class that are named so.
    """

    def __init__(self, n_classes: int) -> None:
        self.rows_c, self.named_c, self.right_c = np.zeros((3, n_classes), np.int64)
        self._loss = 0.0

    def add(self, logits_nc: np.ndarray, ids_n: np.ndarray) -> None:
        """float64 logits {n, C} and the classes {n} of rows; rows with -1 are left out."""
        used_n = ids_n >= 0
        logits_nc, ids_n = logits_nc[used_n], ids_n[used_n]
        named_n = logits_nc.argmax(1)
        for count_c, classes in (
            (self.rows_c, ids_n),
            (self.named_c, named_n),
            (self.right_c, ids_n[ids_n == named_n]),
        ):
            count_c += np.bincount(classes, minlength=len(count_c))
        top_n = logits_nc.max(1, initial=-np.inf)
        lse_n = top_n + np.log(np.exp(logits_nc - top_n[:, None]).sum(1))
        self._loss += float((lse_n - logits_nc[np.arange(len(ids_n)), ids_n]).sum())

    @property
    def accuracy_c(self) -> np.ndarray:
        """{C}: share of a class's rows that are named so."""
        return _ratio(self.right_c, self.rows_c)

    @property
    def iou_c(self) -> np.ndarray:
        """{C}: rows of the class that are named so, of the rows that are of it or named so."""
        union_c = self.rows_c + self.named_c - self.right_c
        return _ratio(self.right_c, np.where(self.rows_c > 0, union_c, 0))

    def scores(self) -> dict[str, float]:
        """accuracy, mean_class_accuracy, mean_iou, log_loss (nats a row), n_classes (with a row) and n_rows."""
        n = int(self.rows_c.sum())
        return {
            "accuracy": float(self.right_c.sum() / n) if n else float("nan"),
            "mean_class_accuracy": _mean(self.accuracy_c),
            "mean_iou": _mean(self.iou_c),
            "log_loss": self._loss / n if n else float("nan"),
            "n_classes": int((self.rows_c > 0).sum()),
            "n_rows": n,
        }


class TraitTally:
    """Rows with C traits, each yes where its logit is above 0. counts_c22 int64 {C, label, prediction}."""

    def __init__(self, n_traits: int) -> None:
        self.counts_c22 = np.zeros((n_traits, 2, 2), np.int64)
        self._loss_c = np.zeros(n_traits)

    def add(self, logits_nc: np.ndarray, table_nc: np.ndarray, known_nc: np.ndarray) -> None:
        """float64 logits {n, C}, labels of 0 and 1, and where they are known."""
        yes_nc, said_nc = table_nc.astype(bool), logits_nc > 0
        for label in (0, 1):
            for said in (0, 1):
                self.counts_c22[:, label, said] += ((yes_nc == label) & (said_nc == said) & known_nc).sum(0)
        loss_nc = np.logaddexp(0, logits_nc) - yes_nc * logits_nc
        self._loss_c += np.where(known_nc, loss_nc, 0).sum(0)

    @property
    def rows_c(self) -> np.ndarray:
        """{C}: rows whose label is known."""
        return self.counts_c22.sum((1, 2))

    @property
    def accuracy_c(self) -> np.ndarray:
        """{C}: share of a trait's rows that are said rightly."""
        return _ratio(self.counts_c22[:, 0, 0] + self.counts_c22[:, 1, 1], self.rows_c)

    @property
    def balanced_c(self) -> np.ndarray:
        """{C}: mean of the shares of yes and of no that are said rightly; NaN where one of them has no row."""
        of_label_c2 = self.counts_c22.sum(2)
        right_c2 = _ratio(np.stack([self.counts_c22[:, 0, 0], self.counts_c22[:, 1, 1]], 1), of_label_c2)
        return right_c2.mean(1)

    def scores(self) -> dict[str, float]:
        """Means over traits: accuracy, mean_class_accuracy (of `balanced_c`), log_loss (nats); n_classes, n_rows."""
        return {
            "accuracy": _mean(self.accuracy_c),
            "mean_class_accuracy": _mean(self.balanced_c),
            "log_loss": _mean(_ratio(self._loss_c, self.rows_c)),
            "n_classes": int((self.rows_c > 0).sum()),
            "n_rows": int(self.rows_c.max(initial=0)),
        }


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)


def _mean(values: np.ndarray) -> float:
    """Of those that are numbers; NaN without any."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
