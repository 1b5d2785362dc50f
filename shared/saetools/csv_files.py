"""CSV tables with their provenance beside them, in `NAME.csv.json`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from saetools.atomic import write_text
from saetools.errors import UserError
from saetools.provenance import Format, Provenance, check_format

if TYPE_CHECKING:
    import pandas as pd


def write_csv(path: Path, table: pd.DataFrame, provenance: Provenance) -> None:
    """Write the provenance and then the table: where the table is, its provenance is too."""
    write_text(sidecar_path(path), json.dumps(asdict(provenance), indent=1, sort_keys=True) + "\n")
    write_text(path, table.to_csv(index=False))


def read_sidecar(path: Path, format: Format) -> Provenance:
    """The provenance of the CSV at `path`; raises UserError where it is missing or not of this format."""
    sidecar = sidecar_path(path)
    try:
        values = json.loads(sidecar.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(
            f"{sidecar}: missing or broken, but {path.name} needs it to say where it comes from;"
            f" write both again with {format.made_by}"
        ) from error
    check_format(values, format, sidecar)
    return Provenance(**values)


def sidecar_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")
