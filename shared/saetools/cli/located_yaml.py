"""YAML that keeps, for each value, its text as typed and its place in the file, for errors with line and column.

`1e-3`, `007` and `on` stay as the user typed them, since they go to other programs as text.

A file has at most MOST_BYTES bytes and MOST_LEVELS levels, and its aliases repeat at most MOST_ALIASED values in all: a
few lines of aliases of aliases can stand for more values than fit into memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from saetools.errors import UserError, near_names

# libyaml's parser is ten times as fast, and a part of PyYAML wherever that was installed as a wheel.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"
_NULLS = ("", "~", "null", "Null", "NULL")

MOST_BYTES = 10_000_000
MOST_LEVELS = 100
MOST_ALIASED = 100_000
# What YAML cannot hold, and what only its escapes can.
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")


class Text(str):
    """A scalar, as typed. where: FILE:LINE:COLUMN; plain: it was written without quotes"""

    where: str
    plain: bool

    def __new__(cls, text: str, where: str, plain: bool = False) -> Text:
        made = super().__new__(cls, text)
        made.where, made.plain = where, plain
        return made


class Items(list["Value"]):
    """A sequence; null (nothing at all) is an empty one."""

    def __init__(self, where: str, items: Sequence[Value] = ()) -> None:
        super().__init__(items)
        self.where = where


class Table(dict[str, "Value"]):
    """A mapping; its keys are Text."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where


Value = Text | Items | Table


def fail(value: Any, message: str) -> UserError:
    """The error to raise about a value: FILE:LINE:COLUMN: message."""
    return UserError(f"{value.where}: {message}")


