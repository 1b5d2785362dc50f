"""NPZ files with a seal, and with their provenance as JSON text in the member `saetools` beside the arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from saetools.errors import UserError
from saetools.files.atomic import atomic_path
from saetools.files.formats import Format
from saetools.files.provenance import Provenance, canonical_json, check_format
from saetools.files.reading import open_file, parse_json, reading
from saetools.files.seal import COMMENT, check_version, check_zip, seal_zip

HEADER = "saetools"


def write_npz(target: Path, provenance: Provenance, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays and provenance, complete or not at all."""
    text = np.array(canonical_json(asdict(provenance)))
    with atomic_path(target) as partial:
        with partial.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **{HEADER: text}, **arrays)
        with zipfile.ZipFile(partial, "a") as zip:
            zip.comment = bytes(COMMENT)
        seal_zip(partial, [])


def read_npz(path: Path, format: Format) -> tuple[Provenance, dict[str, np.ndarray]]:
    """Provenance and arrays; raises UserError where the file is damaged, of another format or a later version."""
    again = f"write it again with {format.made_by}"
    with open_file(path, f"expected {format.name}, as {format.made_by} writes it") as raw:
        seal = check_zip(raw, path, again)
        with reading(path, again), np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    values = _parse_header(arrays.pop(HEADER, None), path, again)
    check_format(values, format, path)
    check_version(seal, values["format_version"], format, path)
    return Provenance.from_json(values, format, path), arrays


def npz_header(path: Path) -> dict[str, Any]:
    """The provenance of an NPZ file of any format as JSON, after what its seal covers was compared."""
    again = "write it again with the tool that made it"
    with open_file(path, "expected an NPZ file of saetools") as raw:
        check_zip(raw, path, again)
        with reading(path, again), np.load(path, allow_pickle=False) as file:
            return _parse_header(file.get(HEADER), path, again)


def _parse_header(text: np.ndarray | None, path: Path, again: str) -> dict[str, Any]:
    if text is None:
        raise UserError(
            f"{path}: it has no member {HEADER!r} with its provenance: not a file of saetools; {again}"
        )
    return parse_json(str(text), path, f"its member {HEADER!r}", again)
