"""The example's birds drawn again with one attribute changed: nothing else differs, and the files say what did."""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image, ImageFilter
from processes import BIN

BIRDS = Path(__file__).parents[2] / "examples" / "birds"
# The parts in which a change of a group can be seen
PARTS = {
    "has_wing_color": {"wing"}, "has_wing_pattern": {"wing"}, "has_breast_color": {"breast"},
    "has_breast_pattern": {"breast"}, "has_leg_color": {"leg"}, "has_bill_color": {"bill"},
    "has_bill_shape": {"bill"}, "has_crown_color": {"crown"}, "has_tail_shape": {"tail"},
    "has_head_pattern": {"face", "eye", "crown"},
}  # fmt: skip


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(str(BIRDS))
    return tuple(importlib.import_module(name) for name in ("drawing", "make_pairs", "canvas"))


def run(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BIRDS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def around(mask_hw: np.ndarray) -> np.ndarray:
    """The mask and 4 pixels around it: tips of bills and tails are thinner than a pixel of the mask."""
    grown = Image.fromarray(mask_hw.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(9))
    return np.asarray(grown) > 0


def test_a_change_of_nothing_gives_the_same_picture(modules):
    drawing, _, _ = modules
    for species in (0, 9, 10, 13, 17, 18, 21):  # spots among them, and both feathers and plants in front
        for number in range(3):
            first, same = drawing.draw_again(0, species, number, [lambda bird: bird])
            np.testing.assert_array_equal(same.rgb_hw3, first.rgb_hw3)
            np.testing.assert_array_equal(same.mask_hw, first.mask_hw)
            assert same.landmarks == first.landmarks
            np.testing.assert_array_equal(drawing.draw_bird(0, species, number).rgb_hw3, first.rgb_hw3)


def test_a_change_is_seen_in_its_part_alone(modules):
    drawing, make_pairs, canvas = modules
    n_changed = 0
    for species in range(24):
        bird = drawing.draw_bird(0, species, 1).bird
        tried = list(make_pairs.changes(bird))[species % 9 :: 9]
        first, *others = drawing.draw_again(0, species, 1, [one.apply for one in tried])
        for one, other in zip(tried, others, strict=True):
            group = (one.added or one.removed).split("::")[0]
            wanted = [canvas.PART_ID[part] for part in PARTS[group]]
            allowed_hw = around(np.isin(first.mask_hw, wanted) | np.isin(other.mask_hw, wanted))
            differs_hw = (first.rgb_hw3 != other.rgb_hw3).any(2)
            assert not (differs_hw & ~allowed_hw).any(), (species, one)
            n_changed += bool(differs_hw.any())
    assert n_changed > 80


def test_spots_elsewhere_keep_their_size_and_plants_their_place(modules):
    """Spots draw random numbers: with more or fewer of them, everything after it has to stay."""
    drawing, make_pairs, canvas = modules
    add_spots = make_pairs._wearing("breast_pattern", "spotted")
    no_spots = make_pairs._wearing("wing_pattern", "striped")
    for number in range(4):  # a kingfisher, whose wing is spotted
        first, more, fewer = drawing.draw_again(0, 10, number, [add_spots, no_spots])
        wing_hw = first.mask_hw == canvas.PART_ID["wing"]
        rest_hw = ~around(wing_hw)
        breast_hw = around(more.mask_hw == canvas.PART_ID["breast"])
        np.testing.assert_array_equal(more.rgb_hw3[~breast_hw], first.rgb_hw3[~breast_hw])
        np.testing.assert_array_equal(fewer.rgb_hw3[rest_hw], first.rgb_hw3[rest_hw])
        assert (fewer.rgb_hw3 != first.rgb_hw3).any()


def test_a_change_that_entails_another_is_no_pair(modules):
    drawing, make_pairs, _ = modules
    outcomes = set()
    for number in range(8):  # ducks, most of which is the wing in some pictures
        bird = drawing.draw_bird(0, 13, number).bird
        blue = next(one for one in make_pairs.changes(bird) if one.added == "has_wing_color::blue")
        before, after = drawing.draw_again(0, 13, number, [blue.apply])
        colours = [
            {name for name in make_pairs.truth(p) if name.startswith("has_primary")} for p in (before, after)
        ]
        if "has_wing_color" in make_pairs.in_sight(before):
            outcomes.add(make_pairs.changed_alone(before, after, blue))
            assert make_pairs.changed_alone(before, after, blue) == (colours[0] == colours[1])
    assert outcomes == {True, False}
    bill = next(one for one in make_pairs.changes(bird) if one.added == "has_bill_color::red")
    before, after = drawing.draw_again(0, 13, number, [bill.apply])
    assert make_pairs.changed_alone(before, after, bill)
    hidden = replace(
        after, mask_hw=np.where(after.mask_hw == 1, 0, after.mask_hw).astype(np.uint8)
    )  # no bill
    assert not make_pairs.changed_alone(before, hidden, bill)
    assert not make_pairs.changed_alone(before, before, bill)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    assert run("make_birds.py", folder / "birds", "--count", 3).returncode == 0
    done = run("make_pairs.py", folder / "pairs", "--birds", folder / "birds", "--pairs", 2)
    assert done.returncode == 0, done.stderr
    return folder


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "pairs/pairs.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_files_are_test_images_and_the_same_redrawn(drawn):
    rows = rows_of(drawn)
    lines = (drawn / "birds/images.txt").read_text().splitlines()
    split = (drawn / "birds/train_test_split.txt").read_text().splitlines()
    test = {f"images/{a.split()[1]}" for a, b in zip(lines, split, strict=True) if b.split()[1] == "0"}
    names = {line.split()[1] for line in (drawn / "birds/attributes/attributes.txt").read_text().splitlines()}
    assert {row["before"] for row in rows} <= test
    assert len({row["after"] for row in rows}) == len(rows) > 80
    for row in rows:
        before, after = (drawn / "pairs" / row[name] for name in ("before", "after"))
        assert before.read_bytes() == (drawn / "birds" / row["before"]).read_bytes()
        assert row["added"] or row["removed"]
        assert {row["added"], row["removed"]} <= names | {""}
        assert len({one.split("::")[0] for one in (row["added"], row["removed"]) if one}) == 1
        with Image.open(before) as one, Image.open(after) as other:
            assert one.size == other.size
            differs = (np.asarray(one) != np.asarray(other)).any(2)
        assert 0 < differs.mean() < 0.5  # in JPEG, of blocks of 16 pixels that hold the part
    changed = {row["added"] for row in rows} | {row["removed"] for row in rows}
    assert len(changed - {""}) >= 40


def test_other_settings_are_refused_and_the_same_leave_all_alone(drawn):
    before = {path: path.stat().st_mtime_ns for path in (drawn / "pairs").rglob("*")}
    same = run("make_pairs.py", drawn / "pairs", "--birds", drawn / "birds", "--pairs", 2)
    assert (same.returncode, "nothing to do" in same.stderr) == (0, True)
    other = run("make_pairs.py", drawn / "pairs", "--birds", drawn / "birds", "--pairs", 3)
    assert other.returncode == 1
    assert "make_pairs: error" in other.stderr
    foreign = run("make_pairs.py", drawn / "new", "--birds", drawn, "--pairs", 3)
    assert foreign.returncode == 1
    assert "make_birds.py" in foreign.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (drawn / "pairs").rglob("*")}


def test_a_picture_of_other_versions_is_refused(drawn, tmp_path):
    (tmp_path / "birds").symlink_to(drawn / "birds")
    path = drawn / "birds" / rows_of(drawn)[0]["before"]
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    try:
        done = run("make_pairs.py", tmp_path / "pairs", "--birds", drawn / "birds", "--pairs", 2)
    finally:
        path.write_bytes(content)
    assert done.returncode == 1
    assert "drawn again" in done.stderr
    assert not (tmp_path / "pairs").exists()


def test_the_folder_can_be_recorded_as_it_stands(drawn, tmp_path):
    weights = BIRDS / "vit.safetensors"
    command = [BIN / "dump-acts", drawn / "pairs", "--model", "timm/test_vit2", "--weights", weights, "--layers", "7",
               "--out", tmp_path / "acts", "--workers", "0"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = rows_of(drawn)
    n_images = len(rows) + len({row["before"] for row in rows})
    assert f"images: {n_images}" in done.stderr
