"""The CUB-200-2011 reader against a second one: a plain loop over the lines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from saetools.errors import UserError
from saetools.labels import cub200

NAMES = ["has_bill_shape::dagger", "has_bill_shape::hooked seabird", "has_wing_color::blue"]
IDS = [1, 2, 4, 9]  # a part of the data set keeps the official ids


def write_cub(root: Path, lines: list[str], *, attributes: str = "attributes/attributes.txt") -> Path:
    (root / "attributes").mkdir(parents=True, exist_ok=True)
    (root / "images.txt").write_text("".join(f"{i} {i:03d}.Bird/a {i}.jpg\n" for i in IDS))
    (root / "image_class_labels.txt").write_text("".join(f"{i} {1 + i % 2}\n" for i in reversed(IDS)))
    (root / "train_test_split.txt").write_text("".join(f"{i} {i % 2}\n" for i in IDS))
    (root / attributes).resolve().parent.mkdir(parents=True, exist_ok=True)
    (root / attributes).write_text("".join(f"{i} {name}\n" for i, name in enumerate(NAMES, 1)))
    (root / "attributes" / "image_attribute_labels.txt").write_text("".join(f"{line}\n" for line in lines))
    return root


def read_plainly(root: Path, certainty: tuple[int, ...]) -> np.ndarray:
    labels = {}
    for line in (root / "attributes" / "image_attribute_labels.txt").read_text().splitlines():
        image, attribute, present, sure, *_ = line.split()
        if int(present) == 1 and int(sure) in certainty:
            labels[int(image), int(attribute)] = True
    return np.array([[labels.get((i, t), False) for t in range(1, len(NAMES) + 1)] for i in IDS])


line = st.tuples(
    st.sampled_from(IDS), st.integers(1, 3), st.integers(0, 1), st.integers(1, 4), st.integers(0, 3)
)


@given(
    st.lists(line, max_size=12, unique_by=lambda fields: fields[:2]),
    st.sets(st.integers(1, 4), min_size=1),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equals_the_plain_reader(tmp_path, lines, certainty) -> None:
    """Certainties, missing pairs, and the official file's lines with one or two fields too many."""
    text = [
        f"{image} {attribute} {present} {sure} {['7.7', '0 8.9', '1 0 2.1', '3 4 5.5 6'][extra]}"
        for image, attribute, present, sure, extra in lines
    ]
    if not text:
        text = ["1 1 0 1 0.1"]
    root = write_cub(tmp_path, text)
    expected = read_plainly(root, tuple(certainty))
    np.testing.assert_array_equal(cub200.read_attributes(root, certainty), expected)


def test_probably_and_definitely_count(tmp_path) -> None:
    root = write_cub(tmp_path, [f"{i} 1 1 {sure} 5.1" for i, sure in zip(IDS, (1, 2, 3, 4), strict=True)])
    assert cub200.read_attributes(root)[:, 0].tolist() == [False, False, True, True]


def test_not_visible_is_told_apart_from_absent(tmp_path) -> None:
    answers = cub200.read_answers(write_cub(tmp_path, ["1 1 0 1 5", "1 2 0 3 5", "2 1 1 1 5", "4 3 1 4 5"]))
    assert np.argwhere(answers.not_visible_nt).tolist() == [[0, 0], [1, 0]]
    assert np.argwhere(answers.present_nt).tolist() == [[2, 2]]


def test_images_of_a_part_of_the_data_set(tmp_path) -> None:
    images = cub200.read_images(write_cub(tmp_path, ["1 1 1 4 0"]))
    assert images.path == [f"images/{i:03d}.Bird/a {i}.jpg" for i in IDS]
    assert images.id.tolist() == IDS
    assert images.target.tolist() == [i % 2 for i in IDS]
    assert images.is_train.tolist() == [i % 2 == 1 for i in IDS]


@pytest.mark.parametrize(
    "place", ["attributes/attributes.txt", "attributes.txt", "../attributes.txt"], ids=["in", "top", "beside"]
)
def test_attribute_names_stand_in_one_of_three_places(tmp_path, place) -> None:
    root = write_cub(tmp_path / "CUB_200_2011", ["1 3 1 4 0"], attributes=place)
    assert cub200.read_attribute_names(root) == NAMES
    assert cub200.read_attributes(root)[0].tolist() == [False, False, True]


def test_without_attribute_names(tmp_path) -> None:
    root = write_cub(tmp_path, ["1 3 1 4 0"])
    (root / "attributes/attributes.txt").unlink()
    with pytest.raises(UserError, match=r"attributes\.txt: no such file"):
        cub200.read_attributes(root)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["1 1 1 4 0", "1 2 yes 4 0"], "image_attribute_labels.txt: "),
        (["1 1 1 4 0", "2 1 1"], "line 2 does not start with four whole numbers"),
        (["1 1 1 4 0", "1 1.5 1 4 0"], "line 2 does not start with four whole numbers"),
        (["1 1 1 4 0", "3 1 1 4 0"], "line 2 is about image 3, attribute 1"),
        (["1 1 1 4 0", "1 4 1 4 0"], "line 2 is about image 1, attribute 4"),
        (["1 0 1 4 0"], "line 1 is about image 1, attribute 0"),
        (["-1 1 1 4 0"], "line 1 is about image -1"),
    ],
)
def test_broken_lines_are_named(tmp_path, lines, words) -> None:
    with pytest.raises(UserError, match=words):
        cub200.read_attributes(write_cub(tmp_path, lines))


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("images.txt", "1 a.jpg\nx b.jpg\n", r"images\.txt: line 2 is 'x b\.jpg'"),
        ("train_test_split.txt", "1 0\n", r"train_test_split\.txt: image 2 of images\.txt is missing"),
        ("image_class_labels.txt", "1 a\n2 1\n4 1\n9 1\n", "a class or split is not a number"),
        ("attributes/attributes.txt", "1 a\n3 b\n", "its ids are not 1, 2, ..., 2"),
    ],
)
def test_broken_lists_are_named(tmp_path, file, text, words) -> None:
    root = write_cub(tmp_path, ["1 1 1 4 0"])
    (root / file).write_text(text)
    with pytest.raises(UserError, match=words):
        cub200.read_images(root)
        cub200.read_attributes(root)


def test_is_cub(tmp_path) -> None:
    assert not cub200.is_cub(tmp_path)
    assert cub200.is_cub(write_cub(tmp_path, ["1 1 1 4 0"]))
