"""What HDF5, NPZ and CSV files of every format hold: a known format and version, and bytes that are whole."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from check_files.facts import Facts
from saetools.csv_files import read_sidecar, sidecar_path
from saetools.errors import UserError
from saetools.hdf5 import open_hdf5
from saetools.npz_file import HEADER
from saetools.provenance import Format, Provenance, check_format

ANY = Format("any format of saetools", 1, "the tool that made it")
SUFFIXES = (".h5", ".npz", ".csv")


def format_name(path: Path) -> str:
    """The format that a file says it has; raises UserError where it is no whole file of a known container."""
    if path.suffix == ".csv":
        found: Any = _sidecar(path).get("format")
    elif path.suffix == ".npz":
        found = _npz_header(path).get("format")
    elif path.suffix == ".h5":
        with open_hdf5(path, ANY) as file:
            found = file.attrs.get("format")
    else:
        raise UserError(f"{path}: its name ends in none of {', '.join(SUFFIXES)}; it is no file of saetools")
    if found is None:
        raise UserError(f"{path}: it names no format; it is no file of saetools, or an attribute was lost")
    return found.decode() if isinstance(found, bytes) else str(found)


def check_hdf5(path: Path, format: Format, deep: bool) -> Facts:
    """Provenance, and with `deep` that every data set can be read and holds no NaN."""
    with open_hdf5(path, format) as file:
        provenance = Provenance.from_attributes(file.attrs, format, path)
        if deep:
            file.visititems(lambda name, item: _check_readable(path, name, item))
    return Facts(format.name, provenance.uid, provenance.parents)


def check_npz(path: Path, format: Format, deep: bool) -> Facts:
    """Provenance, and with `deep` the check sums of every member."""
    values = _npz_header(path)
    check_format(values, format, path)
    if deep:
        check_members(path)
    return Facts(format.name, str(values["uid"]), values.get("parents", ()), _source(values))


def check_members(path: Path) -> None:
    """Read every member of an NPZ, which compares it with its CRC-32."""
    with zipfile.ZipFile(path) as members:
        if (broken := members.testzip()) is not None:
            raise UserError(f"{path}: the member {broken} is not what was written: its check sum differs")


def check_csv(path: Path, format: Format, deep: bool) -> Facts:
    """Sidecar, lines of equal length, an end of line at the end, and with `deep` no NaN."""
    provenance = read_sidecar(path, format)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing, though {sidecar_path(path).name} is there") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: it is not UTF-8 ({error})") from error
    if not text.endswith("\n"):
        raise UserError(f"{path}: its last line has no end: it was cut short, write it again")
    rows = list(csv.reader(text.splitlines()))
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows[0]):
            raise UserError(f"{path}: line {number} has {len(row)} fields, the first line {len(rows[0])}")
        if deep and any(cell.lower() in ("nan", "inf", "-inf") for cell in row):
            raise UserError(f"{path}: line {number} holds NaN or infinity; empty is what does not apply")
    return Facts(f"{format.name}, {len(rows) - 1} rows", provenance.uid, provenance.parents)


def _sidecar(path: Path) -> Mapping[str, Any]:
    sidecar = sidecar_path(path)
    try:
        found = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: {sidecar.name} is missing, without which nobody knows where it is from"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: {sidecar.name} is broken ({error}); write both again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: {sidecar.name} holds no mapping; write both again")
    return found


def _npz_header(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            if HEADER not in file:
                raise UserError(f"{path}: it has no member {HEADER!r}; it is no file of saetools")
            found = json.loads(str(file[HEADER]))
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        raise UserError(
            f"{path}: it is not a whole .npz file ({error}); it was cut short, or is none"
        ) from error
    return found if isinstance(found, dict) else {}


def _source(values: Mapping[str, Any]) -> Mapping[str, Any]:
    header = values.get("header", {})
    return header.get("source", {}) if isinstance(header, dict) else {}


def _check_readable(path: Path, name: str, item: h5py.Group | h5py.Dataset) -> None:
    if not isinstance(item, h5py.Dataset):
        return
    try:
        values = item[...]
    except OSError as error:
        raise UserError(f"{path}: /{name} cannot be read ({error})") from error
    if np.issubdtype(item.dtype, np.floating) and np.isnan(values).any():
        raise UserError(f"{path}: /{name} holds NaN")
