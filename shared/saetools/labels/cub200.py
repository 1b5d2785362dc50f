"""Reads CUB-200-2011 (Wah et al., 2011) in its official layout.

`images.txt`, `image_class_labels.txt` and `train_test_split.txt` hold one `image_id value` a line;
`attributes/image_attribute_labels.txt` holds `image_id attribute_id is_present certainty_id time`,
and a few of its official lines have extra fields at the end. Ids start at 1.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saetools.errors import UserError

# certainties.txt: 1 not visible, 2 guessing, 3 probably, 4 definitely
NOT_VISIBLE = 1
CERTAIN = (3, 4)


@dataclass(frozen=True)
class CubImages:
    """path {N} relative to the root (`images/CLASS/NAME.jpg`), target {N} from 0, is_train {N}, id {N}."""

    path: list[str]
    target: np.ndarray
    is_train: np.ndarray
    id: np.ndarray


def is_cub(root: Path) -> bool:
    return (root / "images.txt").is_file() and (root / "train_test_split.txt").is_file()


def read_images(root: Path) -> CubImages:
    """Read the images in the order of images.txt; raises UserError where a list is broken."""
    names = _read_pairs(root / "images.txt")
    classes = _read_pairs(root / "image_class_labels.txt")
    split = _read_pairs(root / "train_test_split.txt")
    for other, file in ((classes, "image_class_labels.txt"), (split, "train_test_split.txt")):
        if missing := sorted(names.keys() - other.keys()):
            raise UserError(
                f"{root / file}: image {missing[0]} of images.txt is missing from it;"
                " get the data set's files again"
            )
    ids = np.array(list(names), dtype=np.int64)
    try:
        target = np.array([int(classes[i]) - 1 for i in names], dtype=np.int64)
        is_train = np.array([int(split[i]) == 1 for i in names])
    except ValueError as error:
        raise UserError(f"{root}: a class or split is not a number ({error}); get its files again") from error
    return CubImages([f"images/{name}" for name in names.values()], target, is_train, ids)


def read_attribute_names(root: Path) -> list[str]:
    """The T attributes, `has_bill_shape::dagger` and so on, in the order of their ids.

    The official archive has attributes.txt beside the data set's folder, copies have it inside.
    """
    places = [root / "attributes" / "attributes.txt", root / "attributes.txt", root.parent / "attributes.txt"]
    for place in places:
        if place.is_file():
            names = _read_pairs(place)
            if list(names) != list(range(1, len(names) + 1)):
                raise UserError(f"{place}: its ids are not 1, 2, ..., {len(names)}; get the file again")
            return list(names.values())
    raise UserError(
        f"{places[0]}: no such file, nor {places[1]}, nor {places[2]}; expected the attributes' names"
    )


@dataclass(frozen=True)
class CubAnswers:
    """Who said what of image n and attribute t: bool {N, T} each, rows as in images.txt, columns by attribute id.

    present:     some line says `is_present`, with one of the certainties that were asked for
    not_visible: some line has certainty 1: nobody could see it, present or not
    """

    present_nt: np.ndarray
    not_visible_nt: np.ndarray


def read_attributes(root: Path, certainty: Collection[int] = CERTAIN) -> np.ndarray:
    """Which image has which attribute: `read_answers(root, certainty).present_nt`."""
    return read_answers(root, certainty).present_nt


def read_answers(root: Path, certainty: Collection[int] = CERTAIN) -> CubAnswers:
    """Read the annotations of the attributes; a pair without a line is neither present nor known as not visible.

    Raises UserError, with the line, where the file is broken.
    """
    path = root / "attributes" / "image_attribute_labels.txt"
    n_attributes = len(read_attribute_names(root))
    ids = read_images(root).id
    row_of_id = np.full(ids.max(initial=0) + 1, -1)
    row_of_id[ids] = np.arange(len(ids))
    image, attribute, present, sure = _read_four_columns(path)
    known = (image >= 1) & (image < len(row_of_id)) & (attribute >= 1) & (attribute <= n_attributes)
    known[known] = row_of_id[image[known]] >= 0
    if not known.all():
        line = int(np.argmin(known))
        raise UserError(
            f"{path}: line {line + 1} is about image {image[line]}, attribute {attribute[line]}, which"
            f" images.txt and attributes.txt (1 to {n_attributes}) do not have; get these files again"
        )

    def pairs(chosen: np.ndarray) -> np.ndarray:
        answers_nt = np.zeros((len(ids), n_attributes), dtype=bool)
        answers_nt[row_of_id[image[chosen]], attribute[chosen] - 1] = True
        return answers_nt

    return CubAnswers(pairs((present == 1) & np.isin(sure, list(certainty))), pairs(sure == NOT_VISIBLE))


def _read_four_columns(path: Path) -> tuple[np.ndarray, ...]:
    """The first four fields of every line, as integers; the file has millions, so it goes through pandas."""
    import pandas as pd

    if not path.is_file():
        raise UserError(f"{path}: no such file; expected CUB-200-2011's attribute annotations")
    try:
        # usecols limits the parser to the first fields; lines with more are then no error to it
        table = pd.read_csv(path, sep=r"\s+", header=None, usecols=range(4), engine="c")
        numbers = table.to_numpy(dtype=np.float64)
    except (ValueError, pd.errors.ParserError) as error:
        raise UserError(
            f"{path}: expected 'image attribute is_present certainty time' a line; {error}"
        ) from error
    broken = ~(np.isfinite(numbers).all(1) & (numbers == np.floor(numbers)).all(1))
    if broken.any():
        raise UserError(
            f"{path}: line {int(np.argmax(broken)) + 1} does not start with four whole numbers;"
            " get the file again"
        )
    return tuple(numbers.astype(np.int64).T)


def _read_pairs(path: Path) -> dict[int, str]:
    """`number value` a line."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected CUB-200-2011's layout in {path.parent}")
    pairs = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        key, _, value = line.strip().partition(" ")
        if not key.isdigit() or not value:
            raise UserError(f"{path}: line {number} is {line!r}, expected 'number value'; get the file again")
        pairs[int(key)] = value.strip()
    return pairs
