"""YAML that keeps, for each value, its text as typed and its place in the file, for errors with line and column.

`1e-3`, `007` and `on` stay as the user typed them, since they go to other programs as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from saetools.errors import UserError, near_names

# libyaml's parser is ten times as fast, and a part of PyYAML wherever that was installed as a wheel.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL, _MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


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
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UserError(f"{path}: {reason}; expected a sweep in YAML") from error
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
    if not (isinstance(value, Text) and value.isdecimal() and int(value) >= minimum):
        raise fail(value, f"{what} must be a whole number, at least {minimum}")
    return int(value)


def as_bool(value: Value, what: str) -> bool:
    if value not in ("true", "false"):
        raise fail(value, f"{what} must be true or false")
    return value == "true"


_Where = Callable[[int, int], str]  # (line, column), both from 1, to the place that errors name


def _parse(text: str, where: _Where) -> Value:
    try:
        node = yaml.compose(text, Loader=_LOADER)
        return _convert(node, where) if node is not None else Items(where(1, 1))
    except yaml.MarkedYAMLError as error:
        raise UserError(
            f"{_place(error.problem_mark, where)}: not YAML: {error.problem or error.context}"
        ) from error
    except yaml.YAMLError as error:
        raise UserError(f"{where(1, 1)}: not YAML: {str(error).splitlines()[0]}") from error


def _convert(node: yaml.Node, where: _Where) -> Value:
    place = _place(node.start_mark, where)
    if isinstance(node, yaml.ScalarNode):
        # libyaml gives a plain scalar the style "", PyYAML None
        return Items(place) if node.tag == _NULL else Text(node.value, place, plain=not node.style)
    if isinstance(node, yaml.SequenceNode):
        return Items(place, [_convert(item, where) for item in node.value])
    assert isinstance(node, yaml.MappingNode)
    table = Table(place)
    for key_node, value_node in _pairs(node, where):
        key = Text(key_node.value, _place(key_node.start_mark, where))
        if key in table:
            raise fail(key, f"the key {key!r} stands here twice; keep one")
        table[key] = _convert(value_node, where)
    return table


def _pairs(node: yaml.MappingNode, where: _Where) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
            raise UserError(f"{_place(key.start_mark, where)}: expected a plain key, key: value")
        yield key, value


def _place(mark: Any, where: _Where) -> str:
    return where(mark.line + 1, mark.column + 1) if mark is not None else where(1, 1)
