"""What is wrong with a sweep is said with its file and line, before anything of it runs."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from processes import error_lines

from sweeps import expand_sweep, write_sweep

GOOD = """\
values:
  out: out
steps:
  train:
    grid:
      layer: [3, 5]
      lr: [1e-3, 3e-3]
    outputs:
      sae: "{out}/{layer}-{lr}.h5"
    command: >-
      train-sae acts
      --layer={layer}
      --lr {lr}
      --activation topk
      --out {sae}
  score:
    inputs:
      saes: {outputs: train}
    outputs:
      table: "{out}/table.csv"
    command: score-traits --train acts --test acts --scorer={saes} --out {table}
"""

# what is put for what -> the line at fault, and what must be said
WRONG = {
    "unknown key of the sweep": ("values:", "valeus:", 1, "did you mean values?"),
    "unknown key of a step": ("    grid:", "    gird:", 5, "did you mean grid?"),
    "unknown key of an input": ("{outputs: train}", "{output: train}", 18, "did you mean outputs?"),
    "key twice": ("      lr: [1e-3, 3e-3]", "      layer: [1]", 7, "stands here twice"),
    "no YAML": ("    grid:", "    grid: [", 7, "not YAML"),
    "no command": ("    command: score-traits --train", "    values: {x: y}\n#", 17, "has no `command:`"),
    "unknown reference": ("--layer={layer}", "--layer={layr}", 10, "did you mean layer or"),
    "brace alone": ("--layer={layer}", "--layer={layer", 10, "alone"),
    "unknown option": ("--lr {lr}", "--lrr {lr}", 13, "did you mean --lr"),
    "no number": ("[1e-3, 3e-3]", "[1e-3, fast]", 7, "train-sae --lr 'fast': "),
    "no whole number": ("[3, 5]", "[3, 5.5]", 6, "train-sae --layer '5.5': "),
    "number out of range": ("3e-3]", "-3e-3]", 7, "train-sae --lr '-3e-3': "),
    "unknown choice": ("topk", "tokp", 14, "topk, batchtopk, relu or jumprelu"),
    "missing option": ("--out {sae}", "", 10, "train-sae needs --out"),
    "option without value": ("--out {table}", "--out", 21, "'--out' requires an argument"),
    "two tasks, one file": ("{layer}-{lr}.h5", "{layer}.h5", 9, "put what differs into its name: {lr}"),
    "two steps, one file": ("{out}/table.csv", "{out}/3-1e-3.h5", 20, "train[0] and score[0] both write"),
    "no such step": ("{outputs: train}", "{outputs: trian}", 18, "did you mean train?"),
    "no such output": ("{outputs: train}", "{outputs: train.sea}", 18, "did you mean sae?"),
    "no such program": ("train-sae acts", "train-soe acts", 10, "no program 'train-soe'"),
    "cycle by name": ("    grid:", "    needs: score\n    grid:", 19, "wait for each other"),
    "cycle by files": ("    grid:", "    inputs: {t: out/table.csv}\n    grid:", 18, "wait for each other"),
    "argument too many": (
        "score-traits --train",
        "score-traits extra --train",
        21,
        "no place for the argument 'extra'",
    ),
    "reads what it writes": (
        "    grid:",
        '    inputs: {x: "{out}/3-1e-3.h5"}\n    grid:',
        5,
        "reads out/3-1e-3.h5",
    ),
    "varied twice": (
        "    outputs:\n      sae",
        "    zip: {lr: [1]}\n    outputs:\n      sae",
        8,
        "varied twice",
    ),
    "zip of two lengths": (
        "    outputs:\n      sae",
        "    zip: {a: [1], b: [1, 2]}\n    outputs:\n      sae",
        8,
        "differ in length",
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "acts").mkdir()
    write_sweep(tmp_path, GOOD, "good.yml")
    return tmp_path


def test_the_sweep_without_mistakes_is_expanded(folder: Path) -> None:
    assert len(expand_sweep(folder, "good.yml").stdout.splitlines()) == 5


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_refused_with_file_and_line(folder: Path, case: str) -> None:
    old, new, line, said = WRONG[case]
    assert old in GOOD
    write_sweep(folder, GOOD.replace(old, new, 1), "wrong.yml")
    message = error_lines(expand_sweep(folder, "wrong.yml", "--sbatch", "jobs", code=1))
    assert re.match(rf"expand-sweep: error: wrong\.yml:{line}:\d+: ", message), message
    assert said in message
    assert not (folder / "jobs").exists()


SLURM_WRONG = {
    "array: 1-3": "throttle",
    "dependency: 'afterok:1'": "needs",
    "output: x.log": "logs are in",
    "tiem: 10": "knows no option 'tiem'",
    "signal: USR1": "number of seconds",
    'comment: "a\\nb"': "no #SBATCH line can hold",
}


@pytest.mark.parametrize("option", SLURM_WRONG)
def test_options_of_sbatch_that_cannot_be_are_refused(folder: Path, option: str) -> None:
    write_sweep(folder, GOOD.replace("    grid:", f"    slurm:\n      {option}\n    grid:"), "wrong.yml")
    message = error_lines(expand_sweep(folder, "wrong.yml", "--sbatch", "jobs", code=1))
    assert re.search(r"wrong\.yml:6:\d+: ", message)
    assert SLURM_WRONG[option] in message
    assert not (folder / "jobs").exists()


def test_values_of_joined_tasks_are_checked_too(folder: Path) -> None:
    together = '    together: {over: [lr], command: "train-sae acts --layer={layer} --sweep {runs} --out {folder}"}\n'
    write_sweep(folder, GOOD.replace("    grid:", together + "    grid:"), "joined.yml")
    assert len(expand_sweep(folder, "joined.yml").stdout.splitlines()) == 3
    write_sweep(
        folder, GOOD.replace("    grid:", together + "    grid:").replace("3e-3", "fast"), "joined.yml"
    )
    message = error_lines(expand_sweep(folder, "joined.yml", code=1))
    assert "joined.yml:8:18: train-sae --lr 'fast': " in message
    write_sweep(
        folder, GOOD.replace("    grid:", together.replace("[lr]", "[lrs]") + "    grid:"), "joined.yml"
    )
    message = error_lines(expand_sweep(folder, "joined.yml", code=1))
    assert "joined.yml:5:23: over: the step does not vary 'lrs'; did you mean lr?" in message


def test_inputs_that_nobody_makes_are_named(folder: Path) -> None:
    write_sweep(folder, GOOD.replace("    grid:", "    inputs: {data: no/data}\n    grid:"), "wrong.yml")
    said = "wrong.yml:5:14: no/data does not exist, and no step writes it"
    assert said in error_lines(expand_sweep(folder, "wrong.yml", "--make", code=1))
    assert said in expand_sweep(folder, "wrong.yml").stderr  # the commands can be looked at anywhere


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--set", "lr=3"], 2, "has no value 'lr'"),
        (["--set", "ot=3"], 2, "did you mean out?"),
        (["--set", "tran.grid.lr=3"], 2, "did you mean train?"),
        (["--set", "out"], 2, "expected KEY=VALUE"),
        (["--set", "train.grid.lr=[fast]"], 1, "--set train.grid.lr=[fast]: train-sae --lr 'fast'"),
        (["--step", "scores"], 2, "has the steps train, score"),
        (["--make", "--status"], 2, "choose one"),
        (["--max-parallel", "0"], 2, "max-parallel"),
    ],
)
def test_wrong_options(folder: Path, arguments: list[str], code: int, said: str) -> None:
    assert said in error_lines(expand_sweep(folder, "good.yml", *arguments, code=code))


def test_a_program_that_only_prints_help_is_checked_by_its_text(folder: Path) -> None:
    program = folder / "mytool"
    program.write_text("#!/bin/sh\necho 'usage: mytool [--speed N] [--out FILE]'\n")
    program.chmod(0o755)
    text = "steps: {a: {outputs: {file: out/a}, command: './mytool --spede 3 --out {file}'}}"
    write_sweep(folder, text, "own.yml")
    assert "did you mean --speed?" in error_lines(expand_sweep(folder, "own.yml", code=1))
    write_sweep(folder, text.replace("spede", "speed"), "own.yml")
    assert "--speed 3" in expand_sweep(folder, "own.yml").stdout
    write_sweep(folder, text.replace("outputs:", "check: false, outputs:"), "own.yml")
    assert "--spede 3" in expand_sweep(folder, "own.yml").stdout


CLICK_PROGRAM = """\
#!{python}
from odd_program import cli
"""
ODD_PROGRAM = """\
import click

