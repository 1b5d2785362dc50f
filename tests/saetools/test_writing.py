"""Two runs into one --out, and an --out that cannot be written: every tool says so, before the work."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from in_process import runner
from pictured_latents import NATIVE, sparse_latents, write_images, write_pictured
from processes import error_lines
from small_latents import write_latents
from small_shards import clustered_acts, write_shards
from tiny_models import VIT, make_folder, save_timm_weights

from saetools.errors import UserError
from saetools.files import reuse
from saetools.files.reuse import writing
from saetools.latents.reader import open_latents
from saetools.shards.reader import open_shards
from sweeps import write_sweep

Run = Callable[..., subprocess.CompletedProcess[str]]


class Inputs:
    """Small inputs for every tool."""

    def __init__(self, folder: Path) -> None:
        self.images = make_folder(folder / "images", {"ant": 2, "bee": 2})
        self.weights = save_timm_weights(folder / "vit.pt")
        self.train, self.test = folder / "train", folder / "test"
        acts = clustered_acts(40)
        write_shards(self.train, acts[:30], paths=[f"a/{i}.jpg" for i in range(30)])
        write_shards(self.test, acts[30:], paths=[f"b/{i}.jpg" for i in range(10)])
        rows = [*(f"a/{i}.jpg,{i % 2}" for i in range(30)), *(f"b/{i}.jpg,{i % 2}" for i in range(10))]
        self.traits = folder / "traits.csv"
        self.traits.write_text("\n".join(["path,even", *rows]) + "\n")
        self.latents = {}
        labels = np.tile(np.array([0, 1, 1, 0], np.uint16), (12, 1))
        rng = np.random.default_rng(0)
        for split in ("train", "test"):
            f_npk = rng.gamma(2.0, 1.0, (12, 4, 6)) * (rng.random((12, 4, 6)) < 0.4)
            f_npk[..., 2] = labels
            self.latents[split] = write_latents(
                folder / "latents" / split, f_npk, labels_np=labels, targets=[0, 1] * 6, prefix=split
            )
        paths = write_images(folder / "pictured", [(64, 48)] * 4)
        self.root = folder / "pictured"
        self.pictured = write_pictured(
            folder / "pictured-latents", sparse_latents(4, 32, 10), paths, [(4, 8)] * 4, NATIVE
        )
        self.sae, self.sweep = folder / "sae.h5", write_sweep(folder, SWEEP)
        trained = run("train-sae")(self.train, "--out", self.sae, *SMALL, "--tokens", 256)
        self.metrics = Path(trained.stdout.strip().replace(".h5", ".metrics.csv"))

    def command(self, name: str, out: Path) -> list[object]:
        split = ["--train", self.latents["train"], "--test", self.latents["test"]]
        parts = ["--train", self.train, "--test", self.test]
        return {
            "dump-acts": [
                self.images,
                "--model",
                VIT,
                "--weights",
                self.weights,
                "--layers",
                1,
                "--workers",
                0,
            ],
            "train-sae": [self.train, *SMALL, "--tokens", 512],
            "encode-acts": [self.test, "--scorer", self.sae],
            "score-traits": [*parts, "--traits", self.traits, "--scorer", "const"],
            "fit-heads": [*parts, "--labels", self.traits, "--l2", 1],
            "fit-probes": split,
            "audit-latents": [*split, "--labels", "target", "--bootstrap", 2, "--null", 2, "--budgets", 2],
            "collect-runs": [self.metrics],
            "latents": ["latents", self.pictured, "--images", self.root, "--latents", "1,2"],
            "page": ["page", self.pictured, "--images", self.root],
            "heatmap": ["heatmap", self.pictured],
            "plot": ["plot", "training", self.metrics],
            "convert-sae": [self.sae],
            "expand-sweep": [self.sweep],
        }[name] + {"convert-sae": [out], "expand-sweep": ["--sbatch", out]}.get(name, ["--out", out])


SMALL = ["--d-sae", 16, "--k", 2, "--batch-size", 64, "--warmup", 0, "--device", "cpu"]
SWEEP = """
    name: toy
    state: state
    steps:
      one:
        command: check-files {n}
        outputs: {done: 'out-{n}'}
        grid: {n: [1, 2]}
    """
# The name under which each command is tested, and what its --out is.
FOLDERS = ["dump-acts", "encode-acts", "fit-probes", "audit-latents", "latents", "page", "expand-sweep"]
FILES = {
    "train-sae": "x.h5",
    "score-traits": "x.csv",
    "fit-heads": "x.h5",
    "collect-runs": "x.csv",
    "heatmap": "x.png",
    "plot": "x.svg",
    "convert-sae": "x.pt",
}
NAMES = [*FOLDERS, *FILES]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(name: str) -> Run:
    from importlib import import_module

    program = "render-visuals" if name in ("latents", "page", "heatmap", "plot") else name
    return runner(program, import_module(f"{program.replace('-', '_')}.cli").app)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


def target(name: str, folder: Path) -> Path:
    return folder / FILES.get(name, "out")


@pytest.mark.parametrize("name", NAMES)
def test_another_run_with_other_settings_is_refused(
    name: str, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reuse, "TRIES", 3)
    monkeypatch.chdir(tmp_path)
    out = target(name, tmp_path)
    with writing(out, {"k": 1}, folder=name in FOLDERS):
        err = run(name)(*inputs.command(name, out), code=1).stderr
    assert f"error: {out}: another run is writing it with other settings: " in err
    assert "wait until it has ended, or choose another " in err
    assert not out.is_file()
    run(name)(*inputs.command(name, out))  # the other has ended
    assert not [path.name for path in tmp_path.rglob("*.lock")]


@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_out_is_refused_by_name(
    name: str, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    is_folder, ending = name in FOLDERS, Path(FILES.get(name, "")).suffix
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to("nowhere")
    places = {f"file/out{ending}": "it is a file, but", "n" * 250 + ending: "name is too long"}
    if is_folder:
        places |= {"file": "it is a file", "link": "a link to nowhere, which does not exist"}
    else:
        (tmp_path / f"folder{ending}").mkdir()
        (tmp_path / f"link{ending}").symlink_to("nowhere")
        there = "it exists already" if name == "convert-sae" else "it is a folder"
        places |= {f"folder{ending}": there, f"link{ending}": "a link to nowhere, which does not exist"}
    before = names(tmp_path)
    for place, said in places.items():
        if is_folder and place.startswith("n"):  # folders need no temporary name of their own
            place += "n" * 50
        err = error_lines(run(name)(*inputs.command(name, tmp_path / place), code=1))
        assert said in err and str(tmp_path / place.split("/")[0])[:100] in err, err
    assert names(tmp_path) == before
    assert (tmp_path / "file").read_text() == "mine"


def test_equal_settings_share_and_the_last_one_removes_the_lock(tmp_path: Path) -> None:
    out, lock = tmp_path / "a.h5", tmp_path / ".a.h5.lock"
    with writing(out, {"k": (1, 2)}, ["uid"]):
        with writing(out, {"k": [1, 2]}, ["uid"]):
            assert lock.exists()
        assert lock.exists()
        out.write_text("written")
    assert names(tmp_path) == ["a.h5"]


def test_the_lock_of_a_killed_run_is_taken_over(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import os, pathlib; from saetools.files.reuse import writing\n"
        f"with writing(pathlib.Path({str(out)!r}), {{'k': 1}}, folder=True): os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert names(out) == [".lock"]
    with writing(out, {"k": 2}, folder=True):
        assert '"k": 2' in (out / ".lock").read_text()
    assert not names(out)


def test_of_many_at_once_only_equal_ones_go_on(tmp_path: Path) -> None:
    """Eight processes with two settings: those that hold the lock at the same time agree."""
    code = (
        "import pathlib, sys, time; from saetools.files.reuse import writing\n"
        "from saetools.files import reuse; from saetools.errors import UserError\n"
        "reuse.TRIES = 20; folder = pathlib.Path(sys.argv[1]); k = sys.argv[2]; number = sys.argv[3]\n"
        "for turn in range(15):\n"
        "    try:\n"
        "        with writing(folder / 'x.h5', {'k': k}):\n"
        "            mine = folder / f'holds-{k}-{number}'; mine.touch()\n"
        "            others = [p.name for p in folder.iterdir() if p.name.startswith('holds-')]\n"
        "            assert {name.split('-')[1] for name in others} == {k}, others\n"
        "            time.sleep(0.002); mine.unlink()\n"
        "    except UserError as error: assert 'another run' in str(error)\n"
    )
    every = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(i % 2), str(i)], stderr=subprocess.PIPE
        )
        for i in range(8)
    ]
    for process in every:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
    assert not names(tmp_path)


def test_where_there_are_no_locks_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with writing(tmp_path / "a.h5", {"k": 1}), writing(tmp_path / "a.h5", {"k": 2}):
        (tmp_path / "a.h5").touch()
    assert names(tmp_path) == ["a.h5"]


def test_a_folder_that_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory() as place, unprivileged(Path(place)):
        closed = Path(place) / "closed"
        closed.mkdir()
        (closed / "whole.h5").touch()
        closed.chmod(0o555)
        try:
            with writing(closed / "whole.h5", {}), writing(closed, {}, folder=True):
                pass  # what is there already can be kept
            for new, folder in (
                (closed / "new.h5", False),
                (closed / "new/x.h5", False),
                (closed / "new", True),
            ):
                with (
                    pytest.raises(
                        UserError, match=f"{new}: it cannot be written: permission denied; choose another"
                    ),
                    writing(new, {}, folder=folder),
                ):
                    pass
            assert names(closed) == ["whole.h5"]
        finally:
            closed.chmod(0o755)


def test_a_folder_that_cannot_be_listed_is_not_empty() -> None:
    with tempfile.TemporaryDirectory() as place, unprivileged(Path(place)):
        for found in (open_shards, open_latents):
            closed = Path(place) / "closed"
            closed.mkdir(mode=0o300)
            try:
                with pytest.raises(PermissionError, match=str(closed)):
                    found([closed])
            finally:
                closed.rmdir()


@contextlib.contextmanager
def unprivileged(folder: Path) -> Iterator[None]:
    """As a user to whom permissions apply, and who owns this folder: root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(folder, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_the_settings_that_differ_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse, "TRIES", 3)
    out = tmp_path / "a.csv"
    with (
        writing(out, {"k": 8, "lr": 0.1}),
        pytest.raises(UserError, match="k: 8 against 16; wait until it has ended"),
        writing(out, {"k": 16, "lr": 0.1}),
    ):
        pass
    assert not names(tmp_path)
