"""Opens HDF5 files: for reading, with errors that name the fault; for writing, complete or absent.

Files that we write have a seal (`saetools.files.seal`), which is compared before the HDF5 library sees them. Older
files have none: a process of its own opens them first, since the library can loop or crash on damaged bytes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import h5py

from saetools.errors import UserError
from saetools.files.atomic import atomic_path
from saetools.files.formats import Format
from saetools.files.hdf5_probe import check_by_probe, links
from saetools.files.reading import open_file, reading
from saetools.files.seal import Seal, block_size, check_hdf5, check_version, seal_hdf5

_ROOM_FOR_STRUCTURE = 1 << 20


@contextlib.contextmanager
def open_hdf5(path: Path, format: Format) -> Iterator[h5py.File]:
    """An open file of the given format, whose bytes are those that were written; they are compared once in a process.

    Raises UserError where there is none, where it is not HDF5, damaged or changed, or where it has links, which may
    lead to other files. What the library raises within the block, because something is missing, becomes a UserError
    too.
    """
    again = f"write it again with {format.made_by}"
    with open_file(path, f"expected an HDF5 file of {format.name}, as {format.made_by} writes it") as raw:
        status = os.fstat(raw.fileno())
        signature = status.st_ino, status.st_size, status.st_mtime_ns
        before, seal = _compared.get(path, (None, None))
        if before != signature:
            seal = check_hdf5(raw, path, f"expected an HDF5 file of {format.name}; {again}")
    if before != signature and seal is None:
        check_by_probe(path, f"expected an HDF5 file of {format.name}; {again}")
    with reading(path, again), _open(path) as file:
        if before != signature and (found := links(file)):
            raise UserError(
                f"{path}: {found}, which saetools never writes: it may lead to another file; {again}"
            )
        check_version(seal, file.attrs.get("format_version"), format, path)
        _compared[path] = signature, seal
        yield file


def _open(path: Path) -> h5py.File:
    try:
        # locking=False: files are complete before they have their names, and may lie on network disks
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "locking flag" in str(error):  # somebody in this process, a notebook say, has it open with locking
            return h5py.File(path, "r")
        raise


# files as they were when their bytes were compared, and their seals
_compared: dict[Path, tuple[tuple[int, int, int], Seal | None]] = {}


@contextlib.contextmanager
def new_hdf5(target: Path, n_bytes: int, apart: Collection[str] = ()) -> Iterator[h5py.File]:
    """A file to write, which appears under `target` when the block ends without an exception.

    n_bytes: the size of its data sets and attributes; the room for them is reserved first. Raises OSError
    where the disk does not have it. apart: data sets that the seal leaves out, as in `reserved_hdf5`.
    """
    with (
        atomic_path(target) as partial,
        reserved_hdf5(partial, n_bytes + _ROOM_FOR_STRUCTURE, target, apart) as file,
    ):
        yield file


@contextlib.contextmanager
def reserved_hdf5(
    partial: Path, n_bytes: int, target: Path, apart: Collection[str] = ()
) -> Iterator[h5py.File]:
    """An HDF5 file to write at a path from `atomic_path(target)`; sealed when the block ends without an exception.

    n_bytes: the size of the whole file, at most. This room is reserved before the HDF5 library opens the file, and
    never given back while it is open: a disk that fills up under the library makes the process crash. apart: names of
    contiguous data sets with checksums of their own, which the seal leaves out.
    """
    length = block_size(len(apart))
    partial.write_bytes(_empty_file(length))
    _reserve(partial, n_bytes + length, target)
    # libver: the newest layout; the default one limits the attributes to 64 kB
    with h5py.File(partial, "r+", libver=_LAYOUT) as file:
        yield file
        places = [(file[name].id.get_offset(), file[name].nbytes) for name in apart if file[name].size]
    seal_hdf5(partial, length, places)


_LAYOUT = "v110"


def _empty_file(user_block: int) -> bytes:
    image = io.BytesIO()
    with h5py.File(image, "w", libver=_LAYOUT, userblock_size=user_block):
        pass
    return image.getvalue()


def _reserve(partial: Path, n_bytes: int, target: Path) -> None:
    """Reserve room on the disk; raises OSError, naming `target`, where it does not have it."""
    descriptor = os.open(partial, os.O_RDWR)
    try:
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(descriptor, 0, n_bytes)
                return
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
        _write_zeros(descriptor, os.fstat(descriptor).st_size, n_bytes)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        os.close(descriptor)


def _write_zeros(descriptor: int, start: int, stop: int) -> None:
    """For systems and file systems that cannot reserve room: macOS, some network disks."""
    zeros = bytes(1 << 20)
    while start < stop:
        start += os.pwrite(descriptor, zeros[: stop - start], start)
