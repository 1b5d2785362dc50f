"""The CSV of images that people write: one line for each, with its class, mask and split where there are any."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from saetools.errors import UserError, near_names
from saetools.files.user_csv import read_user_csv

_NUMBER = re.compile("[0-9]{1,9}")  # of a class
_COLUMNS = ("path", "target", "mask", "split")


@dataclass(frozen=True)
class ImageRow:
    """One image: where it and its mask are, relative to the CSV's folder; its class: a number, a name, or empty."""

    line: int
    path: str
    target: str
    mask: str | None
    split: str | None


def read_image_csv(table: Path) -> list[ImageRow]:
    """The images in the order of the CSV; raises UserError, with the line, where it is broken.

    path: relative to the CSV's folder, each once. target: whole numbers from 0, or names, or empty. mask, split: for
    every image or for none. Other columns are left alone.
    """
    expected = f"{', '.join(_COLUMNS)} in its first line, of which path is required"
    found = read_user_csv(table, expected)
    if "path" not in found.header:
        raise UserError(
            f"{table}: it has no column 'path'{near_names('path', found.header)}; expected {expected}"
        )
    rows = [
        _csv_row(table, line, dict(zip(found.header, row, strict=True)))
        for line, row in zip(found.line, found.rows, strict=True)
    ]
    _check_rows(table, rows)
    return rows


def _csv_row(table: Path, line: int, fields: dict[str, str]) -> ImageRow:
    path, target, mask, split = (fields.get(name, "").strip() for name in _COLUMNS)
    if not path:
        raise UserError(f"{table}: line {line} has no path; expected one in every line")
    return ImageRow(
        line, _below_table(table, line, path), target, _below_table(table, line, mask) or None, split or None
    )


def _below_table(table: Path, line: int, name: str) -> str:
    """A path relative to the CSV's folder, so that the data set can be moved; UserError for one elsewhere."""
    if not PurePosixPath(name).is_absolute():
        return name
    for root in (table.parent.absolute(), table.parent.resolve()):
        if PurePosixPath(name).is_relative_to(root):
            return PurePosixPath(name).relative_to(root).as_posix()
    raise UserError(
        f"{table}: line {line}: {name} is an absolute path to another folder than the CSV's; put the CSV into a folder"
        " above the images, or write paths relative to it"
    )


def _check_rows(table: Path, rows: list[ImageRow]) -> None:
    line_of: dict[str, int] = {}
    for row in rows:
        if row.path in line_of:
            raise UserError(
                f"{table}: line {row.line}: {row.path} was in line {line_of[row.path]} already; list every image once"
            )
        line_of[row.path] = row.line
    no_number = [row for row in rows if row.target and not _NUMBER.fullmatch(row.target)]
    is_name = [not re.fullmatch("[-+.,0-9]*", row.target) for row in no_number]
    n_numbers = sum(bool(_NUMBER.fullmatch(row.target)) for row in rows)
    if no_number and (n_numbers or not all(is_name)):
        row = no_number[0] if n_numbers else no_number[is_name.index(False)]
        raise UserError(
            f"{table}: line {row.line}: the target {row.target[:60]!r} is no whole number from 0, and"
            f" {f'{n_numbers} others are' if n_numbers else 'no name'}; number all classes, or name all"
        )
    for what in ("mask", "split"):
        without = [row.line for row in rows if getattr(row, what) is None]
        if without and len(without) < len(rows):
            raise UserError(
                f"{table}: line {without[0]} has no {what}, others have one; give all images one, or none"
            )
