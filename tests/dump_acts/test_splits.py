"""dump-acts --split-validation: the same images to the same side, in every layout."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from in_process import runner
from processes import error_lines
from tiny_models import VIT, make_folder, random_image, save_timm_weights

from dump_acts.cli import app
from saetools.errors import UsageError, UserError
from saetools.shards.reader import open_shards
from saetools.vision.image_sets import ImageSet, list_divided, list_images

dump = runner("dump-acts", app)


def is_validation(path: str, share: float) -> bool:
    """As the README has it, by hand."""
    digest = hashlib.blake2b(path.encode(), digest_size=8, person=b"validation").digest()
    return int.from_bytes(digest, "little") < share * 2**64


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not decoded here")


def names(*folders: str, n: int = 30) -> list[str]:
    return [f"{folder}/{i:02d}.jpg" for folder in folders for i in range(n)]


def cub(root: Path) -> Path:
    paths = names("a", "b")
    touch(root, *(f"images/{path}" for path in paths))
    (root / "images.txt").write_text("".join(f"{i} {path}\n" for i, path in enumerate(paths, 1)))
    (root / "image_class_labels.txt").write_text("".join(f"{i} {1 + i // 31}\n" for i in range(1, 61)))
    (root / "train_test_split.txt").write_text("".join(f"{i} {i % 3 // 2}\n" for i in range(1, 61)))
    return root


def class_folders(root: Path) -> Path:
    touch(root, *names("train/a", "train/b"), *names("test/a", "test/b", n=5))
    return root


def masks(root: Path) -> Path:
    paths = [*names("training"), *names("test", n=5)]
    touch(root, *(f"images/{path}" for path in paths))
    touch(root, *(f"annotations/{path[:-4]}.png" for path in paths))
    return root


def listed(root: Path) -> Path:
    touch(root, *names("a"))
    lines = (f"{path},{i % 3}\n" for i, path in enumerate(names("a")))
    (root / "list.csv").write_text("path,target\n" + "".join(lines))
    return root / "list.csv"


def plain(root: Path) -> Path:
    touch(root, *names("a", "b"))
    return root


def rows(images: ImageSet) -> dict[str, tuple[int, str | None]]:
    return {
        path: (int(images.target[i]), None if images.mask is None else images.mask[i])
        for i, path in enumerate(images.path)
    }


LAYOUTS = [(cub, "train"), (class_folders, "train"), (masks, "training"), (listed, None), (plain, None)]


@pytest.mark.parametrize(("make", "divided"), LAYOUTS, ids=[make.__name__ for make, _ in LAYOUTS])
def test_every_layout_is_divided_by_the_paths(make, divided: str | None, tmp_path: Path) -> None:
    source = make(tmp_path / "set")
    whole = list_images(source, "auto", divided)
    train = list_divided(source, "auto", "train", 0.3)
    validation = list_divided(source, "auto", "validation", 0.3)
    assert validation.path == [path for path in whole.path if is_validation(path, 0.3)]
    assert train.path == [path for path in whole.path if not is_validation(path, 0.3)]
    assert 0.1 < len(validation) / len(whole) < 0.5
    assert rows(train) | rows(validation) == rows(whole)  # with the same classes and masks
    assert train.part is not None and "all but the validation part, a share of 0.3" in train.part


def test_an_image_keeps_its_side_when_others_go(tmp_path: Path) -> None:
    source = plain(tmp_path / "set")
    before = set(list_divided(source, "auto", "validation", 0.3).path)
    for path in names("a")[::2]:
        (source / path).unlink()
    after = set(list_divided(source, "auto", "validation", 0.3).path)
    assert after == {path for path in before if (source / path).exists()}
    larger = set(list_divided(source, "auto", "validation", 0.6).path)
    assert after < larger


def test_the_test_images_are_not_divided(tmp_path: Path) -> None:
    """So one command with --split-validation records every split."""
    touch(tmp_path / "set", *names("train/a", "test/a"))
    whole = list_images(tmp_path / "set", "auto", "test")
    assert list_divided(tmp_path / "set", "auto", "test", 0.3).digest() == whole.digest()
    assert len(whole.path) == len(names("test/a"))
    with pytest.raises(UserError, match="expected the split 'test' as a folder"):
        list_divided(plain(tmp_path / "plain"), "auto", "test", 0.3)


@pytest.mark.parametrize("split", [None, "val", "a"])
def test_it_divides_nothing_but_train(tmp_path: Path, split: str | None) -> None:
    with pytest.raises(UsageError, match="`split` train or `split` validation"):
        list_divided(plain(tmp_path / "set"), "auto", split, 0.3)


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "nan"])
def test_shares_that_are_none(tmp_path: Path, share: str) -> None:
    source = plain(tmp_path / "set")
    command = [source, "--model", VIT, "--layers", 1, "--out", tmp_path / "out", "--split", "train"]
    assert "above 0 and below 1" in error_lines(dump(*command, f"--split-validation={share}", code=2))


@pytest.mark.parametrize(
    ("folders", "split", "words"),
    [
        (["train/a", "val/a"], "train", "record --split val"),
        (["images2", "test/a"], "train", "found no split 'train'"),
        (["a"], "training", "--split train"),
        (["train/a"], "training", "found no split 'training'"),
    ],
)
def test_what_is_not_clear_is_refused(tmp_path: Path, folders: list[str], split: str, words: str) -> None:
    touch(tmp_path / "set", *names(*folders))
    command = [tmp_path / "set", "--model", VIT, "--layers", 1, "--out", tmp_path / "out"]
    said = error_lines(dump(*command, "--split", split, "--split-validation", 0.2, code=1))
    assert words in said


def test_a_side_without_images_is_refused(tmp_path: Path) -> None:
    path = next(path for path in names("a") if not is_validation(path, 0.5))
    touch(tmp_path / "set", path)
    command = [tmp_path / "set", "--model", VIT, "--layers", 1, "--out", tmp_path / "out"]
    said = error_lines(dump(*command, "--split", "validation", "--split-validation", 0.5, code=1))
    assert "without any of 1 images" in said


def test_recorded_and_part_of_the_settings(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "set" / "train", {"ant": 12, "bee": 8}).parent
    (images / "test").mkdir()
    random_image(1).save(images / "test" / "0.jpg")
    weights = save_timm_weights(tmp_path / "vit.pth")
    command = [images, "--model", VIT, "--layers", 1, "--weights", weights, "--device", "cpu", "--workers", 0]
    seen = {}
    for split in ("train", "validation"):
        out = tmp_path / split
        done = dump(*command, "--out", out, "--split", split, "--split-validation", 0.4)
        assert "part, a share of 0.4, of train" in done.stderr
        seen[split] = open_shards([out])
    assert sorted([*seen["train"].paths, *seen["validation"].paths]) == sorted(
        [f"train/ant/{i:03d}.jpg" for i in range(12)] + [f"train/bee/{i:03d}.jpg" for i in range(8)]
    )
    for shards in seen.values():
        for shard in shards.shards:
            expected = ["bee" in path for path in shard.examples.path]
            np.testing.assert_array_equal(shard.examples.target, expected)
    with h5py.File(tmp_path / "train" / "shard-000000.h5") as file:
        assert "0.4" in json.loads(file.attrs["settings"])["split_validation"]
    said = error_lines(dump(*command, "--out", tmp_path / "train", "--split", "train", code=1))
    assert "other settings" in said
    shutil.rmtree(tmp_path / "train")
    dump(*command, "--out", tmp_path / "train", "--split", "train")
    with h5py.File(tmp_path / "train" / "shard-000000.h5") as file:
        assert "split_validation" not in json.loads(file.attrs["settings"])  # as it was before there was such
