"""The labels of a split's rows, which are patches or images: one class a row, or a table of rows by classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from saetools.errors import UserError

_BLOCK = 65536  # rows of a table that are summed at a time


@dataclass(frozen=True)
class RowLabels:
    """The labels of N rows for C classes.

    Either one class a row: ids {N} int32 from 0, -1 where the row is left out, C where its class is not one of these (a
    negative for all). Or a table {N, C} of bool or uint8 0 and 1, or of floats from 0 to 1, and known {N, C}, false
    where a label is missing.
    """

    n_classes: int
    ids: npt.NDArray[np.int32] | None = None
    table: npt.NDArray[np.generic] | None = None
    known: npt.NDArray[np.bool_] | None = None

    @classmethod
    def from_classes(
        cls,
        ids: npt.ArrayLike,
        n_classes: int | None = None,
        *,
        ignore: int | None = None,
        classes: npt.ArrayLike | None = None,
    ) -> RowLabels:
        """One class id per row. Rows with id `ignore` are left out.

        classes: {C'} ids of the classes to keep, in this order; rows of the others stay as negatives, so that classes
        fitted apart are the columns of the whole.
        Raises UserError for ids that are no integers from 0 to n_classes - 1 (by default the largest id).
        """
        ids_n = np.asarray(ids)
        if ids_n.ndim != 1 or not np.issubdtype(ids_n.dtype, np.integer):
            raise UserError(
                f"labels: found {ids_n.dtype} {ids_n.shape}, expected one integer class id per row"
            )
        kept_n = np.ones(ids_n.shape, bool) if ignore is None else ids_n != ignore
        top = int(ids_n[kept_n].max()) if kept_n.any() else -1
        if n_classes is None:
            n_classes = top + 1
        if top >= n_classes or (kept_n.any() and int(ids_n[kept_n].min()) < 0):
            raise UserError(
                f"labels: class ids reach from {ids_n[kept_n].min()} to {top}, expected 0 to {n_classes - 1}; "
                "pass the id of rows without a label as `ignore`"
            )
        wanted_c = np.arange(n_classes) if classes is None else np.asarray(classes, dtype=np.int64)
        if np.unique(wanted_c).size != wanted_c.size or np.any((wanted_c < 0) | (wanted_c >= n_classes)):
            raise UserError(f"classes: expected different ids from 0 to {n_classes - 1}")
        position_of_id = np.full(n_classes, wanted_c.size, np.int32)
        position_of_id[wanted_c] = np.arange(wanted_c.size)
        position_n = np.full(ids_n.shape, -1, np.int32)
        position_n[kept_n] = position_of_id[ids_n[kept_n]]
        return cls(wanted_c.size, ids=position_n)

    @classmethod
    def from_table(cls, table: npt.ArrayLike, keep: npt.ArrayLike | None = None) -> RowLabels:
        """A table {N, C}: bool (or 0/1 uint8) for several labels a row, floats in [0, 1] for soft labels.

        keep: {N} bool, the rows to use; all of them by default. Raises UserError for other types or values.
        """
        y_nc = np.asarray(table)
        if y_nc.ndim != 2:
            raise UserError(f"labels: found shape {y_nc.shape}, expected a table of rows by classes")
        if y_nc.dtype not in (np.bool_, np.uint8, np.float32, np.float64):
            raise UserError(f"labels: found {y_nc.dtype}, expected bool, uint8, float32 or float64")
        kept_n = np.ones(len(y_nc), bool) if keep is None else np.asarray(keep, dtype=bool)
        if kept_n.shape != (len(y_nc),):
            raise UserError(f"labels: keep has shape {kept_n.shape}, expected ({len(y_nc)},)")
        labels = cls(
            y_nc.shape[1],
            table=np.ascontiguousarray(y_nc),
            known=np.broadcast_to(kept_n[:, None], y_nc.shape),
        )
        for part, _ in labels._blocks():
            if not np.all((part >= 0) & (part <= 1)):
                raise UserError("labels: found a value outside [0, 1] or NaN in a kept row; expected none")
        return labels

    def groups(self, classes: npt.NDArray[np.int64]) -> list[tuple[npt.NDArray[np.int64], RowLabels]]:
        """Some classes, in groups whose labels are known for the same rows: (positions in `classes`, their labels)."""
        if self.ids is not None:
            labels = RowLabels.from_classes(self.ids, self.n_classes, ignore=-1, classes=classes)
            return [(np.arange(len(classes)), labels)]
        assert self.table is not None and self.known is not None
        known_nc = self.known[:, classes]
        patterns, group_c = np.unique(np.packbits(known_nc, axis=0), axis=1, return_inverse=True)
        found = []
        for group in range(patterns.shape[1]):
            positions = np.flatnonzero(group_c.ravel() == group)
            keep_n = known_nc[:, positions[0]]
            found.append((positions, RowLabels.from_table(self.table[:, classes[positions]], keep=keep_n)))
        return found

    @property
    def n_rows(self) -> int:
        return len(self.ids) if self.ids is not None else len(self.keep)

    @cached_property
    def keep(self) -> npt.NDArray[np.bool_]:
        """{N}: rows with any label."""
        if self.ids is not None:
            return np.asarray(self.ids >= 0)
        assert self.known is not None
        return np.asarray(self.known.any(axis=1))

    @cached_property
    def n_kept(self) -> int:
        """Rows with any label."""
        return int(np.count_nonzero(self.keep))

    @cached_property
    def kept_rows(self) -> npt.NDArray[np.int64]:
        """{C}: rows with a label for each class."""
        if self.ids is not None:
            return np.full(self.n_classes, self.n_kept)
        assert self.known is not None
        return self.known.sum(axis=0)

    @cached_property
    def mass(self) -> npt.NDArray[np.float64]:
        """{C}: sum of y over the rows with a label."""
        if self.ids is not None:
            return self._count_c.astype(np.float64)
        mass_c = np.zeros(self.n_classes)
        for y_nc, known_nc in self._blocks():
            mass_c += np.where(known_nc, y_nc, 0).sum(axis=0, dtype=np.float64)
        return mass_c

    @cached_property
    def positives(self) -> npt.NDArray[np.int64]:
        """{C}: rows with y >= 1/2, which is what counts as positive where a label must be yes or no."""
        if self.ids is not None:
            return self._count_c
        assert self.table is not None and self.known is not None
        return (self.known & (self.table.astype(np.float64) >= 0.5)).sum(axis=0)

    @cached_property
    def some_positive(self) -> npt.NDArray[np.int64]:
        """{C}: rows with y > 0."""
        if self.ids is not None:
            return self._count_c
        some_c = np.zeros(self.n_classes, np.int64)
        for y_nc, known_nc in self._blocks():
            some_c += (known_nc & (y_nc > 0)).sum(axis=0)
        return some_c

    @cached_property
    def some_negative(self) -> npt.NDArray[np.int64]:
        """{C}: rows with y < 1."""
        if self.ids is not None:
            return self.n_kept - self._count_c
        some_c = np.zeros(self.n_classes, np.int64)
        for y_nc, known_nc in self._blocks():
            some_c += (known_nc & (y_nc < 1)).sum(axis=0)
        return some_c

    @cached_property
    def constant_ap(self) -> npt.NDArray[np.float64]:
        """{C}: the AP of a constant score, which is the share of positives; NaN for a class without rows."""
        nothing = np.full(self.n_classes, np.nan)
        return np.divide(self.positives, self.kept_rows, out=nothing, where=self.kept_rows > 0)

    def prior(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Prevalence p {C} among the kept rows, logit(p), and the loss of the constant p: -p ln p - (1-p) ln(1-p)."""
        p_c = self.mass / self.n_kept
        q_c = (self.n_kept - self.mass) / self.n_kept
        with np.errstate(divide="ignore", invalid="ignore"):
            log_p, log_q = np.log(p_c), np.log(q_c)
            loss_c = -(np.where(p_c > 0, p_c * log_p, 0.0) + np.where(q_c > 0, q_c * log_q, 0.0))
        return p_c, log_p - log_q, np.abs(loss_c)

    def at(self, rows: npt.NDArray[np.integer], c: int) -> npt.NDArray[np.float64]:
        """y of class c at some kept rows; NaN where it is not known."""
        if self.ids is not None:
            return (self.ids[rows] == c).astype(np.float64)
        columns_cn, known_cn = self._by_class
        return np.where(known_cn[c][rows], columns_cn[c][rows], np.nan)

    def masses_at(self, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
        """{C}: sum of y over some kept rows."""
        if self.ids is not None:
            return np.bincount(self.ids[rows], minlength=self.n_classes)[: self.n_classes].astype(np.float64)
        assert self.table is not None and self.known is not None
        return np.where(self.known[rows], self.table[rows], 0).sum(axis=0, dtype=np.float64)

    @cached_property
    def _count_c(self) -> npt.NDArray[np.int64]:
        """{C}: rows of each class, where each row has one."""
        assert self.ids is not None
        counts = np.bincount(self.ids[self.keep], minlength=self.n_classes + 1)
        return counts[: self.n_classes].astype(np.int64)

    @cached_property
    def _by_class(self) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.bool_]]:
        assert self.table is not None and self.known is not None
        return np.ascontiguousarray(self.table.T), np.ascontiguousarray(self.known.T)

    def _blocks(self) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]]:
        """Labels and whether they are known {n, C} of the kept rows, some rows at a time."""
        assert self.table is not None and self.known is not None
        for start in range(0, len(self.table), _BLOCK):
            here = slice(start, start + _BLOCK)
            kept = self.keep[here]
            yield self.table[here][kept], self.known[here][kept]
