"""Which image, or patch, has which trait."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Split:
    """What is known of the n rows of a split that some trait says something about.

    row_n:     int64, where each row stands among all images (or patches) of the shards, ascending
    image_n:   int64, its image, counted from 0 among the images that have a row
    labels_nt: bool, whether it has trait t
    valid_nt:  bool, whether that is known; None where everything is
    """

    row_n: np.ndarray
    image_n: np.ndarray
    labels_nt: np.ndarray
    valid_nt: np.ndarray | None

    @cached_property
    def n_images(self) -> int:
        return int(self.image_n[-1]) + 1 if len(self.image_n) else 0

    @cached_property
    def n_known(self) -> np.ndarray:
        """Rows {T} of which the trait is known."""
        if self.valid_nt is None:
            return np.full(self.labels_nt.shape[1], len(self.labels_nt))
        return self.valid_nt.sum(0)

    @cached_property
    def n_positives(self) -> np.ndarray:
        """Rows {T} that have the trait."""
        return (self.labels_nt if self.valid_nt is None else self.labels_nt & self.valid_nt).sum(0)

    def known_rows(self, trait: int) -> np.ndarray:
        """The rows of which one trait is known."""
        return (
            np.arange(len(self.row_n)) if self.valid_nt is None else np.flatnonzero(self.valid_nt[:, trait])
        )

    def some_rows(self, rows: np.ndarray) -> Split:
        """The same traits on some of the rows."""
        valid_nt = None if self.valid_nt is None else self.valid_nt[rows]
        return Split(self.row_n[rows], self.image_n[rows], self.labels_nt[rows], valid_nt)

    def of_traits(self, traits: slice) -> Split:
        """The same rows with some of the traits."""
        valid_nt = None if self.valid_nt is None else self.valid_nt[:, traits]
        return Split(self.row_n, self.image_n, self.labels_nt[:, traits], valid_nt)

    def rows_of(self, images: np.ndarray) -> np.ndarray:
        """The rows of these images."""
        if len(images) == self.n_images:
            return np.arange(len(self.image_n))
        wanted = np.zeros(self.n_images, bool)
        wanted[images] = True
        return np.flatnonzero(wanted[self.image_n])


@dataclass(frozen=True)
class Labelled:
    """The traits' names, and their labels on both splits.

    unit: what a row is, `image` or `patch`; is_pairs: traits are one class against one other
    test_class_n: int64, the class of each test row, from 0; None where the bootstrap draws images, not classes
    """

    names: list[str]
    train: Split
    test: Split
    unit: str = "image"
    is_pairs: bool = False
    test_class_n: np.ndarray | None = None

    @property
    def test_groups(self) -> np.ndarray:
        """Of each test row the number of what the bootstrap draws: its class or its image."""
        return self.test.image_n if self.test_class_n is None else self.test_class_n

    @property
    def digest(self) -> str:
        """SHA-256 of all that is known: equal answers give the same table, whichever file they are from."""
        digest = hashlib.sha256("\n".join([self.unit, *self.names]).encode())
        for split in (self.train, self.test):
            valid_nt = np.ones_like(split.labels_nt) if split.valid_nt is None else split.valid_nt
            for array in (split.row_n, split.labels_nt & valid_nt, valid_nt):
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def make_split(image_of_row: np.ndarray, labels_nt: np.ndarray, valid_nt: np.ndarray) -> Split:
    """A split of those rows of which something is known."""
    rows = np.flatnonzero(valid_nt.any(1))
    everything = bool(valid_nt[rows].all())
    _, image_n = np.unique(image_of_row[rows], return_inverse=True)
    return Split(rows, image_n, labels_nt[rows], None if everything else valid_nt[rows])
