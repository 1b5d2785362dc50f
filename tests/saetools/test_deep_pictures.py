"""Grey of more than 8 bits is scaled by its range, in dump-acts and in what render-visuals shows."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from edited_files import edit_hdf5
from in_process import runner
from PIL import Image
from processes import error_lines
from tiny_models import VIT, save_timm_weights

from dump_acts import cli as dump_cli
from encode_acts import cli as encode_cli
from render_visuals import cli as render_cli
from saetools.errors import UserError
from saetools.shards.reader import Shard, open_shards
from saetools.vision.model_input import Recorded, seen_pixels
from saetools.vision.pictures import rgb_picture

dump = runner("dump-acts", dump_cli.app)
encode = runner("encode-acts", encode_cli.app)
render = runner("render-visuals", render_cli.app)


def grey8(seed: int) -> np.ndarray:
    """uint8 {60, 80}: smooth."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((80, 60), Image.Resampling.BICUBIC))


def save_deep(path: Path, values_hw: np.ndarray) -> None:
    """uint16 values as 16-bit grey: PNG, TIFF, big-endian TIFF (.be.tif) or PPM by the name."""
    height, width = values_hw.shape
    if path.suffix == ".ppm":
        path.write_bytes(b"P5 %d %d 65535\n" % (width, height) + values_hw.astype(">u2").tobytes())
    elif path.name.endswith(".be.tif"):
        Image.frombytes("I;16B", (width, height), values_hw.astype(">u2").tobytes()).save(path)
    else:
        Image.fromarray(values_hw.astype(np.uint16)).save(path)


