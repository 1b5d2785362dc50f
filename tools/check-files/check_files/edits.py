"""Checks of what edit-latents writes: effects, fidelity, and predictions with the folder that they are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from check_files.files import Facts, check_container
from saetools.errors import UserError, some_of
from saetools.files.edit_tables import CONTROLS, EFFECT_COLUMNS, FIDELITY_COLUMNS, INPUTS, SHARES
from saetools.files.formats import EDIT_EFFECTS, EDIT_FIDELITY, EDIT_PREDICTIONS, Format
from saetools.files.npz import read_npz
from saetools.files.provenance import first_difference
from saetools.files.tables import check_columns, read_csv

EFFECTS_NAME = "effects.csv"
AGAIN = f"write it again with {EDIT_PREDICTIONS.made_by}"
SETTINGS: Mapping[str, type] = {
    "latent": int,
    "target": str,
    "operation": str,
    "amounts": list,
    "controls": list,
    "names": list,
    "link": str,
    "tokens": str,
    "model": str,
    "layer": int,
    "scorer": str,
    "head": str,
    "preprocess": dict,
    "where": str,
}
OF_ONE_FILE = ("latent", "target")  # in all else the files of a folder agree
# name -> axes, type; text: of any length
ALWAYS = {"path": ("N", "text"), "digest": ("N", "text"), "grid": ("N,2", "int16"), "value": ("N,P", "float16"),
          "edited": ("N,P", "bool")}  # fmt: skip
PATCHES = {"label": ("N,P", "int16"), "before": ("N,P", "int16"), "after": ("K,A,N,P", "int16")}
IMAGE = {"before": ("N,C", "float32"), "after": ("K,A,N,C", "float32")}
LABELS = {"softmax": ("N", "int16"), "logistic": ("N,C", "int8")}  # of images


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
    """Members, types, sizes, grids; with `deep` that every prediction is a class, and every value finite."""
    settings, arrays, facts = _read(path)
    if deep:
        check_container(path, EDIT_PREDICTIONS, deep)
        _check_values(path, settings, arrays)
    return facts


def check_folder_of_predictions(folder: Path, deep: bool) -> list[Facts | tuple[Path, UserError]]:
    """Facts of the whole folder first, then of each file; where something is wrong, (path, error) is in the list.

    The files are of one run, and of the rows of `effects.csv`.
    """
    found: list[Facts | tuple[Path, UserError]] = []
    read: list[tuple[Path, Mapping[str, Any], list[str]]] = []
    for path in sorted(folder.glob("predictions-*.npz")):
        try:
            found.append(check_predictions(path, deep))
            settings, arrays, _ = _read(path)
            read.append((path, settings, arrays["path"].tolist()))
        except UserError as error:
            found.append((path, error))
    try:
        _check_together(folder, read)
    except UserError as error:
        found.append((folder, error))
    if any(not isinstance(item, Facts) for item in found):
        return found
    summary = f"{len(read)} files, predictions of {len(read[0][2])} images, {EDIT_PREDICTIONS.name}"
    return [Facts(summary, ""), *found]


def _read(path: Path) -> tuple[Mapping[str, Any], Mapping[str, np.ndarray], Facts]:
    """Settings and arrays whose types and sizes are right."""
    provenance, arrays = read_npz(path, EDIT_PREDICTIONS)
    settings = provenance.settings
    for name, wanted_type in SETTINGS.items():
        if not isinstance(settings.get(name), wanted_type):
            raise UserError(
                f"{path}: its settings have no {name!r} as {EDIT_PREDICTIONS.name} has it; {AGAIN}"
            )
    tokens, link = settings["tokens"], settings["link"]
    if tokens not in ("patches", "image") or link not in LABELS:
        raise UserError(
            f"{path}: its predictions are of {tokens!r}, {link!r}; expected patches or image, softmax or logistic;"
            " update saetools"
        )
    wanted = {**ALWAYS, **(PATCHES if tokens == "patches" else {"label": LABELS[link], **IMAGE})}
    if missing := [name for name in wanted if name not in arrays]:
        raise UserError(f"{path}: it has no member {missing[0]!r}; {AGAIN}")
    value = arrays["value"]
    sizes = {"N": len(value), "P": value.shape[1] if value.ndim == 2 else 0, "2": 2, "C": len(settings["names"]),
             "K": len(settings["controls"]), "A": len(settings["amounts"])}  # fmt: skip
    for name, (axes, kind) in wanted.items():
        shape, array = tuple(sizes[axis] for axis in axes.split(",")), arrays[name]
        is_kind = array.dtype.kind in "US" if kind == "text" else array.dtype == np.dtype(kind)
        if array.shape != shape or not is_kind:
            raise UserError(
                f"{path}: {name} is {array.dtype} {array.shape}, expected {kind} {shape}; {AGAIN}"
            )
    n_patches = arrays["grid"].astype(int).prod(1)
    if (arrays["grid"] < 1).any() or (n_patches > sizes["P"]).any():
        raise UserError(f"{path}: a grid of more than {sizes['P']} patches, or of none; {AGAIN}")
    summary = (
        f"{EDIT_PREDICTIONS.name}, latent {settings['latent']}, {settings['target']}, {sizes['N']} images,"
        f" {sizes['A']} amounts, {sizes['K']} controls"
    )
    return settings, arrays, Facts(summary, provenance.uid, provenance.parents)


def _check_values(path: Path, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    for name in ("value", "before", "after"):
        if arrays[name].dtype.kind == "f" and not np.isfinite(arrays[name]).all():
            raise UserError(f"{path}: {name} holds NaN or infinity")
    if settings["tokens"] == "patches":
        n_classes, n_patches = len(settings["names"]), arrays["value"].shape[1]
        is_patch = np.arange(n_patches) < arrays["grid"].astype(int).prod(1)[:, None]
        for name in ("before", "after"):
            predicted = arrays[name]
            if ((predicted < -1) | (predicted >= n_classes) | ((predicted == -1) & is_patch)).any():
                raise UserError(f"{path}: {name} holds a number that is none of its {n_classes} classes")


def _check_together(folder: Path, read: Sequence[tuple[Path, Mapping[str, Any], list[str]]]) -> None:
    effects = folder / EFFECTS_NAME
    rows = read_csv(effects, EDIT_EFFECTS)[0] if effects.is_file() and read else None
    for path, settings, images in read:
        first, common, same = read[0][0], *({k: v for k, v in one.items() if k not in OF_ONE_FILE}
                                            for one in (read[0][1], settings))  # fmt: skip
        if difference := first_difference(common, same):
            raise UserError(f"{folder}: {first.name} and {path.name} are of different runs: {difference}")
        if images != read[0][2]:
            raise UserError(f"{folder}: {first.name} and {path.name} are of different images")
        if rows is None:
            continue
        mine = rows[
            (rows["latent"] == settings["latent"]) & (rows["target"].astype(str) == settings["target"])
        ]
        named = f"{folder}: {EFFECTS_NAME} has no row of {path.name}"
        if not len(mine):
            raise UserError(
                f"{named}, latent {settings['latent']} and {settings['target']}: they are of two runs"
            )
        for name, wanted in (("amount", settings["amounts"]), ("control", settings["controls"])):
            if gone := [one for one in wanted if one not in set(mine[name])]:
                raise UserError(f"{named} with the {name} {some_of(gone, 3)}: they are of two runs")
