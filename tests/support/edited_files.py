"""Changes a sound HDF5 or NPZ file of ours and seals it again: faults that its checksums do not show."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np

from saetools.files.seal import COMMENT, seal_hdf5, seal_zip
from saetools.latents.header import IN_BLOCKS
from saetools.latents.writer import block_sums


@contextlib.contextmanager
def edit_hdf5(path: Path) -> Iterator[h5py.File]:
    """The file, to be changed; its activations keep their own checksums."""
    with h5py.File(path, "r+") as file:
        yield file
        length = file.userblock_size
        patches = [item["patches"] for group, item in file.items() if group.startswith("layer_")]
        apart = [(p.id.get_offset(), p.nbytes) for p in patches if p.id.get_offset() is not None]
    seal_hdf5(path, length, apart)


def save_npz(path: Path, members: Mapping[str, np.ndarray]) -> None:
    """An NPZ file with these members, sealed as a whole; of latents, with the checksums of its blocks."""
    if "sums" in members and all(name in members for name in IN_BLOCKS):
        sums = [one for name in IN_BLOCKS for one in block_sums(np.asarray(members[name]).tobytes())]
        members = {**members, "sums": np.array(sums, np.uint64)}
    np.savez(path, **members)
    with zipfile.ZipFile(path, "a") as zip:
        zip.comment = bytes(COMMENT)
    seal_zip(path, [])
