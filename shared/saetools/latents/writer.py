"""Writes one file of CSR latents, block by block in bounded memory; complete or absent."""

from __future__ import annotations

import contextlib
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash

from saetools.errors import UserError
from saetools.files.atomic import atomic_path
from saetools.files.provenance import Provenance, canonical_json
from saetools.files.seal import COMMENT, seal_zip
from saetools.latents.header import BLOCK_BYTES, HEADER, IN_BLOCKS, MEMBERS, VALUE_TYPES, LatentsHeader
from saetools.shards.header import Examples

IN_MEMORY = 64 << 20  # bytes of indices, and of values, that are held before they go to a file without a name
ALIGNMENT = 64  # of a member's data in the file, so that it can be mapped into memory as an array
DATE = (1980, 1, 1, 0, 0, 0)  # the same latents are the same bytes
LOCAL_HEADER = 30  # bytes before the name in a zip file
ZIP64_EXTRA = 20

Spool = tempfile.SpooledTemporaryFile[bytes]


class LatentsWriter:
    """Takes the rows of one file in order; made by `new_latents`."""

    def __init__(
        self, target: Path, n_rows: int, n_latents: int, dtype: str, indices: Spool, data: Spool
    ) -> None:
        self._target, self._dtype, self._n_rows = target, VALUE_TYPES[dtype], n_rows
        self._indptr, self._done = np.zeros(n_rows + 1, np.int64), 0
        self.count = np.zeros(n_latents, np.int64)
        self._parts = {"indices": indices, "data": data}
        self.apart: list[tuple[int, int]] = []  # (offset, length) of the members in IN_BLOCKS

    def append(self, counts_b: np.ndarray, latent_e: np.ndarray, value_e: np.ndarray) -> None:
        """The next b rows: how many latents each has, these latents ascending row by row, and their values.

        Raises UserError where a value is not finite or does not fit into the stored type.
        """
        n = len(counts_b)
        assert self._done + n <= self._n_rows, "more rows than the file was made for"
        assert len(latent_e) == len(value_e) == counts_b.sum(), "counts and values do not fit"
        with np.errstate(over="ignore"):
            stored_e = value_e.astype(self._dtype)
        if not np.isfinite(stored_e).all():
            raise UserError(
                f"{self._target}: a latent's value is {value_e[~np.isfinite(stored_e)][0]}, which"
                f" {self._dtype.name} cannot hold; use `dtype` float32, or check the activations"
            )
        start = self._indptr[self._done]
        self._indptr[self._done + 1 : self._done + n + 1] = start + np.cumsum(counts_b)
        self.count += np.bincount(latent_e, minlength=len(self.count))
        self._parts["indices"].write(np.ascontiguousarray(latent_e, "<i4").data)
        self._parts["data"].write(stored_e.data)
        self._done += n

    def finish(self, zip: zipfile.ZipFile, plain: dict[str, np.ndarray]) -> None:
        """Put everything into the zip file."""
        assert self._done == self._n_rows, "fewer rows than the file was made for"
        assert zip.fp is not None
        n_active = int(self._indptr[-1])
        arrays = {
            **plain,
            "format": np.array("csr"),
            "shape": np.array([self._n_rows, len(self.count)]),
            "indptr": self._indptr,
            "count": self.count,
        }
        sums: list[int] = []
        for name in MEMBERS:
            if name in ("indices", "data"):
                dtype: np.dtype[Any] = self._dtype if name == "data" else np.dtype("<i4")
                with _member(zip, name, dtype, (n_active,)) as stream:
                    self.apart.append((zip.fp.tell(), n_active * dtype.itemsize))
                    self._parts[name].seek(0)
                    while block := self._parts[name].read(BLOCK_BYTES):
                        sums.append(xxhash.xxh3_64_intdigest(block))
                        stream.write(block)
            elif name in arrays or name == "sums":
                array = np.array(sums, np.uint64) if name == "sums" else arrays[name]
                dtype = array.dtype if MEMBERS[name][0] == "text" else np.dtype(MEMBERS[name][0])
                content = np.ascontiguousarray(array, dtype).tobytes()
                with _member(zip, name, dtype, array.shape) as stream:
                    if name in IN_BLOCKS:
                        self.apart.append((zip.fp.tell(), len(content)))
                        sums += block_sums(content)
                    stream.write(content)


@contextlib.contextmanager
def new_latents(
    target: Path,
    header: LatentsHeader,
    provenance: Provenance,
    examples: Examples,
    labels_np: np.ndarray | None = None,
    *,
    dtype: str = "float32",
) -> Iterator[LatentsWriter]:
    """A writer for one file, which appears under `target` when the block ends without an exception.

    >>> with new_latents(target, header, provenance, shard.examples) as writer:
    ...     writer.append(counts_b, latent_e, value_e)
    """
    n_rows = len(examples) * header.n_patches
    with _spool(target) as indices, _spool(target) as data:
        writer = LatentsWriter(target, n_rows, header.n_latents, dtype, indices, data)
        yield writer
        text = canonical_json({**asdict(provenance), "header": asdict(header)})
        plain: dict[str, Any] = {
            HEADER: np.array(text),
            "path": np.array(list(examples.path), dtype=np.str_),
            "index": examples.index,
            "target": examples.target,
            "grid": examples.grid,
        }
        if examples.size is not None:
            plain["size"] = examples.size
        if examples.digest is not None:
            plain["digest"] = examples.digest
        if examples.class_name is not None:
            plain["class"] = np.array(list(examples.class_name), dtype=np.str_)
        if labels_np is not None:
            plain["labels"] = labels_np
        with atomic_path(target) as partial:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as zip:
                writer.finish(zip, plain)
                zip.comment = bytes(COMMENT)
            seal_zip(partial, writer.apart)


@contextlib.contextmanager
def _member(
    zip: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """NAME.npy, open for its data, which begins at a multiple of ALIGNMENT."""
    info = zipfile.ZipInfo(f"{name}.npy", DATE)
    assert zip.fp is not None
    # NumPy pads its own header to a multiple of 64, so the zip header before it has to end at one.
    end = zip.fp.tell() + LOCAL_HEADER + len(info.filename) + ZIP64_EXTRA
    padding = -(end + 4) % ALIGNMENT
    info.extra = b"PD" + padding.to_bytes(2, "little") + bytes(padding)  # a private field of the zip format
    with zip.open(info, "w", force_zip64=True) as stream:
        description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, description)
        yield stream


def block_sums(content: bytes | memoryview) -> list[int]:
    """XXH3-64 of each block of BLOCK_BYTES."""
    starts = range(0, len(content), BLOCK_BYTES)
    return [xxhash.xxh3_64_intdigest(content[start : start + BLOCK_BYTES]) for start in starts]


def _spool(target: Path) -> Spool:
    """A file without a name, in memory until it is large, on the disk of `target` then."""
    return tempfile.SpooledTemporaryFile(max_size=IN_MEMORY, mode="w+b", dir=str(target.parent))
