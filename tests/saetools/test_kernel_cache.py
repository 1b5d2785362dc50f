"""Compiled kernels on read-only installations, with broken caches, and with folders that others have prepared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

# As numba finds it where neither the installation nor the home folder can be written.
CODE = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from numba.core.caching import CacheImpl

def refuse(self):
    raise OSError(30, "Read-only file system")

for locator in CacheImpl._locator_classes:
    if "UserProvided" not in locator.__name__:
        locator.ensure_cache_path = refuse

import numpy as np
from saetools.compute.kernels import pooling
from saetools.compute.kernels.compiled import njit

@njit(cache=True)
def twice(x):
    return 2 * x

assert twice(21) == 42
kernels = [each for each in vars(pooling).values() if hasattr(each, "py_func")]
assert kernels
print(sum(twice.stats.cache_hits.values()))
"""


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(CODE)
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, folder / "program.py"],
        env={**environment, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def cache(folder: Path) -> Path:
    return folder / f"saetools-kernels-{os.geteuid()}"


def test_a_read_only_installation_keeps_kernels_under_tmpdir(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.stderr.startswith(f"compiled kernels are kept in {cache(tmp_path)}: numba can write no cache")
    assert len(done.stderr.splitlines()) == 1  # once, for several kernels
    assert cache(tmp_path).stat().st_mode & 0o777 == 0o700
    assert done.stdout == "0\n"
    assert run(tmp_path).stdout == "1\n"


@pytest.mark.parametrize("how", ["open to others", "a link", "a file", "of another user"])
def test_a_folder_that_others_can_write_is_not_used(how: str, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    if how == "a link":
        theirs.mkdir(mode=0o700)
        cache(tmp_path).symlink_to(theirs)
    elif how == "a file":
        cache(tmp_path).touch()
    else:
        cache(tmp_path).mkdir(mode=0o700)
        if how == "open to others":
            cache(tmp_path).chmod(0o770)
        elif os.geteuid() != 0:
            pytest.skip("only root can give a folder away")
        else:
            os.chown(cache(tmp_path), 65534, 65534)
    done = run(tmp_path)
    assert done.stderr.startswith("compiled kernels are kept in memory, for this run alone")
    assert not list(tmp_path.rglob("*.nb?"))


@pytest.mark.parametrize("what", ["cut", "other bytes"])
def test_a_broken_cache_costs_a_compilation(what: str, tmp_path: Path) -> None:
    run(tmp_path)
    files = [path for path in cache(tmp_path).rglob("*twice*") if path.is_file()]
    assert {path.suffix for path in files} == {".nbi", ".nbc"}
    for path in files:
        old = path.read_bytes()
        path.write_bytes(old[:40] if what == "cut" else old[:-300] + b"\xff" * 300)
    assert run(tmp_path).stdout == "0\n"
    assert run(tmp_path).stdout == "1\n"  # written again


def test_matplotlib_says_nothing_without_a_home_folder(tmp_path: Path) -> None:
    code = "from render_visuals.plots.style import new_figure; new_figure(1, 1)"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MPL", "XDG"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "HOME": "/dev/null", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
