"""Whether an existing file is the one that a command would write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from saetools.errors import UserError
from saetools.files.formats import Format
from saetools.files.provenance import Provenance, first_difference
from saetools.files.tables import read_csv

if TYPE_CHECKING:
    import pandas as pd


def check_reusable(path: Path, found: Provenance, wanted: Provenance) -> None:
    """Raise UserError, naming the first difference, unless both have the same settings and parents."""
    mine, other = ({**each.settings, "parents": list(each.parents)} for each in (found, wanted))
    if difference := first_difference(mine, other):
        raise UserError(
            f"{path}: it was made with other settings: {difference}; choose another `out`, or remove it"
        )


def read_reusable(path: Path, format: Format, wanted: Provenance) -> pd.DataFrame | None:
    """The table at `path`, or None if there is none; raises UserError if it is broken, or made with other settings."""
    if not path.exists():
        return None
    table, found = read_csv(path, format)
    check_reusable(path, found, wanted)
    return table
