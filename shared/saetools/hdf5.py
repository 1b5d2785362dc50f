"""Opening HDF5 files for reading, with errors that say what is wrong."""

from __future__ import annotations

from pathlib import Path

import h5py

from saetools.errors import UserError
from saetools.provenance import Format


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
