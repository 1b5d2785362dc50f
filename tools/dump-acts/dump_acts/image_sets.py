"""Lists the images of a data set, in the layouts that people have."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saetools import cub200
from saetools.errors import UserError

LAYOUTS = ("auto", "folder", "cub200")
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}


@dataclass(frozen=True)
class ImageSet:
    """path {N} relative to root, sorted or in the data set's own order; target {N} int64, -1 unknown."""

    root: Path
    path: list[str]
    target: np.ndarray

    def __len__(self) -> int:
        return len(self.path)

    def digest(self) -> str:
        """SHA-256 over paths, targets and file sizes; independent of where the root lies."""
        digest = hashlib.sha256()
        for path, target in zip(self.path, self.target, strict=True):
            digest.update(f"{path}\t{target}\t{(self.root / path).stat().st_size}\n".encode())
        return digest.hexdigest()


def list_images(root: Path, layout: str, split: str | None) -> ImageSet:
    """List the images under `root`.

    folder: ROOT[/SPLIT]/CLASS/..., target = number of the class folder in alphabetical order; images
    directly in the folder have target -1. cub200: CUB-200-2011's official lists; split train or test.
    auto: cub200 where its lists are there, else folder. Raises UserError where there are no images.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; expected a folder with images")
    if layout == "auto":
        layout = "cub200" if cub200.is_cub(root) else "folder"
    images = _list_cub(root, split) if layout == "cub200" else _list_folder(root, split)
    if not images.path:
        raise UserError(
            f"{root}: no images found in the layout {layout!r}"
            f"{f' for the split {split!r}' if split else ''};"
            f" expected CLASS/NAME with one of the endings {' '.join(sorted(SUFFIXES))}"
        )
    return images


def _list_cub(root: Path, split: str | None) -> ImageSet:
    images = cub200.read_images(root)
    if split not in (None, "train", "test"):
        raise UserError(f"{root}: found no split {split!r}; CUB-200-2011 has train and test")
    chosen = np.ones(len(images.path), bool) if split is None else images.is_train == (split == "train")
    path = [path for path, keep in zip(images.path, chosen, strict=True) if keep]
    for name in path:
        if not (root / name).is_file():
            raise UserError(
                f"{root / name}: no such file, though images.txt lists it; get the data set again"
            )
    return ImageSet(root, path, images.target[chosen])


def _list_folder(root: Path, split: str | None) -> ImageSet:
    top = root / split if split else root
    if not top.is_dir():
        raise UserError(f"{top}: no such folder; expected the split {split!r} as a folder in {root}")
    files = sorted(
        path for path in top.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    class_names = [path.relative_to(top).parts[0] if path.parent != top else None for path in files]
    number = {name: i for i, name in enumerate(sorted({name for name in class_names if name is not None}))}
    target = np.array([-1 if name is None else number[name] for name in class_names], dtype=np.int64)
    return ImageSet(root, [path.relative_to(root).as_posix() for path in files], target)
