"""Reads CSR latents: checks a file when it is opened, then memory-maps its active latents."""

from __future__ import annotations

import json
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saetools.errors import UserError
from saetools.files.formats import LATENTS
from saetools.files.provenance import Provenance, check_format
from saetools.latents.header import (
    HEADER,
    MEMBERS,
    OPTIONAL,
    VALUE_TYPES,
    LatentsHeader,
    check_same_encoding,
    latents_name,
)
from saetools.log import logger
from saetools.shards.header import Examples, as_paths
from saetools.shards.held_out import check_no_overlap

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

POOLING_MEMORY = 1 << 30  # bytes, before values go to disk
AGAIN = f"write it again with {LATENTS.made_by}"


class LatentsFile:
    """The latents of one activation shard.

    Opening it checks format, version, types and sizes; raises UserError where something is wrong. It keeps no file
    open: active latents are memory-mapped when they are read.

    count {K}: in how many patches each latent is active.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places = _find_members(path)
        values = json.loads(str(self._load(HEADER)[()]))
        check_format(values, LATENTS, path)
        self.header = LatentsHeader.from_settings(values.pop("header", {}), path)
        self.provenance = Provenance(**values)
        self.count = self._load("count")
        size = self._load("size") if "size" in self._places else None
        digest = np.char.decode(self._load("digest"), "latin1") if "digest" in self._places else None
        paths, index, target, grid = map(self._load, ("path", "index", "target", "grid"))
        self.examples = Examples(paths, index, target, grid, size, digest)
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
        if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < self.n_latents):
            raise UserError(
                f"{self.path}: it names latents from {indices.min()} to {indices.max()} where there are"
                f" {self.n_latents}; {AGAIN}"
            )
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
        offset, dtype, _ = self._places[name]
        if first == last:
            return np.empty(0, dtype)
        place = offset + first * dtype.itemsize
        return np.memmap(self.path, dtype, "r", place, (last - first,))

    def _load(self, name: str) -> np.ndarray:
        offset, dtype, shape = self._places[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            count = int(np.prod(shape, dtype=np.int64))
            return np.frombuffer(file.read(count * dtype.itemsize), dtype, count).reshape(shape)

    def _check_sizes(self) -> None:
        n, p, k = self.n_images, self.n_patches, self.n_latents
        sizes = {"2": 2, "N*P+1": n * p + 1, "N": n, "P": p, "K": k, "E": self.n_active}
        for name, (_, shape) in MEMBERS.items():
            if name not in self._places:
                continue
            expected = tuple(sizes[part] for part in shape.split(",") if part)
            if (found := self._places[name][2]) != expected:
                raise UserError(f"{self.path}: {name} has shape {found}, expected {expected}; {AGAIN}")
        ends = self._map("indptr", 0, n * p + 1)[[0, -1]]
        if ends[0] != 0 or ends[1] != self.n_active or self.count.sum() != self.n_active:
            raise UserError(f"{self.path}: indptr or count do not count the active latents; {AGAIN}")


class LatentsSet:
    """Files of latents that belong together, in the order of their shards; its length is the number of images."""

    def __init__(self, files: Sequence[LatentsFile]) -> None:
        self.files = sorted(files, key=lambda file: file.header.shard_index)
        first = self.files[0]
        for other in self.files[1:]:
            check_same_encoding(first.header, first.path, other.header, other.path)
        self.header, self.n_patches, self.n_latents = first.header, first.n_patches, first.n_latents
        self.n_images = sum(file.n_images for file in self.files)

    @property
    def uids(self) -> list[str]:
        return [file.provenance.uid for file in self.files]

    @cached_property
    def paths(self) -> list[str]:
        """The examples' paths {N}: the join key with tables."""
        return [str(path) for file in self.files for path in file.examples.path]

    @cached_property
    def count(self) -> np.ndarray:
        """In how many patches each latent is active {K}, int64."""
        return np.sum([file.count for file in self.files], axis=0)

    def __len__(self) -> int:
        return self.n_images

    def __repr__(self) -> str:
        header = self.header
        return (
            f"LatentsSet({self.n_latents:,} latents of {header.kind} {header.scorer[:8]}, layer {header.layer} of"
            f" {header.source.get('model')}, {self.n_images:,} images x {self.n_patches:,} patches,"
            f" {self.count.sum():,} active, {len(self.files)} files)"
        )

    def to_scipy(self) -> sparse.csr_array:
        """The latents {N * P, K} of all patches, in the type that they are stored in; row = image * P + patch."""
        from scipy import sparse

        parts = [
            sparse.csr_array((values, indices, indptr), (len(indptr) - 1, self.n_latents))
            for indptr, indices, values in (file.images(0, file.n_images) for file in self.files)
        ]
        return sparse.csr_array(sparse.vstack(parts, format="csr"))

    def image_max(self) -> sparse.csc_array:
        """The largest value of each latent in each image {N, K}, without zeros; computed once."""
        return self._image_max

    @cached_property
    def _image_max(self) -> sparse.csc_array:
        from scipy import sparse

        from saetools.latents.columns import Columns

        keep = np.ones(self.n_images, bool)
        with tempfile.TemporaryDirectory() as folder:
            columns = Columns(self, keep, pooled=True, memory=POOLING_MEMORY, folder=Path(folder))
            with columns:
                blocks = [
                    sparse.csc_array(
                        (block.values, block.rows, block.indptr), (self.n_images, block.n_latents)
                    )
                    for _, block in columns.blocks()
                ]
        return sparse.csc_array(sparse.hstack(blocks, format="csc"))

    def top_images(self, latent: int, n: int = 10) -> pd.DataFrame:
        """The n images with the largest values of a latent, from the largest: columns image, path, target, value.

        image: its number in the set. Of equal values the earlier image is first; images without a value are left out.
        """
        if not 0 <= latent < self.n_latents:
            raise UserError(f"`latent` {latent}: the latents are 0 to {self.n_latents - 1}")
        column = self.image_max()[:, [latent]].tocoo()
        order = np.lexsort((column.row, -column.data))[:n]
        found = self.frame().loc[column.row[order], ["path", "target"]]
        found.insert(0, "image", column.row[order])
        return found.assign(value=column.data[order]).reset_index(drop=True)

    def frame(self) -> pd.DataFrame:
        """A row for each image: path, index, target, rows and columns of patches, height and width (NaN: unknown)."""
        import pandas as pd

        return pd.concat([file.examples.frame() for file in self.files], ignore_index=True)

    def heat(self, latent: int, image: int) -> np.ndarray:
        """Values float32 {rows, columns} of a latent at the patches of an image; 0 where it is not active."""
        if not 0 <= image < self.n_images:
            raise UserError(f"`image` {image}: the images are 0 to {self.n_images - 1}")
        file = self.files[0]
        for file in self.files:
            if image < file.n_images:
                break
            image -= file.n_images
        indptr, indices, values = file.images(image, image + 1)
        here = indices == latent
        heat_p = np.zeros(self.n_patches, np.float32)
        heat_p[np.repeat(np.arange(self.n_patches), np.diff(indptr))[here]] = values[here]
        rows, columns = (int(edge) for edge in file.examples.grid[image])
        return heat_p[: rows * columns].reshape(rows, columns)


