"""Patch labels from masks, and the layouts and CSVs that name them, against a second implementation by loops."""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import runner
from PIL import Image
from processes import error_lines
from tiny_models import VIT, random_image, save_timm_weights

from dump_acts.cli import app
from dump_acts.patch_labels import LabelSettings, label_patches
from saetools.errors import UserError
from saetools.shards.reader import open_shards
from saetools.vision.image_sets import list_divided, list_images
from saetools.vision.preprocess import Preprocess

IGNORE = 65535
dump = runner("dump-acts", app)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm_weights(tmp_path_factory.mktemp("weights") / "vit.pth")


def by_loops(
    mask: np.ndarray,
    rows: int,
    columns: int,
    edge: int,
    rule: str,
    background: tuple[int, ...],
    ignore: tuple[int, ...],
) -> list[int]:
    """One patch after another, one pixel after another."""
    labels = []
    for row in range(rows):
        for column in range(columns):
            votes: Counter[int] = Counter()
            for y in range(row * edge, min((row + 1) * edge, len(mask))):
                for x in range(column * edge, min((column + 1) * edge, len(mask[0]))):
                    value = int(mask[y][x])
                    votes[IGNORE if value in ignore else value] += 1
            if rule == "prefer-foreground":
                foreground = Counter({v: n for v, n in votes.items() if v not in (*background, IGNORE)})
                votes = foreground or votes
            most = max(votes.values())
            labels.append(min(value for value, n in votes.items() if n == most))
    return labels


@settings(max_examples=150, deadline=None)
@given(
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    edge=st.integers(1, 3),
    beyond=st.integers(0, 2),
    values=st.lists(st.sampled_from([0, 1, 2, 255, 256, 300, 65534, 65535]), min_size=1, max_size=4),
    rule=st.sampled_from(["majority", "prefer-foreground"]),
    background=st.sampled_from([(0,), (1,), (300,), (0, 2), (1, 256, 300)]),
    ignore=st.lists(st.sampled_from([0, 2, 255]), max_size=2),
    seed=st.integers(0, 1000),
)
def test_labels_equal_a_loop_over_pixels(
    grid: tuple[int, int],
    edge: int,
    beyond: int,
    values: list[int],
    rule: str,
    background: tuple[int, ...],
    ignore: list[int],
    seed: int,
) -> None:
    size = grid[0] * edge + min(beyond, edge - 1), grid[1] * edge + min(beyond, edge - 1)
    mask = np.random.default_rng(seed).choice(values, size).astype(np.int32)
    found = label_patches(mask, grid, edge, LabelSettings(rule, background, ignore))
    assert found.dtype == np.uint16
    assert found.tolist() == by_loops(mask, *grid, edge, rule, background, tuple(ignore))


