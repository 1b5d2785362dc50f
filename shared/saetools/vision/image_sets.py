"""Lists the images of a data set, in the layouts that people have."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saetools.errors import UsageError, UserError, why_unreadable
from saetools.labels import cub200
from saetools.shards.held_out import VALIDATION, uniform_of_paths
from saetools.vision.image_csv import read_image_csv

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing")
# Folders of other names than these are taken for classes, not for splits
SPLIT_NAMES = (*TRAIN_NAMES, "validation", "valid", "val", "dev", *TEST_NAMES)
# Control characters, ends of lines, and bytes that are not UTF-8: lists of paths and HDF5 strings cannot hold them
_UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True)
class ImageSet:
    """path {N} relative to root, sorted or in the data set's own order; target {N} int64, -1 unknown;
    mask {N} relative to root, where the data set has masks; class_name {N}, where classes have names: empty where the
    class is unknown.
    """

    root: Path
    path: Sequence[str]
    target: np.ndarray
    mask: Sequence[str] | None = None
    part: str | None = None  # the part that --split-validation made, in words
    class_name: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.path)

    def class_names(self, rows: range) -> np.ndarray | None:
        """The class names of some images {n}, as `Examples` has them."""
        return None if self.class_name is None else np.array(self.class_name[rows.start : rows.stop], object)

    def texts(self, rows: range) -> list[str]:
        """See `Examples.texts`."""
        names = self.class_name or [""] * len(self)
        return [self.path[row] + names[row] for row in rows]

    def digest(self) -> str:
        """SHA-256 over paths, targets and sizes of files (-1: none there); independent of where the root lies.

        And over the names of classes that are not in the paths.
        """
        digest = hashlib.sha256()
        for path, target in zip(self.path, self.target, strict=True):
            digest.update(f"{path}\t{target}\t{_file_size(self.root / path)}\n".encode())
        for path, name in zip(self.path, self.class_name or (), strict=False):
            if name and f"/{name}/" not in f"/{path}":
                digest.update(f"{path}\t{name}\n".encode())
        for path in self.mask or ():
            digest.update(f"{path}\t{_file_size(self.root / path)}\n".encode())
        return digest.hexdigest()


def _file_size(path: Path) -> int:
    return -1 if why_unreadable(path) else path.stat().st_size


def list_images(source: Path, layout: str, split: str | None) -> ImageSet:
    """List the images of a folder, or of a CSV.

    folder: ROOT[/SPLIT]/CLASS/..., target = number of the class folder in alphabetical order; images
    directly in the folder have target -1. cub200: CUB-200-2011's official lists; split train or test.
    masks: ROOT/images/SPLIT/NAME and ROOT/annotations/SPLIT/NAME.png. csv: see `read_image_csv`.
    auto: the one whose lists or folders are there. Links are followed, also out of the folder. What has the name of an
    image in a folder and is no file is listed too: opening it fails. Raises UserError where there are no images, or
    the name of one cannot be listed.
    """
    if layout == "auto":
        layout = _recognise(source)
    if layout != "csv" and not source.is_dir():
        raise UserError(f"{source}: no such folder; expected a folder with images, or a CSV of their paths")
    listers = {"csv": _list_csv, "cub200": _list_cub, "masks": _list_masks, "folder": _list_folder}
    images = listers[layout](source, split)
    if not images.path:
        raise UserError(
            f"{source}: no images found in the layout {layout!r}"
            f"{f' for the split {split!r}' if split else ''};"
            f" expected CLASS/NAME with one of the endings {' '.join(sorted(SUFFIXES))}"
        )
    texts = [*images.path, *(images.mask or ()), *(images.class_name or ())]
    if unusable := next(filter(_UNUSABLE.search, texts), None):
        raise UserError(
            f"{images.root}: the name {unusable!r} holds a line break, another control character, or bytes that are not"
            " UTF-8, which lists of paths cannot hold; rename it"
        )
    return images


def list_divided(source: Path, layout: str, split: str | None, share: float) -> ImageSet:
    """One side of a data set's training images, divided into train and validation: `share` of them, by their paths.

    split: train (the others), or validation. What is divided is the split train (or training), and all images where
    the data set has no splits. A class keeps its number on both sides. The split test (or testing) is not divided.
    Raises UsageError for any other split, and UserError where the data set has a validation split of its own, or one
    side would be empty.
    """
    if not 0 < share < 1:
        raise UsageError(f"`split_validation` {share:g}: expected a share above 0 and below 1, such as 0.2")
    if split in TEST_NAMES:
        return list_images(source, layout, split)
    if split not in (*TRAIN_NAMES, "validation"):
        raise UsageError(
            f"`split_validation` {share:g}: it divides the images to train on: add `split` train or `split`"
            f" validation{f' (not {split})' if split else ''}, or leave it out"
        )
    divided = _divided_split(source, _recognise(source) if layout == "auto" else layout, split)
    whole = list_images(source, layout, divided)
    wanted = (uniform_of_paths(whole.path, VALIDATION) < share) == (split == "validation")
    if not wanted.any():
        raise UserError(
            f"{source}: `split_validation` {share:g} leaves {split} without any of {len(whole)} images;"
            " choose another share"
        )
    rows = np.flatnonzero(wanted).tolist()
    what = "validation" if split == "validation" else "all but the validation"
    return ImageSet(
        whole.root,
        [whole.path[row] for row in rows],
        whole.target[rows],
        None if whole.mask is None else [whole.mask[row] for row in rows],
        f"{what} part, a share of {share:g}, of {divided or 'all images'}",
        None if whole.class_name is None else [whole.class_name[row] for row in rows],
    )


def _divided_split(source: Path, layout: str, split: str) -> str | None:
    """The split that is divided, None for all images; raises UserError where that is not clear."""
    if layout == "cub200":
        return "train"
    if layout == "csv":
        top, found = source, {row.split for row in read_image_csv(source)} - {None}
    else:
        top = source / "images" if layout == "masks" else source
        found = {name for name in SPLIT_NAMES if (top / name).is_dir()}
    there = [name for name in SPLIT_NAMES if name in found]
    if own := [name for name in there if name in ("validation", "valid", "val", "dev")]:
        raise UserError(
            f"{top}: the data set has a validation split of its own, {own[0]}; leave `split_validation` out and"
            f" record `split` {own[0]}"
        )
    train = [name for name in TRAIN_NAMES if name in there and split in (name, "train", "validation")]
    if not train and (there or split == "training"):
        raise UserError(
            f"{top}: found no split {split if split in TRAIN_NAMES else 'train'!r} to divide by `split_validation`,"
            f" only {', '.join(there) or 'images without splits: use `split` train'}"
        )
    return train[0] if train else None


def _recognise(source: Path) -> str:
    if source.is_file():
        return "csv"
    if cub200.is_cub(source):
        return "cub200"
    return "masks" if all((source / name).is_dir() for name in ("images", "annotations")) else "folder"


def _list_cub(root: Path, split: str | None) -> ImageSet:
    images = cub200.read_images(root)
    if split not in (None, "train", "test"):
        raise UserError(f"{root}: found no split {split!r}; CUB-200-2011 has train and test")
    chosen = np.ones(len(images.path), bool) if split is None else images.is_train == (split == "train")
    path = [path for path, keep in zip(images.path, chosen, strict=True) if keep]
    for name in path:
        if why := why_unreadable(root / name):
            raise UserError(f"{root / name}: {why}, though images.txt lists it; get the data set again")
    pairs = set(zip(folders := _folders(images.path), images.target.tolist(), strict=True))
    names = None  # a folder may hold images of several classes
    if len(pairs) == len(set(folders)) == len(set(images.target.tolist())):
        names = [name for name, keep in zip(folders, chosen, strict=True) if keep]
    return ImageSet(root, path, images.target[chosen], class_name=names)


def _folders(paths: list[str]) -> list[str]:
    return [path.rpartition("/")[0].rpartition("/")[2] for path in paths]


def _list_folder(root: Path, split: str | None) -> ImageSet:
    top = root / split if split else root
    files = _image_files(top, root, split)
    class_names = [path.relative_to(top).parts[0] if path.parent != top else None for path in files]
    number = {name: i for i, name in enumerate(sorted({name for name in class_names if name is not None}))}
    target = np.array([-1 if name is None else number[name] for name in class_names], dtype=np.int64)
    paths = [path.relative_to(root).as_posix() for path in files]
    return ImageSet(root, paths, target, class_name=[name or "" for name in class_names])


def _list_masks(root: Path, split: str | None) -> ImageSet:
    top = root / "images" / split if split else root / "images"
    files = _image_files(top, root / "images", split)
    masks = []
    for file in files:
        stem = (root / "annotations" / file.relative_to(root / "images")).with_suffix("")
        there = [mask for suffix in MASK_SUFFIXES if (mask := stem.with_name(stem.name + suffix)).is_file()]
        if not there:
            raise UserError(
                f"{file}: its mask {stem}.png does not exist; every image needs one (or record the images"
                " without masks: `layout` folder)"
            )
        masks.append(there[0].relative_to(root).as_posix())
    paths = [path.relative_to(root).as_posix() for path in files]
    return ImageSet(root, paths, np.full(len(paths), -1, np.int64), masks)


def _list_csv(table: Path, split: str | None) -> ImageSet:
    """A class that has a name has the same number in every split."""
    rows = read_image_csv(table)
    names = sorted({row.target for row in rows} - {""})
    named = not all(name.isdecimal() for name in names)
    number = {name: i if named else int(name) for i, name in enumerate(names)} | {"": -1}
    if split is not None:
        found = sorted({row.split for row in rows if row.split is not None})
        if not found:
            raise UserError(
                f"{table}: it has no column split; add one (train, test, ...), or leave `split` out and write"
                " one CSV for each split"
            )
        rows = [row for row in rows if row.split == split]
        if not rows:
            raise UserError(
                f"{table}: found no split {split!r} in its column split, only {', '.join(found[:8])}"
            )
    for row in rows:
        for name in (row.path, row.mask):
            if name is not None and (why := why_unreadable(table.parent / name)):
                raise UserError(
                    f"{table}: line {row.line}: {table.parent / name}: {why};"
                    " paths are relative to the CSV's folder"
                )
    masks = [row.mask for row in rows if row.mask is not None]
    classes = [row.target for row in rows]
    target = np.array([number[name] for name in classes], dtype=np.int64)
    return ImageSet(
        table.parent, [row.path for row in rows], target, masks or None, class_name=classes if named else None
    )


def _image_files(top: Path, root: Path, split: str | None) -> list[Path]:
    if not top.is_dir():
        raise UserError(f"{top}: no such folder; expected the split {split!r} as a folder in {root}")
    return sorted(
        path
        for path in _below(top, frozenset(top.resolve().parents))
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def _below(folder: Path, around: frozenset[Path]) -> Iterator[Path]:
    """All that is below a folder, as torchvision's ImageFolder follows links; not those to folders `around` it.

    Raises UserError for a folder that may not be read.
    """
    around |= {folder.resolve()}
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read ({error.strerror})") from error
    for entry in entries:
        yield (path := Path(entry.path))
        if path.is_dir() and path.resolve() not in around if entry.is_symlink() else entry.is_dir():
            yield from _below(path, around)
