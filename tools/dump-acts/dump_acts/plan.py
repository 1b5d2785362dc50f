"""The plan of a recording: its shards, their sizes, and the room on the disk, which `--max-disk` waits for."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saetools.cli.process import reader_is_gone
from saetools.cli.quantities import format_bytes
from saetools.cli.slices import Slice
from saetools.errors import UserError
from saetools.log import logger
from saetools.shards.header import shard_name
from saetools.shards.writer import image_bytes, shard_bytes
from saetools.vision.image_sets import ImageSet
from saetools.vision.models import LayerShape, Outline

# A shard is large enough for fast reading, and small enough for training to start early:
SHARD_BYTES = 256 * 2**20
SHARDS_PER_SET = 8  # ... of a small data set too
SMALLEST_SHARD = 32  # images
SECONDS_BETWEEN_LOOKS = 0.1  # at the folder, while it is full


@dataclass(frozen=True)
class Contents:
    """What a shard holds of each image. layers: 0-based, ascending, with their shapes."""

    layers: dict[int, LayerShape]
    dtype: str
    cls: bool
    labels: bool

    @property
    def image_bytes(self) -> int:
        """Bytes of one image's arrays."""
        shapes = {layer: (shape.n_patches, shape.d_model) for layer, shape in self.layers.items()}
        return image_bytes(shapes, self.dtype, self.cls, self.labels)


@dataclass(frozen=True)
class Plan:
    """A recording of `images` into `folder`; this run makes the shards of its part."""

    images: ImageSet
    folder: Path
    contents: Contents
    images_per_shard: int
    part: Slice

    @property
    def n_shards(self) -> int:
        """Shards of the whole data set."""
        return -(-len(self.images) // self.images_per_shard)

    def mine(self) -> range:
        """The shards of this run's part."""
        return range(*self.part.bounds(self.n_shards))

    def rows(self, shard: int) -> range:
        """Images of a shard."""
        return range(len(self.images))[shard * self.images_per_shard :][: self.images_per_shard]

    def target(self, shard: int) -> Path:
        return self.folder / shard_name(shard)

    def missing(self) -> list[int]:
        """Shards of this run's part that do not exist yet."""
        return [shard for shard in self.mine() if not self.target(shard).exists()]

    def shard_bytes(self, shard: int) -> int:
        """Bytes of a shard on disk, rounded up."""
        return shard_bytes(self.contents.image_bytes, self.images.texts(self.rows(shard)))

    def free_bytes(self) -> int:
        """Free bytes on the disk of the folder, which may not exist yet."""
        folder = self.folder.absolute()
        while not folder.exists():
            folder = folder.parent
        return shutil.disk_usage(folder).free

    def check_space(self, max_disk: int | None) -> None:
        """Raise UserError where the missing shards do not fit on the disk, or one of them exceeds max_disk."""
        sizes = [self.shard_bytes(shard) for shard in self.missing()]
        if not sizes:
            return
        if max_disk is not None and max(sizes) > max_disk:
            raise UserError(
                f"--max-disk {format_bytes(max_disk)}: one shard takes {format_bytes(max(sizes))};"
                " raise it, or lower --images-per-shard"
            )
        needed = sum(sizes)
        if max_disk is not None:
            needed = min(needed, max(0, max_disk - folder_bytes(self.folder)))
        free = self.free_bytes()
        if needed > free:
            raise UserError(
                f"{self.folder}: the recording needs {format_bytes(needed)}, but only {format_bytes(free)} are free on"
                " that disk; record fewer layers, use --dtype int8, or set --max-disk and pipe into train-sae --consume"
            )

    def lines(self, outline: Outline) -> list[str]:
        """The plan in words, one `name: value` a line."""
        shapes, free = self.contents.layers, self.free_bytes()
        missing = self.missing()
        needed = sum(self.shard_bytes(shard) for shard in missing)
        total = sum(self.shard_bytes(shard) for shard in range(self.n_shards))
        part = f"; {self.images.part}" if self.images.part else ""
        facts = {
            "model": f"{outline.name}, {outline.n_layers} layers, {outline.hook}",
            "images": f"{len(self.images)}, {'with' if self.contents.labels else 'without'} masks{part}",
            "layers": _layers(shapes, outline),
            "stored": f"{self.contents.dtype}, {format_bytes(self.contents.image_bytes)} an image",
            "preprocessing": _preprocessing(outline),
            "shards": f"{self.n_shards} of {self.images_per_shard} images",
            "bytes": f"{total} ({format_bytes(total)})",
            "this run": f"{len(missing)} shards, {needed} bytes ({format_bytes(needed)})",
            "free": f"{free} ({format_bytes(free)}) in {self.folder}",
        }
        return [f"{name}: {value}" for name, value in facts.items()]


def default_images_per_shard(n_images: int, image_bytes: int) -> int:
    """As many images as make 256 MiB, but at most an eighth of the data set, and at least 32."""
    return max(1, min(SHARD_BYTES // image_bytes, max(-(-n_images // SHARDS_PER_SET), SMALLEST_SHARD)))


def folder_bytes(folder: Path) -> int:
    """Bytes of the files directly in a folder, without those that are deleted meanwhile."""
    total = 0
    if not folder.is_dir():
        return 0
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                total += entry.stat(follow_symlinks=False).st_size if entry.is_file() else 0
            except FileNotFoundError:
                continue
    return total


def wait_for_room(folder: Path, needed: int, max_disk: int) -> None:
    """Return as soon as the folder has room for `needed` more bytes within `max_disk`.

    Exits with code 0, as a closed pipe does, when the reader of stdout has ended, since no shard would be deleted then.
    """
    told = False
    while (present := folder_bytes(folder)) + needed > max_disk:
        if not told:
            logger.info(
                "pausing: %s holds %s of --max-disk %s; recording continues when shards are deleted",
                folder,
                format_bytes(present),
                format_bytes(max_disk),
            )
            told = True
        if reader_is_gone():
            raise SystemExit(0)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _layers(shapes: dict[int, LayerShape], outline: Outline) -> str:
    """Runs of consecutive layers of the same shape: `0-11: 14 x 14 patches of width 192`."""
    runs: list[list[int]] = []
    for layer, shape in shapes.items():
        if runs and runs[-1][-1] == layer - 1 and shapes[layer - 1] == shape:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    said = []
    for run in runs:
        shape = shapes[run[0]]
        numbers = f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}"
        native = outline.preprocess.native is not None
        patches = f"{shape.n_patches}" if native else f"{shape.rows} x {shape.columns}"
        said.append(f"{numbers}: {patches} patches of width {shape.d_model}")
    return "; ".join(said)


def _preprocessing(outline: Outline) -> str:
    how = outline.preprocess
    if how.native is not None:
        size = f"resized to the grid of {how.native[0]} patches of {how.native[1]} pixels nearest to the aspect ratio"
    else:
        size = f"{how.resize_mode} to {_by(how.resize)}, centre {_by(how.size)}"
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (how.mean, how.std))
    deep = f", grey of more than 8 bits as {how.deep_grey}" if how.deep_grey else ""
    return f"{size}, {how.interpolation}, mean {mean}, std {std}{deep}"


def _by(size: Sequence[int]) -> str:
    return " x ".join(str(int(edge)) for edge in np.asarray(size))
