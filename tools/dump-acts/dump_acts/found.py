"""What a data set holds, folder by folder, before it is recorded; and its patch labels, after that.

A folder in an unknown layout is taken for one with a folder for each class. That is wrong where masks, or pages and
pictures that were made from the images, lie beside them: then `check_layout` asks for --layout.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from saetools.errors import UserError
from saetools.labels import IGNORED_LABEL
from saetools.log import logger
from saetools.vision.image_sets import ImageSet

MOST_NAMED = 8
_MASKS = re.compile(r"(.*[_-])?(mask|annotation|label|segmentation|seg|ground[_-]?truth|gt)s?([_-].*)?", re.I)
_MASK_ENDING = re.compile(r"[_-](mask|seg|segmentation|gt|label)s?$", re.I)
_MADE = re.compile(r"latent-\d+|heatmap|thumb.*", re.I)  # pictures that render-visuals and others make


def check_layout(source: Path, layout: str, found: ImageSet) -> None:
    """Raise UserError where `layout` is auto and folders of classes may be something else, naming what fits."""
    if (
        layout != "auto"
        or found.mask is not None
        or found.root != source
        or (source / "images.txt").is_file()
    ):
        return
    stems: dict[str, set[str]] = defaultdict(set)
    for path in found.path:
        folder, _, rest = path.partition("/")
        stems[folder if rest else ""].add(str(PurePosixPath(rest or path).with_suffix("")))
    odd = {folder: why for folder in sorted(stems) if (why := _no_class(source, folder, stems))}
    if not odd:
        return
    photos = [folder for folder in sorted(stems) if folder and folder not in odd]
    fits = [f"{table} in place of {source} ({holds})" for table, holds in _tables_of_images(source)]
    fits.append("`layout` folder (each of the folders is a class)")
    if photos:
        fits.append(f"{source / photos[0]} in place of {source} (without masks)")
    if any("mask" in why for why in odd.values()):
        fits.append("`layout` masks (rename the folders to images and annotations)")
        if "CSV" not in fits[0]:
            fits.append("a CSV with the columns path,target,mask")
    raise UserError(
        f"{source}: found {listed(found)}\n"
        f"these may not be classes: {'; '.join(f'{folder} ({why})' for folder, why in list(odd.items())[:3])}\n"
        f"choose what fits: {', or '.join(fits)}"
    )


def _tables_of_images(source: Path) -> Iterator[tuple[Path, str]]:
    """The CSVs in a folder that list images (and not their traits), each with what it says of them."""
    from saetools.vision.image_csv import read_image_csv

    for table in sorted(source.glob("*.csv")):
        with contextlib.suppress(UserError):  # another table, or one for another folder
            rows = read_image_csv(table)
            what = [name for name in ("target", "mask", "split") if getattr(rows[0], name)]
            if what and all((source / row.path).is_file() for row in rows):
                yield table, f"a CSV of {len(rows)} images with {' and '.join(what)}"


def listed(found: ImageSet) -> str:
    """'600 images in 3 folders: photos 200, masks 200, page 200'."""
    parents = [str(PurePosixPath(path).parent) for path in found.path]
    common = os.path.commonpath(parents)
    within = f" in {common}" if common else ""
    if len(set(parents)) == 1:
        return f"{len(found)} images{within if common != '.' else ''}"
    parts = [PurePosixPath(parent).relative_to(common).parts for parent in parents]
    count = Counter(part[0] if part else "directly" for part in parts)
    named = [f"{folder} {n}" for folder, n in count.items()]
    more = f", and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return f"{len(found)} images{within} in {len(named)} folders: {', '.join(named[:MOST_NAMED])}{more}"


def _no_class(source: Path, folder: str, stems: dict[str, set[str]]) -> str | None:
    """Why a folder is probably no class of images; `stems`: folder -> the paths in it, without their endings."""
    if not folder:
        return None
    if any((path / "index.html").is_file() for path in (source / folder, *(source / folder).glob("*/"))):
        return "a page, by its index.html"
    mine = stems[folder]
    if all(_MADE.fullmatch(PurePosixPath(stem).name) for stem in mine):
        return "pictures that a tool made"
    plain = {_MASK_ENDING.sub("", stem) for stem in mine}
    if _MASKS.fullmatch(folder) or all(map(_MASK_ENDING.search, mine)):
        for other, theirs in stems.items():
            if other != folder and not _MASKS.fullmatch(other) and len(plain & theirs) * 2 >= len(plain):
                return f"masks of {other or 'the images beside it'}, by its name and those of its files"
    return None


class LabelCount:
    """How often each patch label occurs in shards, of their first layer."""

    def __init__(self) -> None:
        self._n_of = np.zeros(IGNORED_LABEL + 1, np.int64)
        self._n_images, self._n_of_one = 0, 0

    def add(self, path: Path) -> None:
        from saetools.shards.reader import Shard

        shard = Shard(path)
        labels_np = shard.labels(shard.header.layers[0])
        if labels_np is None or not labels_np.size:
            return
        self._n_of += np.bincount(labels_np.ravel(), minlength=len(self._n_of))
        self._n_images += len(labels_np)
        self._n_of_one += int((labels_np == labels_np[:, :1]).all(axis=1).sum())

    def say(self) -> None:
        """Log the shares of the labels, and of the images whose patches all have one label."""
        if not self._n_images:
            return
        there = np.flatnonzero(self._n_of)
        shares = [
            f"{'ignored' if label == IGNORED_LABEL else label} {self._n_of[label] / self._n_of.sum():.1%}"
            for label in there
        ]
        more = f", and {len(shares) - 20} more" if len(shares) > 20 else ""
        logger.info("patch labels: %s%s", ", ".join(shares[:20]), more)
        one = self._n_of_one / self._n_images
        logger.info("images with a single patch label: %s of %d", f"{one:.1%}", self._n_images)
        if len(there) == 1:
            logger.warning("all patches have one label; check the values of the masks, and --ignore")
