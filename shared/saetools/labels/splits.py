"""Labels of a training and a test set: the patches' own labels, the images' classes, pairs of classes, or a table.

    read_labels        for probes and audits: classes or patch labels, those of either split
    read_traits        for AP tables: each class against the rest, or a table of traits
    read_pairs         for AP tables: one class against one other
    read_patch_traits  for AP tables: each patch label that training patches have against the others

A split is activation shards (ShardSet) or latents (LatentsSet).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from saetools.errors import UsageError, UserError, near_names
from saetools.files.user_csv import read_user_csv, read_user_text
from saetools.labels import IGNORED_LABEL, cub200
from saetools.labels.rows import RowLabels
from saetools.labels.tables import FAIL, TraitTable, read_trait_table
from saetools.log import logger

if TYPE_CHECKING:  # torch, which shards need, takes seconds to import
    from saetools.latents.reader import LatentsSet
    from saetools.shards.reader import ShardSet

    Split: TypeAlias = ShardSet | LatentsSet

PATCH, TARGET = "patch", "target"
PAIR_MARK = " against "


@dataclass(frozen=True)
class LabelledSplits:
    """names {C} of the classes, and their labels on both splits.

    unit: what a row is, `image` or `patch`; is_pairs: each class is one class against one other; is_cub: read from
    CUB-200-2011's folder; numbers {C}: the labels that `read_labels` found, none of a table
    """

    names: list[str]
    train: RowLabels
    test: RowLabels
    unit: str = "image"
    is_pairs: bool = False
    is_cub: bool = False
    numbers: Sequence[int] = ()

    @property
    def pooled(self) -> bool:
        """Whether a row is an image, with the largest value of each latent in it."""
        return self.unit == "image"


def read_labels(
    source: str,
    train: Split,
    test: Split,
    ignore: Collection[int] = (),
    missing_rows: str | None = None,
    class_names: Sequence[str] = (),
    layer: int | None = None,
) -> LabelledSplits:
    """Labels `patch`, `target`, or the path of a table (CUB-200-2011's folder, or a CSV path,TRAIT,...).

    ignore: labels whose rows are left out, as 65535 (patch) and -1 (target) always are; not with a table.
    missing_rows: of a table, what is known of images without a row; see `TraitTable.of`.
    class_names: of the labels 0, 1, ...; without, patch labels are named by number, and classes of images as they were
    recorded. layer: of shards, whose patch labels are a layer's. Raises UserError where a split has no such labels.
    """
    if source in (PATCH, TARGET):
        _check_table(missing_rows)
        left_out = {IGNORED_LABEL if source == PATCH else -1, *ignore}
        recorded: dict[int, str] = {}
        if source == PATCH:
            parts = [list(_patch_labels(split, layer)) for split in (train, test)]
        else:
            first_n, other_n, recorded = classes_of_images(train, test)
            parts = [[first_n], [other_n]]
        classes = _classes([*parts[0], *parts[1]], left_out)
        if not len(classes):
            raise UserError("`labels`: every row's label is ignored or unknown; nothing is left to fit")
        first, other = (_one_class(part, classes, left_out) for part in parts)
        unit = "patch" if source == PATCH else "image"
        names = _named(classes, "{}", recorded, class_names)
        return LabelledSplits(names, first, other, unit, numbers=classes.tolist())
    _check_named(class_names)
    if ignore:
        raise UserError(
            f"`ignore`: a table has no label to be ignored; leave cells of {source} empty instead"
        )
    return _from_table(read_trait_table(Path(source), soft=True), train, test, missing_rows)


def read_traits(
    source: str,
    train: Split,
    test: Split,
    *,
    certainty: Collection[int] = cub200.CERTAIN,
    drop_not_visible: bool = False,
    missing_rows: str | None = None,
    class_names: Sequence[str] = (),
) -> LabelledSplits:
    """Traits of images that are there or not: `target` (each class against the rest), or a table's path.

    certainty, drop_not_visible: see `read_trait_table`; missing_rows: see `TraitTable.of`; class_names: see
    `read_labels`. Raises UserError where a file is broken, or where an image has no row in the table, or no class.
    """
    if source == TARGET:
        _check_table(missing_rows)
        classes, both, names = _known_classes(train, test, class_names)
        first, other = (_one_class([numbers], classes, ()) for numbers in both)
        return LabelledSplits(names, first, other)
    _check_named(class_names)
    table = read_trait_table(Path(source), certainty=certainty, drop_not_visible=drop_not_visible)
    return replace(_from_table(table, train, test, missing_rows), is_cub=Path(source).is_dir())


def read_pairs(source: Path, train: Split, test: Split, class_names: Sequence[str] = ()) -> LabelledSplits:
    """For each line `A,B` of a file, images of class A are positive, those of B negative, all others left out."""
    classes, both, names = _known_classes(train, test, class_names)
    number = {name: index for index, name in enumerate(names)}
    pairs = _read_pairs(source)
    for line, pair in pairs:
        for name in pair:
            if name not in number:
                raise UserError(
                    f"{source}: line {line} names the class {name!r}, which the shards do not have"
                    f"{near_names(name, names) or f'; they have classes like {names[0]!r}'}"
                )
    of_t = np.array([[number[a], number[b]] for _, (a, b) in pairs])

    def labels(numbers: npt.NDArray[np.int64]) -> RowLabels:
        class_n = np.searchsorted(classes, numbers)
        first_nt, second_nt = class_n[:, None] == of_t[:, 0], class_n[:, None] == of_t[:, 1]
        return RowLabels(len(pairs), table=first_nt, known=first_nt | second_nt)

    pair_names = [PAIR_MARK.join(pair) for _, pair in pairs]
    return LabelledSplits(pair_names, labels(both[0]), labels(both[1]), is_pairs=True)


def read_patch_traits(
    train: ShardSet, test: ShardSet, layer: int, class_names: Sequence[str] = ()
) -> LabelledSplits:
    """Each patch label that training patches have, against the other labels; patches with 65535 are left out.

    Layers of a convolutional network differ in their patches, so the labels are those of one layer. Raises
    UserError where there are none.
    """
    parts = [list(_patch_labels(split, layer)) for split in (train, test)]
    classes = _classes(parts[0], {IGNORED_LABEL})
    if len(classes) == 0:
        raise UserError(
            f"{train.shards[0].path}: every patch has the ignored label {IGNORED_LABEL}; no trait is left"
        )
    first, other = (_one_class(part, classes, {IGNORED_LABEL}) for part in parts)
    return LabelledSplits(_named(classes, "label {}", {}, class_names), first, other, unit="patch")


def read_class_names(path: Path | None) -> list[str]:
    """The names of labels 0, 1, ..., one a line; raises UserError."""
    if path is None:
        return []
    return [line.strip() for line in read_user_text(path, "the names of labels, one a line").splitlines()]


def targets(split: Split) -> npt.NDArray[np.int64]:
    """The class {N} of each image, -1 where it is not known."""
    return np.concatenate([file.examples.target for file in _files(split)])


def recorded_classes(split: Split) -> npt.NDArray[np.str_] | None:
    """The name of each image's class {N}, empty where it is not known; None where a file has no such names."""
    names = [file.examples.class_name for file in _files(split)]
    return None if any(each is None for each in names) else np.concatenate(names).astype(str)


def classes_of_images(
    train: Split, test: Split
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], dict[int, str]]:
    """The class {N} of each image of both splits, -1 where it is not known, and the names of classes.

    Two recordings may number their classes differently, as where a folder is missing from one. If all files have the
    names, a class has one number, the first that its name had. Else a class has the name of its images' folder if all
    of them are in folders of that name, and no other class is; if that is not so of all, none has a name.
    """
    numbers = [targets(train), targets(test)]
    texts = [names_n for split in (train, test) if (names_n := recorded_classes(split)) is not None]
    if len(texts) < 2:
        return numbers[0], numbers[1], _class_folders(np.concatenate(numbers), [*train.paths, *test.paths])
    number_of: dict[str, int] = {}
    taken: set[int] = set()
    free = 1 + max(int(each.max(initial=-1)) for each in numbers)
    for split_n, names_n in zip(numbers, texts, strict=True):
        _, first = np.unique(names_n, return_index=True)
        for row in np.sort(first):
            number, name = int(split_n[row]), str(names_n[row])
            if name and name not in number_of:
                number_of[name] = free if number in taken else number
                free += number_of[name] == free
                taken.add(number_of[name])
    moved = [np.array([number_of.get(name, -1) for name in names_n], np.int64) for names_n in texts]
    if any((before != after).any() for before, after in zip(numbers, moved, strict=True)):
        logger.info(
            "the files number the same classes differently: images are compared by their classes' names"
        )
    return moved[0], moved[1], {number: name for name, number in number_of.items()}


