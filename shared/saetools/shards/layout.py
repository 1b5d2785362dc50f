"""Finds and checks the data sets in the HDF5 file of an activation shard.

Every function raises UserError where something is missing, has another size or type, or is cut short.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import torch

from saetools.errors import UserError
from saetools.files.formats import SHARDS
from saetools.shards.dtypes import STORED_TYPES
from saetools.shards.header import DIGEST_CHARACTERS, Examples, ShardHeader, layer_group, shard_name

SHARD_NAME = re.compile(r"shard-\d{6}\.h5")
BYTES_AT_ONCE = 1 << 19  # fits into a processor's cache
AGAIN = f"record the shard again with {SHARDS.made_by}"


@dataclass(frozen=True)
class ByteRange:
    """Offset and shape of the contiguous bytes of a data set in the file; dtype: float16, ..., int8, or uint16."""

    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def stored(self) -> np.dtype[Any]:
        """The type of the values in the file."""
        return STORED_TYPES.get(self.dtype, np.dtype("<u2"))

    @property
    def row_bytes(self) -> int:
        """Of one row along the first axis."""
        return int(np.prod(self.shape[1:])) * self.stored.itemsize


@dataclass(frozen=True)
class Layer:
    """patches {N, P, D}, cls {N, D}, labels {N, P} on disk; scale {D} with int8, sums {N}, grid {N, 2}.

    grid: None where it is that of /examples.
    """

    patches: ByteRange
    cls: ByteRange | None
    labels: ByteRange | None
    scale: torch.Tensor | None
    sums: np.ndarray
    grid: np.ndarray | None


def map_bytes(path: Path, place: ByteRange) -> np.ndarray:
    """The data set, memory-mapped."""
    if 0 in place.shape:
        return np.empty(place.shape, place.stored)
    return np.memmap(path, place.stored, mode="r", offset=place.offset, shape=place.shape)


def read_rows(
    path: Path,
    place: ByteRange,
    rows: np.ndarray,
    check: Callable[[np.ndarray, np.ndarray], None],
    buffer: np.ndarray | None = None,
) -> np.ndarray:
    """The rows (ascending) of the data set, in memory of their own, or in the first bytes of `buffer` (uint8).

    check: called with a few rows and their numbers just after they were read, while they are in the processor's cache.
    Reads where mapping would do too: a copy from mapped pages faults each of them in, and a fresh copy too.
    """
    row_bytes, n_bytes = place.row_bytes, len(rows) * place.row_bytes
    found = np.empty(n_bytes, np.uint8) if buffer is None else buffer[:n_bytes]
    stored = found.view(place.stored).reshape(len(rows), *place.shape[1:])
    bytes_ = found.data
    at_once = max(1, BYTES_AT_ONCE // max(1, row_bytes))
    # runs of consecutive rows: one read each
    ends = [*np.flatnonzero(np.diff(rows) != 1) + 1, len(rows)] if len(rows) else []
    first = 0
    with path.open("rb", buffering=0) as file:
        for end in ends:
            file.seek(place.offset + int(rows[first]) * row_bytes)
            for start in range(first, int(end), at_once):
                stop = min(start + at_once, int(end))
                _fill(file, bytes_[start * row_bytes : stop * row_bytes], path)
                check(stored[start:stop], rows[start:stop])
            first = int(end)
    return stored


def _fill(file: BinaryIO, bytes_: memoryview, path: Path) -> None:
    done = 0
    while done < len(bytes_):
        n_read = file.readinto(bytes_[done:])  # type: ignore[attr-defined]
        if not n_read:
            raise UserError(f"{path}: it ends before its activations do: it was cut short; {AGAIN}")
        done += n_read


def will_read_rows(path: Path, place: ByteRange, rows: np.ndarray) -> None:
    """Ask the system to fetch consecutive rows that will be read soon; where it can't be asked, nothing happens."""
    if not len(rows) or not hasattr(os, "posix_fadvise"):
        return
    first, last = int(rows[0]), int(rows[-1])
    start, n_bytes = place.offset + first * place.row_bytes, (last - first + 1) * place.row_bytes
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), start, n_bytes, os.POSIX_FADV_WILLNEED)


