"""CSV tables of ours, each with a sidecar `NAME.csv.json`: its provenance, number of rows, and SHA-256."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from saetools.errors import UserError, near_names
from saetools.files.atomic import write_text
from saetools.files.formats import TABLES, Format
from saetools.files.provenance import Provenance, canonical_json, check_format
from saetools.files.reading import parse_json, read_bytes
from saetools.files.seal import warn_unchecked
from saetools.files.user_csv import read_user_csv

if TYPE_CHECKING:
    import pandas as pd

ROWS, SHA256, OWN_DIGEST = "rows", "sha256", "xxh3_128"  # of a sidecar
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
    """Write the sidecar of the CSV at `path`, which begins with a digest of itself; an older one is replaced."""
    entries = json.loads(json.dumps(dict(values)))  # as they will be read
    entries.pop(OWN_DIGEST, None)
    text = json.dumps(entries, indent=2, sort_keys=True)
    write_text(sidecar_path(path), f'{{"{OWN_DIGEST}": "{_own_digest(entries)}",{text[1:]}\n')


def _own_digest(values: Mapping[str, Any]) -> str:
    """XXH3-128 of the entries of a sidecar, without the digest."""
    entries = {name: value for name, value in values.items() if name != OWN_DIGEST}
    return xxhash.xxh3_128_hexdigest(canonical_json(entries).encode("utf-8", "surrogatepass"))


def _needs_digest(values: Mapping[str, Any], content: bytes) -> bool:
    """Whether a sidecar must have a digest: not where it has no checksums, or was laid out by an earlier version."""
    return (SHA256 in values or ROWS in values) and not content.replace(b"\r\n", b"\n").startswith(b'{\n "')


def read_csv(path: Path, formats: Format | Sequence[Format]) -> tuple[pd.DataFrame, Provenance]:
    """A table of ours and its provenance. An empty cell is NaN, and no other text is: NA may be a name.

    Raises UserError where the table or its sidecar is missing, of another format or a later version, cut short or
    edited. Sidecars of earlier versions have no SHA-256, which a warning says: then the number of rows is compared.
    """
    import pandas as pd

    values = sidecar_values(path)
    provenance = _provenance(values, formats, sidecar_path(path))
    again = f"write it again with {provenance.tool}"
    content = read_bytes(path, "expected a CSV table")
    if SHA256 not in values:
        warn_unchecked(path, provenance.format)
    elif changed := _what_changed(content, values[SHA256]):
        raise UserError(
            f"{path}: its SHA-256 is not the one in {sidecar_path(path).name}: {changed};\n{again}, or restore it"
            " from a copy"
        )
    try:
        table = pd.read_csv(io.BytesIO(content), keep_default_na=False, na_values=[""])
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: it is not a CSV table in UTF-8 ({str(error).strip()}); {again}") from error
    if SHA256 not in values and len(table):
        read_user_csv(
            path, f"a CSV table; {again}"
        )  # for pandas moves the cells of odd lines to other columns
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
    if not path.exists():
        there = f", though {sidecar.name} is there" if sidecar.is_file() else ""
        raise UserError(f"{path}: no such file{there}; expected a CSV table")
    if not sidecar.exists():
        raise UserError(
            f"{path}: its sidecar {sidecar.name} is missing, which has its provenance; keep the two files together,"
            " or write the table again"
        )
    content = read_bytes(sidecar, f"expected the sidecar of {path.name}")
    found = parse_json(content, path, f"its sidecar {sidecar.name}", "write both again")
    own = _own_digest(found)
    if found.get(OWN_DIGEST, None if _needs_digest(found, content) else own) != own:
        raise UserError(
            f"{sidecar}: its digest is not that of its entries: it was damaged or edited; restore it from a copy, or"
            " write both again"
        )
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
    check_format(values, format, sidecar)
    return Provenance.from_json(values, format, sidecar)
