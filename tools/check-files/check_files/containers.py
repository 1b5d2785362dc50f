"""What HDF5, NPZ and CSV files of every format hold: a known format and version, and bytes that are whole."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from check_files.facts import Facts
from saetools.errors import UserError
from saetools.files.formats import Format
from saetools.files.hdf5 import open_hdf5
from saetools.files.npz import HEADER
from saetools.files.provenance import Provenance, check_format
from saetools.files.tables import read_whole, sidecar_values

ANY = Format("any format of saetools", 1, "the tool that made it")
SUFFIXES = (".h5", ".npz", ".csv")
NAN_CELL = re.compile(rb'(?im)(?:^|,)"?nan"?(?=,|\r?$)')


def format_name(path: Path) -> str:
    """The format that a file says it has; raises UserError where it is no whole file of a known container."""
    if path.suffix == ".csv":
        found: Any = sidecar_values(path).get("format")
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
    """What every reader of tables checks, and with `deep` that no cell is NaN: empty is what does not apply."""
    whole = read_whole(path, format)
    if deep and b"nan" in whole.text.lower() and (found := NAN_CELL.search(whole.text)):
        line = whole.text.count(b"\n", 0, found.start()) + 1
        raise UserError(f"{path}: line {line} holds NaN; empty is what does not apply")
    return Facts(f"{format.name}, {whole.n_rows} rows", whole.provenance.uid, whole.provenance.parents)


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
