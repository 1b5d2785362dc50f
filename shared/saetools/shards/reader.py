"""Reads activation shards: checks them when they are opened, and activations when they are read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saetools.errors import UserError, some_of
from saetools.files.formats import SHARDS
from saetools.files.hdf5 import open_hdf5
from saetools.files.provenance import Provenance, canonical_json, first_difference
from saetools.shards.dtypes import has_non_finite, row_sums, to_tensor, word_sums
from saetools.shards.header import Examples, ShardHeader, as_paths, check_same_source, shard_name
from saetools.shards.layout import (
    Layer,
    check_grid,
    check_layer,
    check_shard_identity,
    map_bytes,
    read_examples,
    read_layer,
    read_rows,
    read_skipped,
    will_read_rows,
)

if TYPE_CHECKING:
    import pandas as pd
    import torch


IMAGES_AT_ONCE = 64


class Shard:
    """One complete activation shard.

    Opening it checks format, version, sizes and types; raises UserError where something is wrong.
    It keeps no file open. Opening compares all bytes but the activations' with the file's checksum; activations are
    compared, image by image, when they are read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_hdf5(path, SHARDS) as file:
            self.provenance = Provenance.from_attributes(file.attrs, SHARDS, path)
            self._row_sums = word_sums if self.provenance.format_version == 1 else row_sums
            self.header = ShardHeader.from_attributes(file.attrs, path)
            self.digests: dict[str, str] = json.loads(file.attrs.get("digests", "{}"))
            self.examples, self.skipped = read_examples(file, path), read_skipped(file, path)
            self._layers = {layer: read_layer(file, layer, path) for layer in self.header.layers}
            first = self._layers[self.header.layers[0]]
            for number, layer in self._layers.items():
                check_layer(number, layer, first, len(self.examples), path)
                grid = self.examples.grid if layer.grid is None else layer.grid
                check_grid(grid, layer.patches.shape[1], f"the grid of layer {number}", path)
        self.n_images = len(self.examples)
        check_shard_identity(path, self.header, self.examples.index)

    def shape(self, layer: int) -> tuple[int, int]:
        """(P, D): patches per image and width of a layer; raises UserError where the shard does not hold it."""
        _, n_patches, d_model = self._layer(layer).patches.shape
        return n_patches, d_model

    @property
    def n_patches(self) -> int:
        """Patches per image; raises UserError where layers differ (then see `shape`)."""
        return self._common_shape()[0]

    @property
    def d_model(self) -> int:
        """Width; raises UserError where layers differ (then see `shape`)."""
        return self._common_shape()[1]

    def stored(self, layer: int) -> np.ndarray:
        """The activations {N, P, D} of a layer as they are on disk, memory-mapped; raises UserError."""
        return map_bytes(self.path, self._layer(layer).patches)

    def dtype(self, layer: int) -> str:
        """How the activations of a layer are stored: float16, bfloat16, float32 or int8."""
        return self._layer(layer).patches.dtype

    def scale(self, layer: int) -> torch.Tensor | None:
        """With int8, the scale {D}; `patches`, `read_acts` and `tokens` have applied it."""
        return self._layer(layer).scale

    def grid(self, layer: int) -> np.ndarray:
        """int16 {N, 2}: rows and columns of each image's patches."""
        own = self._layer(layer).grid
        return self.examples.grid if own is None else own

    def labels(self, layer: int) -> np.ndarray | None:
        """Patch labels uint16 {N, P}, 65535 = ignore; None where the data set has no masks."""
        place = self._layer(layer).labels
        return None if place is None else map_bytes(self.path, place)

    def cls(self, layer: int) -> torch.Tensor:
        """The class token float32 {N, D}; raises UserError where it was not recorded."""
        place = self._layer(layer).cls
        if place is None:
            raise UserError(
                f"{self.path}: it holds no class token; record it with {SHARDS.made_by} --cls,"
                " of a model that has one"
            )
        return to_tensor(np.array(map_bytes(self.path, place)), place.dtype).float()

    def patches(self, layer: int, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Activations float32 {n, P, D} of the images from `start` to before `stop`."""
        rows = np.arange(self.n_images)[start:stop]
        return self.read_acts(layer, rows).float()

    def read_acts(self, layer: int, rows: np.ndarray, buffer: np.ndarray | None = None) -> torch.Tensor:
        """Activations {len(rows), P, D} of single images, `rows` ascending.

        In the type they are stored in; of int8 the values, in float32. buffer: uint8, memory to read into, which the
        result may share. Raises UserError where the bytes are not those that were written, or a value is not finite.
        """
        place = self._layer(layer)

        def check(stored: np.ndarray, rows: np.ndarray) -> None:
            wrong = np.flatnonzero(self._row_sums(stored) != place.sums[rows])
            if len(wrong):
                raise UserError(
                    f"{self.path}: the activations in layer {layer} of {self.examples.path[rows[wrong[0]]]} are not"
                    f" those that were written: the file was damaged; remove it and run the same {SHARDS.made_by}"
                    " command again"
                )
            if has_non_finite(stored, place.patches.dtype):
                raise UserError(
                    f"{self.path}: layer {layer} holds NaN or infinite activations; {SHARDS.made_by} never writes"
                    " them: record it again"
                )

        tensor = to_tensor(read_rows(self.path, place.patches, rows, check, buffer), place.patches.dtype)
        return tensor if place.scale is None else tensor.float().mul_(place.scale)

    def will_read(self, layer: int, rows: np.ndarray) -> None:
        """Ask the system to fetch images that will be read soon, `rows` ascending and close to each other."""
        will_read_rows(self.path, self._layer(layer).patches, rows)

    def tokens(self, layer: int, rows: np.ndarray) -> torch.Tensor:
        """Activations float32 {len(rows), D} of single patches; row = image * P + patch. Whole images are read."""
        import torch

        n_patches, d_model = self.shape(layer)
        acts_bd = torch.empty(len(rows), d_model)
        images, which = np.unique(rows // n_patches, return_inverse=True)
        for start in range(0, len(images), IMAGES_AT_ONCE):
            here = np.flatnonzero((which >= start) & (which < start + IMAGES_AT_ONCE))
            acts_npd = self.read_acts(layer, images[start : start + IMAGES_AT_ONCE])
            acts_bd[here] = acts_npd[which[here] - start, rows[here] % n_patches].float()
        return acts_bd

    def _layer(self, layer: int) -> Layer:
        if layer not in self._layers:
            raise UserError(
                f"{self.path}: it holds no layer {layer}, only {list(self.header.layers)};"
                f" give one of those, or record the layer with {SHARDS.made_by}"
            )
        return self._layers[layer]

    def _common_shape(self) -> tuple[int, int]:
        shapes = {layer: self.shape(layer) for layer in self.header.layers}
        if len(set(shapes.values())) > 1:
            raise UserError(
                f"{self.path}: its layers differ in (patches, width): {shapes};"
                " record the layer that you need on its own"
            )
        return next(iter(shapes.values()))


class ShardSet:
    """Shards that belong together, in order, seen as one data set; its length is the number of images."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = list(shards)
        first = self.shards[0]
        for other in self.shards[1:]:
            check_fits(first, other)
        self.n_images = sum(shard.n_images for shard in self.shards)
        self.header = first.header

    @property
    def n_patches(self) -> int:
        """Patches per image; raises UserError where layers differ (then see `shape`)."""
        return self.shards[0].n_patches

    @property
    def d_model(self) -> int:
        """Width; raises UserError where layers differ (then see `shape`)."""
        return self.shards[0].d_model

    def shape(self, layer: int) -> tuple[int, int]:
        """(P, D) of a layer."""
        return self.shards[0].shape(layer)

    @cached_property
    def paths(self) -> list[str]:
        """The examples' paths {N}: the join key with tables."""
        return [path for shard in self.shards for path in shard.examples.path]

    @property
    def examples(self) -> list[Examples]:
        """Of each shard."""
        return [shard.examples for shard in self.shards]

    @property
    def uids(self) -> list[str]:
        return [shard.provenance.uid for shard in self.shards]

    def __len__(self) -> int:
        return self.n_images

    def __repr__(self) -> str:
        layers = list(self.header.layers)
        shapes = {self.shape(layer) for layer in layers}
        shape = " x ".join(f"{size:,}" for size in shapes.pop()) if len(shapes) == 1 else "P x D by layer"
        return (
            f"ShardSet({self.header.model}, layers {layers}, {self.n_images:,} images x {shape} (patches x width),"
            f" {self.shards[0].dtype(layers[0])}, {len(self.shards)} shards)"
        )

    def read(
        self, layer: int | None = None, images: slice | int | Sequence[int] = slice(None)
    ) -> torch.Tensor:
        """Activations float32 {n, P, D} of a layer; the layer may be left out where there is one.

        images: a slice, or numbers of images in the set, in any order. Raises UserError where the bytes are not those
        that were written.
        """
        import torch

        layer = choose_layer(self.shards[0], layer)
        rows = np.atleast_1d(np.arange(self.n_images)[images])
        n_patches, d_model = self.shape(layer)
        acts_npd = torch.empty(len(rows), n_patches, d_model)
        start = 0
        for shard in self.shards:
            here = np.flatnonzero((rows >= start) & (rows < start + shard.n_images))
            own, place = np.unique(rows[here] - start, return_inverse=True)
            if len(own):
                acts_npd[here] = shard.read_acts(layer, own).float()[place]
            start += shard.n_images
        return acts_npd

    def frame(self) -> pd.DataFrame:
        """A row for each image, see `Examples.frame`."""
        import pandas as pd

        return pd.concat([examples.frame() for examples in self.examples], ignore_index=True)

    def blocks(self, layer: int, n_images: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (position of the first image, activations float32 {n, P, D}), n <= n_images, in order."""
        position = 0
        for shard in self.shards:
            for start in range(0, shard.n_images, n_images):
                acts_npd = shard.patches(layer, start, start + n_images)
                yield position + start, acts_npd
            position += shard.n_images


# How a caller from Python names shards: files and folders of them, or what `open_shards` returned.
Shards = str | Path | ShardSet | Iterable[str | Path]


def check_fits(first: Shard, other: Shard) -> None:
    """Raise UserError, naming what differs, unless the two shards can be used together."""
    check_same_source(first.header.source(), first.path, other.header.source(), other.path)
    mine, others = ({n: shard.shape(n) for n in shard.header.layers} for shard in (first, other))
    if mine != others:
        raise UserError(
            f"{other.path}: its layers, with (patches, width), are {others}, but {mine} in {first.path};"
            " use shards of one recording together"
        )


class IncompleteShards(UserError):
    """Shards that belong to those that were given are missing."""


class GivenShards:
    """Counts the shards that were given, against their recordings'; it keeps none of them."""

    def __init__(self, shards: Iterable[Shard] = ()) -> None:
        self._numbers: dict[tuple[int, int, str], set[int]] = {}  # of each recording
        self._folder: Path | None = None  # of the first shard
        for shard in shards:
            self.add(shard)

    def add(self, shard: Shard) -> None:
        header = shard.header
        recording = header.n_shards, header.n_examples_total, canonical_json(shard.provenance.settings)
        self._numbers.setdefault(recording, set()).add(header.shard_index)
        self._folder = self._folder or shard.path.parent

    def count(self) -> tuple[int, int]:
        """How many these are, and how many their recordings consist of."""
        return sum(map(len, self._numbers.values())), sum(n_shards for n_shards, *_ in self._numbers)

    def check_complete(self, remedy: str) -> None:
        """Raise IncompleteShards, ending with `remedy`, where some of their recordings' shards are missing."""
        n_given, n_whole = self.count()
        if n_given < n_whole:
            raise IncompleteShards(
                f"{self._folder}: only {n_given} of {n_whole} shards were given, of recordings that have the"
                f" others too; {remedy}"
            )


def count_shards(shards: Iterable[Shard]) -> tuple[int, int]:
    """How many these are, and how many their recordings consist of."""
    return GivenShards(shards).count()


def check_complete(shards: Iterable[Shard], remedy: str) -> None:
    """Raise IncompleteShards, ending with `remedy`, where some of their recordings' shards are missing."""
    GivenShards(shards).check_complete(remedy)


def choose_layer(shard: Shard, layer: int | None) -> int:
    """The layer asked for, or the only one; raises UserError."""
    layers = shard.header.layers
    if layer is None and len(layers) == 1:
        return layers[0]
    if layer is None:
        raise UserError(f"{shard.path}: it holds layers {list(layers)}; choose one by `layer`")
    if layer not in layers:
        raise UserError(
            f"{shard.path}: it holds no layer {layer}, only {list(layers)}; choose one of those by `layer`"
        )
    return layer


def open_shards(shards: Shards, *, allow_incomplete: bool = False) -> ShardSet:
    """Open shards, and folders of them; a folder must hold every shard of its data set, unless a part is meant.

    A set that is open already is returned as it is. Raises UserError where a shard is broken, missing, given twice, or
    does not belong to the others.
    """
    if isinstance(shards, ShardSet):
        return shards
    opened = list(iterate_shards(as_paths(shards), allow_incomplete=allow_incomplete))
    if not opened:
        raise UserError(f"no activation shards were given; write them with {SHARDS.made_by}")
    return ShardSet(opened)


def iterate_shards(paths: Iterable[Path], *, allow_incomplete: bool = False) -> Iterator[Shard]:
    """Open shards one by one, as their paths arrive, each checked against the first."""
    first: Shard | None = None
    seen: dict[str, Path] = {}
    for path in paths:
        for shard in _open_folder(path, allow_incomplete) if path.is_dir() else [Shard(path)]:
            if (uid := shard.provenance.uid) in seen:
                raise UserError(f"{shard.path}: the same shard as {seen[uid]}; give every shard once")
            seen[uid] = shard.path
            first = first or shard
            check_fits(first, shard)
            yield shard


def _open_folder(folder: Path, allow_incomplete: bool) -> Iterator[Shard]:
    names = sorted(path.name for path in folder.glob("shard-*.h5"))
    if not names:
        next(folder.iterdir(), None)  # raises PermissionError where glob sees nothing
        raise UserError(
            f"{folder}: it holds no activation shards ({shard_name(0)}, ...);"
            f" record them with {SHARDS.made_by}"
        )
    n_shards = Shard(folder / names[0]).header.n_shards
    missing = [index for index in range(n_shards) if shard_name(index) not in names]
    if missing and not allow_incomplete:
        raise UserError(
            f"{folder}: {len(missing)} of {n_shards} shards are missing (number {some_of(missing, 10)});"
            f" run the same {SHARDS.made_by} command again to complete it"
        )
    if len(names) > n_shards:
        raise UserError(
            f"{folder}: it holds {len(names)} shards where {n_shards} belong together;"
            " move the others away, or record into an empty folder"
        )
    first: Shard | None = None
    for name in names:
        shard = Shard(folder / name)
        first = first or shard
        if difference := first_difference(first.provenance.settings, shard.provenance.settings):
            raise UserError(
                f"{shard.path}: it was recorded with other settings than {first.path.name} in the same folder:"
                f" {difference}; keep the shards of one recording in a folder"
            )
        yield shard
