"""Sweeps that would run other commands, fill the memory or never end are refused at once, with file and line."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from processes import BIN, error_lines

from saetools.cli.located_yaml import MOST_ALIASED, MOST_BYTES, MOST_LEVELS, read_yaml
from saetools.errors import UserError
from sweeps import bash, expand_sweep, write_sweep

TOY = """\
values: {word: a}
slurm:
  time: "1:00"
steps:
  show:
    outputs: {file: out/a}
    check: false
    command: touch {file}
"""
PWNED = "\\ntouch pwned\\n"  # as YAML's escapes in double quotes

# what is put for what -> the line at fault, and what must be said
SMUGGLED = {
    "exclusive": ('  time: "1:00"', f'  exclusive: "true{PWNED}"', 3, "no #SBATCH line can hold"),
    "nice": ('  time: "1:00"', f'  nice: "5{PWNED}"', 3, "no #SBATCH line can hold"),
    "propagate": ('  time: "1:00"', f'  propagate: "ALL{PWNED}"', 3, "no #SBATCH line can hold"),
    "comment": ('  time: "1:00"', '  comment: "a\\rb"', 3, "no #SBATCH line can hold"),
    "a Unicode line break": ('  time: "1:00"', '  comment: "a\\u2028b"', 3, "no #SBATCH line can hold"),
    "name of an option": ('  time: "1:00"', f'  "nice{PWNED}": 5', 3, "is no option of sbatch"),
    "sbatch": ("steps:", f'sbatch: ["--no-kill{PWNED}"]\nsteps:', 4, "no #SBATCH line can hold"),
    "block text": ("steps:", "sbatch:\n- |\n  --no-kill\n  touch pwned\nsteps:", 5, "no #SBATCH line can hold"),
    "sbatch of ours": ("steps:", "sbatch: [--array=0-9]\nsteps:", 4, "set by expand-sweep"),
    "sbatch, short": ("steps:", "sbatch: ['-n 2 -o log']\nsteps:", 4, "set by expand-sweep"),
    "sbatch, quotes": ("steps:", "sbatch: ['--comment=\"a']\nsteps:", 4, "cannot be split"),
    "first letters": ('  time: "1:00"', "  arra: 0-5", 3, "knows no option 'arra'"),
    "underscore": ('  time: "1:00"', "  open_mode: truncate", 3, "set by expand-sweep"),
    "state": ("values:", f'state: "out{PWNED}"\nvalues:', 1, "control characters"),
    "sweep's name": ("values:", f'name: "a{PWNED}"\nvalues:', 1, "use letters, digits"),
    "step's name": ("  show:", f'  "show{PWNED}":', 5, "use letters, digits"),
    "throttle": ("    check: false", "    check: false\n    throttle: ３", 8, "whole number"),
    "requeues": ("    check: false", f"    check: false\n    requeues: {'9' * 5000}", 8, "whole number"),
    "signal": ('  time: "1:00"', f"  signal: {'9' * 5000}", 3, "number of seconds"),
    "zero in a value": ("{word: a}", '{word: "a\\0b"}', 1, "no argument of a command can hold"),
    "zero in the file": ("{word: a}", "{word: a\0b}", 1, "control character"),
}  # fmt: skip


@pytest.mark.parametrize("case", SMUGGLED)
def test_no_value_becomes_a_line_of_a_script(tmp_path: Path, case: str) -> None:
    old, new, line, said = SMUGGLED[case]
    assert old in TOY
    write_sweep(tmp_path, TOY.replace(old, new, 1), "wrong.yml")
    message = error_lines(expand_sweep(tmp_path, "wrong.yml", "--sbatch", "jobs", code=1))
    assert re.match(rf"expand-sweep: error: wrong\.yml:{line}:\d+: ", message), message
    assert said in message
    assert not list(tmp_path.glob("jobs/*"))


def test_no_set_becomes_a_line_of_a_script(tmp_path: Path) -> None:
    write_sweep(tmp_path, TOY)
    for setting, said in (
        ("slurm.nice=5\ntouch pwned", "no #SBATCH line can hold"),
        ("show.slurm.exclusive=true\ntouch pwned", "no #SBATCH line can hold"),
        ("show.sbatch=--no-kill\ntouch pwned", "no #SBATCH line can hold"),
        (b"slurm.comment=\xff", "not UTF-8"),
        ('word=["\\0"]', "no argument of a command can hold"),
    ):
        done = subprocess.run(
            [str(BIN / "expand-sweep"), "toy.yml", "--sbatch", "jobs", "--set", setting],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1, done.stderr
        assert said in error_lines(done)
        assert not list(tmp_path.glob("jobs/*"))


def test_preamble_is_bash_and_names_of_files_are_not(tmp_path: Path) -> None:
    """What stands in a sweep's preamble runs in its jobs; no name of a file, folder or sweep does."""
    folder = tmp_path / "a\ntouch pwned"
    folder.mkdir()
    name = "s\ntouch pwned\n\\.yml"
    write_sweep(folder, TOY.replace("values:", "name: toy\npreamble: echo hello\nvalues:"), name)
    (folder / "Makefile").write_text(expand_sweep(folder, name, "--make").stdout)
    bash(folder, "make")
    assert (folder / "out/a").exists()
    message = error_lines(expand_sweep(folder, name, "--sbatch", "jobs", code=1))
    assert "no #SBATCH line can hold" in message  # the folder of the logs
    (tmp_path / name).write_text((folder / name).read_text())
    expand_sweep(tmp_path, name, "--sbatch", "jobs")
    script = (tmp_path / "jobs/show.sbatch").read_text()
    assert "\necho hello\n" in script
    bash(tmp_path, "bash jobs/show.sbatch", env={**os.environ, "SLURM_ARRAY_TASK_ID": "0"})
    assert (tmp_path / "out/a").exists()
    assert not list(tmp_path.rglob("pwned"))


