"""dump-acts as a long job: killed, resumed, cut in slices, bounded by the disk, with broken images."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from edited_files import edit_hdf5
from in_process import runner
from PIL import Image
from processes import BIN, Tool, error_lines, run_on_a_full_disk
from tiny_models import VIT, make_folder, save_timm_weights

from check_files.cli import app as check_app
from dump_acts.cli import app
from saetools.errors import UserError
from saetools.shards.dtypes import word_sums
from saetools.shards.reader import Shard, open_shards

dump = runner("dump-acts", app)
check = runner("check-files", check_app)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_timm_weights(tmp_path_factory.mktemp("weights") / "vit.pth")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("images") / "set", {"ant": 30, "bee": 34})


def settings(images: Path, weights: Path, out: Path, *more: object) -> list[object]:
    """64 images in 16 shards, of two layers."""
    return [images, "--model", VIT, "--layers", "2,5", "--weights", weights, "--out", out, "--device", "cpu",
            "--images-per-shard", 4, "--batch-size", 2, "--workers", 0, *more]  # fmt: skip


@pytest.fixture(scope="module")
def whole(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "acts"
    dump(*settings(images, weights, out))
    return out


def digests(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.glob("shard-*.h5")):
        with h5py.File(path) as file:
            found[path.name] = str(file.attrs["digests"])
    return found


@pytest.mark.slow
def test_killed_at_ten_random_moments_and_resumed(
    images: Path, weights: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "acts"
    command = [str(BIN / "dump-acts"), *map(str, settings(images, weights, out, "--workers", 1))]
    rng = random.Random(0)
    for _ in range(10):
        # Kill it up to two shards further than it was, at some moment of the next one.
        present = len(digests(out)) if out.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(present + rng.randint(0, 2)):
            process.stdout.readline()
        while process.poll() is None and not list(out.glob(f".shard-*-{process.pid}.partial")):
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        process.stdout.close()
        for path in out.glob("shard-*.h5"):
            Shard(path)  # complete, or not there under this name
        assert len(digests(out)) >= present
        if len(digests(out)) > 9:  # so that something is left to be interrupted
            for path in sorted(out.glob("shard-*.h5"))[1::2]:
                path.unlink()
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 16
    assert digests(out) == digests(whole)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("more", [[], ["--dtype", "int8", "--cls"]], ids=["float16", "int8"])
def test_sixteen_slices_in_any_order_equal_the_whole(
    images: Path, weights: Path, whole: Path, tmp_path: Path, more: list[str]
) -> None:
    if more:
        whole = tmp_path / "whole"
        dump(*settings(images, weights, whole, *more))
    out, printed = tmp_path / "acts", []
    for number in random.Random(1).sample(range(1, 17), 16):
        done = dump(*settings(images, weights, out, "--slice", f"{number}/16", *more))
        printed += done.stdout.splitlines()
    assert sorted(printed) == [str(path) for path in sorted(out.glob("shard-*.h5"))]
    assert digests(out) == digests(whole)
    assert open_shards([out]).n_images == 64


def test_slices_side_by_side(tool: Tool, images: Path, weights: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "acts"
    processes = [
        subprocess.Popen(
            [str(BIN / "dump-acts"), *map(str, settings(images, weights, out, "--slice", f"{i}/2"))],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in (1, 2)
    ]
    printed = [process.communicate()[0].splitlines() for process in processes]
    assert [len(lines) for lines in printed] == [8, 8]
    assert digests(out) == digests(whole)


@pytest.mark.parametrize("text", ["0/4", "5/4", "4", "a/b"])
def test_slices_that_are_none(images: Path, weights: Path, tmp_path: Path, text: str) -> None:
    assert text in error_lines(dump(*settings(images, weights, tmp_path / "x", "--slice", text), code=2))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_bad_images_are_left_out_and_listed(weights: Path, tmp_path: Path, dtype: str) -> None:
    images = make_folder(tmp_path / "set", {"ant": 12}, seed=7)
    broken = {f"ant/{i:03d}.jpg" for i in (0, 5, 6, 8, 9, 10, 11)}  # the third shard has no good one
    good = tmp_path / "good"
    dump(*settings(images, weights, good, "--dtype", dtype, "--cls"))
    for path in broken:
        (images / path).write_bytes((images / path).read_bytes()[:200])
    out = tmp_path / "acts"
    done = dump(*settings(images, weights, out, "--dtype", dtype, "--cls", "--on-bad-image", "skip"))
    assert done.stderr.count("skipped: ") == 7
    shards = open_shards([out])
    assert [shard.n_images for shard in shards.shards] == [3, 2, 0]
    assert {path for shard in shards.shards for path in shard.skipped} == broken
    assert all("cannot" in why or "decoded" in why for s in shards.shards for why in s.skipped.values())
    index = np.concatenate([shard.examples.index for shard in shards.shards])
    assert index.tolist() == [1, 2, 3, 4, 7]
    assert shards.paths == [f"ant/{i:03d}.jpg" for i in index]
    for shard in shards.shards:
        for path, (height, width) in zip(shard.examples.path, shard.examples.size, strict=True):
            assert Image.open(images / path).size == (width, height)
    kept = open_shards([good])
    for layer in (2, 5):
        found = torch.cat([shard.patches(layer) for shard in shards.shards])
        expected = torch.cat([shard.patches(layer) for shard in kept.shards])[index]
        if dtype == "float16":  # int8 takes its scale from the good images
            torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)
        assert found.shape == expected.shape
        assert torch.cat([shard.cls(layer) for shard in shards.shards]).shape == (5, 64)
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    again = dump(*settings(images, weights, out, "--dtype", dtype, "--cls", "--on-bad-image", "skip"))
    assert len(again.stdout.splitlines()) == 3


def digest_by_hand(image: Path) -> str:
    """As docs/formats.md defines it."""
    rgb = np.asarray(Image.open(image).convert("RGB"))
    height, width, _ = rgb.shape
    told = height.to_bytes(4, "little") + width.to_bytes(4, "little") + rgb.tobytes()
    return hashlib.blake2b(told, digest_size=16).hexdigest()


def test_digests_tell_equal_pictures_of_different_files(weights: Path, tmp_path: Path) -> None:
    images = make_folder(tmp_path / "set", {"ant": 5, "bee": 4})
    Image.open(images / "ant" / "001.jpg").save(images / "bee" / "copy.png")  # another name and file format
    turned = Image.open(images / "ant" / "002.jpg").transpose(Image.Transpose.ROTATE_90)
    turned.save(images / "bee" / "turned.png")
    (images / "bee" / "000.jpg").write_bytes(b"broken")
    out = tmp_path / "acts"
    dump(*settings(images, weights, out, "--on-bad-image", "skip"))
    digest_of = {}
    for shard in open_shards([out]).shards:
        digest_of |= dict(zip(shard.examples.path, shard.examples.digest, strict=True))
    assert digest_of == {path: digest_by_hand(images / path) for path in digest_of}
    assert len(digest_of) == 10
    assert digest_of["bee/copy.png"] == digest_of["ant/001.jpg"]
    assert len(set(digest_of.values())) == 9
    check("--deep", out)


def test_a_recording_without_digests_is_read_and_goes_on(
    images: Path, weights: Path, whole: Path, tmp_path: Path
) -> None:
    """As an earlier version began it: settings are the same, so its shards are kept as they are."""
    out = tmp_path / "acts"
    out.mkdir()
    for path in whole.glob("shard-*.h5"):
        with h5py.File(path) as old, h5py.File(out / path.name, "w", libver="v110") as new:
            for name in old:
                old.copy(name, new)
            del new["examples/digest"]
            told = json.loads(old.attrs["digests"])
            del told["/examples/digest"]
            new.attrs.update({**old.attrs, "digests": json.dumps(told), "format_version": 1})
            for layer in (2, 5):
                new[f"layer_{layer}/sums"][...] = word_sums(new[f"layer_{layer}/patches"][...])
                told[f"/layer_{layer}/sums"] = (
                    f"sha256:{hashlib.sha256(new[f'layer_{layer}/sums'][...].data).hexdigest()}"
                )
            new.attrs["digests"] = json.dumps(told)
    (out / "shard-000003.h5").unlink()
    assert len(dump(*settings(images, weights, out)).stdout.splitlines()) == 16
    shards = open_shards([out]).shards
    assert [shard.examples.digest is not None for shard in shards] == [i == 3 for i in range(16)]
    uids = [[shard.provenance.uid for shard in open_shards([folder]).shards] for folder in (out, whole)]
    assert [mine == other for mine, other in zip(*uids, strict=True)] == [i != 3 for i in range(16)]
    check(out)


def test_digests_that_are_none(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "shard-000000.h5"
    path.write_bytes((whole / path.name).read_bytes())
    with edit_hdf5(path) as file:
        file["examples/digest"][1] = b"\xff" * 32
    with pytest.raises(UserError, match=r"/examples/digest .* 32 hexadecimal digits; record the shard again"):
        Shard(path)
    assert "damaged or changed" not in check(path, code=1).stdout
    with edit_hdf5(path) as file:
        file["examples/digest"][1] = b"0" * 32
    assert "/examples/digest" in check("--deep", path, code=1).stdout


class FolderSize(threading.Thread):
    """Looks at a folder's size again and again."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.largest, self.stop = folder, 0, threading.Event()

    def run(self) -> None:
        while not self.stop.wait(0.002):
            size = 0
            for path in self.folder.glob("*") if self.folder.exists() else ():
                try:
                    size += path.stat().st_size
                except FileNotFoundError:
                    continue
            self.largest = max(self.largest, size)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Path:
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("needs a tmpfs at /dev/shm")
    place = Path("/dev/shm") / f"saetools-test-{os.getpid()}"
    place.mkdir()
    yield place
    subprocess.run(["rm", "-r", str(place)], check=True)


