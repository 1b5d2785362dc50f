"""CSV tables with their provenance beside them, in `NAME.csv.json`: written, and read only where they are whole."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saetools.errors import UserError, near_names
from saetools.files.atomic import write_text
from saetools.files.formats import Format
from saetools.files.provenance import Provenance, check_format

if TYPE_CHECKING:
    import pandas as pd

ROWS = "rows"


@dataclass(frozen=True)
class WholeCsv:
    """The bytes of a table of ours, header and all, which are what was written."""

    text: bytes
    n_rows: int
    provenance: Provenance


def write_csv(
    path: Path, table: pd.DataFrame, provenance: Provenance, more: Mapping[str, Any] | None = None
) -> None:
    """Write the provenance and then the table: where the table is, its provenance is too.

    more: what else its sidecar says, which takes no part in what the table is (`sidecar_values` reads it).
    """
    write_sidecar(path, {**asdict(provenance), ROWS: len(table), **(more or {})})
    write_text(path, table.to_csv(index=False))


def write_sidecar(path: Path, values: Mapping[str, Any]) -> None:
    """The sidecar of the CSV at `path`, over the one that is there."""
    write_text(sidecar_path(path), json.dumps(values, indent=1, sort_keys=True) + "\n")


def read_csv(path: Path, formats: Format | Sequence[Format]) -> tuple[pd.DataFrame, Provenance]:
    """A table of ours and where it comes from. An empty cell is NaN, and no other text is: NA may be a name.

    Raises UserError where the table or its sidecar is missing, of another format or a later version, or cut short.
    """
    import pandas as pd

    whole = read_whole(path, formats)
    try:
        table = pd.read_csv(io.BytesIO(whole.text), keep_default_na=False, na_values=[""])
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(
            f"{path}: it is not a CSV table ({str(error).strip()}); {_again(whole.provenance)}"
        ) from error
    return table, whole.provenance


def check_columns(path: Path, table: pd.DataFrame, wanted: Sequence[str], what: str) -> None:
    """Raise UserError unless the table has the columns that `what` needs."""
    if missing := [name for name in wanted if name not in table.columns]:
        raise UserError(
            f"{path}: it has no column {missing[0]!r}, which {what} needs"
            f"{near_names(missing[0], list(map(str, table.columns)))}"
        )


def read_whole(path: Path, formats: Format | Sequence[Format]) -> WholeCsv:
    """A table of ours as it stands in its file, every line of which has as many fields as the first; UserError else."""
    values = sidecar_values(path)
    provenance = _provenance(values, formats, sidecar_path(path))
    again = _again(provenance)
    text = path.read_bytes()
    if not text.endswith(b"\n"):
        raise UserError(f"{path}: its last line has no end: it was cut short; {again}")
    n_rows = count_rows(path, text, again)
    if ROWS in values and values[ROWS] != n_rows:
        raise UserError(
            f"{path}: it has {n_rows} rows, but {sidecar_path(path).name} says {values[ROWS]}: it was cut short or"
            f" edited; {again}"
        )
    return WholeCsv(text, n_rows, provenance)


def count_rows(path: Path, text: bytes, what_to_do: str) -> int:
    """Lines below the header, all with as many fields as it; raises UserError for one with more or fewer."""
    try:
        decoded = text.decode("utf-8")
        n_lines, n_fields, odd = _plain_lines(text) if b'"' not in text else _quoted_lines(decoded)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: it is not a CSV table in UTF-8 ({error}); {what_to_do}") from error
    if odd is not None:
        line, found = odd
        raise UserError(f"{path}: line {line} has {found} fields, the first line {n_fields}; {what_to_do}")
    return n_lines - 1


def sidecar_values(path: Path) -> dict[str, Any]:
    """What stands in the sidecar of the CSV at `path`, of whatever format; raises UserError where it is missing."""
    sidecar = sidecar_path(path)
    if not path.is_file():
        there = f", though {sidecar.name} is there" if sidecar.is_file() else ""
        raise UserError(f"{path}: no such file{there}; expected a CSV table")
    try:
        found = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: {sidecar.name} is missing, without which nobody knows where it is from; keep the two together,"
            " or write the table again"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: {sidecar.name} is broken ({error}); write both again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: {sidecar.name} holds no mapping; write both again")
    return found


def sidecar_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _provenance(values: Mapping[str, Any], formats: Format | Sequence[Format], sidecar: Path) -> Provenance:
    known = {format.name: format for format in ([formats] if isinstance(formats, Format) else formats)}
    found = values.get("format", "no format name")
    if found not in known and len(known) > 1:
        tools = dict.fromkeys(format.made_by for format in known.values())
        raise UserError(
            f"{sidecar}: found {found!r}, expected one of {', '.join(known)};"
            f" give a table that {' or '.join(tools)} has written"
        )
    format = known.get(found) or next(iter(known.values()))
    names = [field.name for field in fields(Provenance)]
    try:
        check_format(values, format, sidecar)
        if not isinstance(values["settings"], Mapping):
            raise ValueError("its settings are no mapping")
        return Provenance(**{name: values[name] for name in names})
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{sidecar}: it is broken: {what}; write it again with {format.made_by}") from error


def _again(provenance: Provenance) -> str:
    return f"write it again with {provenance.tool}"


def _plain_lines(text: bytes) -> tuple[int, int, tuple[int, int] | None]:
    """Of text without quotes: lines, fields of the first, and (number, fields) of the first with others."""
    values = np.frombuffer(text, np.uint8)
    end_l = np.flatnonzero(values == ord("\n"))
    comma = np.flatnonzero(values == ord(","))
    n_fields_l = np.diff(np.searchsorted(comma, end_l), prepend=0) + 1
    odd_l = np.flatnonzero(n_fields_l != n_fields_l[0])
    odd = (int(odd_l[0]) + 1, int(n_fields_l[odd_l[0]])) if len(odd_l) else None
    return len(end_l), int(n_fields_l[0]), odd


def _quoted_lines(text: str) -> tuple[int, int, tuple[int, int] | None]:
    """The same of text in which commas and ends of line may stand within quotes."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    n_fields = len(next(rows))
    n_lines = 1
    for row in rows:
        if len(row) != n_fields:
            return n_lines, n_fields, (rows.line_num, len(row))
        n_lines += 1
    return n_lines, n_fields, None
