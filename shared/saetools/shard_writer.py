"""Writes one activation shard, batch by batch; complete or absent."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from saetools.hdf5 import new_hdf5
from saetools.precision import STORED_TYPES, to_stored
from saetools.provenance import Provenance, canonical_json
from saetools.shard_layout import Examples, ShardHeader, layer_group


@contextlib.contextmanager
def new_shard(
    target: Path,
    header: ShardHeader,
    provenance: Provenance,
    examples: Examples,
    *,
    n_patches: int,
    d_model: int,
    dtype: str,
    has_cls: bool = False,
) -> Iterator[ShardWriter]:
    """A writer for one shard, which appears under `target` when the block ends without an exception.

    >>> shape = {"n_patches": 196, "d_model": 192}
    >>> with new_shard(target, header, provenance, examples, **shape, dtype="float16") as writer:
    ...     writer.append({11: acts_npd})
    """
    n_values = len(header.layers) * len(examples) * (n_patches + has_cls) * d_model
    n_bytes = n_values * STORED_TYPES[dtype].itemsize + sum(128 + 2 * len(path) for path in examples.path)
    with new_hdf5(target, n_bytes) as file:
        writer = ShardWriter(target, file, header.layers, len(examples), dtype)
        writer.write_attributes({**provenance.to_attributes(), "complete": False, **header.to_attributes()})
        writer.write_examples(examples)
        for layer in header.layers:
            writer.create(f"{layer_group(layer)}/patches", (len(examples), n_patches, d_model))
            if has_cls:
                writer.create(f"{layer_group(layer)}/cls", (len(examples), d_model))
        yield writer
        writer.finish()


class ShardWriter:
    """Records the examples of one shard, in order; made by `new_shard`."""

    def __init__(
        self, target: Path, file: h5py.File, layers: Sequence[int], n_images: int, dtype: str
    ) -> None:
        self._target, self._file, self._layers, self._dtype = target, file, layers, dtype
        self._n_images, self._done = n_images, 0
        self._digests: dict[str, Any] = {}

    def append(self, patches: Mapping[int, np.ndarray], cls: Mapping[int, np.ndarray] | None = None) -> None:
        """Record the next n images: float32 {n, P, D} for every layer of the header.

        Raises UserError where a value is not finite or does not fit into the stored type.
        """
        n = len(next(iter(patches.values())))
        assert self._done + n <= self._n_images, "more images than the shard was made for"
        for layer in self._layers:
            self._append(f"{layer_group(layer)}/patches", patches[layer], n)
            if cls is not None:
                self._append(f"{layer_group(layer)}/cls", cls[layer], n)
        self._done += n

    def finish(self) -> None:
        """Mark the shard as complete."""
        assert self._done == self._n_images, "fewer images than the shard was made for"
        digests = {f"/{name}": f"sha256:{digest.hexdigest()}" for name, digest in self._digests.items()}
        self.write_attributes({"digests": canonical_json(digests), "complete": True})

    def write_attributes(self, attributes: Mapping[str, Any]) -> None:
        for name, value in attributes.items():
            self._file.attrs[name] = value

    def write_examples(self, examples: Examples) -> None:
        group = self._file.create_group("examples")
        group.create_dataset("path", data=list(examples.path), dtype=h5py.string_dtype())
        path_bytes = "\n".join(examples.path).encode()
        self._digests["examples/path"] = hashlib.sha256(path_bytes)
        for name, dtype in (("index", "<i8"), ("target", "<i8"), ("grid", "<i2")):
            values = np.ascontiguousarray(getattr(examples, name), dtype)
            group.create_dataset(name, data=values)
            self._digests[f"examples/{name}"] = hashlib.sha256(values.tobytes())

    def create(self, name: str, shape: tuple[int, ...]) -> None:
        dataset = self._file.create_dataset(name, shape, STORED_TYPES[self._dtype])
        dataset.attrs["dtype"] = self._dtype
        self._digests[name] = hashlib.sha256()

    def _append(self, name: str, acts: np.ndarray, n: int) -> None:
        stored = np.ascontiguousarray(to_stored(acts, self._dtype, f"{self._target}: /{name}"))
        self._file[name][self._done : self._done + n] = stored
        self._digests[name].update(stored.data)
