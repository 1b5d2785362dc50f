"""A picture as the models' preprocessing receives it, and a digest that tells equal pictures of different files."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

DIGEST_CHARACTERS = 32


def picture_digest(picture: Image) -> str:
    """BLAKE2b-128, 32 hexadecimal digits, of an RGB picture: height and width as int32, then its bytes row by row.

    Of what was decoded, before any resize or crop: a copy under another name, or in another file format without
    loss, has the same digest.
    """
    assert picture.mode == "RGB", picture.mode
    digest = hashlib.blake2b(struct.pack("<ii", picture.height, picture.width), digest_size=16)
    digest.update(picture.tobytes())
    return digest.hexdigest()
