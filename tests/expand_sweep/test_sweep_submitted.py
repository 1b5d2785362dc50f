"""expand-sweep keeps what was submitted: a forgotten --set does not turn finished tasks into others."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import subprocess
from pathlib import Path

import pytest
from in_process import runner
from processes import error_lines

from expand_sweep.cli import app
from expand_sweep.sweep import read_sweep
from expand_sweep.tasks import expand
from saetools.cli.located_yaml import as_yaml, read_yaml
from sweeps import ODD_VALUES, quoted_yaml, write_sweep

TOY = """
    values: {word: one, more: }
    state: out/state
    steps:
      first:
        grid: {n: [0, 1]}
        outputs: {file: "out/first-{n}"}
        command: cp --no-clobber /dev/null {file} {more} # {word}
        check: false
"""


run = runner("expand-sweep", app)


def expand_sweep(folder: Path, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    with contextlib.chdir(folder):
        return run(*arguments, "--max-array", 100, code=code)  # given, so that no cluster is asked


@pytest.fixture(autouse=True)
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "none.conf"))


@pytest.fixture
def submitted(tmp_path: Path) -> Path:
    """jobs/ of a sweep with --set, whose tasks have both run."""
    write_sweep(tmp_path, TOY.replace(" # {word}", " --suffix={word}"))
    expand_sweep(tmp_path, "toy.yml", "--set", "word=two", "--sbatch", "jobs")
    sweep = read_sweep(tmp_path / "toy.yml", ["word=two"])
    for task in expand(sweep, 16)["first"]:
        (tmp_path / task.output_paths[0]).touch()
        (tmp_path / "out/state/done" / task.stamp).write_text(task.digest + "\n")
    return tmp_path


def states(folder: Path, *arguments: object) -> list[str]:
    done = expand_sweep(folder, *arguments, "--status")
    return [row["state"] for row in csv.DictReader(io.StringIO(done.stdout))]


def test_the_folder_knows_its_settings(submitted: Path) -> None:
    assert states(submitted, "jobs") == ["done", "done"]
    assert states(submitted, "toy.yml", "--set", "word=two") == ["done", "done"]
    told = json.loads((submitted / "jobs" / "submitted.json").read_text())
    assert (told["settings"], told["max_parallel"]) == (["word=two"], 16)


@pytest.mark.parametrize(
    "settings", [[], ["--set", "word=one"], ["--set", "word=two", "--max-parallel", "3"]], ids=str
)
def test_a_status_with_other_settings_is_refused(submitted: Path, settings: list[str]) -> None:
    done = expand_sweep(submitted, "toy.yml", *settings, "--status", code=1)
    said = error_lines(done)
    assert "was submitted with --set 'word=two' --max-parallel 16" in said
    assert f"expand-sweep {submitted / 'jobs'} --status" in said


def test_resubmitting_takes_another_value_but_no_forgotten_key(submitted: Path) -> None:
    done = expand_sweep(submitted, "toy.yml", "--resubmit", "jobs", code=1)
    assert "--resubmit jobs" in error_lines(done)
    expand_sweep(submitted, "jobs", "--resubmit", "again")
    assert states(submitted, "again") == ["done", "done"]
    expand_sweep(submitted, "toy.yml", "--set", "word=three", "--resubmit", "jobs")
    assert states(submitted, "jobs") == ["waiting", "waiting"]  # other commands than those that were done
    assert "its outputs were made by another command" in expand_sweep(submitted, "jobs", "--status").stdout


def test_a_submission_of_an_earlier_version_is_taken_as_it_is_given(submitted: Path) -> None:
    for place in ("jobs", "out/state"):
        (submitted / place / "submitted.json").unlink()
    assert states(submitted, "toy.yml", "--set", "word=two") == ["done", "done"]
    said = error_lines(expand_sweep(submitted, "jobs", "--status", code=1))
    assert "give the sweep's YAML" in said


def test_the_folder_belongs_to_the_place_it_was_written_in(submitted: Path) -> None:
    inner = submitted / "inner"
    inner.mkdir()
    done = expand_sweep(inner, "../jobs", "--status", code=1)
    assert f"relative to {submitted}" in error_lines(done)


def test_a_saved_sweep_is_read_as_the_same(tmp_path: Path) -> None:
    values = ", ".join(f"v{i}: {quoted_yaml(value)}" for i, value in enumerate(ODD_VALUES))
    path = write_sweep(
        tmp_path,
        f"""
        values: {{{values}, none: , list: [1e-3, 007, on], empty: []}}
        steps:
          first: {{outputs: {{file: out/x}}, command: [touch, "{{file}}", "{{none}}"], requeues: 3}}
        """,
    )
    table = read_yaml(path)
    saved = tmp_path / "saved.yml"
    saved.write_text(as_yaml(table), encoding="utf-8")
    assert read_yaml(saved) == table
    commands = [expand(read_sweep(one), 16)["first"][0].command for one in (path, saved)]
    assert commands[0] == commands[1]
