"""The picture of one latent: what it is, the scale of its heat, and a grid of images with heat, maximum and path."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from render_visuals.pictures.redraw import KEY
from saetools.files.atomic import write_bytes
from saetools.labels import IGNORED_LABEL
from saetools.latents.file import heat_grid
from saetools.vision.heat import colours, label_colours, patch_of_pixel, with_heat
from saetools.vision.model_input import Recorded, seen_pixels

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

LARGEST_EDGE = 336  # pixels; images seen larger are drawn smaller, all others pixel for pixel
COLUMNS = 5
GAP, MARGIN = 12, 20
HEAD, LINE, SCALE = 30, 18, 44  # heights: the title, a line below it, the colour bar with its numbers
BAR_WIDTH, BAR_HEIGHT = 200, 10
INK, FAINT, PAPER, NO_LABEL = (28, 30, 33), (110, 114, 120), (255, 255, 255), (235, 235, 235)


@dataclass(frozen=True)
class Tile:
    """One image. path: relative to the root; patch_e, value_e: where the latent is active, and how strongly."""

    path: str
    recorded: Recorded
    patch_e: np.ndarray
    value_e: np.ndarray
    labels_p: np.ndarray | None
    note: str = ""


@dataclass(frozen=True)
class LatentPicture:
    """Everything that one picture shows.

    about: paragraphs below the title: how active it is, of which SAE it is, which traits it stands for
    sections: (title, tiles); largest: the activation of the last colour
    """

    target: Path
    key: str
    root: Path
    preprocess: Mapping[str, Any]
    title: str
    about: Sequence[str]
    largest: float
    sections: Sequence[tuple[str, Sequence[Tile]]]
    label_names: Sequence[str] | None


def draw_latent(task: LatentPicture) -> None:
    """Draw the picture and write it, with its key in it, to its target."""
    from PIL import Image, ImageDraw, PngImagePlugin

    sections = [
        (title, [(tile, _tile_image(tile, task)) for tile in tiles])
        for title, tiles in task.sections
        if tiles
    ]
    images = [image for _, tiles in sections for _, image in tiles]
    tile_width = max((image.width for image in images), default=LARGEST_EDGE)
    columns = max(
        1, min(COLUMNS if tile_width <= LARGEST_EDGE else 3, max((len(t) for _, t in sections), default=1))
    )
    width = max(2 * MARGIN + columns * (tile_width + GAP) - GAP, 640)
    labels = _labels_shown(task)
    legend = _legend_lines(labels, task.label_names, width - 2 * MARGIN)
    about = [line for text in task.about for line in _folded(text, width - 2 * MARGIN)]
    top = MARGIN + HEAD + LINE * len(about) + (SCALE if task.largest > 0 else 0) + 10
    height = top + 20 * len(legend) + MARGIN
    for _, tiles in sections:
        height += 30 + sum(row_height + 46 for row_height in _row_heights(tiles, columns))
    canvas = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, MARGIN - 4), task.title, INK, _font(20, bold=True))
    for i, text in enumerate(about):
        pen.text((MARGIN, MARGIN + HEAD - 4 + LINE * i), text, FAINT, _font(13))
    if task.largest > 0:
        _draw_scale(canvas, pen, top - SCALE, task.largest)
    y = top
    for title, tiles in sections:
        pen.text((MARGIN, y), title, INK, _font(14, bold=True))
        y += 26
        for row, row_height in enumerate(_row_heights(tiles, columns)):
            for column, (tile, image) in enumerate(tiles[row * columns : (row + 1) * columns]):
                x = MARGIN + column * (tile_width + GAP)
                canvas.paste(image, (x, y))
                _write_caption(pen, tile, x, y + row_height + 4, tile_width)
            y += row_height + 46
        y += 4
    for i, line in enumerate(legend):
        _write_legend(pen, line, MARGIN, y + 20 * i)
    info = PngImagePlugin.PngInfo()
    info.add_text(KEY, task.key)
    info.add_itxt("Description", "\n".join([task.title, *task.about]))
    encoded = io.BytesIO()
    canvas.save(encoded, "PNG", pnginfo=info)
    write_bytes(task.target, encoded.getvalue())


def _draw_scale(canvas: Image, pen: ImageDraw, y: int, largest: float) -> None:
    """The colours from 0 to the latent's largest value, with numbers below."""
    from PIL import Image

    bar = np.rint(colours(np.linspace(0, 1, BAR_WIDTH))).astype(np.uint8)
    canvas.paste(Image.fromarray(np.tile(bar, (BAR_HEIGHT, 1, 1))), (MARGIN, y))
    for share, anchor in ((0, "la"), (0.5, "ma"), (1, "ra")):
        x = MARGIN + round(share * BAR_WIDTH)
        pen.text((x, y + BAR_HEIGHT + 3), f"{share * largest:.3g}", INK, _font(12), anchor=anchor)
    text = "value at a patch; patches without colour: 0"
    pen.text((MARGIN + BAR_WIDTH + 14, y - 3), text, FAINT, _font(12))


