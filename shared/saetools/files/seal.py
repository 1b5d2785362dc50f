"""Seals: checksums in our HDF5 and NPZ files, by which readers know that the bytes are those that were written.

A seal is one line of JSON with the file's size, an XXH3-128 of its bytes, and a list of byte ranges that are `apart`:
large arrays, which have checksums of their own and are compared when they are read. It ends with a checksum of
itself. It lies at the start of an HDF5 file, in the user block that the HDF5 format leaves to programs, and at the
end of an NPZ file, as the comment of the zip archive; other programs see neither. It is compared before a library
looks at the file: the HDF5 library can loop forever on damaged bytes. The checksum finds damage; it is no signature.

Files of earlier versions have no seal. docs/formats.md.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import xxhash

from saetools.errors import UserError
from saetools.files.formats import Format
from saetools.files.reading import io_errors
from saetools.log import logger

MAGIC = b"saetools seal 1 "
BLOCK = 4096  # bytes of a user block; twice as much, or 4 times, ... for many ranges
COMMENT = 1024  # bytes of the comment of a zip archive
BYTES_AT_ONCE = 1 << 20
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_END_OF_ZIP = struct.Struct("<4s4H2LH")

Ranges = Sequence[tuple[int, int]]
"""(offset, length) of bytes in a file, ascending, not overlapping."""


@dataclass(frozen=True)
class Seal:
    """size: of the whole file in bytes. apart: ranges whose bytes are not in the digest. length: of the seal itself."""

    size: int
    apart: tuple[tuple[int, int], ...]
    xxh3: str
    length: int

    def render(self) -> bytes:
        fields = {"size": self.size, "length": self.length, "apart": self.apart, "xxh3_128": self.xxh3}
        line = MAGIC + json.dumps(fields).encode() + b"\n"
        text = line + xxhash.xxh3_64_hexdigest(line).encode() + b"\n"
        assert len(text) <= self.length, "more ranges than the seal has room for"
        return text.ljust(self.length, b" " if self.length == COMMENT else b"\0")


def block_size(n_apart: int) -> int:
    """Of the user block of an HDF5 file with so many ranges apart: a power of two."""
    size = BLOCK
    while size < 512 + 48 * n_apart:
        size *= 2
    return size


def seal_hdf5(path: Path, length: int, apart: Ranges) -> None:
    """Put the seal into the user block of that length of a file that is whole."""
    _seal(path, 0, length, apart)


def seal_zip(path: Path, apart: Ranges) -> None:
    """Put the seal into the comment, of COMMENT bytes, of a zip archive that is whole."""
    _seal(path, path.stat().st_size - COMMENT, COMMENT, apart)


def check_hdf5(file: BinaryIO, path: Path, again: str) -> Seal | None:
    """The seal of an HDF5 file of ours, after its bytes were compared; None where it has none.

    Raises UserError where the bytes are others than when it was written, or where it is not an HDF5 file.
    """
    with io_errors(path):
        start = _read(file, 0, BLOCK)
        if start.startswith(HDF5_SIGNATURE):
            return None
        if not start.startswith(MAGIC):
            what = (
                "it is empty, not an HDF5 file"
                if not start
                else "it is not an HDF5 file, or its start is damaged"
            )
            raise UserError(f"{path}: {what}; {again}")
        seal = _parse(start, path, again)
        _compare(file, path, seal, 0, again)
    return seal


def check_zip(file: BinaryIO, path: Path, again: str) -> Seal | None:
    """The same of an NPZ file."""
    with io_errors(path):
        size = os.fstat(file.fileno()).st_size
        end = _read(file, max(0, size - COMMENT - _END_OF_ZIP.size), COMMENT + _END_OF_ZIP.size)
        if len(end) < _END_OF_ZIP.size:
            raise UserError(f"{path}: it is not a whole .npz file: it was cut short or is none; {again}")
        if _is_end(end[-_END_OF_ZIP.size :], 0):
            return None
        if len(end) < COMMENT + _END_OF_ZIP.size or not _is_end(end[: _END_OF_ZIP.size], COMMENT):
            raise UserError(f"{path}: it is not a whole .npz file: it was cut short or is none; {again}")
        seal = _parse(end[_END_OF_ZIP.size :], path, again)
        _compare(file, path, seal, size - COMMENT, again)
    return seal


def check_version(seal: Seal | None, version: object, format: Format, path: Path) -> None:
    """Of a file without a seal: raise UserError where its version has one, else warn, once for each folder."""
    if seal is not None or not format.sealed_from:
        return
    if int(str(version or 0)) >= format.sealed_from:
        raise UserError(
            f"{path}: its checksums are gone: another program has written it anew; take the original, or write it"
            f" again with {format.made_by}"
        )
    warn_unchecked(path, format.name)


def warn_unchecked(path: Path, format: str) -> None:
    """Say, once for each folder and format, that a file of an earlier version has no checksums."""
    if (path.parent, format) not in _told:
        _told.add((path.parent, format))
        logger.warning(
            "%s: it was written by an earlier version and has no checksums: damage to it may go unnoticed",
            path,
        )


_told: set[tuple[Path, str]] = set()


def _is_end(record: bytes, comment: int) -> bool:
    signature, *_, length = _END_OF_ZIP.unpack(record)
    return signature == b"PK\x05\x06" and length == comment


def _seal(path: Path, offset: int, length: int, apart: Ranges) -> None:
    with path.open("r+b", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        ranges = tuple((int(first), int(n_bytes)) for first, n_bytes in sorted(apart) if n_bytes)
        digest = _digest(file, [(offset, length), *ranges], size)
        file.seek(offset)
        file.write(Seal(size, ranges, digest, length).render())


def _parse(block: bytes, path: Path, again: str) -> Seal:
    try:
        fields = json.loads(block[len(MAGIC) : block.index(b"\n")])
        apart = tuple((int(first), int(n_bytes)) for first, n_bytes in fields["apart"])
        seal = Seal(int(fields["size"]), apart, str(fields["xxh3_128"]), int(fields["length"]))
        whole = seal.length > len(block) or seal.render() == block[: seal.length]
        if seal.length > 1 << 20 or not whole:
            raise ValueError
    except (ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        raise UserError(f"{path}: the seal with its checksums is damaged; {again}") from error
    return seal


def _compare(file: BinaryIO, path: Path, seal: Seal, offset: int, again: str) -> None:
    size = os.fstat(file.fileno()).st_size
    if size != seal.size:
        what = "it was cut short" if size < seal.size else "bytes were added to it"
        raise UserError(f"{path}: {what}: found {size:,} bytes, expected {seal.size:,}; {again}")
    if _read(file, offset, seal.length) != seal.render():
        raise UserError(f"{path}: the seal with its checksums is damaged; {again}")
    if _digest(file, [(offset, seal.length), *seal.apart], size) != seal.xxh3:
        raise UserError(
            f"{path}: its checksum is not the one that was written: the file was damaged, or changed by another"
            f" program; restore it from a copy, or {again}"
        )


def _digest(file: BinaryIO, left_out: Ranges, size: int) -> str:
    """XXH3-128 of the bytes of a file outside of these ranges."""
    digest = xxhash.xxh3_128()
    buffer = bytearray(BYTES_AT_ONCE)
    view = memoryview(buffer)
    for start, stop in _between(sorted(left_out), size):
        file.seek(start)
        while start < stop:
            n_read = file.readinto(view[: min(BYTES_AT_ONCE, stop - start)])  # type: ignore[attr-defined]
            if not n_read:
                break  # shorter by now; the digest differs then
            digest.update(view[:n_read])
            start += n_read
    return digest.hexdigest()


def _between(ranges: Ranges, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of what lies between these ranges, up to the end of the file."""
    start = 0
    for first, n_bytes in ranges:
        if first > start:
            yield start, min(first, size)
        start = max(start, first + n_bytes)
    if start < size:
        yield start, size


def _read(file: BinaryIO, offset: int, n_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(n_bytes)