def choose_tau(asked: float | None, splits: LabelledSplits) -> float:
    """The AP from which on a class of the test rows counts as found: `asked`, or half way between the AP that a
    constant score has for the most common class and 1, rounded up to two digits.

    Raises UserError where a constant score reaches `asked`. Classes that every row belongs to are left out.
    """
    constant_c = splits.test.constant_ap
    constant_c = np.where(constant_c < 1, constant_c, np.nan)
    if np.isnan(constant_c).all():
        return 1.0 if asked is None else asked
    c = int(np.nanargmax(constant_c))
    highest = float(constant_c[c])
    default = math.ceil(50 * (1 + highest) - 1e-9) / 100
    if asked is not None and asked <= highest:
        raise UserError(
            f"`tau` {asked:g}: a constant score reaches it, since {highest:.3f} of the test rows are of class"
            f" {splits.names[c]!r};\nchoose a larger one, or leave `tau` out for {default:g}"
        )
    return default if asked is None else asked


def _files(split: Any) -> list[Any]:
    return list(split.files if hasattr(split, "files") else split.shards)


def _patch_labels(split: Split, layer: int | None = None) -> Iterator[npt.NDArray[np.integer]]:
    """The labels of each file's patches, int32 {N P}."""
    for file in _files(split):
        labels_np = file.labels if layer is None else file.labels(layer)
        if labels_np is None:
            raise UserError(
                f"{file.path}: it has no patch labels; record the activations from a data set with masks, or use"
                " labels of the images"
            )
        yield labels_np.ravel().astype(np.int32)


