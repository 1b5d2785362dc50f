"""What lies in folders of images besides sound images: named and refused, or left out by --on-bad-image skip."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from in_process import runner
from PIL import Image
from processes import error_lines
from tiny_models import VIT, make_folder, random_image, save_timm_weights

from dump_acts.cli import app
from dump_acts.patch_labels import read_mask
from saetools.errors import UserError
from saetools.shards.reader import open_shards
from saetools.vision.image_sets import list_images
from saetools.vision.model_input import Recorded, seen_pixels
from saetools.vision.pictures import open_picture
from saetools.vision.preprocess import MOST_PIXELS, Preprocess

dump = runner("dump-acts", app)
SEEN = Preprocess((160, 160), (160, 160), "shortest", "bicubic", (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm_weights(tmp_path_factory.mktemp("weights") / "vit.pth")


def record(images: Path, weights: Path, *more: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    return dump(images, "--model", VIT, "--layers", 2, "--weights", weights, "--out", images.parent / "out",
                "--device", "cpu", "--workers", 0, *more, code=code)  # fmt: skip


def png_of(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG file of grey pixels by its header; its pixels may be missing."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 9)),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in [*chunks, (b"IEND", b"")]
    )
    return b"\x89PNG\r\n\x1a\n" + body


def narrow(path: Path) -> None:
    path.write_bytes(png_of(60_000, 1, b"\0" + b"\x80" * 60_000))


def high(path: Path) -> None:
    path.write_bytes(png_of(1, 60_000, b"\0\x80" * 60_000))


def truncated(path: Path) -> None:
    random_image(3).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:-200])


def postscript(path: Path) -> None:
    Image.new("RGB", (20, 20)).save(path, "EPS")


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # names of sockets are at most 108 bytes long
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


ODD: dict[str, tuple[Callable[[Path], object], str]] = {
    "dangling link": (lambda path: path.symlink_to("nothing.jpg"), "a link to a file that does not exist"),
    "link to itself": (lambda path: path.symlink_to(path.name), "a link that leads back to itself"),
    "FIFO": (os.mkfifo, "a FIFO (named pipe), not a file"),
    "socket": (a_socket, "a socket, not a file"),
    "device": (lambda path: path.symlink_to("/dev/null"), "a device, not a file"),
    "folder": (Path.mkdir, "a folder, not a file"),
    "empty": (Path.touch, "it is empty"),
    "text": (lambda path: path.write_text("<html>404</html>"), "none of JPEG, PNG,"),
    "postscript": (postscript, "none of JPEG, PNG,"),
    "truncated": (truncated, "not an image that can be decoded (image file is truncated"),
    "60,000 x 1": (narrow, "60,000 x 1 pixels, and would be"),
    "1 x 60,000": (high, "1 x 60,000 pixels, and would be"),
    "bomb": (lambda path: path.write_bytes(png_of(50_000, 50_000)), "more than 178,956,970 pixels"),
    "floats": (lambda path: Image.new("F", (40, 30)).save(path, "TIFF"), "floating-point numbers"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("ending", [".jpg", ".png"])  # of PNG files the header is read before all else
def test_odd_files_are_named_or_left_out(kind: str, ending: str, weights: Path, tmp_path: Path) -> None:
    make, says = ODD[kind]
    images = make_folder(tmp_path / "set", {"ant": 2})
    make(images / "ant" / f"001x{ending}")
    said = error_lines(record(images, weights, code=1))
    assert f"001x{ending}: " in said and says in said
    done = record(images, weights, "--on-bad-image", "skip")
    (shard,) = open_shards([images.parent / "out"]).shards
    assert list(shard.skipped) == [f"ant/001x{ending}"]
    assert says in shard.skipped[f"ant/001x{ending}"]
    assert "Warning" not in done.stderr


@pytest.mark.parametrize(
    "name", ["a\nb.jpg", "a\tb.jpg", "a\x1b[31mb.jpg", "a\u2028b.jpg", os.fsdecode(b"a\xffb.jpg")]
)
def test_names_that_lists_cannot_hold_are_refused(name: str, weights: Path, tmp_path: Path) -> None:
    images = make_folder(tmp_path / "set", {"ant": 2})
    random_image(1).save(images / "ant" / "plain.jpg")
    (images / "ant" / "plain.jpg").rename(images / "ant" / name)
    for more in ([], ["--on-bad-image", "skip"]):
        said = error_lines(record(images, weights, *more, code=1))
        assert "lists of paths cannot hold; rename it" in said
        assert repr(f"ant/{name}") in said


@pytest.mark.parametrize(
    "name", ["Vögel 1.jpg", "Screenshot 3.45\u202fPM.jpg", "鳥.jpg", "#a,b;c'd\".jpg", "-rf.jpg"]
)
def test_other_odd_names_are_recorded(name: str, weights: Path, tmp_path: Path) -> None:
    images = make_folder(tmp_path / "set", {"ant": 1})
    (images / "ant" / "000.jpg").rename(images / "ant" / name)
    record(images, weights)
    assert open_shards([images.parent / "out"]).paths == [f"ant/{name}"]


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    elsewhere = make_folder(tmp_path / "elsewhere", {"bee": 2})
    images = make_folder(tmp_path / "set", {"ant": 1})
    (images / "bee").symlink_to(elsewhere / "bee")
    (images / "ant" / "1.jpg").symlink_to(elsewhere / "bee" / "001.jpg")
    (images / "ant" / "up").symlink_to(images)
    (elsewhere / "bee" / "back").symlink_to(images / "ant")
    found = list_images(images, "auto", None)
    assert sorted(set(found.path)) == ["ant/000.jpg", "ant/1.jpg", "bee/000.jpg", "bee/001.jpg", "bee/back/000.jpg",
                                       "bee/back/1.jpg"]  # fmt: skip
    assert len(found.path) == len(set(found.path))


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, as only root can")
def test_what_may_not_be_read_is_said(tmp_path: Path) -> None:
    images = make_folder(tmp_path / "set", {"ant": 1, "bee": 1})
    (images / "ant").chmod(0)
    program = (
        "import os, sys; from pathlib import Path; from saetools.vision.image_sets import list_images\n"
        "from saetools.vision.pictures import open_picture\n"
        "root = Path(sys.argv[1]); os.setuid(65534)\n"
        "for ask in (lambda: list_images(root, 'folder', None), lambda: open_picture(root / 'bee' / '000.jpg')):\n"
        "    try: ask()\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    (images / "bee" / "000.jpg").chmod(0)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o055)
    done = subprocess.run([sys.executable, "-c", program, images], capture_output=True, text=True, check=True)
    (images / "ant").chmod(0o755)
    first, second = done.stdout.splitlines()
    assert first == f"UserError {images / 'ant'}: the folder cannot be read (Permission denied)"
    assert second.startswith(f"UserError {images / 'bee' / '000.jpg'}: permission denied")


def picture(mode: str) -> Image.Image:
    return random_image(5, 40, 56).convert(mode)


@pytest.mark.parametrize(
    ("name", "mode", "how"),
    [
        ("palette.png", "P", {}),
        ("transparent.png", "P", {"transparency": bytes(range(256))}),
        ("cmyk.jpg", "CMYK", {}),
        ("alpha.png", "RGBA", {}),
        ("grey-alpha.png", "LA", {}),
        ("moving.gif", "P", {"save_all": True, "append_images": [Image.new("P", (56, 40))]}),
        ("bits.png", "1", {}),
        (
            "turned.jpg",
            "RGB",
            {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
        ),
    ],
)
def test_kinds_of_images_are_recorded_as_stored(
    name: str, mode: str, how: dict[str, object], weights: Path, tmp_path: Path
) -> None:
    """The first picture of a GIF, without transparency, and not turned by EXIF: as timm's loaders have it."""
    images = tmp_path / "set"
    (images / "ant").mkdir(parents=True)
    path = images / "ant" / name
    picture(mode).save(path, **how)
    done = record(images, weights)
    assert "Warning" not in done.stderr
    shards = open_shards([images.parent / "out"])
    assert shards.shards[0].examples.size.tolist() == [[40, 56]]
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(np.asarray(open_picture(path)), expected)