def test_a_folder_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xff"))
    folder.mkdir()
    write_sweep(folder, TOY)
    for option in (["--make"], ["--sbatch", "jobs"]):
        assert "not UTF-8" in error_lines(expand_sweep(folder, "toy.yml", *option, code=1))


def test_joined_tasks_keep_letters_beyond_the_first_65536(tmp_path: Path) -> None:
    write_sweep(
        tmp_path,
        """
        steps:
          train:
            grid: {lr: ["\\U0001F426", "a\\x85b\\x7f", "\\u2028"]}
            outputs: {sae: "out/{lr}.h5"}
            check: false
            command: touch {sae}
            together: {over: [lr], command: "touch {runs} {folder}"}
        """,
    )
    expand_sweep(tmp_path, "toy.yml")
    (runs,) = tmp_path.glob("out/toy/.sweep/together/*.yml")
    assert [run["lr"] for run in read_yaml(runs)["runs"]] == ["\U0001f426", "a\x85b\x7f", "\u2028"]  # type: ignore


def bomb(levels: int, width: int = 10) -> str:
    """levels + 1 lists, each of ten aliases of the one before."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * width)}]" for i in range(levels)]
    return "\n".join(lines)


MONSTERS = {
    "aliases of aliases": (bomb(9), "aliases repeat more than"),
    "aliases in keys and values": ("a: &a {b: 1}\nc: {*a : *a}", "expected a plain key"),
    "a list in itself": ("steps: &s [*s]", "stands inside of what it repeats"),
    "a mapping in itself": ("steps: &s\n  a: {b: [1, *s]}", "stands inside of what it repeats"),
    "no such anchor": ("steps: *s", "undefined alias"),
    "lists in lists": ("a: " + "[" * 100_000, "levels"),
    "mappings in mappings": ("a: " + "{a: " * 100_000, "levels"),
    "dashes": ("- " * 50_000 + "a", "levels"),
    "question marks": ("? " * 50_000 + "a", "plain key"),
    "levels of aliases": (
        "a0: &a0 [[[[[[[[[[x]]]]]]]]]]\n"
        + "\n".join(f"a{i + 1}: &a{i + 1} [[[[[[[[[[*a{i}]]]]]]]]]]" for i in range(20)),
        "levels",
    ),
    "merge": ("a: &a {b: 1}\nc:\n  <<: *a", "expected a plain key"),
    "too large": ("a: " + "x" * MOST_BYTES, "larger than"),
    "grid": (
        "steps: {a: {grid: {" + ", ".join(f"v{i}: [{', '.join(map(str, range(50)))}]" for i in range(20))
        + "}, outputs: {o: o}, command: touch}}",
        "more than 100,000 runs",
    ),
    "lists of lists of values": (
        "values: {a0: [x, y, z], " + ", ".join(f'a{i + 1}: ["{{a{i}}}", "{{a{i}}}"]' for i in range(60))
        + "}\nsteps: {a: {outputs: {o: o}, command: touch}}",
        "longer than",
    ),
    "texts of texts": (
        "values: {a0: xxxxxxxxxx, " + ", ".join(f'a{i + 1}: "{{a{i}}}{{a{i}}}"' for i in range(60))
        + "}\nsteps: {a: {outputs: {o: o}, command: touch}}",
        "longer than",
    ),
    "a zero": ("a: b\nc: \0", "control character"),
    "half a pair": ('a: "\\ud800"', ""),
}  # fmt: skip


@pytest.mark.parametrize("case", MONSTERS)
def test_monsters_are_refused_at_once(tmp_path: Path, case: str) -> None:
    """In one second beside what it takes to read a good sweep."""
    text, said = MONSTERS[case]
    path = write_sweep(tmp_path, text)
    from expand_sweep.sweep import read_sweep

    started = time.perf_counter()
    with pytest.raises(UserError) as raised:
        read_sweep(path)
    assert time.perf_counter() - started < 1
    assert str(raised.value).startswith(f"{path}:")
    assert said in str(raised.value)
    assert len(str(raised.value)) < 1000


def test_monsters_end_the_command_with_one(tmp_path: Path) -> None:
    for case in ("aliases of aliases", "a list in itself", "lists in lists"):
        write_sweep(tmp_path, MONSTERS[case][0])
        assert MONSTERS[case][1] in error_lines(expand_sweep(tmp_path, "toy.yml", code=1))


def test_what_is_allowed_is_read(tmp_path: Path) -> None:
    levels = MOST_LEVELS - 1
    deep = read_yaml(write_sweep(tmp_path, "a: " + "[" * levels + "x" + "]" * levels))
    for _ in range(levels):
        (deep,) = deep.values() if isinstance(deep, dict) else deep  # type: ignore
    many = read_yaml(write_sweep(tmp_path, f"a: &a [{'x, ' * 99}]\nb: [{'*a, ' * (MOST_ALIASED // 100)}]"))
    assert sum(map(len, many["b"])) == 99 * MOST_ALIASED // 100
    many["b"][0].append("y")  # type: ignore # a copy of its own
    assert len(many["a"]) == len(many["b"][1]) == 99  # type: ignore


ENCODINGS = {
    "byte order mark": (b"\xef\xbb\xbf" + TOY.encode(), ""),
    "CRLF": (TOY.replace("\n", "\r\n").encode(), ""),
    "UTF-16": (TOY.encode("utf-16"), "toy.yml:1: not UTF-8 text (byte 0xff)"),
    "Latin-1": (TOY.replace("word: a", "word: \xe9").encode("latin-1"), "toy.yml:1: not UTF-8 text (byte 0xe9)"),
    "empty": (b"", "expected a mapping with `steps:`"),
}  # fmt: skip


@pytest.mark.parametrize("case", ENCODINGS)
def test_encodings(tmp_path: Path, case: str) -> None:
    content, said = ENCODINGS[case]
    (tmp_path / "toy.yml").write_bytes(content)
    done = expand_sweep(tmp_path, "toy.yml", code=1 if said else 0)
    assert said in error_lines(done) if said else done.stdout == "touch out/a\n"


def test_a_folder_or_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="directory; expected a sweep"):
        read_yaml(tmp_path)
    path = write_sweep(tmp_path, TOY)
    path.chmod(0)
    if os.geteuid():
        with pytest.raises(UserError, match="Permission denied"):
            read_yaml(path)


def test_commands_that_cannot_be_checked_are_named(tmp_path: Path) -> None:
    """One line for each program, and none where it is meant."""
    for name in ("silent", "silent2"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 3\n")
        (tmp_path / name).chmod(0o755)
    text = """
        steps:
          a: {grid: {i: [1, 2]}, outputs: {file: "out/a{i}"}, command: "./silent --whatever {file}"}
          b: {outputs: {file: out/b}, command: "./silent2 {file}", check: false}
          c: {outputs: {file: out/c}, command: bash nothing}
        """
    write_sweep(tmp_path, text)
    done = expand_sweep(tmp_path, "toy.yml")
    (line,) = done.stderr.splitlines()
    assert line.startswith("expand-sweep: ./silent: its commands are not checked")
    assert "check: false" in line
    assert len(done.stdout.splitlines()) == 4


BROKEN_CLICK = """\
import atexit, click


