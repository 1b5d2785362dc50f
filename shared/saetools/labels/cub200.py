"""Reads CUB-200-2011 (Wah et al., 2011) in its official layout.

`images.txt`, `image_class_labels.txt` and `train_test_split.txt` hold one `image_id value` a line;
`attributes/image_attribute_labels.txt` holds `image_id attribute_id is_present certainty_id time`,
and a few of its official lines have extra fields at the end. Ids start at 1.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saetools.errors import UserError
from saetools.files.user_csv import read_user_text
from saetools.log import logger

# certainties.txt: 1 not visible, 2 guessing, 3 probably, 4 definitely
NOT_VISIBLE = 1
CERTAIN = (3, 4)
_LINE = "'image attribute is_present certainty time' a line, as in CUB-200-2011's attribute annotations"


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
    for i in names:
        if not re.fullmatch("0*[1-9][0-9]{0,6}", classes[i]) or split[i] not in ("0", "1"):
            raise UserError(
                f"{root}: image {i}: a class or split is not a number: found {classes[i][:60]!r} and {split[i][:60]!r};"
                " expected a class from 1 and a split of 0 or 1; get image_class_labels.txt and train_test_split.txt"
                " again"
            )
    if len(set(names.values())) < len(names):
        twice = next(name for name, count in Counter(names.values()).items() if count > 1)
        raise UserError(f"{root / 'images.txt'}: the image {twice!r} is there twice; get the file again")
    target = np.array([int(classes[i]) - 1 for i in names], dtype=np.int64)
    is_train = np.array([split[i] == "1" for i in names])
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

    if n_without := len(ids) - len(np.unique(image)):
        logger.warning(
            "%s: %d of %d images have no line, so none of their attributes counts as present; is the file whole?",
            *(path, n_without, len(ids)),
        )

    def pairs(chosen: np.ndarray) -> np.ndarray:
        answers_nt = np.zeros((len(ids), n_attributes), dtype=bool)
        answers_nt[row_of_id[image[chosen]], attribute[chosen] - 1] = True
        return answers_nt

    return CubAnswers(pairs((present == 1) & np.isin(sure, list(certainty))), pairs(sure == NOT_VISIBLE))


def _read_four_columns(path: Path) -> tuple[np.ndarray, ...]:
    """The first four fields of every line, as integers; the file has millions, so it goes through pandas."""
    import pandas as pd

    text = read_user_text(path, _LINE)
    try:
        # usecols limits the parser to the first fields; lines with more are then no error to it. The time is read too,
        # so that a line that was cut short before it is known.
        table = pd.read_csv(
            io.StringIO(text),
            sep=r"\s+",
            header=None,
            usecols=range(5),
            dtype=dict.fromkeys(range(4), np.int64),
            engine="c",
            quoting=csv.QUOTE_NONE,
        )
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise _broken_line(path, text, str(error)) from error
    image, attribute, present, certainty, time = (table[place].to_numpy() for place in range(5))
    if (
        present.min() < 0
        or present.max() > 1
        or certainty.min() < 1
        or certainty.max() > 4
        or pd.isna(time).any()
    ):
        raise _broken_line(path, text, "")
    return image, attribute, present, certainty


def _broken_line(path: Path, text: str, otherwise: str) -> UserError:
    """The error of the first line that is not as it should be."""
    for number, line in enumerate(text.split("\n"), start=1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) < 5 or not all(re.fullmatch("-?[0-9]{1,15}", field) for field in fields[:4]):
            return UserError(
                f"{path}: line {number} does not start with four whole numbers and a time, found {line[:60]!r};"
                f" expected {_LINE}; get the file again"
            )
        if fields[2] not in ("0", "1") or fields[3] not in ("1", "2", "3", "4"):
            return UserError(
                f"{path}: line {number} has an is_present of {fields[2]} and a certainty of {fields[3]}; expected 0 or"
                " 1, and 1 to 4; get the file again"
            )
    return UserError(f"{path}: expected {_LINE}; {otherwise}; get the file again")


def _read_pairs(path: Path) -> dict[int, str]:
    """`number value` a line."""
    text = read_user_text(path, f"'number value' a line, as in CUB-200-2011's layout in {path.parent}")
    pairs: dict[int, str] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        key, _, value = line.strip().partition(" ")
        if not re.fullmatch("[0-9]{1,7}", key) or not value:
            raise UserError(
                f"{path}: line {number} is {line[:100]!r}, expected 'number value'; get the file again"
            )
        if int(key) in pairs:
            raise UserError(f"{path}: line {number} is the second of the number {key}; get the file again")
        pairs[int(key)] = value.strip()
    return pairs
