"""The examples at the end of each --help: they run as they stand, one after the other, on the drawn birds."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from processes import BIN

ROOT = Path(__file__).resolve().parents[2]

# In the order of the README's walk: what a command reads, an earlier one writes.
COMMANDS = (
    "dump-acts",
    "train-sae",
    "score-traits",
    "encode-acts",
    "fit-probes",
    "fit-heads",
    "edit-latents",
    "audit-latents",
    "render-visuals page",
    "render-visuals latents",
    "render-visuals plot",
    "collect-runs",
    "convert-sae",
    "check-files",
    "expand-sweep",
)


def examples(command: str) -> list[str]:
    """The commands after the line `Examples:` of a command's help; a long one that was folded is one again."""
    done = subprocess.run(
        [BIN / command.split()[0], *command.split()[1:], "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "300"},
    )
    lines = [line.strip() for line in done.stdout.splitlines()]
    return [line for line in lines[lines.index("Examples:") + 1 :] if line]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the root of a checkout has, and the drawn birds."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("examples", "sweeps", "docs"):
        (folder / name).symlink_to(ROOT / name)
    make_birds = [sys.executable, "examples/birds/make_birds.py", "data/birds", "--count", "8"]
    subprocess.run(make_birds, cwd=folder, check=True)
    return folder


def test_every_command_is_here() -> None:
    tools = {path.parent.name for path in ROOT.glob("tools/*/pyproject.toml")}
    assert {command.split()[0] for command in COMMANDS} == tools


@pytest.mark.slow
def test_examples_run(checkout: Path) -> None:
    for command in COMMANDS:
        found = examples(command)
        assert 2 <= len(found) <= 4, f"{command} --help ends with {len(found)} examples"
        for line in found:
            assert re.match(rf"(\w+ .*\| )?{command}\b", line), f"{command} --help: {line}"
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", line],
                cwd=checkout,
                env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
            assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_fit_a_terminal(command: str) -> None:
    for line in examples(command):
        assert len(line) <= 160, line  # two lines of 80 columns
        assert shlex.split(line)[0] in {c.split()[0] for c in COMMANDS}
