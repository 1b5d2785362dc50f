"""Which image has which trait: from CUB-200-2011's annotations or from a CSV."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from saetools.errors import UsageError, UserError, some_of
from saetools.files.user_csv import read_user_csv
from saetools.labels import cub200
from saetools.log import logger

UNKNOWN, NO, FAIL = MISSING_ROWS = ("unknown", "no", "fail")
"""What is known of an image without a row: nothing; that it has no trait; or it is an error."""
_VALUES = {
    **dict.fromkeys(("1", "1.0", "true", "yes", "y"), 1.0),
    **dict.fromkeys(("0", "0.0", "false", "no", "n"), 0.0),
    **dict.fromkeys(("", "na", "n/a", "nan", "?", "unknown"), np.nan),
}
_BAD = -1.0  # of a cell that says nothing of a trait
_OF_IMAGES = (
    "target",
    "mask",
    "index",
)  # columns of a list of images: no traits, unless they hold 0 and 1 alone
_MANY = 1000  # images from which the folder before all paths of a table is told


@dataclass(frozen=True)
class TraitTable:
    """labels {N, T} bool, or float64 in [0, 1] where some are between; valid {N, T} bool: False where the table says
    nothing; name {T}; row of each path."""

    source: Path
    name: list[str]
    labels_nt: np.ndarray
    valid_nt: np.ndarray
    row: dict[str, int]

    def of(self, paths: Sequence[str], what: str, missing_rows: str = FAIL) -> tuple[np.ndarray, np.ndarray]:
        """Labels and validity {n, T} of the images at `paths`, in that order.

        what: the argument that names the images, for messages; missing_rows: one of MISSING_ROWS.
        Raises UserError, with an example, where no image has a row, or one has none and missing_rows is `fail`.
        """
        if missing_rows not in MISSING_ROWS:
            raise UsageError(f"`missing_rows` {missing_rows}: expected one of {', '.join(MISSING_ROWS)}")
        rows = self._rows_of(paths, what)
        without = rows < 0
        n_without = int(without.sum())
        if n_without and (missing_rows == FAIL or n_without == len(rows)):
            advice = "give the table of these images, with paths relative to the data set's root"
            if n_without < len(rows):
                advice = (
                    "add the rows, or choose with `missing_rows` what they mean: unknown leaves the images out, no says"
                    " that they have no trait"
                )
            raise UserError(
                f"{self.source}: {n_without} of the {len(rows)} images in {what} have no row, for example"
                f" {paths[int(np.argmax(without))]!r}; its own paths look like {next(iter(self.row), '')!r};\n{advice}"
            )
        if n_without:
            meant = "they are left out" if missing_rows == UNKNOWN else "they count as having no trait"
            logger.info(
                "%s: %d of the %d images in %s have no row: %s",
                *(self.source, n_without, len(rows), what.strip("`"), meant),
            )
        labels_nt, valid_nt = self.labels_nt[rows], self.valid_nt[rows]
        labels_nt[without], valid_nt[without] = 0, missing_rows == NO
        return labels_nt, valid_nt

    def _rows_of(self, paths: Sequence[str], what: str) -> np.ndarray:
        """The row of each image, int64 {n}; -1 where it has none.

        Where paths differ, they are compared with `/` for a backslash and without `./`, with accents as one letter
        (NFC; macOS writes two, NFD), and without the folder that the table's paths begin with, as absolute ones do.
        No row is given to two images that way.
        """
        rows = np.array([self.row.get(path, -1) for path in paths], np.int64)
        if (rows >= 0).all():
            return rows
        plain = {_plain(path): row for path, row in self.row.items()}
        wanted = [_plain(path) for path in paths]
        found = np.array([plain.get(path, -1) for path in wanted], np.int64)
        root = _root_of(plain, [path for path, row in zip(wanted, found, strict=True) if row < 0])
        if root:
            below = np.array([plain.get(root + path, -1) for path in wanted], np.int64)
            found = np.where(found < 0, below, found)
        known = found[found >= 0]
        if len(plain) < len(self.row) or len(np.unique(known)) < len(known):
            return rows
        if root:
            logger.info(
                "%s: the paths of %s are read without %r at their start", self.source, what.strip("`"), root
            )
        return found


def _plain(path: str) -> str:
    return unicodedata.normalize("NFC", path.replace("\\", "/").removeprefix("./"))


def _root_of(of_table: Collection[str], wanted: Sequence[str]) -> str:
    """The folder, with its slash, that the table's paths begin with and the wanted ones do not; empty if not clear."""
    of_name: dict[str, list[str]] = {}
    for path in of_table:
        of_name.setdefault(path.rpartition("/")[2], []).append(path)
    roots = Counter(
        path.removesuffix(end)
        for end in wanted[:_MANY]
        for path in of_name.get(end.rpartition("/")[2], ())
        if path.endswith(f"/{end}")
    ).most_common(2)
    if not roots or (len(roots) == 2 and roots[0][1] == roots[1][1]):
        return ""
    return roots[0][0]


