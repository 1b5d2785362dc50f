"""Groups of images: classes, species and genera, or a column of a table."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from render_visuals.csv_tables import read_own
from saetools.errors import UserError
from saetools.files.tables import check_columns
from saetools.log import logger

NAMES = "class_scientific_names.csv"


@dataclass(frozen=True)
class Groups:
    """order {N}: images sorted by group (of genera: by genus, then species); group_n: each image's number in names."""

    by: str
    order: np.ndarray
    group_n: np.ndarray
    names: list[str]


def group_images(by: str, paths: list[str], root: Path | None, table: Path | None) -> Groups:
    """Group by `class` (the folder), `species` or `genus` (from ROOT/class_scientific_names.csv), or by a column of
    a table that has the column `path` too. Raises UserError where a name or column is missing."""
    if table is not None:
        sort_names = group_names = _by_column(table, by, paths)
    elif by == "class":
        sort_names = group_names = [_class_of(path) for path in paths]
    elif by in ("species", "genus"):
        trees = _scientific_names(root, paths)
        sort_names = [f"{genus}\t{species}" for genus, species in trees]
        group_names = [species if by == "species" else genus for genus, species in trees]
    else:
        raise UserError(
            f"--by {by}: expected class, species or genus; for a column of a table give that with --table TABLE.csv"
        )
    order = np.array(sorted(range(len(paths)), key=lambda n: (sort_names[n], n)), np.int64)
    names = list(dict.fromkeys(group_names[n] for n in order))
    number = {name: i for i, name in enumerate(names)}
    return Groups(by, order, np.array([number[name] for name in group_names], np.int64), names)


def _class_of(path: str) -> str:
    folder = PurePosixPath(path).parent.name
    return folder or "(no folder)"


def _by_column(table_path: Path, column: str, paths: list[str]) -> list[str]:
    table = read_own(table_path)
    check_columns(table_path, table, ["path", column], f"--by {column}")
    value = {str(path): str(name) for path, name in zip(table["path"], table[column].fillna(""), strict=True)}
    missing = [path for path in paths if path not in value]
    if missing:
        raise UserError(
            f"{table_path}: {len(missing):,} of {len(paths):,} images are not in its column 'path', the first is"
            f" {missing[0]}; paths are relative to the data set's root"
        )
    return [value[path] or "(unknown)" for path in paths]


def _scientific_names(root: Path | None, paths: list[str]) -> list[tuple[str, str]]:
    """(genus, species) of every image. A class without a scientific name is under the last word of its English name,
    which names the kind of bird: Laysan_Albatross with the other albatrosses."""
    if root is None or not (root / NAMES).is_file():
        raise UserError(
            f"{(root or Path('ROOT')) / NAMES}: no such file; --by species and genus need it under --images"
            " (columns cub_class, genus_species); --by class needs nothing"
        )
    with (root / NAMES).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"cub_class", "genus_species"} <= set(rows[0]):
        raise UserError(f"{root / NAMES}: it needs the columns cub_class and genus_species")
    scientific = {row["cub_class"]: (row["genus_species"] or "").replace("_", " ").strip() for row in rows}
    names: dict[str, tuple[str, str]] = {}
    unnamed = 0
    for name in {_class_of(path) for path in paths}:
        if scientific.get(name):
            names[name] = (scientific[name].split()[0], scientific[name])
        else:
            unnamed += 1
            english = name.split(".", 1)[-1].replace("_", " ")
            names[name] = (f"({english.split()[-1]})", english)
    if unnamed:
        logger.info(
            "%s names no species for %d of %d classes; these are sorted under the last word of their English name",
            root / NAMES,
            unnamed,
            len(names),
        )
    return [names[_class_of(path)] for path in paths]
