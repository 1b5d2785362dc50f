"""Reads CSV tables of any of our tools, with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from saetools.errors import UserError, near_names

if TYPE_CHECKING:
    import pandas as pd


def read_table(path: Path) -> pd.DataFrame:
    """A CSV as it is; raises UserError where it is none, or has no rows."""
    import pandas as pd

    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a CSV table")
    try:
        table = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: it is not a CSV table ({str(error).strip()})") from error
    if not len(table):
        raise UserError(f"{path}: it has a header but no rows; write it again")
    return table


def check_columns(path: Path, table: pd.DataFrame, wanted: list[str], what: str) -> None:
    """Raise UserError unless the table has the columns that `what` needs."""
    missing = [name for name in wanted if name not in table.columns]
    if missing:
        raise UserError(
            f"{path}: it has no column {missing[0]!r}, which {what} needs"
            f"{near_names(missing[0], list(table.columns))}"
        )
