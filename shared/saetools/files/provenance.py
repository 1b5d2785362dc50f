"""Provenance: where a file comes from. In HDF5 files as root attributes, for a CSV in its sidecar `NAME.csv.json`."""

from __future__ import annotations

import json
import shlex
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from saetools import __version__
from saetools.errors import UserError
from saetools.files.formats import Format
from saetools.files.reading import reading


@dataclass(frozen=True)
class Provenance:
    format: str
    format_version: int
    tool: str
    command: str
    settings: Mapping[str, Any]
    parents: Sequence[str] = ()
    uid: str = field(default_factory=lambda: uuid.uuid4().hex)
    tool_version: str = __version__
    complete: bool = True

    @staticmethod
    def of(format: Format, tool: str, settings: Mapping[str, Any], parents: Sequence[str] = ()) -> Provenance:
        """The provenance of a file that the running command is about to write."""
        return Provenance(format.name, format.version, tool, command_line(), settings, tuple(parents))

    def to_attributes(self) -> dict[str, Any]:
        """As HDF5 attributes: scalars as they are, the rest as JSON text."""
        return {
            name: canonical_json(value) if isinstance(value, Mapping | list | tuple) else value
            for name, value in asdict(self).items()
        }

    @staticmethod
    def from_attributes(attributes: Mapping[str, Any], format: Format, path: Path) -> Provenance:
        """Read it back; raises UserError where the file is of another format, too new, or incomplete."""
        check_format(attributes, format, path)
        values = {name: _plain(attributes[name]) for name in _FIELDS if name in attributes}
        for name in ("settings", "parents"):
            if isinstance(values.get(name), str):
                with reading(path, f"write the file again with {format.made_by}"):
                    values[name] = json.loads(values[name])
        return Provenance.from_json(values, format, path)

    @staticmethod
    def from_json(values: Mapping[str, Any], format: Format, path: Path) -> Provenance:
        """The same of a mapping that may hold more; raises UserError where a field is missing or of another type."""
        if missing := [name for name in _FIELDS if name not in values]:
            raise UserError(
                f"{path}: the attribute {missing[0]!r} is missing; {format.name} files have it;"
                f" write the file again with {format.made_by}"
            )
        found = Provenance(**{name: values[name] for name in _FIELDS})
        wrong = [name for name in ("tool", "command", "uid") if not isinstance(getattr(found, name), str)]
        wrong += [] if isinstance(found.settings, dict) else ["settings"]
        listed = isinstance(found.parents, list) and all(isinstance(uid, str) for uid in found.parents)
        if wrong := wrong + ([] if listed else ["parents"]):
            raise UserError(
                f"{path}: the attribute {wrong[0]!r} is of another type than {format.name} files have; write the file"
                f" again with {format.made_by}"
            )
        return found


_FIELDS = list(Provenance.__dataclass_fields__)


def check_format(attributes: Mapping[str, Any], format: Format, path: Path) -> None:
    """Raise UserError unless `attributes` are those of a complete file of this format and a known version."""
    found = _plain(attributes.get("format", "no format name"))
    if found != format.name:
        raise UserError(
            f"{path}: found {found!r}, expected format {format.name!r};"
            f" give a file that {format.made_by} has written"
        )
    version = _plain(attributes.get("format_version", 0))
    if not isinstance(version, int) or not 1 <= version <= format.version:
        raise UserError(
            f"{path}: found version {version} of {format.name}, this version of saetools reads 1 to {format.version};"
            f" update saetools, or write the file again with {format.made_by}"
        )
    if not attributes.get("complete", False):
        raise UserError(
            f"{path}: it is not complete (its writer was stopped); write it again with {format.made_by}"
        )


def command_line() -> str:
    """The command as it was typed, quoted for a shell; bytes that are not UTF-8 as escapes."""
    typed = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return typed.encode("utf-8", "backslashreplace").decode()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def first_difference(mine: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first setting in which two mappings differ, as `name: a against b`; None if they are equal."""
    for name in sorted({*mine, *other}):
        if mine.get(name) != other.get(name):
            return f"{name}: {mine.get(name)!r} against {other.get(name)!r}"
    return None


def _plain(value: Any) -> Any:
    """An attribute as read by h5py (numpy scalar, bytes) as a plain Python value."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value.item() if hasattr(value, "item") else value
