"""A picture as the models' preprocessing receives it, and a digest that tells equal pictures of different files."""

from __future__ import annotations

import contextlib
import hashlib
import struct
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saetools.errors import UserError, why_unreadable
from saetools.vision.preprocess import MOST_PIXELS, Preprocess

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture = (
        str | Path | Image | np.ndarray
    )  # a file, an open picture, or its pixels uint8 {H, W, 3} or {H, W}

# How deep grey becomes 8 bits, as the preprocessing of a data set with such pictures says
DEEP_GREY = "round(255 * value / largest)"
# Files that can hold it
_DEEP_SUFFIXES = {".png", ".tif", ".tiff", ".ppm"}
# What is read, whatever a file is called. Pillow knows more formats, and starts Ghostscript for one of them (EPS).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP")


def deep_grey_range(image: Image) -> int | None:
    """The largest value that a grey picture of 9 to 16 bits can hold, such as 65535; None for any other picture."""
    if image.mode.startswith("I;16"):
        bits = _tiff_tag(image, 258)  # BitsPerSample
        return (1 << bits) - 1 if bits is not None and bits < 16 else 65535
    if image.mode == "I" and image.format == "PPM":  # Pillow scales its own range to this one
        return 65535
    return None


def holds_deep_grey(root: Path, paths: Iterable[str]) -> bool:
    """Whether any of the images is deep grey, by the headers of those files that can be; broken ones are not."""

    for path in paths:
        if Path(path).suffix.lower() in _DEEP_SUFFIXES:
            try:
                with open_image(root / path) as image:
                    if deep_grey_range(image) is not None:
                        return True
            except UserError:
                continue
    return False


@contextlib.contextmanager
def open_image(path: Path, preprocess: Preprocess | None = None) -> Iterator[Image]:
    """An image file, of which only the start was read: decode its pixels inside the block.

    Raises UserError, naming it: where it is no file, cannot be decoded (also later, inside the block), is in none of
    FORMATS, or has more than MOST_PIXELS, by itself or as `preprocess` resizes it.
    """
    from PIL import Image as pil

    if why := why_unreadable(path):
        raise UserError(f"{path}: {why}; expected an image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, on large images and on metadata
            with pil.open(path, formats=FORMATS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise pil.DecompressionBombError
                if preprocess is not None:
                    preprocess.check_size(path, image.height, image.width)
                yield image
    except UserError:
        raise
    except pil.DecompressionBombError as error:
        raise UserError(
            f"{path}: it has more than {MOST_PIXELS:,} pixels, the most that are decoded; make it smaller, or cut it up"
        ) from error
    except Exception as error:  # Pillow's decoders raise errors of any kind on damaged files
        found = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, pil.UnidentifiedImageError):
            found = "it is empty" if path.stat().st_size == 0 else f"none of {', '.join(FORMATS)}"
        raise UserError(
            f"{path}: it is not an image that can be decoded ({found}); repair or remove it"
        ) from error


def open_picture(picture: Picture, preprocess: Preprocess | None = None) -> Image:
    """Any picture as RGB, 8 bits a channel; raises UserError where it cannot be decoded, or is too large."""
    from PIL import Image as pil

    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim not in (2, 3):
            raise UserError(
                f"the image is an array {picture.dtype} {list(picture.shape)}; expected pixels uint8 {{H, W, 3}}"
            )
        picture = pil.fromarray(picture)
    if isinstance(picture, pil.Image):
        if preprocess is not None:
            preprocess.check_size("the image", picture.height, picture.width)
        return rgb_picture(picture, "the image")
    with open_image(Path(picture), preprocess) as image:
        return rgb_picture(image, Path(picture))


def rgb_picture(image: Image, where: Path | str) -> Image:
    """The image as RGB, 8 bits a channel.

    Grey of 9 to 16 bits is scaled by its type's range, round(255 * value / largest): of 16 bits round(value / 257).
    (Pillow's own conversion clips it at 255: all but black becomes white.) Of colours with 16 bits Pillow reads the
    upper 8. Raises UserError, naming `where`, for floating-point numbers and integers whose range is not known.
    """
    from PIL import Image as pil

    if image.mode == "RGB":
        image.load()  # the caller may close the file
        return image
    largest = deep_grey_range(image)
    if largest is None and image.mode in ("F", "I"):
        what = "floating-point numbers" if image.mode == "F" else "integers of 32 bits, or with a sign"
        raise UserError(
            f"{where}: its pixels are {what}, so that black and white are not known; expected 8 or 16 bits a channel;"
            " save it as a 16-bit PNG, scaled as you see fit"
        )
    if largest is None:
        return image.convert("RGB")
    grey_of = np.minimum((2 * 255 * np.arange(1 << 16) + largest) // (2 * largest), 255).astype(np.uint8)
    if _tiff_tag(image, 262) == 0:  # PhotometricInterpretation: 0 is white
        grey_of = grey_of[np.maximum(largest - np.arange(1 << 16), 0)]
    return pil.fromarray(grey_of[np.asarray(image)]).convert("RGB")


def _tiff_tag(image: Image, number: int) -> int | None:
    tags = getattr(image, "tag_v2", None)
    value = tags.get(number) if tags is not None else None
    return value[0] if isinstance(value, tuple) else value


def picture_digest(picture: Image) -> str:
    """BLAKE2b-128, 32 hexadecimal digits, of an RGB picture: height and width as int32, then its bytes row by row.

    Of what was decoded, before any resize or crop: a copy under another name, or in another file format without
    loss, has the same digest.
    """
    assert picture.mode == "RGB", picture.mode
    digest = hashlib.blake2b(struct.pack("<ii", picture.height, picture.width), digest_size=16)
    digest.update(picture.tobytes())
    return digest.hexdigest()
