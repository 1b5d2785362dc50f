"""Scores of images (or patches) on disk, in blocks of prototypes, so that one block is one read.

A file's name is the digest of everything that decides its contents: the shards' bytes, the scorer, the pool. So
a folder of them is a cache that cannot be stale.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from saetools.files.formats import IMAGE_SCORES
from saetools.files.hdf5 import new_hdf5, open_hdf5
from saetools.files.provenance import Provenance, canonical_json
from saetools.shards.header import layer_group
from saetools.shards.reader import ShardSet

WIDTH = 256  # prototypes in a block


class ScoreFile:
    """Scores float32 of `n_rows` images or patches for `n_prototypes`; data set /scores {blocks, rows, width}."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_hdf5(path, IMAGE_SCORES) as file:
            Provenance.from_attributes(file.attrs, IMAGE_SCORES, path)
            self.n_prototypes = int(file.attrs["n_prototypes"])
            _, self.n_rows, self.width = file["scores"].shape

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first prototype, scores {rows, prototypes of the block})."""
        with open_hdf5(self.path, IMAGE_SCORES) as file:
            for index in range(len(file["scores"])):
                yield index * self.width, self._block(file, index)

    def columns(self, prototypes: np.ndarray) -> np.ndarray:
        """Scores {rows, len(prototypes)} of these prototypes, in this order; -1 gives zeros."""
        columns_nt = np.zeros((self.n_rows, len(prototypes)), np.float32)
        with open_hdf5(self.path, IMAGE_SCORES) as file:
            for index in np.unique(prototypes[prototypes >= 0] // self.width):
                (here,) = np.nonzero(prototypes // self.width == index)
                block = self._block(file, index)
                columns_nt[:, here] = block[:, prototypes[here] - index * self.width]
        return columns_nt

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Scores {stop - start, K} of these rows, for a K that is small."""
        with open_hdf5(self.path, IMAGE_SCORES) as file:
            part = file["scores"][:, start:stop]
        return part.transpose(1, 0, 2).reshape(part.shape[1], -1)[:, : self.n_prototypes]

    def _block(self, file: h5py.File, index: int) -> np.ndarray:
        block: np.ndarray = file["scores"][index]
        return block[:, : self.n_prototypes - index * self.width]


class ScoreFileWriter:
    """Takes the rows of a score file in order; made by `new_score_file`."""

    def __init__(self, dataset: h5py.Dataset, n_prototypes: int) -> None:
        self._dataset, self._n_prototypes, self._done = dataset, n_prototypes, 0

    def append(self, scores_nk: np.ndarray) -> None:
        width = self._dataset.shape[2]
        stop = self._done + len(scores_nk)
        for index, first in enumerate(range(0, self._n_prototypes, width)):
            part = np.ascontiguousarray(scores_nk[:, first : first + width])
            self._dataset[index, self._done : stop, : part.shape[1]] = part
        self._done = stop

    def finish(self) -> None:
        assert self._done == self._dataset.shape[1], "rows are missing"


@contextmanager
def new_score_file(
    path: Path,
    shape: tuple[int, int],
    settings: Mapping[str, Any],
    parents: list[str],
    memory: int,
) -> Iterator[ScoreFileWriter]:
    """A writer of scores of `shape` {rows, K}; the file appears when the block ends without an exception.

    memory: what a block of prototypes may take when it is read.
    """
    n_rows, n_prototypes = shape
    width = max(1, min(WIDTH, n_prototypes, memory // (4 * n_rows)))
    provenance = Provenance.of(IMAGE_SCORES, "score-traits", settings, parents)
    n_blocks = -(-n_prototypes // width)
    with new_hdf5(path, 4 * n_blocks * n_rows * width) as file:
        for name, value in {**provenance.to_attributes(), "n_prototypes": n_prototypes}.items():
            file.attrs[name] = value
        dataset = file.create_dataset("scores", (n_blocks, n_rows, width), "<f4")
        writer = ScoreFileWriter(dataset, n_prototypes)
        yield writer
        writer.finish()


def key_of(settings: Mapping[str, Any]) -> str:
    """The part of a file's name that says what it holds."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:24]


def activations_digest(shards: ShardSet, layer: int) -> str:
    """Of the activations' own bytes where the shards carry digests, else of the shards' uids."""
    group = f"/{layer_group(layer)}"
    parts = []
    for shard in shards.shards:
        parts.append(shard.digests.get(f"{group}/patches", shard.provenance.uid))
        parts.append(shard.digests.get(f"{group}/scale", ""))  # of int8
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
