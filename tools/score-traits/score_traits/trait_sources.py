"""Where traits come from: CUB-200-2011, a CSV, class folders, pairs of classes, patch labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from saetools import cub200
from saetools.errors import UserError, near_names
from saetools.shard_reader import ShardSet
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
    table = _read_table(Path(settings.source), settings)
    return Labelled(table.name, table.of(train, "the training shards"), table.of(test, "the test shards"))


@dataclass(frozen=True)
class _Table:
    """labels {N, T}, valid {N, T}: False where the table says nothing; name {T}; row of each path."""

    source: Path
    name: list[str]
    labels_nt: np.ndarray
    valid_nt: np.ndarray
    row: dict[str, int]

    def of(self, shards: ShardSet, what: str) -> Split:
        """The split of the images of `shards`; raises UserError where the table does not have all of them."""
        paths = shards.paths
        missing = [path for path in paths if path not in self.row]
        if missing:
            raise UserError(
                f"{self.source}: {len(missing)} of the {len(paths)} images in {what} have no row, for example"
                f" {missing[0]!r}; its own paths look like {next(iter(self.row), '')!r};"
                " give the table of these images, with paths relative to the data set's root"
            )
        rows = np.array([self.row[path] for path in paths], dtype=np.int64)
        return make_split(np.arange(len(rows)), self.labels_nt[rows], self.valid_nt[rows])


def _read_table(source: Path, settings: TraitSettings) -> _Table:
    if source.is_dir():
        return _read_cub(source, settings)
    if not source.is_file():
        raise UserError(
            f"{source}: no such file or folder; expected CUB-200-2011's folder, a CSV of traits, or {FOLDERS!r}"
        )
    return _read_csv(source)


def _read_cub(root: Path, settings: TraitSettings) -> _Table:
    answers = cub200.read_answers(root, settings.certainty)
    valid_nt = ~answers.not_visible_nt if settings.drop_not_visible else np.ones_like(answers.present_nt)
    names, paths = cub200.read_attribute_names(root), cub200.read_images(root).path
    return _Table(root, names, answers.present_nt, valid_nt, _rows(paths, root))


def _read_csv(source: Path) -> _Table:
    try:
        table = pd.read_csv(source, dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{source}: not a CSV file: {error}; expected a header path,TRAIT,...") from error
    if "path" not in table.columns or table.shape[1] < 2:
        raise UserError(
            f"{source}: its columns are {', '.join(map(repr, table.columns[:5]))};"
            " expected path and at least one trait"
        )
    names = [name for name in table.columns if name != "path"]
    cells_nt = table[names].to_numpy(dtype=str)
    known_nt = np.isin(cells_nt, ("0", "1", ""))
    if not known_nt.all():
        row, column = np.argwhere(~known_nt)[0]
        raise UserError(
            f"{source}: line {row + 2}, trait {names[column]!r} holds {str(cells_nt[row, column])!r};"
            " expected 0, 1 or nothing"
        )
    return _Table(source, names, cells_nt == "1", cells_nt != "", _rows(list(table["path"]), source))


def _rows(paths: Sequence[str], source: Path) -> dict[str, int]:
    rows = {path: row for row, path in enumerate(paths)}
    if len(rows) < len(paths):
        twice = next(path for row, path in enumerate(paths) if rows[path] != row)
        raise UserError(f"{source}: the image {twice!r} has two rows; leave one")
    return rows


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
    targets = [np.concatenate([shard.examples.target for shard in shards.shards]) for shards in (train, test)]
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
