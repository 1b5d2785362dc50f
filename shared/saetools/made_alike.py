"""Whether what is there already is what a command would write."""

from __future__ import annotations

from pathlib import Path

from saetools.errors import UserError
from saetools.provenance import Provenance, first_difference


def check_made_alike(path: Path, found: Provenance, wanted: Provenance) -> None:
    """Raise UserError, naming the first difference, unless both have the same settings and parents."""
    mine, other = ({**each.settings, "parents": list(each.parents)} for each in (found, wanted))
    if difference := first_difference(mine, other):
        raise UserError(
            f"{path}: it was made with other settings: {difference}; choose another --out, or remove it"
        )