def read_layer(file: h5py.File, layer: int, path: Path) -> Layer:
    """Find the data sets of a layer."""
    group = layer_group(layer)
    patches = _locate_acts(file, f"{group}/patches", path, 3)
    scale = None
    if patches.dtype == "int8":
        scale = torch.from_numpy(_read(file, f"{group}/scale", path, np.float32, (patches.shape[2],)))
    grid = None
    if f"{group}/grid" in file:
        grid = _read(file, f"{group}/grid", path, np.int16, (patches.shape[0], 2))
    labels = f"{group}/labels" if grid is not None else "labels"
    return Layer(
        patches=patches,
        cls=_locate_acts(file, f"{group}/cls", path, 2) if f"{group}/cls" in file else None,
        labels=_locate(file, labels, path, 2, "uint16") if labels in file else None,
        scale=scale,
        sums=_read(file, f"{group}/sums", path, np.uint64, (patches.shape[0],)),
        grid=grid,
    )


def check_layer(number: int, layer: Layer, first: Layer, n_images: int, path: Path) -> None:
    """Check the sizes of a layer against each other, the number of images, and the first layer's."""
    n, n_patches, d_model = layer.patches.shape
    if n != n_images:
        raise UserError(f"{path}: layer {number} has {n} images, but {n_images} examples are listed; {AGAIN}")
    for what, place, expected in (
        ("cls", layer.cls, (n, d_model)),
        ("labels", layer.labels, (n, n_patches)),
    ):
        if place is not None and place.shape != expected:
            raise UserError(
                f"{path}: {what} of layer {number} has shape {place.shape}, expected {expected}; {AGAIN}"
            )
    if layer.grid is None and n_patches != first.patches.shape[1]:
        raise UserError(
            f"{path}: layer {number} has {n_patches} patches and no grid of its own, but the first layer has"
            f" {first.patches.shape[1]}; {AGAIN}"
        )


def check_grid(grid_n2: np.ndarray, n_patches: int, what: str, path: Path) -> None:
    """Check that rows times columns is the number of patches, for every image."""
    wrong = np.flatnonzero(grid_n2.astype(np.int64).prod(axis=1) != n_patches)
    if len(wrong):
        rows, columns = grid_n2[wrong[0]]
        raise UserError(
            f"{path}: {what} is {rows} x {columns} for image {wrong[0]}, but there are {n_patches} patches; {AGAIN}"
        )


def check_shard_identity(path: Path, header: ShardHeader, index: np.ndarray) -> None:
    """Check that the images are some of the data set's, in order, and that the file has its own name."""
    n_total = header.n_examples_total
    if np.any(np.diff(index) <= 0) or (len(index) and (index[0] < 0 or index[-1] >= n_total)):
        raise UserError(
            f"{path}: /examples/index does not ascend within the {n_total} images of the data set; {AGAIN}"
        )
    own = shard_name(header.shard_index)
    if path.name != own and SHARD_NAME.fullmatch(path.name):
        raise UserError(
            f"{path}: by its header it is number {header.shard_index}, {own}: it was renamed or copied;"
            " give it its own name back"
        )


