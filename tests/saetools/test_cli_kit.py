"""What every command does alike: exit codes, streams, errors, signals, fast help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from processes import BIN

import saetools

TOOLS = sorted(path.parent.name for path in (Path(__file__).parents[2] / "tools").glob("*/pyproject.toml"))

PROGRAM = """
import errno, os, sys, time
from pathlib import Path
from saetools.files.atomic import atomic_path
from saetools.cli.app import VerboseOption, VersionOption, new_app, parse_numbers, run, write_line
from saetools.log import logger
from saetools.errors import UsageError, UserError
from saetools.cli.paths import iterate_paths
from saetools.cli.progress import Progress

app = new_app()

@app.command()
def main(what: str, verbose: VerboseOption = False, version: VersionOption = False) -> None:
    if what == "user":
        raise UserError("a.h5: found this, expected that; do so")
    if what == "usage":
        raise UsageError("--flag x: expected a number")
    if what == "argument":
        raise UsageError("`what` argument, `verbose` mode, column `path`: expected another")
    if what == "numbers":
        parse_numbers("--layers", "3,x", int)
    if what == "full":
        raise OSError(errno.ENOSPC, "No space left on device", "/data/a.h5")
    if what == "bug":
        raise ZeroDivisionError("our own mistake")
    if what == "lines":
        for i in range(100_000):
            write_line(str(i))
    if what == "paths":
        for path in iterate_paths([Path("-")], "files"):
            write_line(f"got {path}")
    if what == "wait":
        with atomic_path(Path("target.txt")) as partial:
            partial.write_text("half")
            write_line("ready")
            time.sleep(60)
    if what == "say":
        logger.info("for people")
        with Progress("counting", total=3, unit="things") as progress:
            progress.advance(3, loss="0.1")
        write_line("data")

run("demo", app)
"""


@pytest.fixture
def demo(tmp_path: Path) -> list[str]:
    program = tmp_path / "demo.py"
    program.write_text(PROGRAM)
    return [sys.executable, str(program)]


def run(demo: list[str], *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*demo, *arguments], capture_output=True, text=True, timeout=60, check=False, **options
    )  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("what", "code", "said"),
    [
        ("user", 1, "demo: error: a.h5: found this, expected that; do so\n"),
        ("usage", 2, "demo: error: --flag x: expected a number\n"),
        ("argument", 2, "demo: error: WHAT argument, --verbose mode, column `path`: expected another\n"),
        ("numbers", 2, "demo: error: --layers '3,x': expected numbers with commas between them\n"),
        (
            "full",
            1,
            "demo: error: /data/a.h5: the disk is full; free some space or write elsewhere, then run it again\n",
        ),
    ],
)
def test_errors(demo: list[str], what: str, code: int, said: str) -> None:
    done = run(demo, what)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", said)


def test_verbose_shows_where(demo: list[str]) -> None:
    assert "Traceback" in run(demo, "user", "--verbose").stderr


def test_our_own_mistakes_keep_their_traceback(demo: list[str]) -> None:
    done = run(demo, "bug")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["user", "--no-such"]])
def test_wrong_usage(demo: list[str], arguments: list[str]) -> None:
    done = run(demo, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("demo: error: ")
    assert done.stderr.endswith("demo --help lists the options and arguments\n")


def test_words_on_stderr_data_on_stdout(demo: list[str]) -> None:
    done = run(demo, "say")
    assert (done.returncode, done.stdout, done.stderr) == (0, "data\n", "demo: for people\n")


def test_a_closed_pipe_is_no_error(demo: list[str]) -> None:
    script = '"$@" lines | head -n 1; echo "${PIPESTATUS[0]}"'
    done = run(["bash", "-c", script, "bash"], *demo)
    assert (done.stdout, done.stderr) == ("0\n0\n", "")


def test_paths_are_handed_on_as_they_arrive(demo: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen([*demo, "paths"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    for name in ("a", "b c"):
        (tmp_path / name).touch()
        process.stdin.write(f"{tmp_path / name}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"got {tmp_path / name}\n"  # while stdin is still open
    process.stdin.close()
    assert process.wait(timeout=10) == 0


def test_sigkill_leaves_nothing_under_the_name_and_the_next_run_tidies_up(
    demo: list[str], tmp_path: Path
) -> None:
    for _ in range(2):
        process = subprocess.Popen([*demo, "wait"], cwd=tmp_path, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait()
        left = [path.name for path in tmp_path.iterdir() if path.name != "demo.py"]
        assert len(left) == 1  # the second run has removed what the first one left
        assert left[0].startswith(".target.txt.")


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_answers_at_once(name: str) -> None:
    version = subprocess.run(
        [BIN / name, "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert version.stdout == f"{name} {saetools.__version__}\n"
    # What makes a command slow to answer is what it imports; the clock depends on the machine.
    done = subprocess.run([BIN / name, "--help"], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip()
    heavy = subprocess.run(
        [sys.executable, "-X", "importtime", BIN / name, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    modules = {line.rsplit("|", 1)[-1].strip() for line in heavy.stderr.splitlines() if "|" in line}
    assert not modules & {
        "torch",
        "timm",
        "open_clip",
        "numba",
        "pandas",
        "scipy",
        "matplotlib",
        "h5py",
        "sklearn",
    }


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_is_documented(name: str) -> None:
    root = Path(__file__).parents[2]
    assert f"tools/{name}" in (root / "README.md").read_text(), "README.md lists the tools"
    readme = (root / "tools" / name / "README.md").read_text()
    assert f"$ {name} " in readme, "its README shows a command that can be run"