def _classes(parts: Iterable[npt.NDArray[np.integer]], left_out: Collection[int]) -> npt.NDArray[np.int64]:
    """The labels that occur, ascending."""
    found: set[int] = set()
    for values in parts:
        found.update(np.flatnonzero(np.bincount(values + 1)) - 1)
    return np.array(sorted(found - set(left_out)), np.int64)


def _one_class(
    parts: Iterable[npt.NDArray[np.integer]], classes: npt.NDArray[np.int64], left_out: Collection[int]
) -> RowLabels:
    """Each row's position in `classes`, -1 where its label is left out, C where it is another label."""
    found = []
    for values in parts:
        # A look-up from label to position; labels are small numbers, from -1.
        lookup = np.full(int(values.max(initial=-1)) + 2, len(classes), np.int32)
        there = classes[classes < len(lookup) - 1]
        lookup[there + 1] = np.arange(len(there))
        lookup[[label + 1 for label in left_out if label < len(lookup) - 1]] = -1
        found.append(lookup[values + 1])
    return RowLabels(len(classes), ids=np.concatenate(found))


def _named(
    classes: npt.NDArray[np.int64], by_number: str, recorded: Mapping[int, str], given: Sequence[str]
) -> list[str]:
    """The name of each class: the given one, else the recorded one, else its number."""
    names = [
        (given[label] if label < len(given) else "") or recorded.get(label) or by_number.format(label)
        for label in map(int, classes)
    ]
    if len(set(names)) < len(names):
        twice = next(name for name, count in Counter(names).items() if count > 1)
        raise UserError(f"`class_names`: two of the labels are called {twice!r}; give each a name of its own")
    return names


def _check_named(class_names: Sequence[str]) -> None:
    if class_names:
        raise UsageError("`class_names`: the columns of a table have names; leave it out")


def _from_table(table: TraitTable, train: Split, test: Split, missing_rows: str | None) -> LabelledSplits:
    def labels(split: Split, what: str) -> RowLabels:
        labels_nc, known_nc = table.of(split.paths, what, missing_rows or FAIL)
        return RowLabels(len(table.name), table=labels_nc, known=known_nc)

    first = labels(train, "`train`")
    return LabelledSplits(table.name, first, first if test is train else labels(test, "`test`"))


def _check_table(missing_rows: str | None) -> None:
    if missing_rows is not None:
        raise UsageError(f"`missing_rows` {missing_rows}: only a table of traits has rows; leave it out")


def _known_classes(
    train: Split, test: Split, class_names: Sequence[str]
) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.int64]], list[str]]:
    """The classes of both splits, ascending; those of the images of each; their names. Every image must have one."""
    *both, names = classes_of_images(train, test)
    all_n = np.concatenate(both)
    if (all_n < 0).any():
        example = [*train.paths, *test.paths][int(np.argmax(all_n < 0))]
        raise UserError(
            f"{_files(train)[0].path}: {int((all_n < 0).sum())} images have no class, for example {example!r};"
            " record images from class folders, or give a table of traits"
        )
    classes = np.unique(all_n)
    return classes, both, _named(classes, "class {}", names, class_names)


def _class_folders(class_n: npt.NDArray[np.int64], paths: Sequence[str]) -> dict[int, str]:
    """Names of classes by their folders, see `classes_of_images`; empty where they are not clear."""
    folders = np.array([path.rpartition("/")[0].rpartition("/")[2] for path in paths], dtype=object)
    names: dict[int, str] = {}
    for number in np.unique(class_n[class_n >= 0]):
        here = set(folders[class_n == number])
        names[int(number)] = here.pop() if len(here) == 1 else ""
    return {} if "" in names.values() or len(set(names.values())) < len(names) else names


def _read_pairs(source: Path) -> list[tuple[int, tuple[str, str]]]:
    """(line, the two class names) of each line."""
    table = read_user_csv(source, "two class names a line, with a comma between them", header=False)
    pairs = []
    for line, cells in zip(table.line, table.rows, strict=True):
        names = [cell.strip() for cell in cells]
        if not any(names):
            continue
        if len(names) != 2 or not all(names) or names[0] == names[1]:
            raise UserError(f"{source}: line {line} holds {names}, expected two different class names")
        pairs.append((line, (names[0], names[1])))
    if not pairs:
        raise UserError(f"{source}: it is empty, expected two class names a line")
    return pairs