def write_scenes(root: Path, n: int, *, n_values: int, bits: int = 8) -> Path:
    """Images and masks of different sizes in images/SPLIT and annotations/SPLIT."""
    rng = np.random.default_rng(1)
    for i in range(n):
        split = "training" if i < n - 2 else "validation"
        height, width = 90 + 7 * i, 130 - 5 * i
        for top in ("images", "annotations"):
            (root / top / split).mkdir(parents=True, exist_ok=True)
        random_image(i, height, width).save(root / "images" / split / f"{i:02d}.jpg")
        coarse = rng.integers(0, n_values, (6, 8)).astype(np.uint8 if bits == 8 else np.uint16)
        mask = coarse.repeat(-(-height // 6), 0).repeat(-(-width // 8), 1)[:height, :width]
        Image.fromarray(np.ascontiguousarray(mask)).save(root / "annotations" / split / f"{i:02d}.png")
    return root


def labels_by_hand(
    root: Path,
    mask: Path,
    preprocess: Preprocess,
    edge: int,
    rule: str,
    ignore: int,
    background: tuple[int, ...] = (0,),
) -> list[int]:
    """Resize and crop with Pillow alone, then loop."""
    picture = Image.open(root / mask)
    goes = preprocess.geometry(picture.height, picture.width)
    values = Image.fromarray(np.asarray(picture).astype(np.int32))
    values = values.resize((goes.width, goes.height), Image.Resampling.NEAREST)
    assert goes.top >= 0 and goes.left >= 0
    box = (goes.left, goes.top, goes.left + goes.crop_width, goes.top + goes.crop_height)
    cropped = np.asarray(values.crop(box))
    grid = goes.crop_height // edge, goes.crop_width // edge
    return by_loops(cropped, *grid, edge, rule, background, (ignore,))


@pytest.mark.parametrize("rule", ["majority", "prefer-foreground"])
@pytest.mark.parametrize("grid", ["model", "native:60"])
def test_recorded_labels_by_hand(weights: Path, tmp_path: Path, rule: str, grid: str) -> None:
    root, out = write_scenes(tmp_path / "scenes", 7, n_values=900, bits=16), tmp_path / "out"
    dump(root, "--model", VIT, "--layers", "0,1", "--weights", weights, "--out", out, "--split", "training",
         "--patch-label", rule, "--ignore", "7", "--grid", grid, "--workers", 0, "--device", "cpu",
         "--images-per-shard", 4)  # fmt: skip
    shards = open_shards([out])
    preprocess = Preprocess.from_settings(shards.header.preprocess)
    assert shards.paths == [f"images/training/{i:02d}.jpg" for i in range(5)]
    beyond_a_byte = False
    for shard in shards.shards:
        for path, labels, size in zip(shard.examples.path, shard.labels(1), shard.examples.grid, strict=True):
            mask = Path(path.replace("images", "annotations")).with_suffix(".png")
            assert labels.tolist() == labels_by_hand(root, mask, preprocess, 16, rule, 7)
            assert size.prod() == len(labels)
            beyond_a_byte |= bool(((labels > 255) & (labels < IGNORE)).any())
    assert beyond_a_byte


def test_labels_of_feature_maps_are_each_layers_own(tmp_path: Path) -> None:
    root, out = write_scenes(tmp_path / "scenes", 3, n_values=5), tmp_path / "out"
    weights = save_timm_weights(tmp_path / "cnn.pth", "test_convnext")
    dump(root, "--model", "timm/test_convnext", "--layers", "all", "--weights", weights, "--out", out,
         "--workers", 0, "--device", "cpu")  # fmt: skip
    (shard,) = open_shards([out]).shards
    preprocess = Preprocess.from_settings(shard.header.preprocess)
    for layer, edge in enumerate((4, 8, 16, 32)):
        n_patches, width = shard.shape(layer)
        assert (n_patches, width) == ((160 // edge) ** 2, (24, 32, 48, 64)[layer])
        assert {tuple(grid) for grid in shard.grid(layer)} == {(160 // edge, 160 // edge)}
        assert shard.patches(layer).shape == (3, n_patches, width)
        for path, labels in zip(shard.examples.path, shard.labels(layer), strict=True):
            mask = Path(path.replace("images", "annotations")).with_suffix(".png")
            assert labels.tolist() == labels_by_hand(root, mask, preprocess, edge, "majority", IGNORE)


@pytest.mark.real
def test_camvid_labels_by_hand(real_data: Path, weights: Path, tmp_path: Path) -> None:
    root, out = real_data / "camvid", tmp_path / "out"
    dump(root, "--model", VIT, "--layers", "0", "--weights", weights, "--out", out, "--split", "validation",
         "--ignore", "11", "--workers", 0, "--device", "cpu")  # fmt: skip
    shards = open_shards([out])
    preprocess = Preprocess.from_settings(shards.header.preprocess)
    assert shards.n_images == 20
    for shard in shards.shards:
        for path, labels in zip(shard.examples.path, shard.labels(0), strict=True):
            mask = Path(path.replace("images", "annotations")).with_suffix(".png")
            assert labels.tolist() == labels_by_hand(root, mask, preprocess, 16, "majority", 11)


def test_csv_of_paths(weights: Path, tmp_path: Path) -> None:
    write_scenes(tmp_path / "scenes", 4, n_values=5)
    out = tmp_path / "out"
    table = tmp_path / "list.csv"
    lines = [
        "id,path,target,mask",
        "x,scenes/images/training/01.jpg,3,scenes/annotations/training/01.png",
        'y,"scenes/images/validation/02.jpg",,scenes/annotations/validation/02.png',
    ]
    table.write_text("\n".join(lines) + "\n")
    dump(table, "--model", VIT, "--layers", "0", "--weights", weights, "--out", out, "--workers", 0,
         "--device", "cpu")  # fmt: skip
    shards = open_shards([out])
    assert shards.paths == ["scenes/images/training/01.jpg", "scenes/images/validation/02.jpg"]
    assert shards.shards[0].examples.target.tolist() == [3, -1]
    assert shards.shards[0].labels(0).shape == (2, 100)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("paht\nscenes/a.jpg\n", "did you mean paht"),
        ("path\nscenes/none.jpg\n", "line 2"),
        ("path\nimages/training/00.jpg\nimages/training/00.jpg\n", "line 2 already"),
        (
            "path,target\nimages/training/00.jpg,ant\nimages/training/01.jpg,1\n",
            "'ant' is no whole number from 0, and 1",
        ),
        (
            "path,target\nimages/training/00.jpg,ant\nimages/training/01.jpg,-1\n",
            "line 3: the target '-1' is no",
        ),
        (
            "path,mask\nimages/training/00.jpg,\nimages/training/01.jpg,annotations/training/01.png\n",
            "no mask",
        ),
        ("path\n/etc/passwd\n", "absolute"),
        ("path,target\n,1\n", "no path"),
        ("path,target\nimages/training/00.jpg\n", "line 2 has 1 fields, the header 2"),
        ("path,target\nimages/training/00.jpg,1,2\n", "line 2 has 3 fields, the header 2"),
        ("path,path\na,images/training/00.jpg\n", "two columns are called 'path'"),
        ("path,target\nimages/training/00.jpg," + "9" * 5000 + "\n", "is no whole number"),
        ("path,target\nimages/training/00.jpg,99999999999999999999\n", "is no whole number"),
        ("path\n" + "a" * 5000 + "\n", "name too long"),
        ("path\n", "no rows"),
    ],
)
def test_broken_csv_says_where(tmp_path: Path, text: str, named: str) -> None:
    write_scenes(tmp_path, 4, n_values=5)
    (tmp_path / "list.csv").write_text(text)
    command = [tmp_path / "list.csv", "--model", VIT, "--layers", "0", "--out", tmp_path / "out"]
    assert named in error_lines(dump(*command, code=1))


def write_deep_rgb(path: Path, width: int, height: int) -> None:
    """A PNG with 16 bits a channel, which Pillow cannot write: every value is 1."""
    row = b"\0" + struct.pack(">3H", 1, 1, 1) * width
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(row * height)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in parts
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_grey_masks_saved_with_more_channels(weights: Path, tmp_path: Path, mode: str) -> None:
    """The same labels as of one channel, as programs for drawing masks save them."""
    labels = {}
    for name in ("grey", "many"):
        root = write_scenes(tmp_path / name, 4, n_values=5)
        if name == "many":
            for mask in (root / "annotations").rglob("*0[13].png"):
                Image.open(mask).convert(mode).save(mask)
        dump(root, "--model", VIT, "--layers", "0", "--weights", weights, "--out", tmp_path / f"{name}-acts",
             "--background", "0,2", "--patch-label", "prefer-foreground", "--workers", 0)  # fmt: skip
        shards = open_shards([tmp_path / f"{name}-acts"])
        labels[name] = np.concatenate([shard.labels(0) for shard in shards.shards])
    preprocess = Preprocess.from_settings(shards.header.preprocess)
    by_hand = [
        labels_by_hand(tmp_path, mask, preprocess, 16, "prefer-foreground", IGNORE, (0, 2))
        for mask in sorted((tmp_path / "grey").rglob("annotations/*/*.png"))
    ]
    assert labels["grey"].tolist() == labels["many"].tolist() == by_hand


def test_splits_of_a_csv(tmp_path: Path) -> None:
    """A class has one number in all splits; a validation part is divided from train."""
    write_scenes(tmp_path, 8, n_values=5)
    lines = ["path,target,split"]
    for i in range(8):
        folder = "training" if i < 6 else "validation"
        lines.append(f"images/{folder}/{i:02d}.jpg,{'cab'[i % 3]},{'test' if i > 3 else 'train'}")
    table = tmp_path / "list.csv"
    table.write_text("\n".join(lines) + "\n")
    train, test = (list_images(table, "auto", split) for split in ("train", "test"))
    assert train.path == [f"images/training/{i:02d}.jpg" for i in range(4)]
    assert train.target.tolist() == [2, 0, 1, 2]
    assert test.target.tolist() == [0, 1, 2, 0]
    assert list(test.class_name or ()) == ["a", "b", "c", "a"]
    assert len(list_images(table, "auto", None)) == 8
    sides = [list_divided(table, "auto", split, 0.5) for split in ("train", "validation")]
    assert sorted([*sides[0].path, *sides[1].path]) == list(train.path)
    with pytest.raises(UserError, match=r"no split 'val' in its column split, only test, train"):
        list_images(table, "auto", "val")
    table.write_text("path,split\nimages/training/00.jpg,train\nimages/training/01.jpg,\n")
    with pytest.raises(UserError, match="line 3 has no split"):
        list_images(table, "auto", None)
    table.write_text("path,split\nimages/training/00.jpg,train\nimages/training/01.jpg,val\n")
    with pytest.raises(UserError, match="validation split of its own, val"):
        list_divided(table, "auto", "train", 0.5)
    table.write_text("path\nimages/training/00.jpg\n")
    with pytest.raises(UserError, match="no column split; add one"):
        list_images(table, "auto", "train")


def test_masks_that_do_not_fit(weights: Path, tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "scenes", 4, n_values=5)
    mask = root / "annotations" / "training" / "01.png"
    command = [root, "--model", VIT, "--layers", "0", "--weights", weights, "--out", tmp_path / "out"]
    command += ["--workers", 0]
    Image.new("RGB", (125, 97), (1, 0, 0)).save(mask)
    assert "colours: RGB (1, 0, 0) in row 0, column 0" in error_lines(dump(*command, code=1))
    Image.new("RGBA", (125, 97), (1, 1, 1, 254)).save(mask)
    assert "RGBA (1, 1, 1, 254)" in error_lines(dump(*command, code=1))
    Image.new("CMYK", (125, 97)).save(mask.with_suffix(".tif"))
    mask.with_suffix(".tif").rename(mask)
    assert "its pixels are CMYK" in error_lines(dump(*command, code=1))
    write_deep_rgb(mask, 125, 97)  # Pillow keeps the upper 8 bits of them: of 1 and 3 nothing would be left
    assert "16 bits in each of several channels" in error_lines(dump(*command, code=1))
    Image.new("L", (10, 10)).save(mask)
    assert "10 x 10" in error_lines(dump(*command, code=1))
    unused = error_lines(dump(root, *command[1:], "--background", 1, code=2))
    assert "--background 1: it is for --patch-label prefer-foreground" in unused
    mask.unlink()
    assert str(mask) in error_lines(dump(*command, code=1))
    without = dump(root, *command[1:], "--layout", "folder", "--background", 1, code=2)
    assert "has no masks to make patch labels from; leave --background out" in error_lines(without)


def test_palette_masks_are_their_indices(weights: Path, tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "scenes", 3, n_values=5)
    plain, palette = tmp_path / "plain", tmp_path / "palette"
    command = ["--model", VIT, "--layers", "0", "--weights", weights, "--workers", 0]
    dump(root, *command, "--out", plain)
    for mask in root.glob("annotations/*/*.png"):
        values = Image.fromarray(np.asarray(Image.open(mask)), mode="P")
        values.putpalette([255 - i for i in range(256) for _ in range(3)])
        values.save(mask)
    dump(root, *command, "--out", palette)
    for one, other in zip(open_shards([plain]).shards, open_shards([palette]).shards, strict=True):
        np.testing.assert_array_equal(one.labels(0), other.labels(0))


def test_layouts_are_recognised(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "scenes", 4, n_values=5)
    assert list_images(root, "auto", None).mask is not None
    assert list_images(root, "auto", "validation").path == [f"images/validation/0{i}.jpg" for i in (2, 3)]
    assert list_images(root / "images", "auto", None).target.tolist() == [0, 0, 1, 1]
