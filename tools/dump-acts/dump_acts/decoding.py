"""Decodes images in worker processes, into the pixels that the model sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from saetools.errors import UserError
from saetools.preprocess import Preprocess


class _Pixels(torch.utils.data.Dataset):
    """Item i: the pixels uint8 {height, width, 3} of image i, or what is wrong with it."""

    def __init__(self, root: Path, paths: Sequence[str], preprocess: Preprocess) -> None:
        self.root, self.paths, self.preprocess = root, paths, preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray | str:
        from PIL import Image

        path = self.root / self.paths[i]
        try:
            with Image.open(path) as image:
                return self.preprocess.pixels(image)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return f"{path}: it is not an image that can be decoded ({error}); mend it, or take it out"


def decode(
    root: Path, paths: Sequence[str], preprocess: Preprocess, batch_size: int, workers: int
) -> Iterator[torch.Tensor]:
    """Yield batches of pixels uint8 {b, height, width, 3} in the order of `paths`.

    Raises UserError at the first image that cannot be decoded.
    """
    loader = torch.utils.data.DataLoader(
        _Pixels(root, paths, preprocess),
        batch_size=batch_size,
        num_workers=min(workers, -(-len(paths) // batch_size)),
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, str):
            raise UserError(batch)
        yield batch


def _collate(items: list[np.ndarray | str]) -> torch.Tensor | str:
    for item in items:
        if isinstance(item, str):
            return item
    return torch.from_numpy(np.stack(items))
