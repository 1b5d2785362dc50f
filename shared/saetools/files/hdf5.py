"""Opens HDF5 files: for reading, with errors that name the fault; for writing, complete or absent."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import h5py

from saetools.errors import UserError
from saetools.files.atomic import atomic_path
from saetools.files.formats import Format


def open_hdf5(path: Path, format: Format) -> h5py.File:
    """Open a file of the given format; raises UserError where there is none, or where it is not HDF5."""
    try:
        # locking=False: files are complete before they have their names, and may lie on network disks
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        expected = f"expected an HDF5 file of {format.name}"
        if not path.exists():
            raise UserError(f"{path}: no such file; {expected}, as {format.made_by} writes it") from error
        found = (
            "it was cut short"
            if "truncated" in str(error)
            else "it is not an HDF5 file, or its start is broken"
        )
        raise UserError(f"{path}: {found}; {expected}; write it again with {format.made_by}") from error


@contextlib.contextmanager
def new_hdf5(target: Path, n_bytes: int) -> Iterator[h5py.File]:
    """A file to write, which appears under `target` when the block ends without an exception.

    n_bytes: the size of its data sets and attributes; the room for them is reserved first. Raises OSError
    where the disk does not have it. (A disk that fills up under the HDF5 library makes the process crash.)
    """
    with (
        atomic_path(target) as partial,
        reserved_hdf5(partial, n_bytes + _ROOM_FOR_STRUCTURE, target) as file,
    ):
        yield file


@contextlib.contextmanager
def reserved_hdf5(partial: Path, n_bytes: int, target: Path) -> Iterator[h5py.File]:
    """An HDF5 file to write at a path from `atomic_path(target)`, with room reserved as `new_hdf5` does.

    n_bytes: the size of the whole file, at most.
    """
    _reserve(partial, n_bytes, target)
    # libver: the newest layout; the default one limits the attributes to 64 kB
    with h5py.File(partial, "w", libver="v110") as file:
        _reserve(partial, n_bytes, target)  # opening emptied it; closing gives back what is left over
        yield file


_ROOM_FOR_STRUCTURE = 1 << 20


def _reserve(partial: Path, n_bytes: int, target: Path) -> None:
    """Reserve room on the disk, where the system can: macOS has no posix_fallocate, some file systems refuse it."""
    if not hasattr(os, "posix_fallocate"):
        return
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        os.posix_fallocate(descriptor, 0, n_bytes)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        os.close(descriptor)
