"""An image that changed its size after dump-acts saw it is never drawn under the old patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from edited_files import edit_hdf5
from in_process import runner
from PIL import Image
from processes import Tool, error_lines, run_all, run_on_a_full_disk
from tiny_models import VIT, random_image, save_timm_weights

from dump_acts import cli as dump_cli
from encode_acts import cli as encode_cli
from saetools.latents.reader import open_latents

dump = runner("dump-acts", dump_cli.app)
encode = runner("encode-acts", encode_cli.app)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """set/ with 4 images, one of them turned by its EXIF orientation alone; acts/ and latents/ of them."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "set").mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    for i in range(4):
        image = random_image(i, height=60 + i, width=90)
        image.save(folder / "set" / f"{i}.jpg", exif=turned if i == 2 else Image.Exif())
    weights = save_timm_weights(folder / "vit.pth")
    dump(folder / "set", "--model", VIT, "--layers", 1, "--weights", weights, "--out", folder / "acts",
         "--images-per-shard", 2, "--workers", 0, "--device", "cpu")  # fmt: skip
    encode(folder / "acts", "--scorer", "units", "--top", 4, "--out", folder / "latents")
    return folder


def test_the_size_is_carried_into_the_latents(recorded: Path) -> None:
    files = open_latents([recorded / "latents"]).files
    assert np.concatenate([file.examples.size for file in files]).tolist() == [[60 + i, 90] for i in range(4)]


def test_an_image_of_another_size_is_refused(recorded: Path, tmp_path: Path, tool: Tool) -> None:
    root = tmp_path / "set"
    root.mkdir()
    for path in (recorded / "set").iterdir():
        (root / path.name).write_bytes(path.read_bytes())
    page = ["page", recorded / "latents", "--images", root, "--out", tmp_path / "site"]
    pictures = ["latents", recorded / "latents", "--images", root, "--latents", "0,1,2",
                "--out", tmp_path / "pictures"]  # fmt: skip
    run_all("render-visuals", page, pictures)

    # Twice as large: the same aspect, so that every patch would still be where it was, on another image for all we know
    with Image.open(root / "1.jpg") as image:
        image.resize((180, 122)).save(root / "1.jpg")
    for command in (page, [*pictures, "--workers", 1]):
        said = error_lines(tool("render-visuals", *command, code=1))
        assert f"{root / '1.jpg'}: it is 180 x 122 pixels, but was 90 x 61 when" in said
        assert "restore it, or run dump-acts and encode-acts again" in said


def test_sizes_that_were_not_recorded_are_unknown(recorded: Path, tmp_path: Path, tool: Tool) -> None:
    """Half of the shards are of before sizes were recorded: their images are drawn as they are."""
    root, acts = tmp_path / "set", tmp_path / "acts"
    root.mkdir()
    acts.mkdir()
    for path in (recorded / "acts").iterdir():
        (acts / path.name).write_bytes(path.read_bytes())
    with edit_hdf5(acts / "shard-000000.h5") as file:
        del file["examples/size"]
    encode(acts, "--scorer", "units", "--top", 4, "--out", tmp_path / "latents")
    files = open_latents([tmp_path / "latents"]).files
    assert [file.examples.size is None for file in files] == [True, False]
    for i in range(4):
        with Image.open(recorded / "set" / f"{i}.jpg") as image:
            (image.resize((180, 120)) if i < 2 else image).save(root / f"{i}.jpg")
    tool("render-visuals", "page", tmp_path / "latents", "--images", root, "--out", tmp_path / "site")


def test_no_half_thumbnail_where_the_disk_is_full(recorded: Path, tmp_path: Path, tool: Tool) -> None:
    """Pillow, writing into a file itself, takes the part of its last write that fits for all of it."""
    page = ["page", recorded / "latents", "--images", recorded / "set", "--workers", 1, "--out"]
    tool("render-visuals", *page, tmp_path / "whole")
    largest = max(path.stat().st_size for path in (tmp_path / "whole").rglob("*.jpg"))
    done = run_on_a_full_disk(largest - 17, "render-visuals", *page, tmp_path / "site")
    assert done.returncode == 1, done.stderr
    assert "File too large; free some space" in error_lines(done)
    for path in (tmp_path / "site").rglob("*.jpg"):
        with Image.open(path) as image:
            image.load()  # raises where it was cut short
