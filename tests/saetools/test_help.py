"""--help, choices, completion of the shell, and `saetools`, which runs the tools."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main
from processes import BIN, error_lines

import saetools

ROOT = Path(__file__).parents[2]
TOOLS = sorted(path.parent.name for path in ROOT.glob("tools/*/pyproject.toml"))
PROGRAMS = ["saetools", *TOOLS]


def run(*command: Any, **settings: Any) -> subprocess.CompletedProcess[str]:
    program, *rest = map(str, command)
    return subprocess.run([BIN / program, *rest], capture_output=True, text=True, timeout=120, **settings)


def command_of(tool: str) -> Any:
    return typer.main.get_command(importlib.import_module(f"{tool.replace('-', '_')}.cli").app)


def commands() -> Iterator[tuple[str, Any]]:
    for tool in TOOLS:
        command = command_of(tool)
        yield tool, command
        for name, each in getattr(command, "commands", {}).items():
            yield f"{tool} {name}", each


@pytest.mark.parametrize("tool", TOOLS)
def test_help_is_plain_and_without_rich(tool: str) -> None:
    """In a pipe there are no boxes, no colours and no shortened names; Rich would double the time to answer."""
    done = run(tool, "--help", check=True, env=os.environ | {"COLUMNS": "80", "PYTHONPROFILEIMPORTTIME": "1"})
    assert re.fullmatch(r"[\x20-\x7e\n]+", done.stdout), "only plain characters"
    modules = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "typer" in modules
    assert "rich" not in modules or hasattr(typer.core, "rich")  # older versions of Typer import it always
    assert "Common options:" in done.stdout
    for parameter in command_of(tool).params:
        options = (
            () if parameter.param_type_name == "argument" else (*parameter.opts, *parameter.secondary_opts)
        )
        for option in options:
            assert option in done.stdout, option


def test_many_options_stand_in_groups_that_name_options_that_are_there() -> None:
    for name, command in commands():
        there = {parameter.name for parameter in command.params}
        named = [each for listed in command.groups.values() for each in listed.split()]
        assert set(named) <= there, name
        assert len(named) == len(set(named)), name
        if len(there) > 12:
            assert len(command.groups) >= 2, f"{name} has {len(there)} options in no groups"


def test_defaults_are_shown() -> None:
    shown = " ".join(run("dump-acts", "--help", check=True).stdout.split())
    for text in ("--dtype float16|bfloat16|float32|int8", "[default: float16]", "[default: 32; x>=1]"):
        assert text in shown, text


@pytest.mark.parametrize(
    ("command", "wrong", "said"),
    [
        ("dump-acts x --model m --layers 1 --out o", "--layout cub20", "did you mean cub200?"),
        ("dump-acts x --model m --layers 1 --out o", "--dtype float15", "did you mean float16"),
        (
            "collect-runs x",
            "--format markdwn",
            "expected one of csv, markdown, latex; did you mean markdown?",
        ),
        ("encode-acts x --scorer s --out o", "--dtype int8", "expected one of float32, float16"),
        ("score-traits --train a --test b --scorer c", "--bootstrap-by img", "did you mean image?"),
        ("train-sae x --out o.h5", "--activation swish", "expected one of topk, batchtopk, relu, jumprelu"),
    ],
)
def test_a_word_that_is_no_choice(command: str, wrong: str, said: str, tmp_path: Path) -> None:
    done = run(*command.split(), *wrong.split(), cwd=tmp_path)
    assert done.returncode == 2
    assert f"error: {wrong}: expected one of " in error_lines(done)
    assert said in done.stderr


def test_the_choices_are_those_of_the_formats() -> None:
    """Written out in cli.py, since what defines them takes long to import."""
    from saetools.latents.header import VALUE_TYPES
    from saetools.shards.dtypes import STORED_TYPES
    from saetools.vision.models import PRECISIONS

    found = {
        (name, each.name): (each.metavar or "").split("|")
        for name, command in commands()
        for each in command.params
    }
    assert sorted(found["dump-acts", "dtype"]) == sorted(STORED_TYPES)
    assert found["dump-acts", "precision"] == ["auto", *PRECISIONS]
    assert found["encode-acts", "dtype"] == list(VALUE_TYPES)


def completions(program: str, line: str, shell: str = "bash") -> list[str]:
    """What the program answers to its completion function for a line that ends where the cursor is."""
    words = line.split(" ")
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    asked = {variable: f"complete_{shell}", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = run(program, env=os.environ | asked | {"_TYPER_COMPLETE_ARGS": line}, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_completes_its_options(program: str, shell: str) -> None:
    found = " ".join(completions(program, f"{program} --", shell))
    for option in ("--help", "--version", "--install-completion"):
        assert option in found


def test_completion_of_choices_and_subcommands() -> None:
    assert completions("dump-acts", "dump-acts --dtype ") == ["float16", "bfloat16", "float32", "int8"]
    assert completions("dump-acts", "dump-acts --layout c") == ["cub200", "csv"]
    assert completions("train-sae", "train-sae --activation b") == ["batchtopk"]
    assert completions("train-sae", "train-sae --device c") == ["cpu", "cuda"]
    assert completions("render-visuals", "render-visuals la") == ["latents"]
    assert completions("saetools", "saetools ") == TOOLS
    assert completions("saetools", "saetools dump-acts --dtype f") == ["float16", "float32"]
    assert completions("saetools", "saetools render-visuals plot tr") == ["training", "traits"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_installed_completion_works_in_bash(program: str, tmp_path: Path) -> None:
    """`; true`: else bash would become the program, and no shell would be there to be found."""
    home = {"HOME": str(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}"}
    script = f"{program} --install-completion; true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=os.environ | home)
    assert (done.returncode, done.stderr) == (0, "")
    typed = f"""
        . "$HOME/.bashrc"
        COMP_WORDS=({program} --vers) COMP_CWORD=1
        function_of=$(complete -p {program} | sed 's/.* -F \\([^ ]*\\).*/\\1/')
        "$function_of" {program} --vers {program}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, env=os.environ | home)
    assert (done.stdout, done.stderr) == ("--version\n", "")