def read_examples(file: h5py.File, path: Path) -> Examples:
    group = file.get("examples", {})
    if missing := [name for name in ("path", "index", "target", "grid") if name not in group]:
        raise UserError(f"{path}: /examples/{missing[0]} is missing; {AGAIN}")
    size = digest = None  # shards that were recorded before they were part of the format do not have them
    if "size" in group:
        size = _read(file, "examples/size", path, np.int32, (len(group["path"]), 2))
    if "digest" in group:
        stored = np.dtype(f"S{DIGEST_CHARACTERS}")
        digest = np.char.decode(_read(file, "examples/digest", path, stored, (len(group["path"]),)), "latin1")
    examples = Examples(
        _strings(group["path"]),
        group["index"][:],
        group["target"][:],
        group["grid"][:].astype(np.int16),
        size,
        digest,
        _strings(group["class"]) if "class" in group else None,
    )
    per_image = examples.path, examples.index, examples.target, examples.grid, examples.class_name
    lengths = {len(each) for each in per_image if each is not None}
    if len(lengths) != 1:
        raise UserError(
            f"{path}: the data sets in /examples have lengths {sorted(lengths)}, expected one length; {AGAIN}"
        )
    if size is not None and size.size and size.min() < 1:
        raise UserError(
            f"{path}: /examples/size is {size[size.min(axis=1) < 1][0].tolist()} for an image, expected a height"
            f" and a width; {AGAIN}"
        )
    if digest is not None and not all(map(re.compile("[0-9a-f]{32}").fullmatch, digest)):
        raise UserError(f"{path}: /examples/digest holds something else than 32 hexadecimal digits; {AGAIN}")
    return examples


def read_skipped(file: h5py.File, path: Path) -> dict[str, str]:
    """path -> reason, of the images that could not be decoded and were left out."""
    if "skipped" not in file:
        return {}
    group = file["skipped"]
    if missing := [name for name in ("path", "index", "reason") if name not in group]:
        raise UserError(f"{path}: /skipped/{missing[0]} is missing; {AGAIN}")
    return dict(zip(_strings(group["path"]), _strings(group["reason"]), strict=True))


def _strings(dataset: h5py.Dataset) -> np.ndarray:
    return dataset.asstr()[:] if len(dataset) else np.empty(0, object)


def _read(file: h5py.File, name: str, path: Path, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
    """A small data set of this type and shape."""
    dataset = file.get(name)
    if dataset is None:
        raise UserError(f"{path}: /{name} is missing; {AGAIN}")
    if dataset.dtype != dtype or dataset.shape != shape:
        raise UserError(
            f"{path}: /{name} is {dataset.dtype} {dataset.shape}, expected {np.dtype(dtype)} {shape}; {AGAIN}"
        )
    return dataset[...]


def _locate_acts(file: h5py.File, name: str, path: Path, n_axes: int) -> ByteRange:
    dataset: Any = file.get(name)
    if dataset is None:
        raise UserError(f"{path}: /{name} is missing, though the header names it; {AGAIN}")
    dtype = dataset.attrs.get("dtype", dataset.dtype.name)
    if STORED_TYPES.get(dtype) != dataset.dtype:
        raise UserError(
            f"{path}: /{name} holds {dataset.dtype} and says {dtype!r}; expected one of"
            f" {', '.join(STORED_TYPES)}; update saetools, or {AGAIN}"
        )
    return _locate(file, name, path, n_axes, dtype)


def _locate(file: h5py.File, name: str, path: Path, n_axes: int, dtype: str) -> ByteRange:
    dataset: Any = file[name]
    if dtype == "uint16" and dataset.dtype != np.uint16:
        raise UserError(f"{path}: /{name} holds {dataset.dtype}, expected uint16; {AGAIN}")
    if dataset.ndim != n_axes:
        raise UserError(f"{path}: /{name} has shape {dataset.shape}, expected {n_axes} axes; {AGAIN}")
    offset = dataset.id.get_offset()
    if dataset.size and offset is None:
        raise UserError(f"{path}: /{name} is stored in chunks, expected contiguous bytes; {AGAIN}")
    if dataset.size and offset + dataset.nbytes > path.stat().st_size:
        raise UserError(f"{path}: /{name} ends after the end of the file: it was truncated; {AGAIN}")
    return ByteRange(offset or 0, dataset.shape, dtype)
