"""Images as the model saw them, found again under a root and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from saetools.errors import UserError
from saetools.preprocess import Preprocess, native_grid


def check_images(root: Path, paths: Sequence[str], source: Path) -> None:
    """Raise UserError, saying where it looked and what to give, unless all images are under the root."""
    if not root.is_dir():
        raise UserError(
            f"{root}: no such folder; --images is the root of the data set that dump-acts was given"
        )
    missing = [path for path in paths if not (root / path).is_file()]
    if not missing:
        return
    first = missing[0]
    found = _root_nearby(root, first)
    advice = f"; did you mean --images {found}?" if found else f", such that ROOT/{first} exists"
    raise UserError(
        f"{root / first}: no such file; {source} names {len(paths):,} images relative to their data set's root,"
        f" and {len(missing):,} of them are not under {root}\n"
        f"give --images the root that dump-acts was given{advice}"
    )


def _root_nearby(root: Path, path: str) -> Path | None:
    """A folder a little above or below `root` in which the image is."""
    above = [root.resolve().parents[i] for i in range(min(3, len(root.resolve().parents)))]
    below = sorted(place for place in root.iterdir() if place.is_dir())[:1000]
    return next((place for place in [*above, *below] if (place / PurePosixPath(path)).is_file()), None)


def seen_pixels(root: Path, path: str, preprocess: Mapping[str, Any], grid: tuple[int, int]) -> np.ndarray:
    """The pixels uint8 {H, W, 3} that the model saw.

    Raises UserError where the image cannot be decoded, or has another shape than when it was recorded.
    """
    from PIL import Image

    settings = Preprocess.from_settings(preprocess)
    try:
        with Image.open(root / path) as image:
            if settings.native is not None:
                now = native_grid(settings.native[0], image.height, image.width)
                if now != grid:
                    raise UserError(
                        f"{root / path}: it is {image.width} x {image.height} pixels, which makes a grid of"
                        f" {now[0]} x {now[1]} patches, but {grid[0]} x {grid[1]} were recorded: the image has changed;"
                        " restore it, or record it again with dump-acts"
                    )
            return settings.pixels(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"{root / path}: it is not an image that can be decoded ({error}); restore it and run this again"
        ) from error
