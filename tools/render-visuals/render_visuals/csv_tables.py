"""The CSV tables that pictures and plots are made from: ours, which must be whole, and people's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saetools.csv_files import count_rows, read_csv, sidecar_path, sidecar_values
from saetools.errors import UserError
from saetools.provenance import Format, Provenance
from saetools.table_formats import AP_TABLE, LATENT_PICTURES, LATENT_RANKING, LATENT_TABLE, PROBE_TABLE

if TYPE_CHECKING:
    import pandas as pd

LATENT_TABLES = (LATENT_TABLE, PROBE_TABLE, AP_TABLE, LATENT_RANKING, LATENT_PICTURES)
# A table with all columns of one of these is ours: without its sidecar it is broken, while others may be somebody's
# own. Chosen so that neither collected runs nor the notes of a page, which have no sidecar, have them all.
MARKS = (
    {"trait", "prototype"},  # AP table
    {"tokens", "eval_nmse"},  # training metrics
    {"latent", "baseline_loss"},  # probe table
    {"latent", "mean_value", "train_r"},  # latent table
    {"latent", "picture"},  # pictures of latents
)


def read_table(path: Path, formats: Sequence[Format]) -> tuple[pd.DataFrame, Provenance | None]:
    """A table of ours of one of these formats and its provenance, or somebody's own table, which has none.

    Raises UserError where it is broken, or has no rows.
    """
    if sidecar_path(path).is_file():
        table, provenance = read_csv(path, formats)
        _check_rows(path, table)
        return table, provenance
    table = read_own(path)
    if any(mark <= set(table.columns) for mark in MARKS):
        sidecar_values(path)  # says that it is missing
    text = path.read_bytes()
    count_rows(path, text if text.endswith(b"\n") else text + b"\n", "mend it, or write it again")
    return table, None


def read_own(path: Path) -> pd.DataFrame:
    """A CSV as it is; raises UserError where it is none, or has no rows."""
    import pandas as pd

    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a CSV table")
    try:
        table = pd.read_csv(path)
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: it is not a CSV table ({str(error).strip()})") from error
    _check_rows(path, table)
    return table


def _check_rows(path: Path, table: pd.DataFrame) -> None:
    if not len(table):
        raise UserError(f"{path}: it has a header but no rows; write it again")
