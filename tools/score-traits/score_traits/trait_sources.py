"""Where traits come from: CUB-200-2011, a CSV, class folders, pairs of classes, patch labels."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from saetools.errors import UserError, near_names
from saetools.labels import cub200
from saetools.labels.tables import read_trait_table
from saetools.shards.reader import ShardSet
from score_traits.traits import Labelled, Split, make_split

FOLDERS = "target"
IGNORED = 65535  # the patch label that says nothing
PAIR_MARK = " against "


@dataclass(frozen=True)
class TraitSettings:
    """source: a CUB-200-2011 folder, a CSV, or `target`; pairs or patch labels take its place.

    certainty: CUB-200-2011's certainties that count as an answer; drop_not_visible leaves an image out
    for a trait that was not visible in it.
    """

    source: str | None
    pairs: Path | None = None
    patches: bool = False
    certainty: Collection[int] = cub200.CERTAIN
    drop_not_visible: bool = False


def read_traits(settings: TraitSettings, train: ShardSet, test: ShardSet) -> Labelled:
    """The images' traits on both splits; raises UserError where a file is broken or speaks of other images."""
    if settings.pairs is not None:
        return _pairs(settings.pairs, train, test)
    assert settings.source is not None
    if settings.source == FOLDERS:
        return _folders(train, test)
    table = read_trait_table(
        Path(settings.source), certainty=settings.certainty, drop_not_visible=settings.drop_not_visible
    )

    def split(shards: ShardSet, what: str) -> Split:
        return make_split(np.arange(shards.n_images), *table.of(shards.paths, what))

    return Labelled(table.name, split(train, "the training shards"), split(test, "the test shards"))


def _folders(train: ShardSet, test: ShardSet) -> Labelled:
    """Each class against the rest."""
    names, (train_n, test_n) = _classes(train, test)

    def split(class_n: np.ndarray) -> Split:
        labels_nt = class_n[:, None] == np.arange(len(names))
        return make_split(np.arange(len(class_n)), labels_nt, np.ones_like(labels_nt))

    return Labelled(names, split(train_n), split(test_n))


def _pairs(source: Path, train: ShardSet, test: ShardSet) -> Labelled:
    """For each line `A,B` the images of A are positive, those of B negative, all others left out."""
    names, (train_n, test_n) = _classes(train, test)
    number = {name: index for index, name in enumerate(names)}
    pairs = _read_pairs(source)
    for line, pair in pairs:
        for name in pair:
            if name not in number:
                raise UserError(
                    f"{source}: line {line} names the class {name!r}, which the shards do not have"
                    f"{near_names(name, names) or f'; theirs look like {names[0]!r}'}"
                )
    of_t = np.array([[number[a], number[b]] for _, (a, b) in pairs])

    def split(class_n: np.ndarray) -> Split:
        first_nt, second_nt = class_n[:, None] == of_t[:, 0], class_n[:, None] == of_t[:, 1]
        return make_split(np.arange(len(class_n)), first_nt, first_nt | second_nt)

    names = [PAIR_MARK.join(pair) for _, pair in pairs]
    return Labelled(names, split(train_n), split(test_n), is_pairs=True)


