"""Checks of what edit-latents writes: effects, fidelity, and predictions with the folder that they are in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from check_files.files import Facts, check_container
from saetools.errors import UserError, some_of
from saetools.files.edit_tables import CONTROLS, EFFECT_COLUMNS, FIDELITY_COLUMNS, INPUTS, SHARES
from saetools.files.formats import EDIT_EFFECTS, EDIT_FIDELITY, EDIT_PREDICTIONS, Format
from saetools.files.provenance import first_difference
from saetools.files.tables import check_columns, read_csv
from saetools.latents.edit_predictions import EditPredictions, read_edit_predictions

EFFECTS_NAME = "effects.csv"
OF_ONE_FILE = ("latent", "target", "controls")  # in all other settings the files of a folder agree


def check_effects(path: Path, deep: bool) -> Facts:
    """Columns and controls; with `deep` that shares are from 0 to 1."""
    facts, table = _check_table(path, EDIT_EFFECTS, deep, EFFECT_COLUMNS, "control", CONTROLS)
    for name in SHARES if deep else ():
        for column in (name, f"{name}_low", f"{name}_high"):
            if len(wrong := table.index[(table[column] < 0) | (table[column] > 1)]):
                raise UserError(
                    f"{path}: row {wrong[0] + 1} holds {table[column][wrong[0]]} in the column {column!r};"
                    " a share is from 0 to 1"
                )
    return facts


def check_fidelity(path: Path, deep: bool) -> Facts:
    """Columns and inputs."""
    return _check_table(path, EDIT_FIDELITY, deep, FIDELITY_COLUMNS, "input", INPUTS)[0]


def _check_table(
    path: Path, format: Format, deep: bool, columns: Sequence[str], word: str, known: Sequence[str]
) -> tuple[Facts, pd.DataFrame]:
    facts = check_container(path, format, deep)
    table, _ = read_csv(path, format)
    check_columns(path, table, columns, f"every {format.name}")
    if unknown := sorted({*map(str, table[word])} - {*known}):
        raise UserError(
            f"{path}: found {unknown[0]!r} in the column {word!r}; expected {', '.join(known)}; update saetools"
        )
    return facts, table


def check_predictions(path: Path, deep: bool) -> Facts:
    """All that its reader needs; with `deep` the CRC-32 of every member."""
    return _facts(path, read_edit_predictions(path), deep)


def _facts(path: Path, found: EditPredictions, deep: bool) -> Facts:
    if deep:
        check_container(path, EDIT_PREDICTIONS, deep)
    summary = (
        f"{EDIT_PREDICTIONS.name}, latent {found.latent}, {found.target}, {len(found)} images, {len(found.amounts)}"
        f" amounts, {len(found.controls)} controls"
    )
    return Facts(summary, found.provenance.uid, found.provenance.parents)


def check_folder_of_predictions(folder: Path, deep: bool) -> list[Facts | tuple[Path, UserError]]:
    """Facts of the whole folder first, then of each file; where something is wrong, (path, error) is in the list.

    The files are of one run, and of the rows of `effects.csv`.
    """
    found: list[Facts | tuple[Path, UserError]] = []
    read: list[tuple[Path, EditPredictions]] = []
    for path in sorted(folder.glob("predictions-*.npz")):
        try:
            one = read_edit_predictions(path)
            found.append(_facts(path, one, deep))
            read.append((path, one))
        except UserError as error:
            found.append((path, error))
    try:
        _check_together(folder, read)
    except UserError as error:
        found.append((folder, error))
    if any(not isinstance(item, Facts) for item in found):
        return found
    summary = f"{len(read)} files, predictions of {len(read[0][1])} images, {EDIT_PREDICTIONS.name}"
    return [Facts(summary, ""), *found]


def _check_together(folder: Path, read: Sequence[tuple[Path, EditPredictions]]) -> None:
    effects = folder / EFFECTS_NAME
    rows = read_csv(effects, EDIT_EFFECTS)[0] if effects.is_file() and read else None
    for path, one in read:
        first_path, first = read[0]
        common, same = (
            {name: value for name, value in each.provenance.settings.items() if name not in OF_ONE_FILE}
            for each in (first, one)
        )
        if difference := first_difference(common, same):
            raise UserError(
                f"{folder}: {first_path.name} and {path.name} are of different runs: {difference}"
            )
        if one.path != first.path:
            raise UserError(f"{folder}: {first_path.name} and {path.name} are of different images")
        if rows is None:
            continue
        mine = rows[(rows["latent"] == one.latent) & (rows["target"].astype(str) == one.target)]
        named = f"{folder}: {EFFECTS_NAME} has no row of {path.name}"
        if not len(mine):
            raise UserError(f"{named}, latent {one.latent} and {one.target}: they are of two runs")
        for name, wanted in (("amount", one.amounts), ("control", one.controls)):
            if gone := [each for each in wanted if each not in set(mine[name])]:
                raise UserError(f"{named} with the {name} {some_of(gone, 3)}: they are of two runs")
