"""Writes one activation shard, batch by batch; complete or absent."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from saetools.files.atomic import PARTIAL, atomic_path
from saetools.files.hdf5 import reserved_hdf5
from saetools.files.provenance import Provenance, canonical_json
from saetools.shards.dtypes import STORED_TYPES, row_sums, to_stored
from saetools.shards.header import DIGEST_CHARACTERS, Examples, ShardHeader, layer_group

if TYPE_CHECKING:
    import torch

    Acts = np.ndarray | torch.Tensor

COPIED_AT_ONCE = 64  # images
# What a shard holds beside its arrays, at most: attributes, and HDF5's own structures
OVERHEAD_BYTES = 128 * 2**10
# ... and of each image: the places of its path and its class's name, its size, its digest. Not in `image_bytes`, by
# which images are dealt out to shards: a recording that an earlier version began could not be continued then
ENTRY_BYTES = 48 + 48 + 8 + 32


@contextlib.contextmanager
def new_shard(
    target: Path,
    header: ShardHeader,
    provenance: Provenance,
    examples: Examples,
    *,
    n_patches: int | Mapping[int, int],
    d_model: int | Mapping[int, int],
    dtype: str,
    has_cls: bool = False,
    has_labels: bool = False,
    scales: Mapping[int, torch.Tensor] | None = None,
) -> Iterator[ShardWriter]:
    """A writer for one shard, which appears under `target` when the block ends without an exception.

    n_patches, d_model: of every layer, or layer by layer. scales: {D} per layer, with int8.

    >>> shape = {"n_patches": 196, "d_model": 192}
    >>> with new_shard(target, header, provenance, examples, **shape, dtype="float16") as writer:
    ...     writer.append({11: acts_npd})
    """
    shapes = {
        layer: (
            n_patches if isinstance(n_patches, int) else n_patches[layer],
            d_model if isinstance(d_model, int) else d_model[layer],
        )
        for layer in header.layers
    }
    attributes = {**provenance.to_attributes(), **header.to_attributes()}
    arrays = _arrays_per_image(shapes, dtype, has_cls, has_labels)
    one_image = image_bytes(shapes, dtype, has_cls, has_labels)
    with atomic_path(target) as partial:
        with reserved_hdf5(partial, shard_bytes(one_image, examples.texts()), target, _apart(shapes)) as file:
            writer = ShardWriter(target, file, examples, shapes, dtype, arrays, scales)
            yield writer
            writer.finish(attributes)
        if writer.skipped:
            _leave_out_skipped(partial, shard_bytes(one_image, examples.texts()), writer)


def image_bytes(shapes: Mapping[int, tuple[int, int]], dtype: str, has_cls: bool, has_labels: bool) -> int:
    """Bytes of one image's arrays. shapes: (P, D) of each layer."""
    arrays = _arrays_per_image(shapes, dtype, has_cls, has_labels)
    in_layers = sum(array.row_bytes for array in arrays.values()) + 8 * len(shapes)  # with their checksums
    return in_layers + 8 + 8 + 4  # index, target and grid


def shard_bytes(one_image: int, texts: Iterable[str]) -> int:
    """What a shard takes on disk, rounded up. one_image: see `image_bytes`; texts: `Examples.texts`, one an image."""
    return OVERHEAD_BYTES + sum(one_image + len(text.encode()) + ENTRY_BYTES for text in texts)


def _apart(layers: Iterable[int]) -> list[str]:
    """The data sets with a checksum for each image, which the checksum of the file leaves out."""
    return [f"{layer_group(layer)}/patches" for layer in layers]


@dataclass(frozen=True)
class _Array:
    """A data set with one row for each image: the shape of a row, its type in the file, and its attribute `dtype`."""

    row: tuple[int, ...]
    stored: np.dtype[Any]
    dtype: str = ""

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row) * self.stored.itemsize


def _arrays_per_image(
    shapes: Mapping[int, tuple[int, int]], dtype: str, has_cls: bool, has_labels: bool
) -> dict[str, _Array]:
    """The data sets that are filled image by image, in the order in which they are made."""
    arrays: dict[str, _Array] = {}
    first = next(iter(shapes.values()))[0]
    for layer, (n_patches, width) in shapes.items():
        group = layer_group(layer)
        arrays[f"{group}/patches"] = _Array((n_patches, width), STORED_TYPES[dtype], dtype)
        if has_cls:
            # int8's scale is the patches'; a class token has its own sizes, and takes little room
            kind = "float32" if dtype == "int8" else dtype
            arrays[f"{group}/cls"] = _Array((width,), STORED_TYPES[kind], kind)
        if n_patches != first:
            arrays[f"{group}/grid"] = _Array((2,), np.dtype("<i2"))
            if has_labels:
                arrays[f"{group}/labels"] = _Array((n_patches,), np.dtype("<u2"))
    if has_labels:
        arrays["labels"] = _Array((first,), np.dtype("<u2"))
    return arrays


