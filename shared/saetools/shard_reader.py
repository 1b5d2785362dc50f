"""Reads activation shards: checks them when they are opened, then maps their bytes into memory."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from saetools.errors import UserError
from saetools.hdf5 import open_hdf5
from saetools.precision import STORED_TYPES, to_tensor
from saetools.provenance import Provenance
from saetools.shard_layout import SHARDS, Examples, ShardHeader, check_same_source, layer_group, shard_name

if TYPE_CHECKING:
    import torch


class Shard:
    """One complete activation shard.

    Opening it checks format, version, sizes and types; raises UserError where something is wrong.
    It keeps no file open: activations are memory-mapped when they are read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_hdf5(path, SHARDS) as file:
            self.provenance = Provenance.from_attributes(file.attrs, SHARDS, path)
            self.header = ShardHeader.from_attributes(file.attrs, path)
            self.digests: dict[str, str] = json.loads(file.attrs.get("digests", "{}"))
            self.examples = _read_examples(file, path)
            self._places = {
                layer: _locate(file, f"{layer_group(layer)}/patches", path, 3) for layer in self.header.layers
            }
        shapes = {place.shape for place in self._places.values()}
        if len(shapes) != 1 or {shape[0] for shape in shapes} != {len(self.examples)}:
            raise UserError(
                f"{path}: its layers have shapes {sorted(shapes)} for {len(self.examples)} examples;"
                f" they must agree; record it again with {SHARDS.made_by}"
            )
        self.n_images, self.n_patches, self.d_model = shapes.pop()

    def stored(self, layer: int) -> np.ndarray:
        """The activations {N, P, D} of a layer as they are on disk, memory-mapped; raises UserError."""
        if layer not in self._places:
            raise UserError(
                f"{self.path}: it holds no layer {layer}, only {list(self.header.layers)};"
                f" give one of those, or record the layer with {SHARDS.made_by}"
            )
        place = self._places[layer]
        return np.memmap(self.path, place.numpy_type, mode="r", offset=place.offset, shape=place.shape)

    def dtype(self, layer: int) -> str:
        """How the activations of a layer are stored: float16, bfloat16 or float32."""
        return self._places[layer].dtype

    def patches(self, layer: int, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Activations float32 {n, P, D} of the images from `start` to before `stop`."""
        return to_tensor(np.array(self.stored(layer)[start:stop]), self.dtype(layer)).float()

    def images(self, layer: int, rows: np.ndarray) -> torch.Tensor:
        """Activations {len(rows), P, D}, in the type they are stored in, of single images, `rows` ascending."""
        stored = self.stored(layer)
        run = len(rows) > 0 and rows[-1] - rows[0] == len(rows) - 1  # consecutive: one read
        return to_tensor(np.array(stored[rows[0] : rows[-1] + 1] if run else stored[rows]), self.dtype(layer))

    def tokens(self, layer: int, rows: np.ndarray) -> torch.Tensor:
        """Activations float32 {len(rows), D} of single patches; row = image * P + patch."""
        stored = self.stored(layer).reshape(-1, self.d_model)
        return to_tensor(stored[rows], self.dtype(layer)).float()


class _Place:
    """Where in the file the contiguous bytes of a data set stand."""

    def __init__(self, offset: int, shape: tuple[int, ...], dtype: str) -> None:
        self.offset, self.shape, self.dtype = offset, shape, dtype
        self.numpy_type = STORED_TYPES[dtype]


class ShardSet:
    """Shards that belong together, in order, seen as one data set."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = list(shards)
        first = self.shards[0]
        for other in self.shards[1:]:
            check_fits(first, other)
        self.n_images = sum(shard.n_images for shard in self.shards)
        self.n_patches, self.d_model = first.n_patches, first.d_model
        self.header = first.header

    @cached_property
    def paths(self) -> list[str]:
        """The examples' paths {N}: the join key with tables."""
        return [path for shard in self.shards for path in shard.examples.path]

    @property
    def uids(self) -> list[str]:
        return [shard.provenance.uid for shard in self.shards]

    def blocks(self, layer: int, n_images: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (position of the first image, activations float32 {n, P, D}), n <= n_images, in order."""
        position = 0
        for shard in self.shards:
            for start in range(0, shard.n_images, n_images):
                acts_npd = shard.patches(layer, start, start + n_images)
                yield position + start, acts_npd
            position += shard.n_images


def check_fits(first: Shard, other: Shard) -> None:
    """Raise UserError, naming what differs, unless the two shards can be used together."""
    check_same_source(first.header.source(), first.path, other.header.source(), other.path)
    mine = (first.n_patches, first.d_model, tuple(first.header.layers))
    others = (other.n_patches, other.d_model, tuple(other.header.layers))
    if mine != others:
        raise UserError(
            f"{other.path}: (patches, width, layers) are {others}, but {mine} in {first.path};"
            " use shards of one recording together"
        )


def open_shards(paths: Iterable[Path]) -> ShardSet:
    """Open shards, and folders of them; a folder must hold every shard of its data set.

    Raises UserError where one is broken, missing, given twice, or does not belong to the others.
    """
    shards = list(iterate_shards(paths))
    if not shards:
        raise UserError(f"no activation shards were given; write them with {SHARDS.made_by}")
    return ShardSet(shards)


def iterate_shards(paths: Iterable[Path]) -> Iterator[Shard]:
    """Open shards one by one, as their paths arrive, each checked against the first."""
    first: Shard | None = None
    seen: dict[str, Path] = {}
    for path in paths:
        for shard in _open_folder(path) if path.is_dir() else [Shard(path)]:
            if (uid := shard.provenance.uid) in seen:
                raise UserError(f"{shard.path}: the same shard as {seen[uid]}; give every shard once")
            seen[uid] = shard.path
            first = first or shard
            check_fits(first, shard)
            yield shard


def _open_folder(folder: Path) -> Iterator[Shard]:
    names = sorted(path.name for path in folder.glob("shard-*.h5"))
    if not names:
        raise UserError(
            f"{folder}: it holds no activation shards ({shard_name(0)}, ...);"
            f" record them with {SHARDS.made_by}"
        )
    n_shards = Shard(folder / names[0]).header.n_shards
    missing = [index for index in range(n_shards) if shard_name(index) not in names]
    if missing:
        listed = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise UserError(
            f"{folder}: {len(missing)} of {n_shards} shards are missing (number {listed});"
            f" run the same {SHARDS.made_by} command again to complete it"
        )
    if len(names) > n_shards:
        raise UserError(
            f"{folder}: it holds {len(names)} shards where {n_shards} belong together;"
            " move the others away, or record into an empty folder"
        )
    for name in names:
        yield Shard(folder / name)


def _read_examples(file: h5py.File, path: Path) -> Examples:
    group = file.get("examples", {})
    if missing := [name for name in ("path", "index", "target", "grid") if name not in group]:
        raise UserError(
            f"{path}: /examples/{missing[0]} is missing; record the shard again with {SHARDS.made_by}"
        )
    examples = Examples(
        group["path"].asstr()[:], group["index"][:], group["target"][:], group["grid"][:].astype(np.int16)
    )
    lengths = {len(examples.path), len(examples.index), len(examples.target), len(examples.grid)}
    if len(lengths) != 1:
        raise UserError(
            f"{path}: the data sets in /examples have lengths {sorted(lengths)}, expected one length;"
            f" record the shard again with {SHARDS.made_by}"
        )
    return examples


def _locate(file: h5py.File, name: str, path: Path, n_axes: int) -> _Place:
    again = f"record the shard again with {SHARDS.made_by}"
    dataset: Any = file.get(name)
    if dataset is None:
        raise UserError(f"{path}: /{name} is missing, though the header names it; {again}")
    dtype = dataset.attrs.get("dtype", dataset.dtype.name)
    if STORED_TYPES.get(dtype) != dataset.dtype:
        raise UserError(
            f"{path}: /{name} holds {dataset.dtype} and says {dtype!r}; expected one of"
            f" {', '.join(STORED_TYPES)}; update saetools, or {again}"
        )
    if dataset.ndim != n_axes:
        raise UserError(f"{path}: /{name} has shape {dataset.shape}, expected {n_axes} axes; {again}")
    offset = dataset.id.get_offset()
    if dataset.size and offset is None:
        raise UserError(f"{path}: /{name} is stored in chunks, expected contiguous bytes; {again}")
    if dataset.size and offset + dataset.nbytes > path.stat().st_size:
        raise UserError(f"{path}: /{name} ends after the end of the file: it was truncated; {again}")
    return _Place(offset or 0, dataset.shape, dtype)
