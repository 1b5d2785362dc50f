"""NPZ files with their provenance: JSON text in the member `saetools` beside the arrays."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np

from saetools.errors import UserError
from saetools.files.atomic import atomic_path
from saetools.files.formats import Format
from saetools.files.provenance import Provenance, canonical_json, check_format

HEADER = "saetools"


def write_npz(target: Path, provenance: Provenance, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays and provenance, complete or not at all."""
    text = np.array(canonical_json(asdict(provenance)))
    with atomic_path(target) as partial, partial.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **{HEADER: text}, **arrays)


def read_npz(path: Path, format: Format) -> tuple[Provenance, dict[str, np.ndarray]]:
    """Provenance and arrays; raises UserError where the file is broken, of another format or a later version."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; expected {format.name}, as {format.made_by} writes it"
        ) from error
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise UserError(
            f"{path}: not a whole .npz file ({error}); write it again with {format.made_by}"
        ) from error
    if HEADER not in arrays:
        raise UserError(
            f"{path}: it has no member {HEADER!r} with its provenance; expected {format.name}, as"
            f" {format.made_by} writes it"
        )
    values = json.loads(str(arrays.pop(HEADER)))
    check_format(values, format, path)
    return Provenance(**values), arrays
