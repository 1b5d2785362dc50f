"""Latents column by column: CSR files become blocks of latents in CSC order, in one pass and bounded memory.

The files are read once, in pieces of rows. Each piece is transposed; the pieces are held in memory where they fit, and
otherwise appended to a file without a name beside the output. A block of latents is then put together from its run of
every piece. Images can be max-pooled on the way: a piece is whole images.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from saetools.cli.progress import Progress
from saetools.compute.kernels.transpose import append_piece, count_columns, fill_columns, pool_columns
from saetools.errors import UserError
from saetools.latents.block import Latents, all_finite

if TYPE_CHECKING:
    from saetools.latents.file import LatentsFile

SHORT_ROWS = 2**31  # fewer rows are numbered by int32
MIN_ACTIVE = 1 << 16  # in a piece or a block, however little memory is granted


@dataclass(frozen=True)
class MemoryPlan:
    """Shares of `memory` in active latents: for a piece, for all pieces before they go to disk, for a block of latents.

    Each is a row number and a value (8 or 12 bytes). A piece exists twice while it is made; a block needs as much again
    for fitting or ranking.
    """

    piece: int
    held: int
    block: int

    @staticmethod
    def of(n_bytes: int, active_bytes: int) -> MemoryPlan:
        eighth = max(n_bytes // 8 // active_bytes, MIN_ACTIVE)
        return MemoryPlan(piece=eighth, held=3 * eighth, block=eighth)


@dataclass(frozen=True)
class _Piece:
    """Active latents of some rows in CSC order: those of latent k from indptr[k] to indptr[k + 1].

    offset: of its rows and values in the temporary file, counted in values; rows and values are None then.
    """

    indptr: npt.NDArray[np.int64]
    rows: npt.NDArray[np.integer] | None
    values: npt.NDArray[np.floating] | None
    offset: int


class Columns:
    """The kept rows of a set of latents, transposed; a context manager that removes what it spilled.

    keep: bool {rows}, rows to keep: patches, or images with `pooled`, in which case each image has one row.
    """

    def __init__(
        self,
        files: Sequence[LatentsFile],
        keep: npt.NDArray[np.bool_],
        pooled: bool,
        memory: int,
        folder: Path,
    ) -> None:
        n_images = sum(file.n_images for file in files)
        self._n_patches, self._pooled = files[0].n_patches, pooled
        n_patch_rows = n_images * self._n_patches
        self.n_rows = n_images if pooled else n_patch_rows
        assert keep.shape == (self.n_rows,), "one entry for each row"
        self._keep = keep
        self._row_type: np.dtype[Any] = np.dtype(np.int32 if n_patch_rows < SHORT_ROWS else np.int64)
        self._value_type = np.result_type(*(file.value_type for file in files))
        self._plan = MemoryPlan.of(memory, self._row_type.itemsize + self._value_type.itemsize)
        self._pieces: list[_Piece] = []
        self._spill: _Spill | None = None
        self._folder = folder
        self.count = np.zeros(files[0].n_latents, np.int64)
        with Progress("transposing", total=n_images, unit="images") as progress:
            first_image = 0
            for file in files:
                for start, stop in file.blocks(self._plan.piece):
                    self._add(file, start, stop, first_image)
                    progress.advance(stop - start)
                first_image += file.n_images

    def __enter__(self) -> Columns:
        return self

    def __exit__(self, *_: object) -> None:
        if self._spill is not None:
            self._spill.close()

    @property
    def spilled(self) -> bool:
        """Whether the pieces went to disk."""
        return self._spill is not None

    def blocks(self, max_latents: int = 4096) -> Iterator[tuple[int, Latents]]:
        """Yield (first latent, the latents from there in CSC order), rows ascending in each, until all were given."""
        n_latents, start = len(self.count), 0
        ends = np.concatenate([[0], np.cumsum(self.count)])
        while start < n_latents:
            stop = int(np.searchsorted(ends, ends[start] + self._plan.block, side="right")) - 1
            stop = min(max(stop, start + 1), start + max_latents, n_latents)
            yield start, self._assemble(start, stop)
            start = stop

    def _add(self, file: LatentsFile, start: int, stop: int, first_image: int) -> None:
        """Transpose the images from start to stop of a file whose first image has that number in the set."""
        p = self._n_patches
        indptr, indices, values = file.images(start, stop)
        if not all_finite(values):
            raise UserError(
                f"{file.path}: its values hold NaN or infinity, expected finite ones; encode again"
            )
        images = slice(first_image + start, first_image + stop)
        rows = slice(images.start * p, images.stop * p)
        keep_b = np.repeat(self._keep[images], p) if self._pooled else self._keep[rows]
        count_k = np.zeros(len(self.count), np.int64)
        count_columns(indptr, indices, keep_b, count_k)
        piece_indptr = np.concatenate([[0], np.cumsum(count_k)])
        piece_rows = np.empty(piece_indptr[-1], self._row_type)
        piece_values = np.empty(piece_indptr[-1], np.float32 if values.dtype == np.float16 else values.dtype)
        fill_columns(
            indptr,
            indices,
            _widened(values),
            keep_b,
            rows.start,
            piece_indptr[:-1].copy(),
            piece_rows,
            piece_values,
        )
        if self._pooled:
            pooled_indptr = np.empty_like(piece_indptr)
            n = pool_columns(piece_indptr, piece_rows, piece_values, p, pooled_indptr)
            piece_indptr = pooled_indptr
            piece_rows, piece_values = piece_rows[:n].copy(), piece_values[:n].copy()
        self.count += np.diff(piece_indptr)
        if self._spill is None and self.count.sum() > self._plan.held:
            self._spill = _Spill(self._folder, self._row_type, self._value_type)
            self._pieces = [self._spill.add(piece) for piece in self._pieces]
        piece = _Piece(piece_indptr, piece_rows, piece_values.astype(self._value_type, copy=False), 0)
        self._pieces.append(piece if self._spill is None else self._spill.add(piece))

    def _assemble(self, start: int, stop: int) -> Latents:
        indptr = np.concatenate([[0], np.cumsum(self.count[start:stop])])
        rows = np.empty(indptr[-1], self._row_type)
        values = np.empty(indptr[-1], self._value_type)
        place_k = indptr[:-1].copy()
        for piece in self._pieces:
            first, last = int(piece.indptr[start]), int(piece.indptr[stop])
            if first == last:
                continue
            if piece.rows is None or piece.values is None:
                assert self._spill is not None
                run_rows, run_values = self._spill.read(piece.offset + first, last - first)
            else:
                run_rows, run_values = piece.rows[first:last], piece.values[first:last]
            append_piece(
                piece.indptr[start : stop + 1], run_rows, _bits(run_values), place_k, rows, _bits(values)
            )
        return Latents(indptr, rows, values, self.n_rows)


class _Spill:
    """Rows and values of pieces, one after the other, in two files that vanish when they are closed."""

    def __init__(self, folder: Path, row_type: np.dtype[Any], value_type: np.dtype[Any]) -> None:
        self._types = (row_type, value_type)
        self._files = [tempfile.TemporaryFile(dir=folder) for _ in self._types]  # noqa: SIM115 (closed by close)
        self._done = 0

    def add(self, piece: _Piece) -> _Piece:
        assert piece.rows is not None and piece.values is not None
        for file, array in zip(self._files, (piece.rows, piece.values), strict=True):
            file.write(np.ascontiguousarray(array).data)
        offset, self._done = self._done, self._done + len(piece.rows)
        return _Piece(piece.indptr, None, None, offset)

    def read(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        rows, values = (np.empty(count, dtype) for dtype in self._types)
        for file, array in zip(self._files, (rows, values), strict=True):
            file.seek(first * array.itemsize)
            found = file.readinto(array.data)
            assert found == array.nbytes, "a spill file is shorter than what went into it"
        return rows, values

    def close(self) -> None:
        for file in self._files:
            file.close()


def _widened(values: np.ndarray) -> np.ndarray:
    """float16 as float32: the kernels know no float16."""
    return values.astype(np.float32) if values.dtype == np.float16 else values


def _bits(values: np.ndarray) -> np.ndarray:
    """float16 as the integers of its bits, to be copied by a kernel that knows no float16."""
    return values.view(np.uint16) if values.dtype == np.float16 else values