def _read_pairs(source: Path) -> list[tuple[int, tuple[str, str]]]:
    if not source.is_file():
        raise UserError(f"{source}: no such file; expected two class names with a comma between them a line")
    try:
        table = pd.read_csv(source, header=None, dtype=str, keep_default_na=False, skip_blank_lines=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: expected two class names a line: {error}") from error
    pairs = []
    for line, cells in enumerate(table.itertuples(index=False), start=1):
        names = [cell.strip() for cell in cells]
        if not any(names):
            continue
        if len(names) != 2 or not all(names) or names[0] == names[1]:
            raise UserError(f"{source}: line {line} holds {names}, expected two different class names")
        pairs.append((line, (names[0], names[1])))
    if not pairs:
        raise UserError(f"{source}: it is empty, expected two class names a line")
    return pairs


def _classes(train: ShardSet, test: ShardSet) -> tuple[list[str], tuple[np.ndarray, np.ndarray]]:
    """Names of the classes, and the class of each image of both sets, from the shards' targets.

    A class is called by the folder its images lie in, where all images of one target lie in folders of one name
    of their own; else by its number.
    """
    targets = [_targets(train), _targets(test)]
    both = np.concatenate(targets)
    paths = [*train.paths, *test.paths]
    if (both < 0).any():
        example = paths[int(np.argmax(both < 0))]
        raise UserError(
            f"{train.shards[0].path}: {int((both < 0).sum())} images have no class, for example {example!r};"
            " record images from class folders, or give a table of traits"
        )
    classes, class_n = np.unique(both, return_inverse=True)
    folders = np.array([path.rpartition("/")[0].rpartition("/")[2] for path in paths], dtype=object)
    names: list[str] = []
    for index in range(len(classes)):
        here = set(folders[class_n == index])
        names.append(here.pop() if len(here) == 1 else "")
    if "" in names or len(set(names)) < len(names):
        names = [f"class {number}" for number in classes]
    return names, (class_n[: len(targets[0])], class_n[len(targets[0]) :])


def with_test_classes(labelled: Labelled, test: ShardSet, layer: int) -> Labelled:
    """The same, with the class of each test row; raises UserError where an image has none, or all have the same."""
    rows_per_image = test.shape(layer)[0] if labelled.unit == "patch" else 1
    image_of_row = labelled.test.row_n // rows_per_image
    class_of_row = _targets(test)[image_of_row]
    if (class_of_row < 0).any():
        images = np.unique(image_of_row[class_of_row < 0])
        raise UserError(
            f"{test.shards[0].path}: --bootstrap-by class: {len(images)} test images have no class, for example"
            f" {test.paths[images[0]]!r};\nrecord images from class folders, or use --bootstrap-by image"
        )
    classes, class_n = np.unique(class_of_row, return_inverse=True)
    if len(classes) < 2:
        raise UserError(
            f"{test.shards[0].path}: --bootstrap-by class: all test images are of one class; expected two or more"
        )
    return replace(labelled, test_class_n=class_n)


def _targets(shards: ShardSet) -> np.ndarray:
    """The class {N} of each image, -1 where it is not known."""
    return np.concatenate([shard.examples.target for shard in shards.shards])


def read_patch_traits(train: ShardSet, test: ShardSet, layer: int) -> Labelled:
    """Each patch label that training patches have, against the other labels; 65535 says nothing.

    Layers of a convolutional network differ in their patches, so the labels are those of one layer. Raises
    UserError where there are none.
    """
    labels = [_patch_labels(shards, layer) for shards in (train, test)]
    classes = np.unique(labels[0][labels[0] != IGNORED])
    if len(classes) == 0:
        raise UserError(
            f"{train.shards[0].path}: all its patches are labelled as ignored; nothing can be learnt"
        )
    splits = []
    for label_np in labels:
        image_of_row = np.repeat(np.arange(len(label_np)), label_np.shape[1])
        label_n = label_np.reshape(-1)
        rows = np.flatnonzero(label_n != IGNORED)
        _, image_n = np.unique(image_of_row[rows], return_inverse=True)
        splits.append(Split(rows, image_n, label_n[rows, None] == classes, None))
    return Labelled([f"label {number}" for number in classes], splits[0], splits[1], unit="patch")


def _patch_labels(shards: ShardSet, layer: int) -> np.ndarray:
    """uint16 {N, P}"""
    parts = []
    for shard in shards.shards:
        labels_np = shard.labels(layer)
        if labels_np is None:
            raise UserError(
                f"{shard.path}: it holds no patch labels, which --patch-traits needs; record images with masks"
            )
        parts.append(labels_np)
    return np.concatenate(parts)
