"""What dump-acts records equals the model's own transform and blocks, run by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from in_process import runner
from PIL import Image
from processes import error_lines
from tiny_models import VIT, make_folder, random_image, save_timm_weights

from dump_acts.cli import app
from saetools.shards.reader import open_shards
from saetools.vision import open_clip_models, timm_models
from saetools.vision.preprocess import Preprocess

dump = runner("dump-acts", app)
SIZES = [(60, 80), (80, 60), (50, 50), (33, 200), (300, 301), (224, 224), (1, 7)]


def by_hand(
    model: torch.nn.Module, block: torch.nn.Module, transform: Any, images: list[Path]
) -> torch.Tensor:
    """The output of the block {n, tokens, D}, by a hook, with the library's own transform."""
    found = []
    handle = block.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    with torch.inference_mode():
        model(torch.stack([transform(Image.open(path).convert("RGB")) for path in images]))
    handle.remove()
    return found[0]


def test_timm_block_by_hand(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "set", {"ant": 5})
    weights = save_timm_weights(tmp_path / "vit.pth")
    out = tmp_path / "out"
    dump(images, "--model", VIT, "--layers", "0,4", "--weights", weights, "--out", out,
         "--dtype", "float32", "--cls", "--workers", 0, "--device", "cpu")  # fmt: skip
    model = timm.create_model("test_vit", pretrained=False).eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    shards = open_shards([out])
    for layer in (0, 4):
        expected = by_hand(model, model.blocks[layer], transform, [images / path for path in shards.paths])
        found = torch.cat([shard.patches(layer) for shard in shards.shards])
        torch.testing.assert_close(found, expected[:, 1:], rtol=1e-4, atol=1e-5)
        cls = torch.cat([shard.cls(layer) for shard in shards.shards])
        torch.testing.assert_close(cls, expected[:, 0], rtol=1e-4, atol=1e-5)


def test_native_grids_by_hand(tmp_path: Path) -> None:
    images = tmp_path / "set"
    images.mkdir()
    sizes = [(40, 200), (90, 60), (60, 60), (300, 30), (64, 96), (61, 60), (20, 480)]
    for i, (height, width) in enumerate(sizes):
        random_image(i, height, width).save(images / f"{i}.png")
    weights, out = save_timm_weights(tmp_path / "vit.pth"), tmp_path / "out"
    dump(images, "--model", VIT, "--layers", "1,5", "--weights", weights, "--out", out, "--grid", "native:24",
         "--dtype", "float32", "--workers", 0, "--batch-size", 4, "--cls", "--device", "cpu")  # fmt: skip
    (shard,) = open_shards([out]).shards
    assert shard.examples.size.tolist() == [list(size) for size in sizes]
    assert shard.examples.grid.tolist() == [[2, 12], [6, 4], [4, 6], [12, 2], [4, 6], [6, 4], [1, 24]]
    model = timm.create_model("test_vit", pretrained=False, dynamic_img_size=True).eval()
    model.load_state_dict(torch.load(weights, weights_only=True))
    for i, (rows, columns) in enumerate(shard.examples.grid):
        size = 16 * int(rows), 16 * int(columns)
        squashed = Image.open(images / f"{i}.png").resize(size[::-1], Image.Resampling.BICUBIC)
        pixels = (torch.from_numpy(np.array(squashed)).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
        for layer in (1, 5):
            seen = []
            handle = model.blocks[layer].register_forward_hook(lambda _m, _i, y, seen=seen: seen.append(y))
            with torch.inference_mode():
                model(pixels)
            handle.remove()
            torch.testing.assert_close(shard.patches(layer)[i], seen[0][0, 1:], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(shard.cls(layer)[i], seen[0][0, 0], rtol=1e-4, atol=1e-5)


def test_models_that_take_no_other_grid_say_so(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "set", {"ant": 1})
    command = [images, "--layers", 1, "--grid", "native:30", "--out", tmp_path / "out", "--dry-run"]
    said = error_lines(dump(*command, "--model", "open_clip/ViT-B-32/openai", code=1))
    assert "does not take a grid of" in said
    assert "native:P" in error_lines(dump(*command, "--model", VIT, "--grid", "640", code=2))
    maps = dump(*command, "--model", "timm/resnet18", "--layers", "1,2", "--grid", "native:12").stdout
    assert "layers: 1: 48 patches of width 64; 2: 12 patches of width 128\n" in maps


def test_open_clip_block_by_hand(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "set", {"ant": 3})
    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("ViT-S-32", pretrained=None)
    weights = tmp_path / "clip.pth"
    torch.save(model.visual.state_dict(), weights)
    out = tmp_path / "out"
    dump(images, "--model", "open_clip/ViT-S-32", "--layers", "2,11", "--weights", weights,
         "--out", out, "--dtype", "float32", "--workers", 0, "--device", "cpu")  # fmt: skip
    shards = open_shards([out])
    visual = model.visual.eval()
    for layer in (2, 11):
        block = visual.transformer.resblocks[layer]
        expected = by_hand(visual, block, transform, [images / path for path in shards.paths])
        found = torch.cat([shard.patches(layer) for shard in shards.shards])
        torch.testing.assert_close(found, expected[:, 1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("height,width", SIZES)
@pytest.mark.parametrize("name", ["test_vit", "resnet18", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_pixels_equal_timms_transform(name: str, crop_mode: str, height: int, width: int) -> None:
    config = {**timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())}
    config["crop_mode"] = crop_mode
    transform = timm.data.create_transform(**config, is_training=False)
    assert_same_pixels(timm_models._preprocess(config), transform, random_image(height, height, width))


@pytest.mark.parametrize("height,width", SIZES)
@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
def test_pixels_equal_open_clips_transform(mode: str, height: int, width: int) -> None:
    config = {"size": (224, 224), "resize_mode": mode, "interpolation": "bicubic", "fill_color": 7}
    config |= {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
    transform = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(**config), False)
    assert_same_pixels(open_clip_models._preprocess(config), transform, random_image(height, height, width))


def assert_same_pixels(preprocess: Preprocess, transform: Any, image: Image.Image) -> None:
    pixels = torch.from_numpy(np.array(preprocess.pixels(image))).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    torch.testing.assert_close((pixels - mean) / std, transform(image), rtol=1e-5, atol=1e-5)
