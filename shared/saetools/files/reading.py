"""Opens files to read, with an error that names the fault: no file, no permission, a folder, a pipe, damaged bytes."""

from __future__ import annotations

import contextlib
import json
import struct
import tokenize
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from saetools.errors import UserError, why_unreadable

# What the libraries behind the formats raise on bytes that nobody wrote.
RAISED_ON_DAMAGE = (
    OSError,
    LookupError,
    ValueError,  # of JSON and Unicode too
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,  # RecursionError too
    NotImplementedError,
    MemoryError,
    EOFError,
    AssertionError,
    SyntaxError,  # of the header of an array, which NumPy parses as Python
    tokenize.TokenError,
    struct.error,
    zipfile.BadZipFile,
)


def open_file(path: Path, expected: str) -> BinaryIO:
    """Open a regular file to read its bytes, without a buffer.

    expected: what it should be ("expected latents, as encode-acts writes them"). Raises UserError where there is no
    such file, where it may not be read, or where it is a folder, a pipe or a device: reading those could wait
    forever.
    """
    if why := why_unreadable(path):
        remedy = "; ask its owner for the right to read it" if why == "permission denied" else f"; {expected}"
        raise UserError(f"{path}: {why}{remedy}")
    with io_errors(path):
        return path.open("rb", buffering=0)


def cannot_read(path: Path, error: OSError) -> UserError:
    """The UserError for what the system said when a file was opened or read."""
    if isinstance(error, PermissionError):
        return UserError(f"{path}: permission denied; ask its owner for the right to read it")
    reason = error.strerror or str(error) or type(error).__name__
    return UserError(f"{path}: it cannot be read ({reason}); check the path and the disk")


def read_bytes(path: Path, expected: str) -> bytes:
    """All bytes of a regular file; raises UserError as `open_file` does."""
    with open_file(path, expected) as file, io_errors(path):
        return file.readall()  # type: ignore[attr-defined]


@contextlib.contextmanager
def io_errors(path: Path) -> Iterator[None]:
    """Within this block, an OSError while `path` is read becomes a UserError."""
    try:
        yield
    except OSError as error:
        raise cannot_read(path, error) from error


@contextlib.contextmanager
def reading(path: Path, again: str) -> Iterator[None]:
    """Within this block, whatever a library raises on broken bytes of `path` becomes a UserError.

    again: the remedy ("write it again with encode-acts").
    """
    try:
        yield
    except UserError:
        raise
    except PermissionError as error:
        raise cannot_read(path, error) from error
    except RAISED_ON_DAMAGE as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(f"{path}: it is damaged ({lines[0][:200]}); {again}") from error


def parse_json(text: str | bytes, path: Path, what: str, again: str) -> dict[str, Any]:
    """A JSON object; raises UserError where `what` of `path` is none, or where a name in it is there twice."""
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError, TypeError) as error:
        raise UserError(f"{path}: {what} is not JSON ({error}); {again}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path}: {what} is {type(found).__name__}, expected a JSON object; {again}")
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name in it is there twice")
    return found
