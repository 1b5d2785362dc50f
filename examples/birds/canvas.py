"""A picture in flat colours: shapes are drawn as small integers, each with a colour and a body part.

One drawing gives both the picture and its part mask, so that the two cannot disagree. It is drawn larger than
needed and averaged down, which smooths the edges of the picture; the mask takes the middle pixel of each block.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Points = NDArray[np.float64]  # {points, 2}: x to the right, y down
Colour = tuple[float, float, float]

SCALE = 3  # sub-pixels along each side of a pixel

PARTS = (
    "background", "bill", "eye", "crown", "face", "throat", "nape", "breast", "belly", "back", "wing", "tail", "leg",
)  # fmt: skip
PART_ID = {name: i for i, name in enumerate(PARTS)}

_STEPS = np.linspace(0, 1, 7)[:-1, None, None]
_CATMULL_ROM = 0.5 * np.array([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]])
_SPLINE = np.concatenate([_STEPS**0, _STEPS, _STEPS**2, _STEPS**3], axis=1)[:, :, 0] @ _CATMULL_ROM


def smooth(points: Points) -> Points:
    """A closed Catmull-Rom curve through the points."""
    around = np.stack([np.roll(points, 1 - i, axis=0) for i in range(4)], axis=1)  # {points, 4, 2}
    return np.einsum("sk,pkx->psx", _SPLINE, around).reshape(-1, 2)


def disc(x: float, y: float, rx: float, ry: float | None = None, n: int = 28) -> Points:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([x + rx * np.cos(angle), y + (rx if ry is None else ry) * np.sin(angle)], axis=1)


def band(points: Points, widths: float | NDArray[np.float64]) -> Points:
    """The outline of a stroke along the points, of these half-widths."""
    along = np.gradient(points, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    across *= np.broadcast_to(widths, len(points))[:, None] / np.linalg.norm(across, axis=1, keepdims=True)
    return np.concatenate([points + across, (points - across)[::-1]])


def untouched(points: Points) -> Points:
    return points


class Canvas:
    """Shapes in, picture and mask out. `place` maps the points of a shape to pixels."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.ids = Image.new("L", (width * SCALE, height * SCALE), 0)
        self._draw = ImageDraw.Draw(self.ids)
        self._colours: list[Colour] = [(0, 0, 0)]
        self._parts: list[int] = [0]
        self.place: Callable[[Points], Points] = untouched

    def copy(self) -> "Canvas":
        """The same shapes, to go on differently."""
        other = Canvas(self.width, self.height)
        other.ids.paste(self.ids)
        other._colours, other._parts, other.place = [*self._colours], [*self._parts], self.place
        return other

    def ink(self, colour: Colour, part: str = "background") -> int:
        """A new integer to draw with."""
        self._colours.append(colour)
        self._parts.append(PART_ID[part])
        assert len(self._colours) < 256, "a picture holds at most 255 inks"
        return len(self._colours) - 1

    def colour(self, ink: int) -> Colour:
        return self._colours[ink]

    def _pixels(self, points: Points) -> list[tuple[float, float]]:
        return list(map(tuple, np.round(self.place(points) * SCALE, 2).tolist()))

    def fill(self, points: Points, ink: int, within: Image.Image | None = None) -> None:
        if within is None:
            self._draw.polygon(self._pixels(points), fill=ink)
        else:
            self.fill_many([points], ink, within)

    def fill_many(self, shapes: list[Points], ink: int, within: Image.Image) -> None:
        outlines = [self._pixels(points) for points in shapes]
        corners = np.array([corner for outline in outlines for corner in outline])
        low = np.clip(np.floor(corners.min(0)), 0, self.ids.size).astype(int).tolist()
        high = np.clip(np.ceil(corners.max(0)) + 1, 0, self.ids.size).astype(int).tolist()
        if low[0] >= high[0] or low[1] >= high[1]:
            return  # outside the picture
        mask = Image.new("L", (high[0] - low[0], high[1] - low[1]), 0)
        draw = ImageDraw.Draw(mask)
        for outline in outlines:
            draw.polygon([(x - low[0], y - low[1]) for x, y in outline], fill=255)
        where = (*low, *high)
        self.ids.paste(ink, where, ImageChops.multiply(mask, within.crop(where)))

    def stencil(self, shapes: list[Points]) -> Image.Image:
        """A mask (255 inside) of the union of shapes."""
        mask = Image.new("L", self.ids.size, 0)
        draw = ImageDraw.Draw(mask)
        for points in shapes:
            draw.polygon(self._pixels(points), fill=255)
        return mask

    def where(self, *inks: int) -> Image.Image:
        """A mask (255 inside) of what is painted with these inks now."""
        return self.ids.point([255 if i in inks else 0 for i in range(256)])

    def mask(self) -> NDArray[np.uint8]:
        """Part ids {height, width}."""
        ids = np.asarray(self.ids)[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]
        return np.array(self._parts, np.uint8)[ids]

    def painted(self) -> NDArray[np.uint8]:
        """RGBA of every sub-pixel {height * SCALE, width * SCALE, 4}; 0 where nothing is drawn."""
        table = np.zeros((256, 4), np.uint8)
        table[1 : len(self._colours), :3] = np.clip(np.round(np.array(self._colours[1:])), 0, 255)
        table[1 : len(self._colours), 3] = 255
        return table[np.asarray(self.ids)]

    def differs(self, other: "Canvas") -> NDArray[np.bool_]:
        """Pixels {height, width} that are not painted alike on both."""
        unlike = (self.painted() != other.painted()).any(axis=2)
        return unlike.reshape(self.height, SCALE, self.width, SCALE).any(axis=(1, 3))

    def composite(
        self, background_hw3: NDArray[np.float32], light: float, tint_3: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Colours {height, width, 3} in 0..255, the bird shaded as if lit from above."""
        rgba = Image.fromarray(self.painted(), "RGBa").reduce(SCALE)
        rgba_hw4 = np.asarray(rgba).astype(np.float32)
        body_hw = (self.mask() > 0) * np.uint8(255)
        radius = 0.045 * self.height
        volume_hw = np.asarray(
            Image.fromarray(body_hw).filter(ImageFilter.GaussianBlur(radius)), np.float32
        ) / np.float32(255)
        k = max(2, round(radius * 0.8))
        padded = np.pad(volume_hw, ((k, k), (0, 0)), mode="edge")
        slope_hw = padded[2 * k :] - padded[: -2 * k]  # positive at upper edges
        shade_hw = np.where(body_hw > 0, 0.86 + 0.17 * volume_hw + light * slope_hw, 1.0).astype(np.float32)
        picture = rgba_hw4[..., :3] * shade_hw[..., None] * tint_3
        return picture + background_hw3 * (1 - rgba_hw4[..., 3:] / np.float32(255))
