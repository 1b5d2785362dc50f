"""What is done to an image before a vision model sees it: resize, centre crop, normalise.

One explicit geometry for pixels, masks and pictures of patches; the pixels equal those of timm's and
open_clip's own evaluation transforms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from saetools.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

# Of an image, and of what it is resized to before the crop: 0.7 GB of memory. Pillow calls more a decompression bomb.
MOST_PIXELS = 178_956_970
RESIZE_MODES = ("shortest", "squash", "longest")


@dataclass(frozen=True)
class Geometry:
    """Where an image goes: resized to (height, width), of which the crop starts at (top, left) and has the
    size (crop_height, crop_width) that the model sees.

    Negative top or left: the crop starts in a border around the image.
    """

    height: int
    width: int
    top: int
    left: int
    crop_height: int
    crop_width: int


@dataclass(frozen=True)
class Preprocess:
    """size: (height, width) that the model sees. resize: (height, width) aimed at before the centre crop,
    by resize_mode: shortest (cover it, keep the aspect), squash (exactly), longest (fit into it, keep the
    aspect; a border of colour `fill` around). interpolation: bilinear, bicubic, ... (Pillow's, antialiased).
    mean, std: per channel, of values in [0, 1].
    native: (number of patches, pixels along a patch) where each image has the grid of that many patches
    that distorts its aspect least, and is squashed to it; size and resize are then those of no image.
    deep_grey: how grey of more than 8 bits becomes 8 (`saetools.vision.pictures.DEEP_GREY`), None where
    the data set has none.
    """

    size: Sequence[int]
    resize: Sequence[int]
    resize_mode: str
    interpolation: str
    mean: Sequence[float]
    std: Sequence[float]
    fill: Sequence[int] = (0, 0, 0)
    native: Sequence[int] | None = None
    deep_grey: str | None = None

    def to_settings(self) -> dict[str, Any]:
        """As plain JSON values; without deep_grey where it is None, so that 8-bit data sets keep their identity."""
        return {
            name: list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for name, value in asdict(self).items()
            if (name, value) != ("deep_grey", None)
        }

    @staticmethod
    def from_settings(settings: Mapping[str, Any]) -> Preprocess:
        return Preprocess(**settings)

    def geometry(self, height: int, width: int) -> Geometry:
        """Where an image of this size goes; rounded as torchvision and timm do, for equal pixels."""
        if self.native is not None:
            n_patches, edge = self.native
            rows, columns = native_grid(n_patches, height, width)
            return Geometry(rows * edge, columns * edge, 0, 0, rows * edge, columns * edge)
        h, w = self._resized(height, width)
        crop_h, crop_w = self.size
        return Geometry(h, w, _offset(h, crop_h), _offset(w, crop_w), crop_h, crop_w)

    def check_size(self, where: object, height: int, width: int) -> None:
        """Raise UserError, naming `where`, for an image of which nothing, or more than MOST_PIXELS, would be left.

        The short side is resized to the model's size: of 60,000 x 1 pixels 14,880,000 x 248 would be made.
        """
        goes = self.geometry(height, width)
        if goes.height * goes.width > MOST_PIXELS or min(goes.height, goes.width) < 1:
            raise UserError(
                f"{where}: it has {width:,} x {height:,} pixels, and would be resized to {goes.width:,} x"
                f" {goes.height:,}; expected 1 to {MOST_PIXELS:,} pixels after that: crop it to its object"
            )

    def pixels(self, image: Image) -> np.ndarray:
        """The pixels uint8 {height, width, 3} that the model sees of an RGB image, before normalisation.

        Make it RGB by `saetools.vision.pictures.rgb_picture`.
        """
        assert image.mode == "RGB", image.mode
        return self.transform(image, self.interpolation, tuple(self.fill))

    def transform(self, image: Image, interpolation: str, fill: Any) -> np.ndarray:
        """Resize and crop an image of any mode (a mask: `nearest`, fill = the label of nothing)."""
        from PIL import Image as pil

        goes = self.geometry(image.height, image.width)
        if image.size != (goes.width, goes.height):
            image = image.resize((goes.width, goes.height), pil.Resampling[interpolation.upper()])
        height, width = goes.crop_height, goes.crop_width
        if goes.height < height or goes.width < width:
            canvas = pil.new(image.mode, (width, height), fill)
            canvas.paste(image, (-goes.left, -goes.top))
            return np.asarray(canvas)
        return np.asarray(image.crop((goes.left, goes.top, goes.left + width, goes.top + height)))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        to_height, to_width = self.resize
        if self.resize_mode == "squash":
            return to_height, to_width
        if self.resize_mode == "shortest" and to_height == to_width:
            short, long = min(height, width), max(height, width)
            other = int(to_height * long / short)
            return (to_height, other) if height <= width else (other, to_height)
        ratios = height / to_height, width / to_width
        ratio = min(ratios) if self.resize_mode == "shortest" else max(ratios)
        return round(height / ratio), round(width / ratio)


def native_grid(n_patches: int, height: int, width: int) -> tuple[int, int]:
    """The rows and columns, rows * columns = n_patches, whose aspect is nearest to the image's.

    Nearest in the logarithm of columns / rows, so that stretching by 2 is as far as squeezing by 2; of
    two equally near ones, that with fewer rows.
    """
    grids = [(rows, n_patches // rows) for rows in range(1, n_patches + 1) if n_patches % rows == 0]
    aspect = math.log(width / height)
    return min(grids, key=lambda grid: round(abs(math.log(grid[1] / grid[0]) - aspect), 9))


def _offset(have: int, want: int) -> int:
    """Start of the central `want` of `have` pixels, negative where a border is needed."""
    return -((want - have) // 2) if want > have else round((have - want) / 2)