def test_thin_images_take_little_memory(tmp_path: Path) -> None:
    """In a process of its own with 1 GB of address space above what it has at its start."""
    narrow(tmp_path / "thin.png")
    program = (
        "import resource, sys; from pathlib import Path; from saetools.vision.model_input import *\n"
        "from saetools.vision.preprocess import Preprocess; import PIL.Image\n"
        "limit = int(open('/proc/self/statm').read().split()[0]) * 4096 + (1 << 30)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "how = Preprocess((224, 224), (248, 248), 'shortest', 'bicubic', (.5,) * 3, (.5,) * 3).to_settings()\n"
        "try: seen_pixels(Path(sys.argv[1]), 'thin.png', how, Recorded((14, 14), None))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False
    )
    assert "UserError" in done.stdout and "14,880,000 x 248" in done.stdout
    assert f"{MOST_PIXELS:,} pixels" in done.stdout


def test_longest_leaves_nothing_of_a_thin_image(tmp_path: Path) -> None:
    narrow(tmp_path / "thin.png")
    fit = Preprocess((32, 32), (32, 32), "longest", "bicubic", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match="would be resized to 32 x 0"):
        open_picture(tmp_path / "thin.png", fit)


@pytest.mark.parametrize("kind", ["FIFO", "dangling link", "60,000 x 1", "bomb", "truncated"])
def test_render_visuals_refuses_them_too(kind: str, tmp_path: Path) -> None:
    make, says = ODD[kind]
    make(tmp_path / "x.jpg")
    with pytest.raises(UserError) as caught:
        seen_pixels(tmp_path, "x.jpg", SEEN.to_settings(), Recorded((10, 10), None))
    assert says in str(caught.value)


