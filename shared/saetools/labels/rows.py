"""Labels of both splits: patch labels, the images' classes, or a table of traits; rows and classes that count."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saetools.errors import UserError
from saetools.labels.tables import TraitTable, read_trait_table
from saetools.latents.header import IGNORED_LABEL
from saetools.latents.reader import LatentsFile, LatentsSet

PATCH, TARGET = "patch", "target"


@dataclass(frozen=True)
class RowLabels:
    """The labels of a split's N rows: patches, or images.

    Either one class a row: ids {N} int32 from 0, -1 where the row is left out; or a table {N, C} of bool, or of
    float64 from 0 to 1, and known {N, C}, false where a label is missing.
    """

    n_classes: int
    ids: npt.NDArray[np.int32] | None = None
    table: npt.NDArray[np.generic] | None = None
    known: npt.NDArray[np.bool_] | None = None

    @cached_property
    def keep(self) -> npt.NDArray[np.bool_]:
        """{N}: rows with any label."""
        if self.ids is not None:
            return np.asarray(self.ids >= 0)
        assert self.known is not None
        return np.asarray(self.known.any(axis=1))

    @cached_property
    def kept_rows(self) -> npt.NDArray[np.int64]:
        """{C}: rows that count for each class."""
        if self.ids is not None:
            return np.full(self.n_classes, np.count_nonzero(self.keep))
        assert self.known is not None
        return self.known.sum(axis=0)

    @cached_property
    def mass(self) -> npt.NDArray[np.float64]:
        """{C}: sum of y over the rows that count."""
        if self.ids is not None:
            return np.bincount(self.ids[self.keep], minlength=self.n_classes).astype(np.float64)
        assert self.table is not None and self.known is not None
        return np.where(self.known, self.table, 0).sum(axis=0, dtype=np.float64)

    @cached_property
    def positives(self) -> npt.NDArray[np.int64]:
        """{C}: rows with y >= 1/2, which is what counts as positive where a label must be yes or no."""
        if self.ids is not None:
            return self.mass.astype(np.int64)
        assert self.table is not None and self.known is not None
        return (self.known & (self.table.astype(np.float64) >= 0.5)).sum(axis=0)

    @cached_property
    def constant_ap(self) -> npt.NDArray[np.float64]:
        """{C}: the AP of a constant, which is the share of positives; NaN for a class without rows."""
        nothing = np.full(self.n_classes, np.nan)
        return np.divide(self.positives, self.kept_rows, out=nothing, where=self.kept_rows > 0)

    def at(self, rows: npt.NDArray[np.integer], c: int) -> npt.NDArray[np.float64]:
        """y of class c at some kept rows; NaN where it is not known."""
        if self.ids is not None:
            return (self.ids[rows] == c).astype(np.float64)
        columns_cn, known_cn = self._by_class
        return np.where(known_cn[c][rows], columns_cn[c][rows], np.nan)

    def masses_at(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        """{C}: sum of y over some kept rows."""
        if self.ids is not None:
            return np.bincount(self.ids[rows], minlength=self.n_classes).astype(np.float64)
        assert self.table is not None and self.known is not None
        return np.where(self.known[rows], self.table[rows], 0).sum(axis=0, dtype=np.float64)

    @cached_property
    def _by_class(self) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
        assert self.table is not None and self.known is not None
        return np.ascontiguousarray(self.table.T), np.ascontiguousarray(self.known.T)


@dataclass(frozen=True)
class LabelledSplits:
    """names {C} of the classes of either split; pooled: whether a row is an image with its largest values."""

    names: list[str]
    train: RowLabels
    test: RowLabels
    pooled: bool


def read_labels(
    source: str, train: LatentsSet, test: LatentsSet, ignore: Collection[int] = ()
) -> LabelledSplits:
    """Labels `patch`, `target`, or the path of a table (CUB-200-2011's folder, or a CSV path,TRAIT,...).

    ignore: labels whose rows are left out, as 65535 (patch) and -1 (target) always are; not with a table.
    Raises UserError where a split has no such labels.
    """
    if source == PATCH:
        return _one_class(train, test, _patch_labels, {IGNORED_LABEL, *ignore}, pooled=False)
    if source == TARGET:
        return _one_class(train, test, _targets, {-1, *ignore}, pooled=True)
    if ignore:
        raise UserError(
            f"--ignore: a table has no label to be ignored; leave cells of {source} empty instead"
        )
    table = read_trait_table(Path(source), soft=True)
    first, other = _from_table(table, train, "--train"), _from_table(table, test, "--test")
    return LabelledSplits(table.name, first, other, pooled=True)


def choose_tau(asked: float | None, splits: LabelledSplits) -> float:
    """The AP from which on a class of the test rows counts as found: `asked`, or half way between what a constant
    reaches for the commonest class and 1, rounded up to two digits.

    Raises UserError where a constant reaches `asked`. Classes that every row belongs to tell nothing and are left out.
    """
    constant_c = splits.test.constant_ap
    constant_c = np.where(constant_c < 1, constant_c, np.nan)
    if np.isnan(constant_c).all():
        return 1.0 if asked is None else asked
    c = int(np.nanargmax(constant_c))
    highest = float(constant_c[c])
    default = math.ceil(50 * (1 + highest) - 1e-9) / 100
    if asked is not None and asked <= highest:
        raise UserError(
            f"--tau {asked:g}: a constant reaches it: {highest:.3f} of the test rows are of class"
            f" {splits.names[c]!r};\nchoose one above that, or leave --tau out for {default:g}"
        )
    return default if asked is None else asked


def _patch_labels(file: LatentsFile) -> npt.NDArray[np.int32]:
    found = file.labels
    if found is None:
        raise UserError(
            f"{file.path}: it has no patch labels; record the activations from a data set with masks, or use"
            f" --labels {TARGET} or a table of the images"
        )
    return found.ravel().astype(np.int32)


def _targets(file: LatentsFile) -> npt.NDArray[np.int32]:
    return file.examples.target.astype(np.int32)


def _one_class(
    train: LatentsSet,
    test: LatentsSet,
    read: Callable[[LatentsFile], npt.NDArray[np.int32]],
    ignore: Collection[int],
    *,
    pooled: bool,
) -> LabelledSplits:
    """Classes are the labels that occur in either split, in ascending order."""
    found: set[int] = set()
    for file in (*train.files, *test.files):
        found.update(np.flatnonzero(np.bincount(read(file) + 1)) - 1)
    classes = np.array(sorted(found - set(ignore)), np.int64)
    if not len(classes):
        raise UserError("--labels: every row's label is ignored or unknown; nothing is left to fit")
    # A look-up from label to class; labels are small numbers, from -1.
    lookup = np.full(max(found) + 2, -1, np.int32)
    lookup[classes + 1] = np.arange(len(classes))
    first, other = (
        RowLabels(len(classes), ids=np.concatenate([lookup[read(file) + 1] for file in split.files]))
        for split in (train, test)
    )
    return LabelledSplits([str(label) for label in classes], first, other, pooled=pooled)


def _from_table(table: TraitTable, split: LatentsSet, what: str) -> RowLabels:
    labels_nc, known_nc = table.of(split.paths, what)
    return RowLabels(len(table.name), table=labels_nc, known=known_nc)
