"""The tokens of a layer as rows {R, D}: in memory, or in a file without a name where they do not fit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch

from saetools.cli.progress import Progress
from saetools.errors import UserError
from saetools.shards.reader import IMAGES_AT_ONCE, ShardSet

CLS, MEAN, PATCHES = TOKENS = ("cls", "mean", "patches")
BLOCK_BYTES = 8 * 2**20  # of a block of rows in float64


def read_tokens(
    shards: ShardSet, layer: int, tokens: str, keep_n: np.ndarray, what: str
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Yield (positions of images in the set, their rows {n, P, D}) of the images in keep_n {N}, in order.

    cls and mean have one row an image (P = 1); mean is that of the patches, in float64.
    """
    with Progress(what, total=int(keep_n.sum()), unit="images") as progress:
        first = 0
        for shard in shards.shards:
            cls_nd = shard.cls(layer) if tokens == CLS else None
            rows = np.flatnonzero(keep_n[first : first + shard.n_images])
            for start in range(0, len(rows), IMAGES_AT_ONCE):
                here = rows[start : start + IMAGES_AT_ONCE]
                if cls_nd is not None:
                    acts_npd = cls_nd[torch.from_numpy(here)][:, None]
                else:
                    acts_npd = shard.read_acts(layer, here).float()
                    if tokens == MEAN:
                        acts_npd = acts_npd.double().mean(1, keepdim=True)
                yield first + here, acts_npd
                progress.advance(len(here))
            first += shard.n_images


def check_tokens(shards: ShardSet, layer: int, tokens: str) -> None:
    """Raise UserError where a shard has no class tokens and they are asked for, or ones that are not finite."""
    for shard in shards.shards if tokens == CLS else ():
        if not bool(torch.isfinite(shard.cls(layer)).all()):
            raise UserError(f"{shard.path}: a class token of layer {layer} is not finite; record it again")


class Features:
    """Rows {R, D} of the images `order` of a set, in that order; a context manager that removes what it spilled.

    memory: bytes that the rows may take on the device; rows that take more go to a file in `folder`.
    per_image: rows of an image; block_rows: the most that `blocks` yields at a time.
    """

    def __init__(
        self, shards: ShardSet, layer: int, tokens: str, order: np.ndarray, memory: int, folder: Path,
        device: torch.device,
    ) -> None:  # fmt: skip
        n_patches, self.d_model = shards.shape(layer)
        self.per_image = n_patches if tokens == PATCHES else 1
        self.n_rows, self.device = len(order) * self.per_image, device
        self._dtype = np.dtype(np.float64 if tokens == MEAN else np.float32)
        self._held: torch.Tensor | None = None
        self._file: IO[bytes] | None = None
        kind = torch.from_numpy(np.empty(0, self._dtype)).dtype
        if self.n_rows * self.d_model * self._dtype.itemsize <= memory:
            self._held = torch.empty(self.n_rows, self.d_model, dtype=kind, device=device)
        else:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)
        place_n = np.full(shards.n_images, -1)
        place_n[order] = np.arange(len(order))
        for images, acts_npd in read_tokens(shards, layer, tokens, place_n >= 0, "reading"):
            for place, acts_pd in zip(place_n[images].tolist(), acts_npd.to(kind), strict=True):
                if self._held is not None:
                    self._held[place * self.per_image : (place + 1) * self.per_image] = acts_pd
                elif self._file is not None:
                    self._file.seek(place * self.per_image * self._row_bytes)
                    self._file.write(acts_pd.contiguous().numpy().data)
        self.block_rows = max(64, BLOCK_BYTES // (8 * self.d_model))
        self._exact = torch.empty(self.block_rows, self.d_model, dtype=torch.float64, device=device)
        self._stored = np.empty((self.block_rows if self._file else 0, self.d_model), self._dtype)

    def __enter__(self) -> Features:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def blocks(self, first: int, last: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield (first row, float64 {b, D}) of the rows from first to before last; the memory is reused."""
        for start in range(first, last, self.block_rows):
            n = min(self.block_rows, last - start)
            if self._held is not None:
                stored = self._held[start : start + n]
            else:
                assert self._file is not None
                self._file.seek(start * self._row_bytes)
                found = self._file.readinto(self._stored[:n].data)  # type: ignore[attr-defined]
                assert found == n * self._row_bytes, "the file is shorter than what went into it"
                stored = torch.from_numpy(self._stored[:n])
            yield start, self._exact[:n].copy_(stored)

    @property
    def spilled(self) -> bool:
        return self._file is not None

    @property
    def _row_bytes(self) -> int:
        return self.d_model * self._dtype.itemsize