def save_colour16(path: Path, values_hwc: np.ndarray) -> None:
    """uint16 {H, W, 3} as a 16-bit RGB PNG, which Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values_hwc.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values_hwc)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def save_tiff(
    path: Path, data: bytes, size: tuple[int, int], bits: int, photometric: int, sample: int
) -> None:
    """One uncompressed grey strip. sample: 1 unsigned, 2 signed."""
    width, height = size
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 134), (277, 1),
            (278, height), (279, len(data)), (339, sample)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.be.tif", "a.ppm"])
def test_every_value_is_rounded_to_the_nearest_of_256(name: str, tmp_path: Path) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    save_deep(tmp_path / name, values)
    with Image.open(tmp_path / name) as image:
        found = np.asarray(rgb_picture(image, name))
    expected = np.rint(values.astype(np.float64) / 257)
    np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, 2))


def test_ranges_of_tiff(tmp_path: Path) -> None:
    """12 bits reach white at 4095; where 0 is white, it stays white."""
    values = np.array([[0, 1, 2048, 4095]])
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.reshape(-1, 2).tolist()
    )
    save_tiff(tmp_path / "12.tif", packed, (4, 1), 12, 1, 1)
    with Image.open(tmp_path / "12.tif") as image:
        assert np.asarray(rgb_picture(image, "12"))[0, :, 0].tolist() == [0, 0, 128, 255]
    save_tiff(tmp_path / "white.tif", np.array([0, 257, 65535], "<u2").tobytes(), (3, 1), 16, 0, 1)
    with Image.open(tmp_path / "white.tif") as image:
        assert np.asarray(rgb_picture(image, "white"))[0, :, 0].tolist() == [255, 254, 0]


def test_colours_of_16_bits_give_their_upper_8(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3))
    save_colour16(tmp_path / "a.png", values)
    with Image.open(tmp_path / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(rgb_picture(image, "a")), values >> 8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm_weights(tmp_path_factory.mktemp("weights") / "vit.pth")


def command(images: Path, weights: Path, out: Path) -> list[object]:
    return [images, "--model", VIT, "--layers", 3, "--weights", weights, "--out", out, "--workers", 0,
            "--dtype", "float32", "--device", "cpu", "--images-per-shard", 4]  # fmt: skip


def test_two_deep_pictures_give_the_activations_of_their_8_bit_twins(weights: Path, tmp_path: Path) -> None:
    for folder in ("deep", "twin"):
        (tmp_path / folder).mkdir()
    deep_names = ["0.png", "1.png", "2.tif", "3.be.tif", "4.ppm", "5.png"]
    for i, name in enumerate(deep_names):
        values = grey8(i).astype(np.uint16)
        if i < 5:
            save_deep(tmp_path / "deep" / name, values * 257)
        else:
            Image.fromarray(grey8(i)).save(tmp_path / "deep" / name)
        Image.fromarray(grey8(i)).save(tmp_path / "twin" / f"{i}.png")
    found = {}
    for folder in ("deep", "twin"):
        dump(*command(tmp_path / folder, weights, tmp_path / f"acts-{folder}"))
        found[folder] = open_shards([tmp_path / f"acts-{folder}"])
    deep, twin = (torch.cat([shard.patches(3) for shard in found[name].shards]) for name in ("deep", "twin"))
    torch.testing.assert_close(deep, twin, rtol=0, atol=0)
    assert float((deep[0] - deep[1]).abs().max()) > 0.1
    digests = [
        [d for shard in found[name].shards for d in shard.examples.digest] for name in ("deep", "twin")
    ]
    assert digests[0] == digests[1]
    assert found["deep"].header.preprocess["deep_grey"] == "round(255 * value / largest)"
    assert (
        "deep_grey" not in found["twin"].header.preprocess
    )  # as it was recorded before there was such a key


def test_a_recording_of_clipped_images_is_not_gone_on_with(weights: Path, tmp_path: Path) -> None:
    """As an earlier version began it: its preprocessing said nothing of deep grey."""
    images, out = tmp_path / "set", tmp_path / "acts"
    images.mkdir()
    for i in range(6):
        Image.fromarray(grey8(i)).save(images / f"{i}.png")
    dump(*command(images, weights, out))
    old = Shard(out / "shard-000000.h5").provenance.settings
    for i in range(6):
        save_deep(images / f"{i}.png", grey8(i).astype(np.uint16) * 257)
    dump(*command(images, weights, tmp_path / "new"))
    new = Shard(tmp_path / "new" / "shard-000000.h5").provenance.settings
    assert {**new["preprocess"], "deep_grey": None} == {**old["preprocess"], "deep_grey": None}
    said = error_lines(dump(*command(images, weights, out), code=1))
    assert "other settings" in said
    with pytest.raises(UserError, match="recorded differently"):
        open_shards([out, tmp_path / "new"])


@pytest.mark.parametrize("kind", ["float", "int32", "signed", "misnamed"])
def test_pictures_without_a_known_range_are_refused_or_left_out(
    kind: str, weights: Path, tmp_path: Path
) -> None:
    images = tmp_path / "set"
    images.mkdir()
    Image.fromarray(grey8(0)).save(images / "0.png")
    bad = images / ("1.jpg" if kind == "misnamed" else "1.tif")
    if kind == "float":
        Image.fromarray(grey8(1).astype(np.float32) / 255).save(bad)
    elif kind == "int32":
        Image.fromarray(grey8(1).astype(np.int32)).save(bad)
    elif kind == "signed":
        save_tiff(bad, grey8(1).astype("<i2").tobytes(), (80, 60), 16, 1, 2)
    else:
        save_deep(images / "x.png", grey8(1).astype(np.uint16))
        (images / "x.png").rename(bad)
    words = {
        "float": "pixels are floating-point numbers",
        "int32": "pixels are integers of 32 bits",
        "signed": "or with a sign",
        "misnamed": "rename it to .png or .tif",
    }[kind]
    said = error_lines(dump(*command(images, weights, tmp_path / "fail"), code=1))
    assert str(bad) in said
    assert words in said
    dump(*command(images, weights, tmp_path / "skip"), "--on-bad-image", "skip")
    (shard,) = open_shards([tmp_path / "skip"]).shards
    assert shard.examples.path.tolist() == ["0.png"]
    assert words in shard.skipped[bad.name]


def test_pictures_of_latents_show_what_the_model_saw(weights: Path, tmp_path: Path) -> None:
    images, acts = tmp_path / "set", tmp_path / "acts"
    images.mkdir()
    for i in range(3):
        save_deep(images / f"{i}.png", grey8(i).astype(np.uint16) * 257)
    dump(*command(images, weights, acts))
    settings = open_shards([acts]).header.preprocess
    recorded = Recorded((10, 10), (60, 80))
    Image.fromarray(grey8(1)).save(tmp_path / "twin.png")
    expected = seen_pixels(tmp_path, "twin.png", settings, recorded)
    assert expected.std() > 10
    np.testing.assert_array_equal(seen_pixels(images, "1.png", settings, recorded), expected)
    # latents of a recording by an earlier version: the model saw something else than could be drawn
    with edit_hdf5(acts / "shard-000000.h5") as file:
        told = json.loads(file.attrs["preprocess"])
        del told["deep_grey"]
        file.attrs["preprocess"] = json.dumps(told)
    encode(acts, "--scorer", "units", "--top", 4, "--out", tmp_path / "latents")
    site = ["page", tmp_path / "latents", "--images", images, "--out", tmp_path / "site", "--workers", 1]
    said = error_lines(render(*site, code=1))
    assert "clipped to white when its activations were recorded" in said
