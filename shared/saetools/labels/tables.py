"""Which image has which trait: from CUB-200-2011's annotations or from a CSV."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from saetools.errors import UserError
from saetools.files.user_csv import read_user_csv
from saetools.labels import cub200


@dataclass(frozen=True)
class TraitTable:
    """labels {N, T} bool, or float64 in [0, 1] where some are between; valid {N, T} bool: False where the table says
    nothing; name {T}; row of each path."""

    source: Path
    name: list[str]
    labels_nt: np.ndarray
    valid_nt: np.ndarray
    row: dict[str, int]

    def of(self, paths: Sequence[str], what: str) -> tuple[np.ndarray, np.ndarray]:
        """Labels and validity {n, T} of the images at `paths`, in that order.

        Names that differ in their bytes alone are the same: macOS writes an accent as a letter of its own (NFD), tables
        mostly do not (NFC). Raises UserError, with an example, where the table does not have all of them.
        """
        row_of = self.row
        missing = [path for path in paths if path not in row_of]
        if missing:
            composed = {unicodedata.normalize("NFC", path): row for path, row in self.row.items()}
            found = {path: composed.get(unicodedata.normalize("NFC", path), -1) for path in paths}
            found = {path: row for path, row in found.items() if row >= 0}
            if len(composed) == len(self.row) and len(set(found.values())) == len(found):
                row_of, missing = found, [path for path in paths if path not in found]
        if missing:
            raise UserError(
                f"{self.source}: {len(missing)} of the {len(paths)} images in {what} have no row, for example"
                f" {missing[0]!r}; its own paths look like {next(iter(self.row), '')!r};"
                " give the table of these images, with paths relative to the data set's root"
            )
        rows = np.array([row_of[path] for path in paths], dtype=np.int64)
        return self.labels_nt[rows], self.valid_nt[rows]


def read_trait_table(
    source: Path,
    *,
    soft: bool = False,
    certainty: Collection[int] = cub200.CERTAIN,
    drop_not_visible: bool = False,
) -> TraitTable:
    """Read a CUB-200-2011 folder, or a CSV `path,TRAIT,...` of 0, 1 and empty; raises UserError.

    soft: whether numbers between 0 and 1 are allowed too. certainty, drop_not_visible: of CUB-200-2011, which
    certainties count as an answer, and whether an attribute that nobody could see is unknown instead of absent.
    """
    if source.is_dir():
        return _read_cub(source, certainty, drop_not_visible)
    return _read_csv(source, soft)


def trait_table_digest(source: Path) -> str:
    """SHA-256 of the file that says which image has which trait; raises UserError where it is missing."""
    file = source / "attributes" / "image_attribute_labels.txt" if source.is_dir() else source
    if not file.is_file():
        raise UserError(f"{file}: no such file; expected CUB-200-2011's folder or a CSV of traits")
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_cub(root: Path, certainty: Collection[int], drop_not_visible: bool) -> TraitTable:
    answers = cub200.read_answers(root, certainty)
    valid_nt = ~answers.not_visible_nt if drop_not_visible else np.ones_like(answers.present_nt)
    names, paths = cub200.read_attribute_names(root), cub200.read_images(root).path
    return TraitTable(root, names, answers.present_nt, valid_nt, _rows(paths))


def _read_csv(source: Path, soft: bool) -> TraitTable:
    table = read_user_csv(source, "CUB-200-2011's folder, or a CSV with a header path,TRAIT,...")
    if "path" not in table.header or len(table.header) < 2:
        raise UserError(
            f"{source}: its columns are {', '.join(map(repr, table.header[:5]))};"
            " expected path and at least one trait"
        )
    table.check_once("path", "image")
    place = table.header.index("path")
    names = [name for name in table.header if name != "path"]
    # Objects are not of one width, which a single long cell would give to all
    cells_nt = np.delete(np.array(table.rows, dtype=object), place, axis=1)
    valid_nt = cells_nt != ""
    labels_nt = _numbers(cells_nt) if soft else cells_nt == "1"
    known_nt = (labels_nt >= 0) & (labels_nt <= 1) if soft else (cells_nt == "0") | (cells_nt == "1")
    if not (known_nt | ~valid_nt).all():
        row, column = np.argwhere(~known_nt & valid_nt)[0]
        raise UserError(
            f"{source}: line {table.line[row]}, trait {names[column]!r} holds {cells_nt[row, column][:60]!r};"
            f" expected {'a number from 0 to 1' if soft else '0, 1'} or nothing"
        )
    if soft and np.isin(labels_nt, (0, 1)).all():
        labels_nt = labels_nt == 1
    return TraitTable(source, names, labels_nt, valid_nt, _rows(table.column("path")))


def _numbers(cells_nt: np.ndarray) -> np.ndarray:
    """Cells as float64; 0 where empty, NaN where no number."""
    columns = [pd.to_numeric(pd.Series(cells_n), errors="coerce") for cells_n in cells_nt.T]
    numbers_nt = np.stack([column.to_numpy(np.float64) for column in columns], axis=1)
    return np.where(cells_nt == "", 0.0, numbers_nt)


def _rows(paths: Sequence[str]) -> dict[str, int]:
    return {path: row for row, path in enumerate(paths)}