def _folded(text: str, width: int) -> list[str]:
    """The text in lines of at most this width, broken between words; a longer word keeps its end."""
    font = _font(13)
    lines: list[str] = []
    for word in text.split(" "):
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(elided(word, lambda part: font.getlength(part) <= width))
    return lines


def _tile_image(tile: Tile, task: LatentPicture) -> Image:
    from PIL import Image

    pixels = seen_pixels(task.root, tile.path, task.preprocess, tile.recorded)
    heated = with_heat(pixels, heat_grid(tile.recorded.grid, tile.patch_e, tile.value_e), task.largest)
    if tile.labels_p is not None:
        heated = np.concatenate(
            [heated, np.full((len(pixels), 4, 3), 255, np.uint8), _label_map(tile, pixels.shape)], axis=1
        )
    image = Image.fromarray(heated)
    n_side_by_side = 2 if tile.labels_p is not None else 1
    if max(pixels.shape[:2]) > LARGEST_EDGE:
        image.thumbnail((n_side_by_side * LARGEST_EDGE, LARGEST_EDGE), Image.Resampling.LANCZOS)
    return image


def _label_map(tile: Tile, shape: tuple[int, ...]) -> np.ndarray:
    assert tile.labels_p is not None
    rows, columns = tile.recorded.grid
    labels_p = tile.labels_p[: rows * columns]
    ignored = labels_p == IGNORED_LABEL
    known = np.where(ignored, 0, labels_p)
    colour_p3 = label_colours(int(known.max()) + 1)[known]
    colour_p3[ignored] = NO_LABEL
    of_pixel = np.ix_(patch_of_pixel(shape[0], rows), patch_of_pixel(shape[1], columns))
    return colour_p3.reshape(rows, columns, 3)[of_pixel]


def _row_heights(tiles: Sequence[tuple[Tile, Image]], columns: int) -> list[int]:
    return [
        max(image.height for _, image in tiles[start : start + columns])
        for start in range(0, len(tiles), columns)
    ]


def _write_caption(pen: ImageDraw, tile: Tile, x: int, y: int, width: int) -> None:
    value = f"{tile.value_e.max():.3g}" if len(tile.value_e) else "not active"
    pen.text((x, y), f"{value}  {tile.note}".rstrip(), INK, _font(13, bold=True))
    pen.text(
        (x, y + 18),
        elided(tile.path, lambda text: pen.textlength(text, _font(11)) <= width),
        FAINT,
        _font(11),
    )


def elided(path: str, fits: Any) -> str:
    """The path, or as much of its end as fits, after an ellipsis."""
    if fits(path):
        return path
    for start in range(1, len(path)):
        if fits("…" + path[start:]):
            return "…" + path[start:]
    return "…"


def _labels_shown(task: LatentPicture) -> list[int]:
    found = {
        int(v)
        for _, tiles in task.sections
        for t in tiles
        if t.labels_p is not None
        for v in np.unique(t.labels_p)
    }
    return sorted(found - {IGNORED_LABEL})


def _legend_lines(
    labels: list[int], names: Sequence[str] | None, width: int
) -> list[list[tuple[tuple[int, int, int], str, int]]]:
    """Lines of (colour, name, x)."""
    colours = label_colours(max(labels, default=0) + 1)
    lines: list[list[tuple[tuple[int, int, int], str, int]]] = []
    x = width + 1
    for label in labels:
        name = names[label] if names is not None and label < len(names) else f"label {label}"
        needed = 40 + int(_font(12).getlength(name))
        if x + needed > width:
            lines.append([])
            x = 0
        r, g, b = (int(part) for part in colours[label])
        lines[-1].append(((r, g, b), name, x))
        x += needed
    return lines


def _write_legend(
    pen: ImageDraw, line: list[tuple[tuple[int, int, int], str, int]], left: int, y: int
) -> None:
    for colour, name, x in line:
        pen.rectangle((left + x, y + 2, left + x + 12, y + 14), colour)
        pen.text((left + x + 18, y), name, INK, _font(12))


@lru_cache
def _font(size: int, bold: bool = False) -> FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has the letters of most languages."""
    from PIL import ImageFont

    found = importlib.util.find_spec("matplotlib")
    assert found is not None and found.submodule_search_locations, "matplotlib is a dependency"
    fonts = Path(found.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(fonts / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)