def open_latents(paths: str | Path | Iterable[str | Path]) -> LatentsSet:
    """Open files of latents, and folders of them; a folder must hold every shard of its data set.

    Raises UserError where one is broken, missing, given twice, or does not belong to the others.
    """
    files: list[LatentsFile] = []
    seen: dict[str, Path] = {}
    for path in as_paths(paths):
        for file in _open_folder(path) if path.is_dir() else [LatentsFile(path)]:
            if (uid := file.provenance.uid) in seen:
                raise UserError(f"{file.path}: the same latents as {seen[uid]}; give every file once")
            seen[uid] = file.path
            files.append(file)
    if not files:
        raise UserError(f"no latents were given; write them with {LATENTS.made_by}")
    return LatentsSet(files)


def check_splits(train: LatentsSet, test: LatentsSet) -> None:
    """Raise UserError unless both were encoded alike, from different images.

    Warns where the scorer was trained on shards of the test side: its results there are no estimate for new images.
    """
    first, other = train.files[0], test.files[0]
    check_same_encoding(first.header, first.path, other.header, other.path)
    check_no_overlap(
        (file.examples for file in train.files), (file.examples for file in test.files), other.path
    )
    if same := [file.path for file in test.files if file.header.trained_on_these]:
        logger.warning(
            "warning: %s: the %s was trained on the activations of %d of the %d test files, so results on them are no"
            " estimate for new images; swap the training and the test latents if they were confused",
            *(same[0], first.header.kind, len(same), len(test.files)),
        )


def _open_folder(folder: Path) -> Iterator[LatentsFile]:
    names = sorted(path.name for path in folder.glob("latents-*.npz"))
    if not names:
        raise UserError(
            f"{folder}: it holds no latents ({latents_name(0)}, ...); write them with {LATENTS.made_by}"
        )
    n_shards = LatentsFile(folder / names[0]).header.n_shards
    wanted = [latents_name(index) for index in range(n_shards)]
    missing = [index for index, name in enumerate(wanted) if name not in names]
    if missing:
        listed = ", ".join(map(str, missing[:10])) + (", ..." if len(missing) > 10 else "")
        raise UserError(
            f"{folder}: {len(missing)} of {n_shards} files are missing (number {listed});"
            f" run the same {LATENTS.made_by} command again, or its other slices, to complete it"
        )
    if len(names) > n_shards:
        raise UserError(
            f"{folder}: it holds {len(names)} files where {n_shards} belong together; move the others away"
        )
    for name in names:
        yield LatentsFile(folder / name)


_ByteRange = tuple[int, np.dtype[Any], tuple[int, ...]]


def _find_members(path: Path) -> dict[str, _ByteRange]:
    """Where in the file each array's bytes are, their type and shape."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as zip:
            members = {info.filename.removesuffix(".npy"): info for info in zip.infolist()}
            needed = [name for name in MEMBERS if name not in OPTIONAL]
            if HEADER not in members:
                raise UserError(
                    f"{path}: it has no member {HEADER!r} that says where it comes from; expected latents as"
                    f" {LATENTS.made_by} writes them"
                )
            if missing := [name for name in needed if name not in members]:
                raise UserError(f"{path}: the member {missing[0]!r} is missing; {AGAIN}")
            places = {name: _find(file, info, path) for name, info in members.items() if name in MEMBERS}
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: no such file; expected latents, as {LATENTS.made_by} writes them"
        ) from error
    except (zipfile.BadZipFile, struct.error) as error:
        raise UserError(
            f"{path}: not a whole .npz file ({error}); it was cut short or is none; {AGAIN}"
        ) from error
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
