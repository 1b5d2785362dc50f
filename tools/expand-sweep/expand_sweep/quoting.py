"""Words as bash and sbatch read them, so that every value arrives as it stands in the sweep."""

from __future__ import annotations

import re
from collections.abc import Iterable

_SAFE = re.compile(r"[A-Za-z0-9_./:,=@%+-]+")
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", "'": "\\'"}


def quote(word: str) -> str:
    """A word of bash, on one line and silent in shellcheck; the plainest form that keeps it as it is."""
    if _SAFE.fullmatch(word):
        return word
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in word):
        return "$'" + "".join(_ansi_c(letter) for letter in word) + "'"
    if word.startswith("~"):
        return "\\~" + (quote(word[1:]) if word[1:] else "")
    if word.isascii() and not re.search(r"['$`\\]", word):
        return f"'{word}'"
    return '"' + re.sub(r'(["$`\\])', r"\\\1", word) + '"'


def quote_all(words: Iterable[str]) -> str:
    return " ".join(map(quote, words))


def _ansi_c(letter: str) -> str:
    if letter in _NAMED:
        return _NAMED[letter]
    return f"\\x{ord(letter):02x}" if ord(letter) < 32 or ord(letter) == 127 else letter


def quote_header(value: str) -> str:
    """The value of an #SBATCH line, which sbatch splits like a shell but never expands."""
    return value if _SAFE.fullmatch(value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
