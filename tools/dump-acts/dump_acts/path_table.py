"""A CSV of images: the column `path`, and if wanted `target` and `mask`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from saetools.errors import UserError, near_names

COLUMNS = ("path", "target", "mask")


@dataclass(frozen=True)
class Row:
    """One image: where it and its mask are, relative to the CSV's folder; its class, -1 unknown."""

    line: int
    path: str
    target: int
    mask: str | None


def read_path_table(table: Path) -> list[Row]:
    """The images in the order of the CSV; raises UserError, with the line, where it is broken.

    path: relative to the CSV's folder, each once. target: a whole number from 0, or empty. mask: for
    every image or for none. Other columns are left alone.
    """
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = [name for name in reader.fieldnames or [] if name is not None]
            if "path" not in names:
                raise UserError(
                    f"{table}: it has no column 'path'{near_names('path', names)};"
                    f" expected {', '.join(COLUMNS)} in its first line, of which path is required"
                )
            rows = [_row(table, reader.line_num, fields) for fields in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table}: it could not be read as CSV ({error})") from error
    _check(table, rows)
    return rows


def _row(table: Path, line: int, fields: dict[str, str | None]) -> Row:
    path, target, mask = ((fields.get(name) or "").strip() for name in COLUMNS)
    if not path:
        raise UserError(f"{table}: line {line} has no path; expected one in every line")
    for name in (path, mask):
        if PurePosixPath(name).is_absolute():
            raise UserError(
                f"{table}: line {line}: {name} is an absolute path; write it relative to the CSV's folder,"
                " so that the data set can be moved"
            )
    if target and not target.isdecimal():
        raise UserError(
            f"{table}: line {line}: the target {target!r} is no whole number from 0; number the classes"
        )
    return Row(line, path, int(target) if target else -1, mask or None)


def _check(table: Path, rows: list[Row]) -> None:
    line_of: dict[str, int] = {}
    for row in rows:
        if row.path in line_of:
            raise UserError(
                f"{table}: line {row.line}: {row.path} was in line {line_of[row.path]} already; list every image once"
            )
        line_of[row.path] = row.line
    without = [row.line for row in rows if row.mask is None]
    if without and len(without) < len(rows):
        raise UserError(
            f"{table}: line {without[0]} has no mask, others have one; give all images one, or none"
        )
