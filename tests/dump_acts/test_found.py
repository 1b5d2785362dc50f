"""What dump-acts says of a data set before it records it, what it asks, and the shares of labels at the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from in_process import runner
from PIL import Image
from processes import error_lines
from tiny_models import VIT, make_folder, random_image, save_timm_weights

from dump_acts.cli import app

dump = runner("dump-acts", app)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm_weights(tmp_path_factory.mktemp("weights") / "vit.pth")


def options(weights: Path, out: Path) -> list[object]:
    return ["--model", VIT, "--weights", weights, "--layers", 0, "--workers", 0, "--out", out]


def photos_and_masks(root: Path, photos: str = "photos", masks: str = "masks", ending: str = "") -> Path:
    for number in range(3):
        for folder in (photos, masks):
            (root / folder).mkdir(parents=True, exist_ok=True)
        random_image(number).save(root / photos / f"{number}.jpg")
        Image.fromarray(np.zeros((60, 80), np.uint8)).save(root / masks / f"{number}{ending}.png")
    return root


def page(root: Path) -> None:
    (root / "page/images").mkdir(parents=True)
    (root / "page/index.html").write_text("<html></html>")
    random_image(0).save(root / "page/images/0.jpg")


def test_a_root_with_photos_masks_and_an_old_page(tmp_path: Path, weights: Path) -> None:
    page(photos_and_masks(tmp_path / "data"))
    message = error_lines(dump(tmp_path / "data", *options(weights, tmp_path / "acts"), code=1))
    assert "data: found 7 images in 3 folders: masks 3, page 1, photos 3\n" in message
    assert "may not be classes: masks (masks of photos, by its name" in message
    assert "page (a page, by its index.html)" in message
    for fits in (
        "--layout folder",
        "data/photos in place of",
        "--layout masks",
        "CSV with the columns path,target,mask",
    ):
        assert fits in message
    assert not (tmp_path / "acts").exists()


def test_a_csv_that_lists_the_images_is_named_first(tmp_path: Path, weights: Path) -> None:
    root = photos_and_masks(tmp_path / "data")
    rows = "".join(f"photos/{number}.jpg,a,masks/{number}.png\n" for number in range(3))
    (root / "list.csv").write_text(f"path,target,mask\n{rows}")
    (root / "marks.csv").write_text("path,red\nphotos/0.jpg,yes\n")  # no list of images
    (root / "old.csv").write_text("path,target\ngone.jpg,a\n")
    message = error_lines(dump(root, *options(weights, tmp_path / "acts"), code=1))
    assert (
        f"choose what fits: {root}/list.csv in place of {root} (a CSV of 3 images with target and mask), or"
        in message
    )
    assert "marks.csv" not in message
    assert "old.csv" not in message


def test_what_fits_is_recorded_when_it_is_asked_for(tmp_path: Path, weights: Path) -> None:
    root = photos_and_masks(tmp_path / "data")
    page(root)
    as_classes = dump(root, *options(weights, tmp_path / "all"), "--layout", "folder")
    assert "found 7 images in 3 folders: masks 3, page 1, photos 3\n" in as_classes.stderr
    alone = dump(root / "photos", *options(weights, tmp_path / "alone"))
    assert "found 3 images\n" in alone.stderr


@pytest.mark.parametrize(
    ("photos", "masks", "ending"),
    [
        ("images", "labels", ""),
        ("a", "b", "_mask"),
        (".", "masks", ""),
        ("images", "SegmentationMasks_v2", "_seg"),
    ],
)
def test_masks_under_other_names(photos: str, masks: str, ending: str, tmp_path: Path, weights: Path) -> None:
    root = photos_and_masks(tmp_path / "data", photos, masks, ending)
    message = error_lines(dump(root, *options(weights, tmp_path / "acts"), code=1))
    assert f"{masks} (masks of " in message


@pytest.mark.parametrize("classes", [{"with_mask": 2, "without_mask": 2}, {"a": 3, "b": 3, "labelled": 3}])
def test_classes_are_not_asked_about(classes: dict[str, int], tmp_path: Path, weights: Path) -> None:
    """Files of the same names in each folder, and folders named like masks, are no doubt by themselves."""
    make_folder(tmp_path / "data", classes)
    done = dump(tmp_path / "data", *options(weights, tmp_path / "acts"))
    counts = ", ".join(f"{name} {n}" for name, n in classes.items())
    assert f"found {sum(classes.values())} images in {len(classes)} folders: {counts}\n" in done.stderr
    assert "patch labels" not in done.stderr


def test_many_folders_are_counted_not_listed(tmp_path: Path, weights: Path) -> None:
    make_folder(tmp_path / "data", {f"c{i:02d}": 1 for i in range(12)})
    done = dump(tmp_path / "data", *options(weights, tmp_path / "acts"), "--dry-run")
    assert done.returncode == 0
    done = dump(tmp_path / "data", *options(weights, tmp_path / "acts"))
    assert "found 12 images in 12 folders: c00 1, " in done.stderr
    assert "c07 1, and 4 more\n" in done.stderr


def masked(root: Path, values: list[np.ndarray]) -> Path:
    for number, mask in enumerate(values):
        for folder in ("images", "annotations"):
            (root / folder / "train").mkdir(parents=True, exist_ok=True)
        random_image(number, 64, 64).save(root / f"images/train/{number}.png")
        Image.fromarray(mask).save(root / f"annotations/train/{number}.png")
    return root


def test_the_shares_of_patch_labels(tmp_path: Path, weights: Path) -> None:
    half = np.zeros((64, 64), np.uint8)
    half[32:] = 3
    root = masked(tmp_path / "data", [half, np.zeros_like(half), np.zeros_like(half), half])
    for _ in range(2):  # the second run records nothing, and counts the same
        done = dump(root, *options(weights, tmp_path / "acts"))
        assert "found 4 images in images/train\n" in done.stderr
        assert "patch labels: 0 75.0%, 3 25.0%\n" in done.stderr
        assert "images with a single patch label: 50.0% of 4\n" in done.stderr
    done = dump(root, *options(weights, tmp_path / "ignored"), "--ignore", 3)
    assert "patch labels: 0 75.0%, ignored 25.0%\n" in done.stderr


def test_masks_of_one_value_are_warned_of(tmp_path: Path, weights: Path) -> None:
    root = masked(tmp_path / "data", [np.full((64, 64), 7, np.uint8)] * 2)
    done = dump(root, *options(weights, tmp_path / "acts"))
    assert "patch labels: 7 100.0%\n" in done.stderr
    assert "all patches have one label; check the values of the masks" in done.stderr
