"""The images of the page as JPEGs: the pixels that the model saw, once for all latents."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from render_visuals.pictures.redraw import content_key, draw_changed, file_stat
from saetools.files.atomic import write_bytes
from saetools.vision.model_input import Recorded, seen_pixels

if TYPE_CHECKING:
    # The processes that draw import this module, and have no use for compiled kernels.
    from render_visuals.analysis.survey import ImageIndex
    from saetools.latents.reader import LatentsSet

LARGEST_EDGE = 448  # pixels
PER_FOLDER = 1000


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG to write to `target`, with `key` in its comment."""

    target: Path
    key: str
    root: Path
    path: str
    preprocess: Mapping[str, Any]
    recorded: Recorded


def thumbnail_name(image: int) -> str:
    return f"images/{image // PER_FOLDER:03d}/{image:06d}.jpg"


def draw_thumbnails(
    latents: LatentsSet, image_index: ImageIndex, root: Path, site: Path, workers: int
) -> int:
    """Draw those that have changed and remove those of other images; returns the number drawn."""
    preprocess = latents.header.source["preprocess"]
    tasks = []
    for image, path in enumerate(latents.paths):
        target = site / thumbnail_name(image)
        target.parent.mkdir(parents=True, exist_ok=True)
        recorded = image_index.recorded(image)
        key = content_key(path, file_stat(root / path), dict(preprocess), str(recorded), LARGEST_EDGE)
        tasks.append((target, key, Thumbnail(target, key, root, path, preprocess, recorded)))
    wanted = {target for target, _, _ in tasks}
    for old in site.glob("images/[0-9][0-9][0-9]/[0-9]*.jpg"):
        if old not in wanted:
            old.unlink()
    return draw_changed("drawing images", draw_thumbnail, tasks, workers)


def draw_thumbnail(task: Thumbnail) -> None:
    from PIL import Image

    image = Image.fromarray(seen_pixels(task.root, task.path, task.preprocess, task.recorded))
    image.thumbnail((LARGEST_EDGE, LARGEST_EDGE), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=84, comment=task.key.encode())
    write_bytes(task.target, encoded.getvalue())
