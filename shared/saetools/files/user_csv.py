"""CSV tables that people write: read as they stand, or refused with file and line.

pandas moves the cells of lines that are longer than the header to the left, fills up short ones, and renames columns of
the same name; here each of these is an error. Fields are separated by commas, or by semicolons or tabs.
"""

from __future__ import annotations

import csv
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saetools.errors import UserError
from saetools.files.reading import read_bytes

if TYPE_CHECKING:
    import pandas as pd


# Spreadsheets write semicolons where the comma is in numbers, and tabs into .tsv
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}


@dataclass(frozen=True)
class UserCsv:
    """header: names of the columns, each once, none empty; rows: as many texts in each; line: where each row starts"""

    path: Path
    header: list[str]
    rows: list[list[str]]
    line: list[int]
    text: str
    separator: str = ","

    @property
    def decimal(self) -> str:
        """The sign before the decimals: a comma where semicolons separate, and no number has a point."""
        if self.separator == ",":
            return "."
        cells = [cell for row in self.rows for cell in row]
        commas, points = (
            any(re.fullmatch(rf"\s*-?\d+{mark}\d+\s*", cell) for cell in cells) for mark in (",", r"\.")
        )
        return "," if commas and not points else "."

    def column(self, name: str) -> list[str]:
        place = self.header.index(name)
        return [row[place] for row in self.rows]

    def check_once(self, name: str, what: str) -> None:
        """Raise UserError where two rows have the same text in a column."""
        line_of: dict[str, int] = {}
        for line, cell in zip(self.line, self.column(name), strict=True):
            if line_of.setdefault(cell, line) != line:
                raise UserError(
                    f"{self.path}: line {line}: the {what} {cell!r} has two rows, it was in line {line_of[cell]}"
                    " already; leave one"
                )


def read_user_csv(path: Path, expected: str, *, header: bool = True) -> UserCsv:
    """A CSV in UTF-8, with or without a byte order mark, and with any line ends.

    Fields are separated by commas; where the first row has no comma, by its semicolons or tabs.
    expected: what the file should hold, for errors. header=False: the first line is a row, and rows may differ in
    length. Blank lines are passed over. Raises UserError, with the line, where a row has other fields than the header,
    and where the file is empty, cannot be read, or is no such CSV.
    """
    text = read_user_text(path, expected)
    separator = _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows, lines = [], []
    start = 1
    try:
        for row in reader:
            if row:
                rows.append(row)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}: not a CSV file: {error} in the row from line {start} on; expected {expected}; look for a"
            " quotation mark that opens or closes nothing"
        ) from error
    if not rows:
        raise UserError(f"{path}: not a CSV file: it is empty; expected {expected}")
    if not header:
        return UserCsv(path, [], rows, lines, text, separator)
    names = rows.pop(0)
    first = lines.pop(0)
    _check_names(path, names, first, expected)
    if not rows:
        raise UserError(f"{path}: it has a header but no rows; expected {expected}")
    width = len(names)
    for line, row in zip(lines, rows, strict=True):
        if len(row) != width:
            raise UserError(
                f"{path}: line {line} has {len(row)} fields, the header {width}; correct the line (a"
                f" {SEPARATORS[separator]} inside a value needs quotation marks around the value)"
            )
    return UserCsv(path, names, rows, lines, text, separator)


def _separator(text: str) -> str:
    """The first of SEPARATORS that divides the first row; the comma where none does."""
    for mark in SEPARATORS:
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
            if len(next(filter(None, rows), [])) > 1:
                return mark
        except csv.Error:
            continue
    return ","


def read_user_text(path: Path, expected: str) -> str:
    """The text of a file in UTF-8, without a byte order mark; raises UserError where it is none."""
    content = read_bytes(path, f"expected {expected}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: line {line}: not UTF-8 text (byte {content[error.start]:#04x}); expected {expected}; save it as"
            " UTF-8"
        ) from error
    if (zero := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, zero) + 1
        raise UserError(
            f"{path}: line {line}: a zero byte; expected {expected}; the file is damaged, get it again"
        )
    return text


def _check_names(path: Path, names: list[str], line: int, expected: str) -> None:
    seen: set[str] = set()
    for place, name in enumerate(names, start=1):
        if not name.strip():
            raise UserError(
                f"{path}: line {line}: column {place} has no name; expected {expected}; name it, or remove the column"
                " (row numbers of pandas: to_csv(index=False))"
            )
        if name in seen:
            raise UserError(
                f"{path}: line {line}: two columns are called {name!r}; expected {expected}; rename one or remove it"
            )
        seen.add(name)


def numbers_of(path: Path, column: pd.Series) -> np.ndarray:
    """A column as float64, NaN where it is empty; raises UserError where a cell is no finite number."""
    numbers = _floats(column)
    return _checked(path, column, numbers, np.isfinite(numbers) | column.isna().to_numpy(), "finite numbers")


def whole_numbers(path: Path, column: pd.Series) -> np.ndarray:
    """A column of latents' numbers as int64; raises UserError where one is no whole number from 0."""
    numbers = _floats(column)
    good = (numbers >= 0) & (numbers < 2**53) & (numbers == np.floor(numbers))
    return _checked(path, column, numbers, good, "numbers of latents, from 0").astype(np.int64)


def _floats(column: pd.Series) -> np.ndarray:
    """The cells as float64, NaN where one is no number."""
    import pandas as pd

    try:
        return pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    except OverflowError:  # whole numbers of hundreds of digits
        return pd.to_numeric(column.astype(str) + ".0", errors="coerce").to_numpy(np.float64)


def _checked(
    path: Path, column: pd.Series, numbers: np.ndarray, good: np.ndarray, expected: str
) -> np.ndarray:
    if not good.all():
        found = column.iloc[int(np.argmin(good))]
        raise UserError(f"{path}: the column {column.name!r} holds {str(found)[:60]!r}, expected {expected}")
    return numbers
