"""Quoting for bash and sbatch, so that every value reaches its program as it is written in the sweep."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from saetools.errors import UserError

_SAFE = re.compile(r"[A-Za-z0-9_./:,@%+-][A-Za-z0-9_./:,=@%+-]*")
_RESERVED = re.compile(
    r"if|then|else|elif|fi|for|while|until|do|done|case|esac|in|select|function|time|coproc"
)
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", "'": "\\'"}
_ESCAPED = re.compile("[\x00-\x1f\x7f“”‘’]")  # control characters, and quotation marks that look like bash's


def quote(word: str) -> str:
    """The word quoted for bash, on one line, without warnings of shellcheck, in the plainest form."""
    if _SAFE.fullmatch(word) and not _RESERVED.fullmatch(word):
        return word
    if _ESCAPED.search(word):
        return "$'" + "".join(map(_ansi_c, word)) + "'"
    if word.startswith("~"):
        return "\\~" + (quote(word[1:]) if word[1:] else "")
    if word.isascii() and not re.search(r"['$`\\]", word):
        return f"'{word}'"
    return '"' + re.sub(r'(["$`\\])', r"\\\1", word) + '"'


def _ansi_c(letter: str) -> str:
    if letter in _NAMED:
        return _NAMED[letter]
    # by its bytes, which mean the same in every locale
    return "".join(f"\\x{byte:02x}" for byte in letter.encode()) if _ESCAPED.match(letter) else letter


def quote_all(words: Iterable[str]) -> str:
    return " ".join(map(quote, words))


def quote_header(value: str) -> str:
    """The value of an #SBATCH line, which sbatch splits like a shell but never expands."""
    return value if _SAFE.fullmatch(value) else '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def has_controls(text: str) -> bool:
    """Whether the text has line breaks or other control characters, of ASCII or of Unicode."""
    return any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in text)


def as_printed(text: str) -> str:
    """The text on one line, for comments and messages: what cannot be printed as an escape."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def check_utf8(path: Path) -> None:
    """Raise UserError for a path that scripts, which are UTF-8, cannot name."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{as_printed(str(path))}: the path is not UTF-8; rename the folder or choose another"
        ) from error
