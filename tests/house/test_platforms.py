"""What runs on Linux runs without what Linux alone has: the tools, and the Makefile with the programs of macOS."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from our_imports import ROOT
from tiny_models import VIT, make_folder, save_timm_weights

from expand_sweep import makefile
from saetools.shards.reader import open_shards
from train_sae import memory

MAKEFILES = [ROOT / "Makefile", *(ROOT / "examples").glob("**/*.mk")]
# Of GNU make after 3.81, which macOS has; of Linux's programs
NEWER = [
    ".SHELLFLAGS :",
    ".ONESHELL",
    "$(file ",
    "$(let ",
    "$(intcmp",
    "&:",
    "::=",
    ".EXTRA_PREREQS",
    "private ",
]
LINUX = [
    r"\bseq\b",
    r"sed -i",
    r"readlink",
    r"reflink",
    r"realpath",
    r"\bdate -",
    r"stat -c",
    r"xargs -d",
    r"sort -V",
]


def recipes(path: Path) -> list[str]:
    """The recipes' commands, each with its continuation lines."""
    joined = path.read_text().replace("\\\n", " ")
    return [line[1:] for line in joined.splitlines() if line.startswith("\t")]


@pytest.mark.parametrize("path", MAKEFILES, ids=lambda path: path.name)
def test_make_3_81_and_the_programs_of_macos_suffice(path: Path) -> None:
    text = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    assert [feature for feature in NEWER if feature in text] == []
    assert not re.search(r"^\w+ *!=", text, flags=re.M)
    assert [program for program in LINUX if re.search(program, text)] == []
    for recipe in recipes(path):
        if re.search(r"[|;]", re.sub(r"'[^']*'|^@?\$\(strict\)", "", recipe)):
            assert re.match(r"@?\$\(strict\) ", recipe), (
                f"a pipe or several commands without $(strict): {recipe}"
            )


def test_the_makefile_of_a_sweep_too() -> None:
    text = makefile._HEAD + makefile._RUN
    assert [feature for feature in NEWER if feature in text] == []
    assert [program for program in LINUX if re.search(program, text)] == []


def dry_run(path: str, *more: str) -> subprocess.CompletedProcess[str]:
    make = shutil.which("make")
    assert make is not None
    return subprocess.run(
        [make, "-n", "cub200-table", "cub200-choice", "camvid-probes", "SEEDS=3", "OUT=not-made", *more],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_file_names_are_the_same_with_the_programs_of_macos(tmp_path: Path) -> None:
    for name in ("bash", "cut", "shasum", "perl", "python3"):
        found = shutil.which(name)
        if found is None:
            pytest.skip(f"no {name} here")
        (tmp_path / name).symlink_to(found)
    on_linux, on_macos = dry_run(os.environ["PATH"]), dry_run(str(tmp_path))
    assert on_linux.returncode == on_macos.returncode == 0, on_macos.stderr
    assert on_macos.stdout == on_linux.stdout
    assert "--grid 'seed=0,1,2'" in on_macos.stdout
    (tmp_path / "shasum").unlink()
    neither = dry_run(str(tmp_path))
    assert neither.returncode == 2
    assert "found neither sha256sum nor shasum" in neither.stderr


@pytest.mark.parametrize(
    ("target", "fails"), [("cub200-table", "score-traits"), ("cub200-choice", "train-sae")]
)
def test_a_step_that_fails_ends_make_without_shellflags(target: str, fails: str, tmp_path: Path) -> None:
    """GNU make 3.81 starts the shell with -c alone: so does .SHELLFLAGS=-c on the command line of later ones."""
    tools, data = tmp_path / "bin", tmp_path / "birds"
    for folder in (tools, data):
        folder.mkdir()
    (data / "images.txt").touch()
    (tmp_path / "w").touch()
    for name in ("dump-acts", "train-sae", "score-traits", "collect-runs"):
        then = "exit 1" if name == fails else 'for w; do [ "$was" != --out ] || mkdir -p "$w"; was=$w; done'
        (tools / name).write_text(f"#!/bin/sh\necho {name} >>{tmp_path}/ran\n{then}\n")
        (tools / name).chmod(0o755)
    done = subprocess.run(
        ["make", ".SHELLFLAGS=-c", f"BIN={tools}", f"CUB={data}", f"WEIGHTS={tmp_path / 'w'}",
         f"OUT={tmp_path / 'out'}", "-o", ".venv/.installed", target],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    ran = (tmp_path / "ran").read_text().split()
    assert done.returncode == 2, done.stderr
    assert ran[-1] == fails and ran.count(fails) == 1
    assert not list(tmp_path.glob("out/**/ap*.csv"))


def test_memory_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.available_bytes() > 1 << 20

    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    sizes = {"SC_PHYS_PAGES": 1 << 20, "SC_PAGE_SIZE": 16384}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert memory.available_bytes() == 8 << 30
    monkeypatch.setattr(os, "sysconf", lambda _: -1)
    assert memory.available_bytes() == memory.DEFAULT_BYTES
    monkeypatch.delattr(os, "sysconf")
    assert memory.available_bytes() == memory.DEFAULT_BYTES


@pytest.mark.slow
def test_tools_run_without_what_linux_alone_has(tmp_path: Path) -> None:
    """From images to a page, with workers that are started by spawn."""
    images = make_folder(tmp_path / "set", {"ant": 9, "bee": 9})
    weights = save_timm_weights(tmp_path / "vit.pth")
    (tmp_path / "traits.csv").write_text(
        "path,ant\n"
        + "".join(f"{c}/{i:03d}.jpg,{int(c == 'ant')}\n" for c in ("ant", "bee") for i in range(9))
    )
    acts, sae, latents = tmp_path / "acts", tmp_path / "sae.h5", tmp_path / "latents"
    model = f"--model {VIT} --layers 2 --weights {weights} --batch-size 4 --device cpu"
    here = f"""
    dump-acts {images} --split train --split-validation 0.4 --out {acts}/train --workers 2 {model}
    dump-acts {images} --split validation --split-validation 0.4 --out {acts}/test --workers 0 {model}
    train-sae {acts}/train --layer 2 --val {acts}/test --d-sae 32 --k 4 --tokens 4096 --batch-size 256 --out {sae}
    encode-acts {acts}/test --layer 2 --scorer {sae} --out {latents} --device cpu
    score-traits --train {acts}/train --test {acts}/test --traits {tmp_path}/traits.csv --layer 2 --scorer {sae}
        --scorer kmeans:8 --out {tmp_path}/ap.csv --device cpu
    render-visuals page {latents} --images {images} --scorer {sae} --workers 2 --out {tmp_path}/page
    check-files --deep {acts}/train {acts}/test {sae} {latents} {tmp_path}/ap.csv
    convert-sae {sae} {tmp_path}/lens"""
    commands = [line.split() for line in here.replace("\n        ", " ").strip().splitlines()]
    (tmp_path / "commands").write_text("".join(json.dumps(words) + "\n" for words in commands))
    done = subprocess.run(
        [sys.executable, ROOT / "tests/support/another_platform.py", tmp_path / "commands"],
        capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(open_shards([acts / "train", acts / "test"]).paths) == 18
    assert (tmp_path / "page" / "index.html").is_file()
    assert (tmp_path / "lens" / "cfg.json").is_file()