@pytest.mark.parametrize("kind", ["FIFO", "dangling link", "folder", "empty", "text", "bomb"])
def test_masks_the_same(kind: str, weights: Path, tmp_path: Path) -> None:
    make, says = ODD[kind]
    images = tmp_path / "set"
    for folder in ("images", "annotations"):
        (images / folder).mkdir(parents=True)
    for i in range(2):
        random_image(i).save(images / "images" / f"{i}.png")
        Image.new("L", (80, 60), i).save(images / "annotations" / f"{i}.png")
    (images / "annotations" / "1.png").unlink()
    make(images / "annotations" / "1.png")
    if kind in ("FIFO", "dangling link", "folder"):
        assert "1.png: its mask" in error_lines(record(images, weights, code=1))
        return
    said = error_lines(record(images, weights, code=1))
    assert "annotations/1.png: " in said and says in said
    record(images, weights, "--on-bad-image", "skip")
    assert list(open_shards([images.parent / "out"]).shards[0].skipped) == ["images/1.png"]


@pytest.mark.parametrize(
    ("turn", "width", "refused"), [(1, 60, False), (3, 60, True), (6, 60, True), (6, 80, False)]
)
def test_an_image_that_exif_turns_needs_a_mask_that_lies_one_way(
    turn: int, width: int, refused: bool, weights: Path, tmp_path: Path
) -> None:
    images = tmp_path / "set"
    for folder in ("images", "annotations"):
        (images / folder).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    random_image(1, 60, width).save(images / "images" / "a.jpg", exif=exif)
    Image.new("L", (width, 60), 1).save(images / "annotations" / "a.png")
    done = record(images, weights, code=1 if refused else 0)
    assert ("its mask could lie either way" in done.stderr) == refused


def test_a_mask_that_is_a_jpeg_is_refused(tmp_path: Path) -> None:
    Image.new("L", (20, 20), 7).save(tmp_path / "mask.jpg")
    with pytest.raises(UserError, match="a JPEG changes the numbers of a mask"):
        read_mask(tmp_path / "mask.jpg", SEEN, (20, 20))
