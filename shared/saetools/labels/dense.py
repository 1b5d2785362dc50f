"""The labels of a split as {n, T} tables of yes and no, for average precision: only rows with a known label."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from saetools.labels.rows import RowLabels
from saetools.labels.splits import LabelledSplits


@dataclass(frozen=True)
class KnownRows:
    """The n rows of a split for which at least one of the T traits is known.

    row_n:     int64, the position of each row among all images (or patches) of the split, ascending
    image_n:   int64, its image, counted from 0 among the images that have a row
    labels_nt: bool, whether it has trait t
    valid_nt:  bool, whether that is known; None where everything is
    """

    row_n: np.ndarray
    image_n: np.ndarray
    labels_nt: np.ndarray
    valid_nt: np.ndarray | None

    @staticmethod
    def of(labels: RowLabels, rows_per_image: int = 1) -> KnownRows:
        """The rows with a label; labels are 0 and 1, with nothing between."""
        rows = np.flatnonzero(labels.keep)
        _, image_n = np.unique(rows // rows_per_image, return_inverse=True)
        if labels.ids is not None:
            return KnownRows(rows, image_n, labels.ids[rows, None] == np.arange(labels.n_classes), None)
        assert labels.table is not None and labels.known is not None
        known_nt = labels.known[rows]
        return KnownRows(rows, image_n, labels.table[rows].astype(bool), None if known_nt.all() else known_nt)

    @cached_property
    def n_images(self) -> int:
        return int(self.image_n[-1]) + 1 if len(self.image_n) else 0

    @cached_property
    def n_known(self) -> np.ndarray:
        """Rows {T} for which the trait is known."""
        if self.valid_nt is None:
            return np.full(self.labels_nt.shape[1], len(self.labels_nt))
        return self.valid_nt.sum(0)

    @cached_property
    def n_positives(self) -> np.ndarray:
        """Rows {T} that have the trait."""
        return (self.labels_nt if self.valid_nt is None else self.labels_nt & self.valid_nt).sum(0)

    def known_rows(self, trait: int) -> np.ndarray:
        """The rows for which one trait is known."""
        return (
            np.arange(len(self.row_n)) if self.valid_nt is None else np.flatnonzero(self.valid_nt[:, trait])
        )

    def some_rows(self, rows: np.ndarray) -> KnownRows:
        """The same traits on some of the rows."""
        valid_nt = None if self.valid_nt is None else self.valid_nt[rows]
        return KnownRows(self.row_n[rows], self.image_n[rows], self.labels_nt[rows], valid_nt)

    def some_traits(self, traits: slice) -> KnownRows:
        """The same rows with some of the traits."""
        valid_nt = None if self.valid_nt is None else self.valid_nt[:, traits]
        return KnownRows(self.row_n, self.image_n, self.labels_nt[:, traits], valid_nt)

    def rows_of(self, images: np.ndarray) -> np.ndarray:
        """The rows of these images."""
        if len(images) == self.n_images:
            return np.arange(len(self.image_n))
        wanted = np.zeros(self.n_images, bool)
        wanted[images] = True
        return np.flatnonzero(wanted[self.image_n])


@dataclass(frozen=True)
class DenseSplits:
    """The traits' names {T}, and their labels on both splits.

    unit: what a row is, `image` or `patch`; is_pairs: each trait is one class against one other; is_cub: read from
    CUB-200-2011's folder
    """

    names: list[str]
    train: KnownRows
    test: KnownRows
    unit: str = "image"
    is_pairs: bool = False
    is_cub: bool = False

    @staticmethod
    def of(splits: LabelledSplits, rows_per_image: tuple[int, int] = (1, 1)) -> DenseSplits:
        """rows_per_image: of train and of test; patches where the rows are patches."""
        train, test = (
            KnownRows.of(labels, n)
            for labels, n in zip((splits.train, splits.test), rows_per_image, strict=True)
        )
        return DenseSplits(splits.names, train, test, splits.unit, splits.is_pairs, splits.is_cub)

    @property
    def digest(self) -> str:
        """SHA-256 of all that is known: equal labels give the same table, whichever file they were read from."""
        digest = hashlib.sha256("\n".join([self.unit, *self.names]).encode())
        for split in (self.train, self.test):
            valid_nt = np.ones_like(split.labels_nt) if split.valid_nt is None else split.valid_nt
            for array in (split.row_n, split.labels_nt & valid_nt, valid_nt):
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()
