"""Labels of patches, from masks with a class for each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saetools.errors import UserError
from saetools.labels import IGNORED_LABEL
from saetools.vision.pictures import open_image
from saetools.vision.preprocess import Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class LabelSettings:
    """rule: majority (the most frequent mask value in the patch; the smallest of equally frequent ones), or
    prefer-foreground (the same among pixels that are neither background nor ignored, where there are any).

    background: its mask values. ignore: mask values that become 65535, which takes part in the count like a class.
    """

    rule: str = "majority"
    background: Sequence[int] = (0,)
    ignore: Sequence[int] = ()

    def to_settings(self) -> dict[str, Any]:
        """A single value of the background is written as a number, as when there could be only one."""
        background = list(self.background)
        return {
            "rule": self.rule,
            "background": background[0] if len(background) == 1 else background,
            "ignore": list(self.ignore),
        }


def check_upright(path: Path, image: Image) -> None:
    """Raise UserError where EXIF turns or mirrors an image, and its mask could lie either way."""
    turn = image.getexif().get(0x0112, 1)  # Orientation; from 5 on height and width change places
    if turn in (2, 3, 4) or (turn in (5, 6, 7, 8) and image.width == image.height):
        raise UserError(
            f"{path}: its EXIF data (orientation {turn}) turn it when it is shown, which models do not do, so its mask"
            " could lie either way; save it turned, without EXIF, as its mask lies"
        )


def read_mask(path: Path, preprocess: Preprocess, image_size: tuple[int, int]) -> np.ndarray:
    """The mask int32 {height, width} after the same resize and crop as its image of (width, height).

    The border around the image is 65535. Raises UserError where the mask cannot be decoded, is a JPEG, has colours, has
    another size than the image, or values above 65535.
    """
    from PIL import Image

    with open_image(path) as mask:
        if mask.format == "JPEG":
            raise UserError(f"{path}: a JPEG changes the numbers of a mask; expected a PNG or TIFF file")
        if mask.size != image_size:
            raise UserError(
                f"{path}: the mask has {mask.width} x {mask.height} pixels, its image"
                f" {image_size[0]} x {image_size[1]}; expected the same"
            )
        values = _numbers(path, mask)
    if values.min(initial=0) < 0 or values.max(initial=0) > IGNORED_LABEL:
        raise UserError(
            f"{path}: the mask holds values from {values.min()} to {values.max()}; expected 0 to {IGNORED_LABEL}"
        )
    return preprocess.transform(Image.fromarray(values), "nearest", IGNORED_LABEL)


def _numbers(path: Path, mask: Image) -> np.ndarray:
    """The mask int32 {height, width}: grey, a palette's numbers, or grey that was saved as RGB or with opacity."""
    if mask.mode in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
        return np.asarray(mask).astype(np.int32)
    why = f"its pixels are {mask.mode}"
    if mask.mode in ("RGB", "RGBA", "LA"):
        if ";16" in str(getattr(mask, "tile", "")):  # Pillow keeps the upper 8 bits only
            why = "16 bits in each of several channels"
        else:
            channels = np.asarray(mask)
            colours = channels[:, :, :-1] if mask.mode != "RGB" else channels
            odd = (colours != colours[:, :, :1]).any(axis=2)
            if mask.mode != "RGB":
                odd |= channels[:, :, -1] != 255
            if not odd.any():
                return colours[:, :, 0].astype(np.int32)
            row, column = np.argwhere(odd)[0]
            pixel = ", ".join(map(str, channels[row, column]))
            why = f"{mask.mode} ({pixel}) in row {row}, column {column}"
    raise UserError(
        f"{path}: the mask has colours: {why}; expected one number for each pixel: grey of 8 or 16 bits, a palette, or"
        " opaque RGB with three equal channels"
    )


def label_patches(
    mask_hw: np.ndarray, grid: tuple[int, int], stride: int, settings: LabelSettings
) -> np.ndarray:
    """The labels uint16 {P} of the patches, row by row.

    Pixel (y, x) belongs to the patch in row y // stride and column x // stride; pixels outside the grid are left out.
    """
    rows, columns = grid
    n_patches = rows * columns
    mask_hw = np.where(np.isin(mask_hw, settings.ignore), IGNORED_LABEL, mask_hw)[
        : rows * stride, : columns * stride
    ]
    height, width = mask_hw.shape
    patch_hw = (np.arange(height) // stride)[:, None] * columns + np.arange(width) // stride
    values, position = np.unique(mask_hw, return_inverse=True)
    cell = patch_hw.ravel() * len(values) + position.ravel()
    count_pv = np.bincount(cell, minlength=n_patches * len(values)).reshape(n_patches, -1)
    best_p = count_pv.argmax(axis=1)  # the first of equal ones: the smallest value
    if settings.rule == "prefer-foreground":
        foreground_pv = count_pv * (~np.isin(values, [*settings.background, IGNORED_LABEL]))
        best_p = np.where(foreground_pv.any(axis=1), foreground_pv.argmax(axis=1), best_p)
    return values[best_p].astype(np.uint16)