@click.command(cls={cls})
@click.option("--mode", type=click.Choice(["fast", "exact"]))
def cli(mode):
    pass

{more}
"""


@pytest.mark.parametrize(
    "more",
    [
        "raise SystemExit(3)",
        "import os; os._exit(0)",
        "atexit.register(print, 'bye')",
        "cli.make_parser = None",
    ],
)
def test_a_click_program_that_breaks_is_said_to_be_unchecked(tmp_path: Path, more: str) -> None:
    import sys

    pytest.importorskip("click")
    (tmp_path / "odd").write_text(f"#!{sys.executable}\nfrom odd_program import cli\nraise SystemExit(4)\n")
    (tmp_path / "odd").chmod(0o755)
    (tmp_path / "odd_program.py").write_text(BROKEN_CLICK.format(cls="click.Command", more=more))
    write_sweep(tmp_path, "steps: {a: {outputs: {file: out/a}, command: ./odd --mode rough}}")
    done = expand_sweep(tmp_path, "toy.yml", env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.stderr.startswith("expand-sweep: ./odd: its commands are not checked")
    assert done.stdout.endswith("/odd --mode rough\n")


BROKEN_RECORDS = {
    "no JSON": b"{",
    "a list": b"[]",
    "other keys": b'{"settings": []}',
    "deep": b"[" * 100_000,
    "a number for a list": b'{"settings": 3, "max_parallel": 16, "root": "/", "scripts": "jobs"}',
    "numbers in the list": b'{"settings": [3], "max_parallel": 16, "root": "/", "scripts": "jobs"}',
    "a text for a number": b'{"settings": [], "max_parallel": "16", "root": "/", "scripts": "jobs"}',
    "zero": b'{"settings": [], "max_parallel": 0, "root": "/", "scripts": "jobs"}',
    "null": b'{"settings": [], "max_parallel": 16, "root": null, "scripts": "jobs"}',
    "UTF-16": b"\xff\xfe{\0}\0",
}


@pytest.mark.parametrize("case", BROKEN_RECORDS)
def test_a_broken_record_of_a_submission_is_named(tmp_path: Path, case: str) -> None:
    write_sweep(tmp_path, TOY)
    expand_sweep(tmp_path, "toy.yml", "--sbatch", "jobs")
    (tmp_path / "jobs/submitted.json").write_bytes(BROKEN_RECORDS[case])
    message = error_lines(expand_sweep(tmp_path, "jobs", "--status", code=1))
    assert message.startswith("expand-sweep: error: jobs/submitted.json: the file is broken")


def test_broken_notes_of_tasks_are_named_or_taken_for_other_commands(tmp_path: Path) -> None:
    write_sweep(tmp_path, TOY)
    expand_sweep(tmp_path, "toy.yml", "--sbatch", "jobs")
    bash(tmp_path, "bash jobs/show.sbatch", env={**os.environ, "SLURM_ARRAY_TASK_ID": "0"})
    assert "show,0,done" in expand_sweep(tmp_path, "jobs", "--status").stdout
    state = tmp_path / "out/toy/.sweep"
    (note,) = (state / "done").iterdir()
    note.write_bytes(b"\xff\xfe")
    assert (
        "show,0,waiting,its outputs were made by another" in expand_sweep(tmp_path, "jobs", "--status").stdout
    )
    (state / "failed" / note.name).write_bytes(b"\xff")
    assert "show,0,failed" in expand_sweep(tmp_path, "jobs", "--status").stdout
    for text in (b"1\tshow\tx\n", b"1\n", b"\xff\n", b"1\tshow\t" + b"9" * 5000):
        (state / "jobs").write_bytes(text)
        message = error_lines(expand_sweep(tmp_path, "jobs", "--status", code=1))
        assert "out/toy/.sweep/jobs: line 1 is broken" in message


def test_odd_answers_of_slurm_are_passed_over(tmp_path: Path) -> None:
    write_sweep(tmp_path, TOY)
    expand_sweep(tmp_path, "toy.yml", "--sbatch", "jobs")
    (tmp_path / "out/toy/.sweep/jobs").write_text("7\tshow\t0\n")
    (tmp_path / "squeue").write_text("#!/bin/sh\nprintf 'slurm: w\\377rning\\n\\n7|0|PENDING|a|b\\n'\n")
    (tmp_path / "squeue").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    status = expand_sweep(tmp_path, "jobs", "--status", env=environment).stdout
    assert "show,0,waiting,PENDING: a|b" in status