@pytest.mark.parametrize("program", PROGRAMS)
def test_installed_completion_works_in_zsh(program: str, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "PATH": f"{BIN}:{os.environ['PATH']}", "ZDOTDIR": str(tmp_path)}
    plain = os.environ | home | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    run(program, "--install-completion", "zsh", check=True, env=plain)
    script = (tmp_path / f".zfunc/_{program}").read_text()
    assert script.startswith(f"#compdef {program}\n")
    assert f"_{program.replace('-', '_').upper()}_COMPLETE=complete_zsh" in script
    assert ".zfunc" in (tmp_path / ".zshrc").read_text()
    if shutil.which("zsh"):
        checked = "autoload -Uz compinit; compinit -u; print -r -- $_comps[$1]"
        done = subprocess.run(
            ["zsh", "-c", f"fpath+=~/.zfunc; {checked}", "zsh", program],
            capture_output=True,
            text=True,
            env=os.environ | home,
        )
        assert (done.stdout, done.stderr) == (f"_{program}\n", "")


# --- saetools ---


def test_saetools_lists_the_tools_with_a_line_each() -> None:
    done = run("saetools", check=True, env=os.environ | {"COLUMNS": "150"})
    for tool in TOOLS:
        assert re.search(rf"^  {tool} +\w.{{20,}}$", done.stdout, re.MULTILINE), tool
    assert (
        done.stdout.rstrip() == run("saetools", "--help", env=os.environ | {"COLUMNS": "150"}).stdout.rstrip()
    )


@pytest.mark.parametrize("tool", TOOLS)
def test_saetools_runs_every_tool(tool: str) -> None:
    done = run("saetools", tool, "--version", check=True)
    assert (done.stdout, done.stderr) == (f"{tool} {saetools.__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    ["check-files nothing.h5", "collect-runs --no-such", "render-visuals plot", "dump-acts --help"],
)
def test_saetools_tool_is_the_tool(arguments: str, tmp_path: Path) -> None:
    tool, *rest = arguments.split()
    alone, through = run(tool, *rest, cwd=tmp_path), run("saetools", tool, *rest, cwd=tmp_path)
    assert (through.returncode, through.stdout, through.stderr) == (
        alone.returncode,
        alone.stdout,
        alone.stderr,
    )


def test_an_unknown_tool() -> None:
    done = run("saetools", "dump-act", "--out", "x")
    assert done.returncode == 2
    assert error_lines(done) == "saetools: error: saetools has no tool 'dump-act'; did you mean dump-acts?"
    done = run("saetools", "frobnicate")
    assert (done.returncode, done.stdout) == (2, "")
    assert "`saetools` lists the tools" in error_lines(done)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_through_saetools_are_those_of_the_tool(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """It waits for paths on stdin, as the first program of a pipe has not written any."""
    process = subprocess.Popen(
        [BIN / "saetools", "check-files", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{tmp_path}\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith(str(tmp_path))  # it runs
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said.startswith("check-files: ")
    assert len(said.splitlines()) == 1


def test_a_file_made_through_saetools_names_the_tool(tmp_path: Path) -> None:
    """The command that its provenance records can be typed again."""
    (tmp_path / "a.csv").write_text("path\n")
    done = run("saetools", "collect-runs", "a.csv", cwd=tmp_path)
    assert done.stderr.startswith("collect-runs: error: a.csv")


def test_help_answers_at_once() -> None:
    """Half a second, as the best of five on a busy machine."""
    fastest = min(_seconds("train-sae") for _ in range(5))
    assert fastest < 0.5


def _seconds(tool: str) -> float:
    before = os.times()
    started = time.monotonic()
    run(tool, "--help", check=True)
    after = os.times()
    used = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    return min(used, time.monotonic() - started)


@pytest.mark.parametrize(
    ("model", "meant"),
    [
        ("vit_tiny_patch16_224", "did you mean timm/vit_tiny_patch16_224?"),
        ("vit_tiny_patch16_224.augreg_in21k", "did you mean timm/vit_tiny_patch16_224.augreg_in21k?"),
        ("ViT-B-16/laion2b_s34b_b88k", "open_clip/ViT-B-16/laion2b_s34b_b88k"),
        ("tim/vit_tiny_patch16_224", "timm/vit_tiny_patch16_224"),
    ],
)
def test_a_model_without_its_library(model: str, meant: str, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "photos/a.png")
    done = run(
        "dump-acts", "photos", "--model", model, "--layers", "0", "--out", "acts", "--dry-run", cwd=tmp_path
    )
    assert done.returncode == 1
    assert "expected timm/NAME or open_clip/NAME/PRETRAINED; did you mean" in error_lines(done)
    assert meant in done.stderr
