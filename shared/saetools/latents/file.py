"""Reads one file of CSR latents: checked when it is opened, its active latents memory-mapped when they are read."""

from __future__ import annotations

import mmap
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash

from saetools.errors import UserError
from saetools.files.formats import LATENTS
from saetools.files.provenance import Provenance, check_format
from saetools.files.reading import open_file, parse_json, reading
from saetools.files.seal import Seal, check_version, check_zip
from saetools.latents.header import (
    BLOCK_BYTES,
    HEADER,
    IN_BLOCKS,
    MEMBERS,
    OPTIONAL,
    VALUE_TYPES,
    LatentsHeader,
)
from saetools.shards.header import Examples

AGAIN = f"write it again with {LATENTS.made_by}"


class LatentsFile:
    """The latents of one activation shard.

    Opening it checks format, version, types and sizes, and compares all bytes but the active latents' with the file's
    checksum; raises UserError where something is wrong. It keeps no file open: active latents are memory-mapped
    when they are read, and each block is compared with its checksum then, once.

    count {K}: in how many patches each latent is active.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_file(path, f"expected latents, as {LATENTS.made_by} writes them") as file:
            seal = check_zip(file, path, AGAIN)
            with reading(path, AGAIN):
                self._places = _find_members(file, path)
        with reading(path, AGAIN):
            self._open(seal)

    def _open(self, seal: Seal | None) -> None:
        path = self.path
        values = parse_json(str(self._load(HEADER)[()]), path, f"its member {HEADER!r}", AGAIN)
        check_format(values, LATENTS, path)
        check_version(seal, values["format_version"], LATENTS, path)
        header = values.get("header")
        self.header = LatentsHeader.from_settings(header if isinstance(header, dict) else {}, path)
        self.provenance = Provenance.from_json(values, LATENTS, path)
        self._blocks = None
        if seal is not None:
            self._blocks = _Blocks(path, self._places, self._load("sums"), self.header.n_latents)
        self.count = self._load("count")
        size = self._load("size") if "size" in self._places else None
        digest = np.char.decode(self._load("digest"), "latin1") if "digest" in self._places else None
        names = self._load("class") if "class" in self._places else None
        paths, index, target, grid = map(self._load, ("path", "index", "target", "grid"))
        self.examples = Examples(paths, index, target, grid, size, digest, names)
        self.n_images, self.n_patches, self.n_latents = (
            len(self.examples),
            self.header.n_patches,
            self.header.n_latents,
        )
        self._check_sizes()

    @property
    def n_active(self) -> int:
        return int(self._places["data"][2][0])

    @property
    def value_type(self) -> np.dtype[Any]:
        """float32 or float16."""
        return self._places["data"][1]

    @property
    def labels(self) -> np.ndarray | None:
        """uint16 {N, P}, 65535 = ignore; None where the data set has no masks."""
        return self._load("labels") if "labels" in self._places else None

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(indptr {stop - start + 1} from 0, indices int32, values as stored) of the rows from `start` on.

        Raises UserError where a latent's number is not below K.
        """
        indptr = np.array(self._map("indptr", start, stop + 1))
        first, last = int(indptr[0]), int(indptr[-1])
        if first < 0 or last > self.n_active or np.any(np.diff(indptr) < 0):
            raise UserError(f"{self.path}: indptr does not count the active latents; {AGAIN}")
        indices = self._map("indices", first, last)
        if self._blocks is None:
            check_latents(indices, self.n_latents, self.path)
        return indptr - first, indices, self._map("data", first, last)

    def images(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`rows` of whole images."""
        return self.rows(start * self.n_patches, stop * self.n_patches)

    def blocks(self, max_active: int) -> Iterator[tuple[int, int]]:
        """Bounds (start, stop) of consecutive images, with at most that many active latents, or of a single image."""
        ends = np.array(self._map("indptr", 0, self.n_images * self.n_patches + 1)[:: self.n_patches])
        start = 0
        while start < self.n_images:
            stop = int(np.searchsorted(ends, ends[start] + max_active, side="right")) - 1
            stop = min(max(stop, start + 1), self.n_images)
            yield start, stop
            start = stop

    def _map(self, name: str, first: int, last: int) -> np.ndarray:
        """The entries of a member in IN_BLOCKS from `first` to before `last`, memory-mapped."""
        offset, dtype, _ = self._places[name]
        if first == last:
            return np.empty(0, dtype)
        start, stop = first * dtype.itemsize, last * dtype.itemsize
        begin, end = start, stop
        if self._blocks is not None and (todo := self._blocks.todo(name, start, stop)):
            begin, end = todo
        content = _mapped(self.path, offset + begin, end - begin)
        if self._blocks is not None and todo:
            self._blocks.check(name, begin, content)
        return content[start - begin : stop - begin].view(dtype)

    def _load(self, name: str) -> np.ndarray:
        offset, dtype, shape = self._places[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            count = int(np.prod(shape, dtype=np.int64))
            return np.frombuffer(file.read(count * dtype.itemsize), dtype, count).reshape(shape)

    def _check_sizes(self) -> None:
        n, p, k = self.n_images, self.n_patches, self.n_latents
        sizes = {"2": 2, "N*P+1": n * p + 1, "N": n, "P": p, "K": k, "E": self.n_active}
        sizes["B"] = len(self._load("sums")) if "sums" in self._places else 0
        for name, (_, shape) in MEMBERS.items():
            if name not in self._places:
                continue
            expected = tuple(sizes[part] for part in shape.split(",") if part)
            if (found := self._places[name][2]) != expected:
                raise UserError(f"{self.path}: {name} has shape {found}, expected {expected}; {AGAIN}")
        ends = int(self._map("indptr", 0, 1)[0]), int(self._map("indptr", n * p, n * p + 1)[0])
        if ends != (0, self.n_active) or self.count.sum() != self.n_active:
            raise UserError(f"{self.path}: indptr or count do not count the active latents; {AGAIN}")


def heat_grid(grid: tuple[int, int], patch_e: np.ndarray, value_e: np.ndarray) -> np.ndarray:
    """Values at patches -> {rows, columns}, 0 elsewhere."""
    heat_p = np.zeros(grid[0] * grid[1], np.float32)
    heat_p[patch_e] = value_e
    return heat_p.reshape(grid)


class _Blocks:
    """The checksums of the members in IN_BLOCKS, and which blocks were found to be right."""

    def __init__(
        self, path: Path, places: Mapping[str, _ByteRange], sums: np.ndarray, n_latents: int
    ) -> None:
        self._path, self._places, self._n_latents = path, places, n_latents
        ends = np.cumsum([0, *(-(-_n_bytes(places[name]) // BLOCK_BYTES) for name in IN_BLOCKS)])
        if len(sums) != ends[-1]:
            raise UserError(f"{path}: it has {len(sums)} checksums of blocks, expected {ends[-1]}; {AGAIN}")
        self._sums = dict(zip(IN_BLOCKS, np.split(sums, ends[1:-1]), strict=True))
        self._right = {name: np.zeros(len(own), bool) for name, own in self._sums.items()}

    def todo(self, name: str, start: int, stop: int) -> tuple[int, int] | None:
        """The bytes from `start` to `stop` as whole blocks, if one of these has not been compared; else None."""
        first, last = start // BLOCK_BYTES, -(-stop // BLOCK_BYTES)
        if self._right[name][first:last].all():
            return None
        return first * BLOCK_BYTES, min(last * BLOCK_BYTES, _n_bytes(self._places[name]))

    def check(self, name: str, begin: int, content: np.ndarray) -> None:
        """Compare whole blocks from byte `begin` of a member on; raises UserError.

        Numbers of latents are checked here too, while a block is in the processor's cache.
        """
        for start in range(0, len(content), BLOCK_BYTES):
            block, number = content[start : start + BLOCK_BYTES], (begin + start) // BLOCK_BYTES
            if self._right[name][number]:
                continue
            if xxhash.xxh3_64_intdigest(block.data) != self._sums[name][number]:
                raise UserError(
                    f"{self._path}: a block of {name} is not the one that was written: the file was damaged; remove it"
                    f" and run the same {LATENTS.made_by} command again"
                )
            if name == "indices":
                check_latents(block.view("<i4"), self._n_latents, self._path)
            self._right[name][number] = True


def _mapped(path: Path, offset: int, n_bytes: int) -> np.ndarray:
    """Bytes of a file, uint8; as np.memmap, whose views cost ten times as much to make."""
    start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), offset + n_bytes - start, access=mmap.ACCESS_READ, offset=start)
    return np.frombuffer(mapped, np.uint8, n_bytes, offset - start)


def check_latents(indices: np.ndarray, n_latents: int, path: Path) -> None:
    """Raise UserError where a latent's number is not below K."""
    if len(indices) and int(indices.view("<u4").max()) >= n_latents:  # a negative one is large there
        raise UserError(
            f"{path}: it names latents from {indices.min()} to {indices.max()} where there are {n_latents}; {AGAIN}"
        )


def _n_bytes(place: _ByteRange) -> int:
    _, dtype, shape = place
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


_ByteRange = tuple[int, np.dtype[Any], tuple[int, ...]]


def _find_members(file: BinaryIO, path: Path) -> dict[str, _ByteRange]:
    """Where in the file each array's bytes are, their type and shape."""
    with zipfile.ZipFile(file) as zip:
        members = {info.filename.removesuffix(".npy"): info for info in zip.infolist()}
    if HEADER not in members:
        raise UserError(
            f"{path}: it has no member {HEADER!r} that says where it comes from; expected latents as"
            f" {LATENTS.made_by} writes them"
        )
    if missing := [name for name in MEMBERS if name not in OPTIONAL and name not in members]:
        raise UserError(f"{path}: the member {missing[0]!r} is missing; {AGAIN}")
    places = {name: _find(file, info, path) for name, info in members.items() if name in MEMBERS}
    for name, (_, dtype, _shape) in places.items():
        allowed = {"text": dtype.kind == "U", "values": dtype in VALUE_TYPES.values()}
        wanted = MEMBERS[name][0]
        if not allowed.get(wanted, dtype == np.dtype(wanted) if wanted not in allowed else False):
            raise UserError(f"{path}: {name} is of type {dtype}, expected {wanted}; {AGAIN}")
    return places


def _find(file: Any, info: zipfile.ZipInfo, path: Path) -> _ByteRange:
    if info.compress_type != zipfile.ZIP_STORED:
        raise UserError(f"{path}: {info.filename} is compressed, expected plain bytes; {AGAIN}")
    file.seek(info.header_offset + 26)
    name_length, extra_length = struct.unpack("<HH", file.read(4))
    begin = info.header_offset + 30 + name_length + extra_length
    file.seek(begin)
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise UserError(f"{path}: {info.filename} is no NumPy array ({error}); {AGAIN}") from error
    if fortran or dtype.hasobject:
        raise UserError(f"{path}: {info.filename} is stored in another way than expected; {AGAIN}")
    count = int(np.prod(shape, dtype=np.int64))
    if file.tell() + count * dtype.itemsize > begin + info.file_size:
        raise UserError(f"{path}: {info.filename} ends after the end of its bytes; {AGAIN}")
    return file.tell(), dtype, shape
