"""Templates: text with {name} in it.

{name}      the value; a list repeats the whole word of a command, once for each of its values
{name:SEP}  the values of a list in one word, SEP between them: --layers={layers:,}
{{ }}       a brace
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saetools.cli.located_yaml import Text, fail
from saetools.errors import near_names

Resolved = str | list[str]

MOST_LETTERS = 4_000_000  # of a value: twice what the arguments of a command may be together on Linux

_PART = re.compile(r"\{\{|\}\}|\{([A-Za-z_][\w-]*)(?::([^{}]*))?\}|([{}])")


@dataclass(frozen=True)
class _Reference:
    name: str
    separator: str | None


class Template:
    """One text with its references; `where` is for messages."""

    def __init__(self, text: str, where: str) -> None:
        self.where = where
        self.text = text
        self._parts: list[str | _Reference] = []
        position = 0
        for found in _PART.finditer(text):
            if found[3]:
                raise fail(
                    self, f"a {found[3]!r} alone in {text!r}; write {{name}}, or {found[3] * 2} for a brace"
                )
            literal = text[position : found.start()] + (found[0][0] if not found[1] else "")
            self._parts.append(literal)
            if found[1]:
                self._parts.append(_Reference(found[1], found[2]))
            position = found.end()
        self._parts.append(text[position:])
        self.names = [part.name for part in self._parts if isinstance(part, _Reference)]
        self._constant = None if self.names else "".join(map(str, self._parts))

    def words(self, values: Mapping[str, Resolved]) -> list[str]:
        """The words that it expands to: one, or one for each value of the list that it refers to."""
        if self._constant is not None:
            return [self._constant]
        filled: list[str] = []
        size = 0
        listed: list[str] | None = None
        place = 0
        for part in self._parts:
            if isinstance(part, str):
                filled.append(part)
                size += len(part)
                continue
            if part.name not in values:
                raise fail(
                    self,
                    f"{{{part.name[:60]}}} is not defined here{near_names(part.name, list(values))};"
                    f" defined are {', '.join(sorted(values))}",
                )
            value = values[part.name]
            size += (
                len(value)
                if isinstance(value, str)
                else _size(value) + len(value) * len(part.separator or "")
            )
            self._check_size(size)
            if isinstance(value, str):
                filled.append(value)
            elif part.separator is not None:
                filled.append(part.separator.join(value))
            elif listed is not None:
                raise fail(self, f"two lists in {self.text!r}; join one of them: {{{part.name}:,}}")
            else:
                listed, place = value, len(filled)
                filled.append("")
        if listed is None:
            return ["".join(filled)]
        self._check_size(size + len(listed) * sum(map(len, filled)))
        return ["".join(filled[:place]) + word + "".join(filled[place + 1 :]) for word in listed]

    def _check_size(self, size: int) -> None:
        if size > MOST_LETTERS:
            raise fail(
                self,
                f"{self.text[:60]!r} becomes longer than {MOST_LETTERS:,} characters; write fewer values",
            )

    def is_list(self, values: Mapping[str, Resolved]) -> bool:
        """Whether it refers to a list without joining it."""
        return any(
            isinstance(part, _Reference) and part.separator is None and not isinstance(values[part.name], str)
            for part in self._parts
        )

    def word(self, values: Mapping[str, Resolved]) -> str:
        """The single word that it expands to; raises UserError where it refers to a list."""
        words = self.words(values)
        if len(words) != 1:
            raise fail(
                self, f"{self.text!r} has {len(words)} values; expected one: join them with {{name:,}}"
            )
        return words[0]


@functools.lru_cache(maxsize=4096)
def compiled(text: str, where: str) -> Template:
    """The template of a text, which many tasks fill in."""
    return Template(text, where)


def resolve(value: Text | list[Text], values: Mapping[str, Resolved]) -> Resolved:
    """A value with its references filled in; a text that refers to a list, and does not join it, is a list too."""
    if not isinstance(value, str):
        words, size = [], 0
        for item in value:
            found = resolve_words(item, values)
            words += found
            size += _size(found)
            if size > MOST_LETTERS:
                raise fail(
                    item, f"this list becomes longer than {MOST_LETTERS:,} characters; write fewer values"
                )
        return words
    if "{" not in value and "}" not in value:
        return value
    template = compiled(value, value.where)
    if len(template.names) == 1 and value == f"{{{template.names[0]}}}" and template.names[0] in values:
        return values[template.names[0]]  # itself, with its place in the file
    filled = template.words(values)
    return filled if template.is_list(values) else filled[0]


def resolve_words(item: Text, values: Mapping[str, Resolved]) -> list[str]:
    resolved = resolve(item, values)
    return [resolved] if isinstance(resolved, str) else resolved


def _size(words: Sequence[str]) -> int:
    return sum(map(len, words)) + len(words)