@click.group()
def cli():
    pass

@cli.command()
@click.option("--mode", type=click.Choice(["fast", "exact"]), default="fast")
@click.option("--size", nargs=2, type=int)
@click.option("-n", "--number", multiple=True, type=click.IntRange(1, 9))
@click.argument("source", type=click.Path(exists=True))
def work(mode, size, number, source):
    open("ran", "w").close()
"""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("work {{file}} --mode exact --size 3 4 -n1 --number=9", ""),
        ("work --help", ""),
        ("wrok {{file}}", "odd has no command 'wrok'; it has work"),
        ("work {{file}} --mode rough", "odd --mode 'rough': "),
        ("work {{file}} --size 3 x", "odd --size '3 x': "),
        ("work {{file}} -n 10", "odd --number '10': "),
        ("work", "odd needs SOURCE"),
        ("work {{file}} b", "no place for the argument 'b'"),
        ("work {{file}} --moed fast", "odd has no option --moed; did you mean --mode?"),
    ],
)
def test_other_click_programs_are_checked_by_their_own_parser(folder: Path, words: str, said: str) -> None:
    """A group of commands, whose input files do not exist yet; nothing of it is run."""
    pytest.importorskip("click")
    program = folder / "odd"
    program.write_text(CLICK_PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    (folder / "odd_program.py").write_text(ODD_PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = f"./odd {words.replace('{{', '{').replace('}}', '}')}"
    write_sweep(folder, f"steps: {{a: {{outputs: {{file: out/a}}, command: '{command}'}}}}", "own.yml")
    done = expand_sweep(folder, "own.yml", code=1 if said else 0, env=environment)
    assert said in (error_lines(done) if said else done.stdout)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("--lr {lr}", "--lrr {lr}", 13, "saetools has no option --lrr; did you mean --lr"),
        ("[1e-3, 3e-3]", "[1e-3, fast]", 7, "--lr 'fast': "),
        ("topk", "tokp", 14, "topk, batchtopk, relu or jumprelu"),
        ("train-sae acts", "train-soe acts", 10, "has no command 'train-soe'; it has audit-latents, "),
    ],
)
def test_a_tool_that_saetools_runs_is_checked_as_the_tool(
    old: str, new: str, line: int, said: str, folder: Path
) -> None:
    """`saetools train-sae ...` is `train-sae ...`."""
    through = GOOD.replace("      train-sae acts", "      saetools train-sae acts")
    write_sweep(folder, through, "through.yml")
    assert "saetools train-sae acts --layer=3 --lr 1e-3" in expand_sweep(folder, "through.yml").stdout
    write_sweep(folder, through.replace(old, new, 1), "wrong.yml")
    message = error_lines(expand_sweep(folder, "wrong.yml", code=1))
    assert re.match(rf"expand-sweep: error: wrong\.yml:{line}:\d+: saetools", message), message
    assert said in message