@pytest.mark.slow
def test_bounded_folder_trains_the_same_sae(
    images: Path, weights: Path, whole: Path, tmpfs: Path, tmp_path: Path, tool: Tool
) -> None:
    sae = [
        "--layer",
        5,
        "--d-sae",
        128,
        "--k",
        4,
        "--tokens",
        "5k",
        "--batch-size",
        128,
        "--val",
        whole,
        "--allow-overlap",
    ]
    tool(
        "train-sae",
        "--out",
        tmp_path / "free.h5",
        *sae,
        "-",
        stdin="".join(f"{p}\n" for p in sorted(whole.iterdir())),
    )
    out = tmpfs / "acts"
    limit = 600_000
    assert limit < sum(path.stat().st_size for path in whole.iterdir()) / 2
    watch = FolderSize(out)
    watch.start()
    first = subprocess.Popen(
        [str(BIN / "dump-acts"), *map(str, settings(images, weights, out, "--max-disk", f"{limit}B"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    second = subprocess.run(
        [str(BIN / "train-sae"), "--out", str(tmp_path / "bounded.h5"), *map(str, sae), "--consume", "-"],
        stdin=first.stdout,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    first.stdout.close()
    said = first.stderr.read().decode()
    assert second.returncode == 0, second.stderr
    assert first.wait(timeout=60) == 0, said
    watch.stop.set()
    assert "pausing" in said
    assert 0 < watch.largest <= limit
    with h5py.File(tmp_path / "free.h5") as free, h5py.File(tmp_path / "bounded.h5") as bounded:
        for name in ("W_enc", "W_dec", "b_enc", "b_dec"):
            np.testing.assert_array_equal(free[name][...], bounded[name][...])


def test_pause_ends_when_nobody_reads_any_more(images: Path, weights: Path, tmp_path: Path) -> None:
    limit = 600_000
    out = tmp_path / "acts"
    process = subprocess.Popen(
        [str(BIN / "dump-acts"), *map(str, settings(images, weights, out, "--max-disk", f"{limit}B"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.readline()
    said = []
    for line in process.stderr:
        said.append(line)
        if "pausing" in line:
            break
    process.stdout.close()
    assert process.wait(timeout=30) == 0, said
    assert sum(path.stat().st_size for path in out.iterdir()) <= limit


def test_a_shard_that_exceeds_the_bound(images: Path, weights: Path, tmp_path: Path) -> None:
    said = error_lines(dump(*settings(images, weights, tmp_path / "x", "--max-disk", "20kB"), code=1))
    assert "--images-per-shard" in said


def test_dry_run_tells_sizes_and_loads_nothing(
    images: Path, weights: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "acts"
    (tmp_path / "torn.pth").write_bytes(b"not weights")
    done = dump(*settings(images, tmp_path / "torn.pth", out, "--dry-run"))
    assert not out.exists()
    plan = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert plan["shards"] == "16 of 4 images"
    assert "10 x 10 patches of width 64" in plan["layers"]
    assert "160 x 160" in plan["preprocessing"]
    told = int(plan["bytes"].split()[0])
    real = sum(path.stat().st_size for path in whole.iterdir())
    assert real <= told <= 1.2 * real + 16 * 130_000
    assert int(plan["free"].split()[0]) > 0


def test_a_plan_that_does_not_fit_stops_before_it_starts(
    images: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dump_acts.plan.Plan.free_bytes", lambda _self: 1_000_000)
    for more in ([], ["--dry-run"]):
        said = error_lines(dump(*settings(images, weights, tmp_path / "acts", *more), code=1))
        assert "only 1 MB are free" in said
        assert re.search(r"needs [\d.]+ MB", said)
        assert not (tmp_path / "acts").exists()


def test_float16_overflow_is_counted_and_refused(images: Path, tmp_path: Path) -> None:
    state = torch.load(save_timm_weights(tmp_path / "vit.pth"), weights_only=True)
    state["blocks.5.mlp.fc2.bias"][3] = 70000.0
    torch.save(state, tmp_path / "large.pth")
    command = settings(images, tmp_path / "large.pth", tmp_path / "acts")
    said = error_lines(dump(*command, code=1))
    assert "do not fit into float16" in said
    assert "200 activations" in said  # of the first two images, 100 patches each
    assert not (tmp_path / "acts").exists()
    for dtype in ("bfloat16", "float32", "int8"):
        dump(*settings(images, tmp_path / "large.pth", tmp_path / dtype, "--dtype", dtype))
    exact = open_shards([tmp_path / "float32"]).shards[0].patches(5)
    near = open_shards([tmp_path / "bfloat16"]).shards[0].patches(5)
    torch.testing.assert_close(near, exact, rtol=2**-8, atol=1e-6)
    clipped = open_shards([tmp_path / "int8"]).shards[0]
    scale = clipped.scale(5)
    assert scale is not None
    assert bool(((clipped.patches(5) - exact).abs() <= scale / 2 + 1e-4).float().mean() > 0.98)


def test_precision_is_part_of_the_settings(images: Path, weights: Path, whole: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    dump(*settings(images, weights, half, "--precision", "bfloat16"))
    mine, others = (open_shards([folder]).shards[0].patches(5) for folder in (half, whole))
    assert not torch.equal(mine, others)
    error = (mine - others).square().mean() / others.var()
    assert error < 1e-3
    assert "precision" in error_lines(
        dump(*settings(images, weights, whole, "--precision", "bfloat16"), code=1)
    )


def test_a_damaged_byte_is_an_error_of_who_reads_it(whole: Path, tmp_path: Path) -> None:
    shard = Shard(whole / "shard-000000.h5")
    offset = shard.stored(5).offset
    (tmp_path / "shard.h5").write_bytes((whole / "shard-000000.h5").read_bytes())
    with (tmp_path / "shard.h5").open("r+b") as file:
        file.seek(offset + 100)
        byte = file.read(1)
        file.seek(offset + 100)
        file.write(bytes([byte[0] ^ 1]))
    damaged = Shard(tmp_path / "shard.h5")
    with pytest.raises(UserError, match=r"layer 5 .*ant/000\.jpg"):
        damaged.patches(5)
    with pytest.raises(UserError, match="damaged"):
        damaged.read_acts(5, np.array([0, 2]))
    torch.testing.assert_close(damaged.read_acts(5, np.array([1, 3])), shard.read_acts(5, np.array([1, 3])))
    assert damaged.patches(2).shape == (4, 100, 64)


def test_a_shard_cut_while_it_is_in_use_is_an_error_of_who_reads_it(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shard.h5"
    copy.write_bytes((whole / "shard-000000.h5").read_bytes())
    shard = Shard(copy)
    os.truncate(copy, shard.stored(5).offset + 1000)
    with pytest.raises(UserError, match=r"shard\.h5: it ends before its activations do"):
        shard.read_acts(5, np.array([0]))


def test_a_full_disk_is_told_before_anything_is_written(images: Path, weights: Path, tmp_path: Path) -> None:
    """Room for a whole shard is reserved first: HDF5 crashes when the disk fills up beneath it."""
    out = tmp_path / "acts"
    done = run_on_a_full_disk(100_000, "dump-acts", *settings(images, weights, out))
    assert done.returncode == 1, done.stderr
    assert f"{out / 'shard-000000.h5'}: File too large; free some space" in error_lines(done)
    assert not out.exists()


def test_workers_where_the_path_of_tmpdir_is_too_long_for_sockets(
    images: Path, weights: Path, whole: Path, tmp_path: Path
) -> None:
    tmpdir = tmp_path / ("long" * 25)
    tmpdir.mkdir()
    done = subprocess.run(
        [str(BIN / "dump-acts"), *map(str, settings(images, weights, tmp_path / "acts")), "--workers", "1"],
        env={**os.environ, "TMPDIR": str(tmpdir)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for path in whole.iterdir():
        np.testing.assert_array_equal(Shard(tmp_path / "acts" / path.name).stored(5), Shard(path).stored(5))


def test_the_plan_is_an_upper_bound_of_the_files(images: Path, weights: Path, whole: Path) -> None:
    """Its shards take no more room than the plan says, with which --max-disk reckons, and hardly less."""
    done = dump(*settings(images, weights, whole.parent / "none", "--dry-run"))
    planned = int(re.search(r"^bytes: (\d+)", done.stdout, re.MULTILINE)[1])
    written = sum(path.stat().st_size for path in whole.glob("shard-*.h5"))
    assert planned - 16 * 2**17 <= written <= planned