class ShardWriter:
    """Records the examples of one shard, in order; made by `new_shard`."""

    def __init__(
        self,
        target: Path,
        file: h5py.File,
        examples: Examples,
        shapes: Mapping[int, tuple[int, int]],
        dtype: str,
        arrays: Mapping[str, _Array],
        scales: Mapping[int, torch.Tensor] | None,
    ) -> None:
        self.target, self._file, self.shapes, self._dtype = target, file, shapes, dtype
        self._examples, self._n_images = examples, len(examples)
        self._scales = dict(scales or {})
        self._n_offered = 0  # examples appended or skipped
        self._kept: list[int] = []
        self._grid = np.array(examples.grid, np.int16)
        self._size = None if examples.size is None else np.array(examples.size, np.int32)
        self._digest = None if examples.digest is None else np.array(examples.digest, f"S{DIGEST_CHARACTERS}")
        self.skipped: dict[int, str] = {}
        self._digests: dict[str, Any] = {}
        self._clipped: dict[str, int] = {}
        self._sums: dict[int, list[np.ndarray]] = {layer: [] for layer in shapes}
        for name, array in arrays.items():
            dataset = file.create_dataset(name, (self._n_images, *array.row), array.stored)
            if array.dtype:
                dataset.attrs["dtype"] = array.dtype
            self._digests[name] = hashlib.sha256()
        self.per_image = set(arrays)
        for layer, scale in self._scales.items():
            self._write(f"{layer_group(layer)}/scale", scale.cpu().numpy().astype("<f4"))

    @property
    def _first(self) -> int:
        return next(iter(self.shapes))

    @property
    def n_done(self) -> int:
        return len(self._kept)

    @property
    def n_clipped(self) -> int:
        """Values that int8 could not hold and that were clipped."""
        return sum(self._clipped.values())

    def append(
        self,
        patches: Mapping[int, Acts],
        cls: Mapping[int, Acts] | None = None,
        *,
        grids: Mapping[int, np.ndarray] | None = None,
        sizes: np.ndarray | None = None,
        digests: np.ndarray | None = None,
        labels: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        """Record the next n images: activations {n, P, D}, and more where the shard has it, of every layer.

        grids {n, 2} and labels {n, P} per layer; sizes {n, 2} of the images in pixels, digests {n} of the images.
        Without grids, sizes or digests, those of `examples` hold.
        Raises UserError where a value is not finite or does not fit into the stored type.
        """
        n = len(next(iter(patches.values())))
        assert self._n_offered + n <= self._n_images, "more images than the shard was made for"
        for layer in self.shapes:
            group = layer_group(layer)
            stored = self._append_acts(f"{group}/patches", patches[layer], self._dtype, layer)
            self._sums[layer].append(row_sums(stored))
            if cls is not None:
                self._append_acts(
                    f"{group}/cls", cls[layer], "float32" if self._dtype == "int8" else self._dtype
                )
            own = self._has_own_grid(layer)
            if grids is not None and (own or layer == self._first):
                if own:
                    self._append(f"{group}/grid", grids[layer], "<i2")
                else:
                    self._grid[self._n_offered : self._n_offered + n] = grids[layer]
            if labels is not None and (own or layer == self._first):
                self._append(f"{group}/labels" if own else "labels", labels[layer], "<u2")
        if sizes is not None:
            assert self._size is not None, "sizes of a shard whose examples have none"
            self._size[self._n_offered : self._n_offered + n] = sizes
        if digests is not None:
            assert self._digest is not None, "digests of a shard whose examples have none"
            self._digest[self._n_offered : self._n_offered + n] = digests
        self._kept.extend(range(self._n_offered, self._n_offered + n))
        self._n_offered += n

    def skip(self, reason: str) -> None:
        """Leave out the next image, and record why."""
        assert self._n_offered < self._n_images, "more images than the shard was made for"
        self.skipped[self._n_offered] = reason
        self._n_offered += 1

    def finish(self, attributes: Mapping[str, Any]) -> None:
        """Write what is known at the end, and mark the shard as complete."""
        assert self._n_offered == self._n_images, "fewer images than the shard was made for"
        self._write_examples()
        for layer, sums in self._sums.items():
            name = f"{layer_group(layer)}/sums"
            self._write(name, np.concatenate(sums) if sums else np.zeros(0, np.uint64))
        for name, n_clipped in self._clipped.items():
            self._file[name].attrs["clipped"] = n_clipped
        digests = {f"/{name}": f"sha256:{digest.hexdigest()}" for name, digest in self._digests.items()}
        self._file.attrs.update({**attributes, "digests": canonical_json(digests), "complete": True})

    def _write_examples(self) -> None:
        self._write_strings("examples/path", [self._examples.path[i] for i in self._kept])
        for name, dtype in (("index", "<i8"), ("target", "<i8")):
            self._write(f"examples/{name}", np.asarray(getattr(self._examples, name), dtype)[self._kept])
        self._write("examples/grid", self._grid[self._kept].reshape(-1, 2))
        for name, values in (("size", self._size), ("digest", self._digest)):
            if values is not None:
                self._write(f"examples/{name}", values[self._kept])
        if self._examples.class_name is not None:
            self._write_strings("examples/class", [self._examples.class_name[i] for i in self._kept])
        if self.skipped:
            rows = list(self.skipped)
            self._write_strings("skipped/path", [self._examples.path[i] for i in rows])
            self._write_strings("skipped/reason", list(self.skipped.values()))
            self._write("skipped/index", np.asarray(self._examples.index, "<i8")[rows])

    def _write_strings(self, name: str, values: Sequence[str]) -> None:
        self._file.create_dataset(name, data=list(values), dtype=h5py.string_dtype(), shape=(len(values),))
        self._digests[name] = hashlib.sha256("\n".join(values).encode())

    def _write(self, name: str, values: np.ndarray) -> None:
        self._file.create_dataset(name, data=values)
        self._digests[name] = hashlib.sha256(np.ascontiguousarray(values).data)

    def _has_own_grid(self, layer: int) -> bool:
        return self.shapes[layer][0] != self.shapes[self._first][0]

    def _append_acts(self, name: str, acts: Acts, dtype: str, layer: int | None = None) -> np.ndarray:
        import torch

        scale = self._scales.get(layer) if layer is not None else None
        stored, clipped = to_stored(torch.as_tensor(acts), dtype, f"{self.target}: /{name}", scale)
        if dtype == "int8":
            self._clipped[name] = self._clipped.get(name, 0) + clipped
        self._append(name, stored, stored.dtype)
        return stored

    def _append(self, name: str, values: np.ndarray, dtype: Any) -> None:
        values = np.ascontiguousarray(values, dtype)
        self._file[name][self.n_done : self.n_done + len(values)] = values
        self._digests[name].update(values.data)


def _leave_out_skipped(partial: Path, n_bytes: int, writer: ShardWriter) -> None:
    """Copy the shard with data sets that end with the last image it holds: HDF5 cannot shorten them."""
    # A zero before the process number: another name, which the next writer still knows as left over
    stem, _, pid = partial.stem.rpartition("-")
    shorter = partial.with_name(f"{stem}-0{pid}{PARTIAL}")
    try:
        with (
            h5py.File(partial, "r") as old,
            reserved_hdf5(shorter, n_bytes, writer.target, _apart(writer.shapes)) as new,
        ):
            new.attrs.update(old.attrs)
            old.visititems(lambda name, item: _copy_shorter(name, item, new, writer))
        shorter.replace(partial)
    finally:
        shorter.unlink(missing_ok=True)


def _copy_shorter(name: str, item: h5py.Group | h5py.Dataset, new: h5py.File, writer: ShardWriter) -> None:
    if isinstance(item, h5py.Group):
        new.create_group(name)
    elif name not in writer.per_image:
        item.file.copy(item, new, name)
    else:
        dataset = new.create_dataset(name, (writer.n_done, *item.shape[1:]), item.dtype)
        for start in range(0, writer.n_done, COPIED_AT_ONCE):
            stop = min(start + COPIED_AT_ONCE, writer.n_done)
            dataset[start:stop] = item[start:stop]
        dataset.attrs.update(item.attrs)
