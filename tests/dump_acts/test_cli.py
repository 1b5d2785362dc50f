"""dump-acts as a program: what it writes, what it refuses, and how it goes on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from in_process import runner
from processes import Tool, error_lines
from tiny_models import VIT, make_folder, random_image, save_timm_weights

from dump_acts.cli import app
from saetools.shards.reader import open_shards

VIT_LAYERS = ["--model", VIT, "--layers", "1,-1"]
SMALL = ["--images-per-shard", 4, "--batch-size", 2, "--workers", 0, "--device", "cpu"]
dump = runner("dump-acts", app)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm_weights(tmp_path_factory.mktemp("weights") / "vit.pth")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "set", {"bee": 5, "ant": 4})


@pytest.fixture(scope="module")
def dumped(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("acts") / "out"
    done = dump(images, *VIT_LAYERS, "--weights", weights, "--out", out, "--cls", *SMALL)
    assert done.stdout.splitlines() == [f"{out}/shard-{i:06d}.h5" for i in range(3)]
    return out


def attributes(shard: Path) -> dict[str, object]:
    with h5py.File(shard) as file:
        return dict(file.attrs)


def test_examples_are_the_images_in_order(dumped: Path) -> None:
    shards = open_shards([dumped])
    assert shards.paths == [f"ant/{i:03d}.jpg" for i in range(4)] + [f"bee/{i:03d}.jpg" for i in range(5)]
    target = np.concatenate([shard.examples.target for shard in shards.shards])
    assert target.tolist() == [0] * 4 + [1] * 5
    assert np.concatenate([shard.examples.index for shard in shards.shards]).tolist() == list(range(9))
    assert {tuple(grid) for shard in shards.shards for grid in shard.examples.grid} == {(10, 10)}


def test_header_says_what_was_recorded(dumped: Path) -> None:
    header = open_shards([dumped]).header
    assert header.model == VIT
    assert header.layers == (1, 5)
    assert header.preprocess["size"] == [160, 160]
    assert (header.n_examples_total, header.n_shards) == (9, 3)
    stored = attributes(dumped / "shard-000001.h5")
    assert stored["complete"]
    assert str(stored["command"]).startswith("dump-acts ")


def test_same_command_again_keeps_every_shard(images: Path, weights: Path, dumped: Path) -> None:
    before = {path: attributes(path)["uid"] for path in dumped.iterdir()}
    done = dump(images, *VIT_LAYERS, "--weights", weights, "--out", dumped, "--cls", *SMALL)
    assert len(done.stdout.splitlines()) == 3
    assert {path: attributes(path)["uid"] for path in dumped.iterdir()} == before


def test_missing_shard_comes_back_with_the_same_digests(
    tool: Tool, images: Path, weights: Path, tmp_path: Path
) -> None:
    command = [
        "dump-acts",
        images,
        *VIT_LAYERS,
        "--weights",
        weights,
        "--out",
        tmp_path,
        *SMALL,
        "--workers",
        2,
    ]
    tool(*command)
    lost = tmp_path / "shard-000001.h5"
    before = attributes(lost)
    lost.unlink()
    tool(*command)
    after = attributes(lost)
    assert after["digests"] == before["digests"]
    assert after["uid"] != before["uid"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--layers", "2"], "layers"),
        (["--dtype", "float32"], "dtype"),
        (["--images-per-shard", "5"], "images_per_shard"),
        (["--mean", "0.5,0.5,0.4"], "preprocess"),
    ],
)
def test_other_settings_refuse_the_same_folder(
    images: Path, weights: Path, dumped: Path, changed: list[str], named: str
) -> None:
    command = [images, *VIT_LAYERS, "--weights", weights, "--out", dumped, "--cls", *SMALL]
    said = error_lines(dump(*command, *changed, code=1))
    assert "other settings" in said
    assert named in said


def test_other_images_refuse_the_same_folder(weights: Path, dumped: Path, tmp_path: Path) -> None:
    other = make_folder(tmp_path / "other", {"bee": 5, "ant": 4}, seed=50)
    command = [other, *VIT_LAYERS, "--weights", weights, "--out", dumped, "--cls", *SMALL]
    assert "images" in error_lines(dump(*command, code=1))


def test_broken_image_is_named_and_leaves_no_broken_shard(weights: Path, tmp_path: Path) -> None:
    images = make_folder(tmp_path / "set", {"ant": 7})
    broken = images / "ant" / "005.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    out = tmp_path / "out"
    done = dump(images, *VIT_LAYERS, "--weights", weights, "--out", out, *SMALL, code=1)
    assert str(broken) in error_lines(done)
    assert done.stdout == f"{out}/shard-000000.h5\n"
    assert [path.name for path in out.iterdir()] == ["shard-000000.h5"]


@pytest.mark.parametrize(
    ("model", "offered"),
    [
        ("timm/test_vti", "test_vit"),
        ("open_clip/ViT-B-23", "ViT-B-32"),
        ("open_clip/ViT-B-32/openia", "openai"),
        ("tim/test_vit", "timm/NAME"),
    ],
)
def test_misspelt_model_offers_near_names(images: Path, tmp_path: Path, model: str, offered: str) -> None:
    done = dump(images, "--model", model, "--layers", 1, "--out", tmp_path / "out", code=1)
    assert offered in error_lines(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["--layers", "6"], 1, "0 to 5"),
        (["--layers", "-7"], 1, "0 to 5"),
        (["--layers", "one"], 2, "--layers"),
        (["--dtype", "float17"], 2, "float16"),
        (["--layout", "cube"], 2, "cub200"),
        (["--split", "train"], 1, "train"),
        (["--std", "0,1,1"], 2, "--std"),
        (["--device", "cuda:77"], 1, "--device"),
        (["--batch-size", "0"], 2, "--batch-size"),
    ],
)
def test_wrong_arguments(
    images: Path, weights: Path, tmp_path: Path, arguments: list[str], code: int, named: str
) -> None:
    command = [images, *VIT_LAYERS, "--weights", weights, "--out", tmp_path / "out", *SMALL]
    assert named in error_lines(dump(*command, *arguments, code=code))
    assert not (tmp_path / "out").exists()


def test_weights_of_another_model(images: Path, tmp_path: Path) -> None:
    other = save_timm_weights(tmp_path / "other.pth", "test_vit2")
    command = [images, *VIT_LAYERS, "--out", tmp_path / "out", *SMALL]
    said = error_lines(dump(*command, "--weights", other, code=1))
    assert str(other) in said
    assert "another model" in said
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00\x00\x00")
    assert "torn" in error_lines(dump(*command, "--weights", tmp_path / "torn.safetensors", code=1))
    assert "no such file" in error_lines(dump(*command, "--weights", tmp_path / "none.pth", code=1))


def test_folder_without_images(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("none")
    for images in (tmp_path / "empty", tmp_path / "absent"):
        command = [images, *VIT_LAYERS, "--weights", weights, "--out", tmp_path / "out"]
        assert str(images) in error_lines(dump(*command, code=1))


def test_safetensors_in_half_precision_give_the_same_as_pth(images: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {name: value.half() for name, value in timm.create_model("test_vit").state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    safetensors.torch.save_file(state, tmp_path / "half.safetensors")
    digests = []
    for file in ("half.pth", "half.safetensors"):
        out = tmp_path / f"from-{file}"
        dump(images, *VIT_LAYERS, "--weights", tmp_path / file, "--out", out, *SMALL)
        digests.append(json.loads(str(attributes(out / "shard-000000.h5")["digests"])))
    assert digests[0] == digests[1]


def test_cub_layout_follows_the_official_lists(weights: Path, tmp_path: Path) -> None:
    root = tmp_path / "cub"
    names = ["b/2.jpg", "a/1.jpg", "a/3.jpg"]
    for seed, name in enumerate(names):
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        random_image(seed).save(root / "images" / name)
    (root / "images.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    (root / "image_class_labels.txt").write_text("1 2\n2 1\n3 1\n")
    (root / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n")
    out = tmp_path / "out"
    command = [root, *VIT_LAYERS, "--weights", weights, "--out", out, *SMALL]
    dump(*command, "--split", "train")
    shards = open_shards([out])
    assert shards.paths == ["images/b/2.jpg", "images/a/3.jpg"]
    assert shards.shards[0].examples.target.tolist() == [1, 0]
    assert "train and test" in error_lines(dump(*command, "--split", "dev", code=1))
