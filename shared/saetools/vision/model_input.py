"""The pixels that the model saw of an image: found under the data set's root, checked, preprocessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from saetools.errors import UserError, near_names, why_unreadable
from saetools.files.user_csv import read_user_csv
from saetools.vision.pictures import deep_grey_range, open_image, picture_digest, rgb_picture
from saetools.vision.preprocess import Preprocess, native_grid

CHANGED = "the image has changed; restore it, or run dump-acts and encode-acts again, into new folders"


@dataclass(frozen=True)
class Recorded:
    """What an image was when its activations were recorded.

    grid: rows and columns of patches. size: height and width in pixels of the file, None where that is unknown.
    digest: `picture_digest`, None where it is not to be compared.
    """

    grid: tuple[int, int]
    size: tuple[int, int] | None
    digest: str | None = None


def images_root(images: Path) -> Path:
    """The root of a data set: the folder itself, or that of its CSV (path,...), as dump-acts takes either.

    Raises UserError for any other file.
    """
    if not images.is_file():
        return images
    expected = "`images` as dump-acts takes it: a folder, or a CSV with the column path"
    if "path" not in (header := read_user_csv(images, expected).header):
        raise UserError(f"{images}: it has no column 'path'{near_names('path', header)}; expected {expected}")
    return images.parent


def check_images(root: Path, paths: Sequence[str], source: Path) -> None:
    """Raise UserError, saying where it looked and what to give, unless all images are under the root."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder or CSV; `images` is the data set that dump-acts was given")
    missing = [path for path in paths if not (root / path).is_file()]
    if not missing:
        return
    first = missing[0]
    found = _root_nearby(root, first)
    advice = f"; did you mean `images` {found}?" if found else f", such that ROOT/{first} exists"
    raise UserError(
        f"{root / first}: {why_unreadable(root / first)}; {source} names {len(paths):,} images relative to their data"
        f" set's root, and {len(missing):,} of them are not there\n"
        f"give `images` the root that dump-acts was given{advice}"
    )


def _root_nearby(root: Path, path: str) -> Path | None:
    """A folder a little above or below `root` in which the image is."""
    above = [root.resolve().parents[i] for i in range(min(3, len(root.resolve().parents)))]
    below = sorted(place for place in root.iterdir() if place.is_dir())[:1000]
    return next((place for place in [*above, *below] if (place / PurePosixPath(path)).is_file()), None)


def seen_pixels(root: Path, path: str, preprocess: Mapping[str, Any], recorded: Recorded) -> np.ndarray:
    """The pixels uint8 {H, W, 3} that the model saw.

    Raises UserError where the image cannot be decoded, or has another size than when it was recorded.
    """
    settings = Preprocess.from_settings(preprocess)
    with open_image(root / path, settings) as image:
        _check_unchanged(root / path, (image.height, image.width), recorded, settings)
        if deep_grey_range(image) is not None and settings.deep_grey is None:
            raise UserError(
                f"{root / path}: it is grey of more than 8 bits, which was clipped to white when its activations"
                " were recorded by an earlier version: run dump-acts and encode-acts again, into new folders"
            )
        picture = rgb_picture(image, root / path)
        if recorded.digest is not None and picture_digest(picture) != recorded.digest:
            raise UserError(
                f"{root / path}: it is another picture than when its activations were recorded: {CHANGED}"
            )
        return settings.pixels(picture)


def _check_unchanged(image: Path, now: tuple[int, int], recorded: Recorded, settings: Preprocess) -> None:
    """Raise UserError unless an image of this height and width is the one whose activations were recorded."""
    here = f"{image}: it is {now[1]} x {now[0]} pixels"
    if recorded.size is not None:
        if now != recorded.size:
            height, width = recorded.size
            raise UserError(
                f"{here}, but was {width} x {height} when its activations were recorded: {CHANGED}"
            )
    elif settings.native is not None:  # of an unknown size, but the grid tells something of it
        rows, columns = native_grid(settings.native[0], *now)
        if (rows, columns) != recorded.grid:
            raise UserError(
                f"{here}, which makes a grid of {rows} x {columns} patches, but {recorded.grid[0]} x"
                f" {recorded.grid[1]} were recorded: {CHANGED}"
            )
