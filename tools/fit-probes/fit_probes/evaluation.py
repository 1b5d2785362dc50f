"""Tests chosen probes on the test rows: losses, AP, precision, recall; and the labels of largest values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fit_probes.kernels.loss import loss_and_hits
from saetools.compute.threads import share_out
from saetools.labels.rows import RowLabels
from saetools.latents.block import Latents, descending
from saetools.metrics.average_precision import latent_average_precision

TOP = (16, 64, 256)
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """Which pairs are tested, chosen on the training rows.

    latent_c {C}: the latent of each class, -1 where there is none; weight_c, bias_c: its probe; prior_c: share of
    positives in training. class_k {K}: the class of each latent, -1 where there is none.
    """

    latent_c: Ints
    weight_c: Floats
    bias_c: Floats
    prior_c: Floats
    class_k: Ints


@dataclass(frozen=True)
class ClassResults:
    """Of each class {C} on the test rows. NaN where it is not defined: AP, recall and F1 without positives."""

    loss: Floats
    baseline: Floats
    ap: Floats
    precision: Floats
    recall: Floats
    f1: Floats

    @property
    def r(self) -> Floats:
        """1 - loss / baseline; 0 where nothing was learnt or nothing can be."""
        known = (self.baseline > 0) & np.isfinite(self.baseline)
        share = np.divide(self.loss, self.baseline, out=np.ones_like(self.loss), where=known)
        return 1.0 - share


@dataclass(frozen=True)
class LatentResults:
    """Of each latent {K} on the test rows.

    frequency: share of rows on which it fires; mean_value: where it does; ap: of its class, NaN without one.
    purity {K, len(TOP)}: share of the most common label among the rows of the largest values, NaN where fewer stand
    above the zeros. entropy: of the labels of the 256 largest, or of all above the zeros where they are fewer, in nats.
    """

    frequency: Floats
    mean_value: Floats
    ap: Floats
    purity: Floats
    entropy: Floats


class Evaluation:
    """Takes the test rows' latents block by block."""

    def __init__(self, labels: RowLabels, choice: Choice, threads: int) -> None:
        self._labels, self._choice, self._threads = labels, choice, threads
        n_classes, n_latents = labels.n_classes, len(choice.class_k)
        self._n_kept = int(np.count_nonzero(labels.keep))
        self._classes_of: dict[int, list[int]] = {}
        for c, k in enumerate(choice.latent_c):
            if k >= 0:
                self._classes_of.setdefault(int(k), []).append(c)
        self.classes = ClassResults(*(np.full(n_classes, np.nan) for _ in range(6)))
        self.latents = LatentResults(
            np.zeros(n_latents),
            np.zeros(n_latents),
            np.full(n_latents, np.nan),
            np.full((n_latents, len(TOP)), np.nan),
            np.full(n_latents, np.nan),
        )
        for c in range(n_classes):
            self._start_class(c)

    def add(self, first: int, latents: Latents) -> None:
        """Latents first, first + 1, ... in CSC order, their rows ascending."""

        def run(start: int, stop: int) -> None:
            for k in range(start, stop):
                self._add_latent(first + k, *_values(latents, k))

        share_out(latents.n_latents, 16, self._threads, run)

    def _start_class(self, c: int) -> None:
        """Results of the prior alone; those of the class's probe replace them."""
        n, mass = float(self._labels.kept_rows[c]), self._labels.mass[c]
        positives = int(self._labels.positives[c])
        found, prior = self.classes, self._choice.prior_c[c]
        if n == 0:
            return
        found.baseline[c] = _constant_loss(prior, mass / n)
        found.loss[c] = found.baseline[c]
        if positives > 0:
            found.ap[c] = positives / n
        called = n if prior >= 0.5 else 0.0
        self._decide(c, called, positives if called else 0, positives)

    def _decide(self, c: int, called: float, hits: float, positives: int) -> None:
        found = self.classes
        found.precision[c] = hits / called if called else 0.0
        if positives:
            found.recall[c] = hits / positives
            found.f1[c] = 2 * hits / (called + positives)

    def _add_latent(self, k: int, rows: npt.NDArray[np.integer], values: npt.NDArray[np.floating]) -> None:
        fired = len(values)
        if fired:
            self.latents.frequency[k] = fired / self._n_kept
            self.latents.mean_value[k] = values.mean(dtype=np.float64)
        order = descending(values)
        rows, values = rows[order], values[order]
        self._add_top(k, rows if fired == self._n_kept else rows[: np.count_nonzero(values > 0)])
        own = int(self._choice.class_k[k])
        if own >= 0:
            self.latents.ap[k] = self._ap(own, rows, values)
        for c in self._classes_of.get(k, []):
            self._add_class(c, rows, values)

    def _add_top(self, k: int, rows: npt.NDArray[np.integer]) -> None:
        for i, n in enumerate(TOP):
            if len(rows) >= n:
                self.latents.purity[k, i] = self._labels.masses_at(rows[:n]).max() / n
        mass_c = self._labels.masses_at(rows[: TOP[-1]])
        if total := mass_c.sum():
            share_c = mass_c[mass_c > 0] / total
            self.latents.entropy[k] = max(0.0, -(share_c * np.log(share_c)).sum())

    def _ap(
        self, c: int, rows: npt.NDArray[np.integer], values: npt.NDArray[np.floating], sign: float = 1.0
    ) -> float:
        y = self._labels.at(rows, c)
        known = np.where(np.isnan(y), -1, y >= 0.5).astype(np.int8)
        n, positives = int(self._labels.kept_rows[c]), int(self._labels.positives[c])
        if sign < 0:
            values, known = np.ascontiguousarray(-values[::-1]), np.ascontiguousarray(known[::-1])
        return latent_average_precision(values, known, n, positives)

    def _add_class(self, c: int, rows: npt.NDArray[np.integer], values: npt.NDArray[np.floating]) -> None:
        w, b = self._choice.weight_c[c], self._choice.bias_c[c]
        n, positives = float(self._labels.kept_rows[c]), int(self._labels.positives[c])
        if n == 0:
            return
        y = self._labels.at(rows, c)
        loss, called, hits, known, mass, positives_at = loss_and_hits(values, y, w, b)
        n_zero = n - known
        loss += n_zero * float(np.logaddexp(0.0, b)) - (self._labels.mass[c] - mass) * b
        if b >= 0:
            called, hits = called + n_zero, hits + positives - positives_at
        self.classes.loss[c] = loss / n
        if positives:
            self.classes.ap[c] = self._ap(c, rows, values, w)
        self._decide(c, called, hits, positives)


def evaluate(
    labels: RowLabels, choice: Choice, blocks: Iterable[tuple[int, Latents]], threads: int
) -> Evaluation:
    """The results of every class and latent on the test rows."""
    found = Evaluation(labels, choice, threads)
    for first, latents in blocks:
        found.add(first, latents)
    return found


def _values(latents: Latents, k: int) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.float32]]:
    run = slice(latents.indptr[k], latents.indptr[k + 1])
    return latents.rows[run], latents.values[run].astype(np.float32)


def _constant_loss(p: float, share: float) -> float:
    """Cross-entropy in nats of the constant p where the share of positives is `share`: 0 ln 0 = 0."""
    with np.errstate(divide="ignore"):
        positive = -share * np.log(p) if share > 0 else 0.0
        return float(positive + (-(1 - share) * np.log1p(-p) if share < 1 else 0.0))
