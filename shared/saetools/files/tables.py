"""CSV tables of ours, each with a sidecar `NAME.csv.json`: its provenance, number of rows, and SHA-256."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saetools.errors import UserError, near_names
from saetools.files.atomic import write_text
from saetools.files.formats import TABLES, Format
from saetools.files.provenance import Provenance, check_format

if TYPE_CHECKING:
    import pandas as pd

ROWS, SHA256 = "rows", "sha256"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def write_csv(
    path: Path, table: pd.DataFrame, provenance: Provenance, more: Mapping[str, Any] | None = None
) -> None:
    """Write the sidecar and then the table, so that a table is never without its sidecar.

    more: further entries of the sidecar; `sidecar_values` reads them.
    """
    text = table.to_csv(index=False)
    whole = {ROWS: len(table), SHA256: hashlib.sha256(text.encode()).hexdigest()}
    write_sidecar(path, {**asdict(provenance), **whole, **(more or {})})
    write_text(path, text)


def write_sidecar(path: Path, values: Mapping[str, Any]) -> None:
    """Write the sidecar of the CSV at `path`; an older one is replaced."""
    write_text(sidecar_path(path), json.dumps(values, indent=1, sort_keys=True) + "\n")


def read_csv(path: Path, formats: Format | Sequence[Format]) -> tuple[pd.DataFrame, Provenance]:
    """A table of ours and its provenance. An empty cell is NaN, and no other text is: NA may be a name.

    Raises UserError where the table or its sidecar is missing, of another format or a later version, cut short or
    edited. Sidecars of earlier versions have no SHA-256: then the number of rows is compared.
    """
    import pandas as pd

    values = sidecar_values(path)
    provenance = _provenance(values, formats, sidecar_path(path))
    again = f"write it again with {provenance.tool}"
    content = path.read_bytes()
    if SHA256 in values and (changed := _what_changed(content, values[SHA256])):
        raise UserError(
            f"{path}: its SHA-256 is not the one in {sidecar_path(path).name}: {changed};\n{again}, or restore it"
            " from a copy"
        )
    try:
        table = pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=[""])
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: it is not a CSV table in UTF-8 ({str(error).strip()}); {again}") from error
    if values.get(ROWS, len(table)) != len(table):
        raise UserError(
            f"{path}: it has {len(table)} rows, but {sidecar_path(path).name} says {values[ROWS]}: it was cut short or"
            f" edited; {again}"
        )
    return table, provenance


def _what_changed(content: bytes, digest: str) -> str | None:
    """What probably happened to a table since it was written; None if its bytes still have this SHA-256."""

    def is_it(candidate: bytes) -> bool:
        return hashlib.sha256(candidate).hexdigest() == digest

    if is_it(content):
        return None
    if is_it(content.removeprefix(BYTE_ORDER_MARK).replace(b"\r\n", b"\n")):
        mark = " and a byte order mark" if content.startswith(BYTE_ORDER_MARK) else ""
        return (
            f"its lines now end in CRLF{mark}, as git (core.autocrlf), Excel and editors on Windows write them"
            if b"\r\n" in content
            else "it now begins with a byte order mark, as Excel and editors on Windows write it"
        )
    if not content.endswith(b"\n"):
        return "its last line is not complete, so it was probably cut short"
    return "it was edited or cut short"


def read_table(path: str | Path) -> pd.DataFrame:
    """Any table of ours as a DataFrame, checked against its sidecar, whose values are in `table.attrs`.

    Raises UserError where the table or its sidecar is missing, broken or of a later version.
    """
    table, provenance = read_csv(Path(path), TABLES)
    table.attrs = asdict(provenance)
    return table


def check_columns(path: Path, table: pd.DataFrame, wanted: Sequence[str], what: str) -> None:
    """Raise UserError unless the table has the columns that `what` needs."""
    if missing := [name for name in wanted if name not in table.columns]:
        raise UserError(
            f"{path}: it has no column {missing[0]!r}, which {what} needs"
            f"{near_names(missing[0], list(map(str, table.columns)))}"
        )


def sidecar_values(path: Path) -> dict[str, Any]:
    """The sidecar of the CSV at `path`, of any format; raises UserError where either is missing, or it is broken."""
    sidecar = sidecar_path(path)
    if not path.is_file():
        there = f", though {sidecar.name} is there" if sidecar.is_file() else ""
        raise UserError(f"{path}: no such file{there}; expected a CSV table")
    try:
        found = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: its sidecar {sidecar.name} is missing, which has its provenance; keep the two files together,"
            " or write the table again"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{path}: its sidecar {sidecar.name} is broken ({error}); write both again"
        ) from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: its sidecar {sidecar.name} is not a JSON object; write both again")
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