def read_yaml(path: Path, expected: str = "a mapping with `steps:`") -> Table:
    """The mapping that the file holds; raises UserError with its place where it is no such YAML.

    expected: what the file should hold, for the error.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; expected a sweep in YAML") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: not UTF-8 text (byte {content[error.start]:#04x}); expected a sweep in YAML as UTF-8"
        ) from error
    if len(content) > MOST_BYTES:
        raise UserError(
            f"{path}: larger than {MOST_BYTES:,} bytes; expected a sweep in YAML; write fewer values"
        )
    value = _parse(text, lambda line, column: f"{path}:{line}:{column}")
    if not isinstance(value, Table):
        raise UserError(f"{value.where}: expected {expected}")
    return value


def as_yaml(table: Mapping[str, Value | str]) -> str:
    """The mapping as YAML that `read_yaml` reads as the same: every scalar quoted, nothing at all as an empty list."""

    def plain(value: Value | str) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list) else str(value)

    return str(
        yaml.safe_dump(
            {str(key): plain(value) for key, value in table.items()},
            default_style='"',
            sort_keys=False,
            allow_unicode=True,
        )
    )


def parse_setting(text: str, option: str) -> Value:
    """The value of --set KEY=VALUE: the text itself, a list where it starts with [, nothing where it is empty."""
    if odd := _IMPOSSIBLE.search(text):
        raise UserError(f"{option}: holds {odd[0]!r}, which is not UTF-8; expected plain text")
    if text.startswith("["):
        return _parse(text, lambda _line, _column: option)
    return Text(text, option) if text else Items(option)


def set_value(table: Table, keys: Sequence[str], value: Value) -> None:
    """Put `value` under the path `keys`, making the mappings on the way."""
    for key in keys[:-1]:
        inner = table.get(key)
        if not isinstance(inner, Table):
            inner = Table(value.where)
            table[Text(key, value.where)] = inner
        table = inner
    table.pop(keys[-1], None)
    table[Text(keys[-1], value.where)] = value


def check_keys(table: Table, known: Sequence[str], what: str) -> None:
    """Raise UserError at the first key of `table` that is not known."""
    for key in table:
        if key not in known:
            raise fail(
                key,
                f"{what} has no key {key!r}{near_names(key, known)}; its keys are {', '.join(sorted(known))}",
            )


def as_table(value: Value | None, what: str, where: str = "") -> Table:
    """A mapping; an empty one where there is nothing."""
    if value is None or value == []:
        return Table(value.where if value is not None else where)
    if not isinstance(value, Table):
        raise fail(value, f"{what} must be a mapping, key: value")
    return value


def as_items(value: Value | None, what: str) -> Items:
    """A list; a single scalar is a list of one."""
    if isinstance(value, Table):
        raise fail(value, f"{what} must be a list: [a, b]")
    if isinstance(value, Text):
        return Items(value.where, [value])
    return value if value is not None else Items("")


def as_text(value: Value, what: str) -> Text:
    if not isinstance(value, Text):
        raise fail(value, f"{what} must be a single value")
    return value


def as_texts(value: Value | None, what: str) -> list[Text]:
    """A list of scalars; a single one is a list of one."""
    return [as_text(item, what) for item in as_items(value, what)]


def as_text_or_list(value: Value, what: str) -> Text | list[Text]:
    return value if isinstance(value, Text) else as_texts(value, what)


def as_number(value: Value, what: str, minimum: int) -> int:
    if not (isinstance(value, Text) and re.fullmatch("[0-9]{1,9}", value) and int(value) >= minimum):
        raise fail(value, f"{what} must be a whole number, at least {minimum}")
    return int(value)


def as_bool(value: Value, what: str) -> bool:
    if value not in ("true", "false"):
        raise fail(value, f"{what} must be true or false")
    return value == "true"


_Where = Callable[[int, int], str]  # (line, column), both from 1, to the place that errors name


def _parse(text: str, where: _Where) -> Value:
    if odd := _UNREADABLE.search(text):
        line, column = text.count("\n", 0, odd.start()) + 1, odd.start() - text.rfind("\n", 0, odd.start())
        raise UserError(
            f"{where(line, column)}: found {odd[0]!r}, a control character or half of one of Unicode; remove it, or"
            " write it as an escape in double quotes"
        )
    try:
        return _Builder(where).build(yaml.parse(text, Loader=_LOADER))
    except yaml.MarkedYAMLError as error:
        raise UserError(
            f"{_place(error.problem_mark, where)}: not YAML: {error.problem or error.context}"
        ) from error
    except (yaml.YAMLError, ValueError) as error:  # PyYAML's own scanner has ValueError for \U00110000
        raise UserError(f"{where(1, 1)}: not YAML: {str(error).splitlines()[0]}") from error


@dataclass
class _Open:
    """A sequence or mapping that has not ended; size: its nodes so far, deepest: levels below it."""

    value: Items | Table
    anchor: str | None
    key: Text | None = None
    size: int = 1
    deepest: int = 0


class _Builder:
    """Events of a parser to values, without recursion; an alias becomes a copy of what its anchor holds."""

    def __init__(self, where: _Where) -> None:
        self.where = where
        self.anchors: dict[str, tuple[Value, int, int] | None] = {}  # None: not ended; value, nodes, levels
        self.n_aliased = 0
        self.open: list[_Open] = []
        self.root: Value | None = None

    def build(self, events: Iterable[yaml.Event]) -> Value:
        n_documents = 0
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                n_documents += 1
                if n_documents > 1:
                    raise self._fail(event, "not YAML: expected a single document, without a second ---")
            elif isinstance(event, yaml.ScalarEvent):
                self._add_scalar(event)
            elif isinstance(event, yaml.AliasEvent):
                self._add_alias(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._check_key(event)
                if len(self.open) >= MOST_LEVELS:
                    raise self._fail(
                        event, f"more than {MOST_LEVELS} levels of lists and mappings; write it flatter"
                    )
                self._declare(event)
                kind = Table if isinstance(event, yaml.MappingStartEvent) else Items
                self.open.append(_Open(kind(self._place(event)), event.anchor))
            elif isinstance(event, yaml.CollectionEndEvent):
                ended = self.open.pop()
                self._add(ended.value, ended.anchor, ended.size, ended.deepest + 1)
        return self.root if self.root is not None else Items(self.where(1, 1))

    def _add_scalar(self, event: yaml.ScalarEvent) -> None:
        plain = event.tag in (None, "!") and event.implicit[0]
        text = Text(event.value, self._place(event), plain=not event.style)
        if odd := _IMPOSSIBLE.search(text):
            raise fail(
                text, f"holds {odd[0]!r}, which no file name and no argument of a command can hold; remove it"
            )
        self._declare(event)
        if self._awaits_key():
            if event.tag == _MERGE or (plain and event.value == "<<"):
                raise fail(text, "expected a plain key, key: value")
            self._add(text, event.anchor, 1, 1)
            return
        is_null = event.tag == _NULL or (plain and event.value in _NULLS)
        self._add(Items(text.where) if is_null else text, event.anchor, 1, 1)

    def _add_alias(self, event: yaml.AliasEvent) -> None:
        name = event.anchor
        if name not in self.anchors:
            raise self._fail(event, f"not YAML: found undefined alias {name!r}")
        found = self.anchors[name]
        if found is None:
            raise self._fail(
                event, f"the alias *{name} stands inside of what it repeats; write the value out"
            )
        value, size, levels = found
        if not isinstance(value, Text):
            self._check_key(event)
        self.n_aliased += size
        if self.n_aliased > MOST_ALIASED:
            raise self._fail(
                event,
                f"its aliases repeat more than {MOST_ALIASED:,} values; write fewer, or make a list of `values:`",
            )
        if len(self.open) + levels > MOST_LEVELS:
            raise self._fail(event, f"more than {MOST_LEVELS} levels of lists and mappings; write it flatter")
        self._add(_copy(value), None, size, levels)

    def _add(self, value: Value, anchor: str | None, size: int, levels: int) -> None:
        if anchor is not None:
            self.anchors[anchor] = (value, size, levels)
        if not self.open:
            self.root = value
            return
        inside = self.open[-1]
        inside.size += size
        inside.deepest = max(inside.deepest, levels)
        if isinstance(inside.value, Items):
            inside.value.append(value)
        elif inside.key is None:
            inside.key = value if isinstance(value, Text) else Text("", value.where)
            if inside.key in inside.value:
                raise fail(inside.key, f"the key {str(inside.key)!r} stands here twice; keep one")
        else:
            inside.value[inside.key] = value
            inside.key = None

    def _declare(self, event: Any) -> None:
        if event.anchor is not None:
            if event.anchor in self.anchors:
                raise self._fail(event, f"not YAML: found duplicate anchor {event.anchor!r}")
            self.anchors[event.anchor] = None

    def _awaits_key(self) -> bool:
        return bool(self.open) and isinstance(self.open[-1].value, Table) and self.open[-1].key is None

    def _check_key(self, event: yaml.Event) -> None:
        if self._awaits_key():
            raise self._fail(event, "expected a plain key, key: value")

    def _place(self, event: yaml.Event) -> str:
        return _place(event.start_mark, self.where)

    def _fail(self, event: yaml.Event, message: str) -> UserError:
        return UserError(f"{self._place(event)}: {message}")


def _copy(value: Value) -> Value:
    """A copy, so that --set of one place leaves the others."""
    if isinstance(value, Text):
        return value
    if isinstance(value, Items):
        return Items(value.where, [_copy(item) for item in value])
    table = Table(value.where)
    table.update((key, _copy(item)) for key, item in value.items())
    return table


def _place(mark: Any, where: _Where) -> str:
    return where(mark.line + 1, mark.column + 1) if mark is not None else where(1, 1)