def read_trait_table(
    source: Path,
    *,
    soft: bool = False,
    certainty: Collection[int] = cub200.CERTAIN,
    drop_not_visible: bool = False,
) -> TraitTable:
    """Read a CUB-200-2011 folder, or a CSV `path,TRAIT,...` of 0, 1 and empty; raises UserError.

    The CSV may say true and false, or yes and no, and NA, nan, n/a, ? or unknown; columns that are no traits are left
    out, with a warning. soft: whether numbers between 0 and 1 are allowed too. certainty, drop_not_visible: of
    CUB-200-2011, which certainties count as an answer, and whether an attribute that nobody could see is unknown
    instead of absent.
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
    values_nt = _values(cells_nt, soft, table.decimal)
    names, cells_nt, values_nt = _traits_alone(source, names, cells_nt, values_nt)
    if (bad_nt := values_nt == _BAD).any():
        row, column = np.argwhere(bad_nt)[0]
        expected = "a number from 0 to 1" if soft else "1 or 0, yes or no, true or false,"
        raise UserError(
            f"{source}: line {table.line[row]}, trait {names[column]!r} holds {cells_nt[row, column][:60]!r};"
            f" expected {expected} or nothing; correct it, or remove the column if it is no trait"
        )
    valid_nt = ~np.isnan(values_nt)
    labels_nt = np.where(valid_nt, values_nt, 0.0)
    if np.isin(labels_nt, (0, 1)).all():
        labels_nt = labels_nt == 1
    return TraitTable(source, names, labels_nt, valid_nt, _rows(table.column("path")))


def _values(cells_nt: np.ndarray, soft: bool, decimal: str) -> np.ndarray:
    """Cells as float64: NaN where unknown, _BAD where they are no value of a trait."""
    codes, texts = pd.factorize(cells_nt.ravel())
    values = np.array([_VALUES.get(text.strip().lower(), _BAD) for text in texts])
    if soft and len(rest := np.flatnonzero(values == _BAD)):
        numbers = pd.to_numeric(pd.Series([texts[i].replace(decimal, ".") for i in rest]), errors="coerce")
        values[rest] = numbers.where((numbers >= 0) & (numbers <= 1), _BAD)
    return values[codes].reshape(cells_nt.shape)


def _traits_alone(
    source: Path, names: list[str], cells_nt: np.ndarray, values_nt: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, cells and values without the columns that are no traits, which are said; all if there are no others.

    No trait: none of its cells is a value of one (a species, a date); or most are not, and are of more than three kinds
    (a number of the image); or it is a column of lists of images with other values than 0 and 1. What is left is a
    trait with a mistake in it.
    """
    bad_nt, filled_nt = values_nt == _BAD, ~np.isnan(values_nt)
    n_bad, n_filled = bad_nt.sum(0), filled_nt.sum(0)
    kinds = [len(set(cells_n[bad_n])) for cells_n, bad_n in zip(cells_nt.T, bad_nt.T, strict=True)]
    mostly_other = (2 * n_bad > n_filled) & (np.array(kinds) > 3)
    other = (n_bad > 0) & ((n_bad == n_filled) | mostly_other | np.isin(names, _OF_IMAGES))
    if other.any() and not other.all():
        row_t = bad_nt.argmax(0)
        left_out = [f"{names[t]} ({cells_nt[row_t[t], t][:30]!r})" for t in np.flatnonzero(other)]
        logger.warning(
            "%s: columns that hold other things than a trait are left out: %s", source, some_of(left_out, 10)
        )
        names = [name for name, leave in zip(names, other, strict=True) if not leave]
        cells_nt, values_nt = cells_nt[:, ~other], values_nt[:, ~other]
    return names, cells_nt, values_nt


def _rows(paths: Sequence[str]) -> dict[str, int]:
    return {path: row for row, path in enumerate(paths)}
