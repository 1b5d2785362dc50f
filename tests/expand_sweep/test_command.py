"""expand-sweep as a program: what it prints, in which order, and what its lines and its Makefile do."""

from __future__ import annotations

import csv
import io
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeps import ODD_VALUES, bash, expand_sweep, quoted_yaml, write_sweep

ROOT = Path(__file__).resolve().parents[2]

# Steps in the wrong order on purpose: `sum` needs `double`, which needs `number`.
TOY = """
    name: toy
    values: {out: out, numbers: [1, 2, 3]}
    state: "{out}/.sweep"
    steps:
      sum:
        inputs: {files: {outputs: double}}
        outputs: {total: "{out}/total"}
        command: sh -c 'cat "$@"' x {files}
        stdout: total
      double:
        grid: {n: "{numbers}"}
        inputs: {file: "{out}/number-{n}"}
        outputs: {file2: "{out}/double/{n}"}
        command: sh -c 'echo $((2 * $(cat "$1"))) >"$2"; echo ran >>ran' x {file} {file2}
      number:
        grid: {n: "{numbers}"}
        outputs: {file: "{out}/number-{n}"}
        command: sh -c 'echo "$1" >"$2"; echo ran >>ran' x {n} {file}
"""


def lines(folder: Path, *arguments: object) -> list[list[str]]:
    return [shlex.split(line) for line in expand_sweep(folder, *arguments).stdout.splitlines()]


def states(folder: Path, *arguments: object) -> dict[str, str]:
    table = csv.DictReader(io.StringIO(expand_sweep(folder, *arguments, "--status").stdout))
    return {f"{row['step']}[{row['task']}]": row["state"] for row in table}


def test_lines_come_in_dependency_order(tmp_path: Path) -> None:
    write_sweep(tmp_path, TOY)
    assert expand_sweep(tmp_path, "toy.yml", "--steps").stdout.split() == ["number", "double", "sum"]
    words = lines(tmp_path, "toy.yml")
    assert [line[-1] for line in words[:6]] == [
        *(f"out/number-{n}" for n in (1, 2, 3)),
        *(f"out/double/{n}" for n in (1, 2, 3)),
    ]
    assert words[6][4:7] == ["out/double/1", "out/double/2", "out/double/3"]
    only = lines(tmp_path, "toy.yml", "--step", "double", "--set", "numbers=[5]", "--set", "out=else")
    assert [line[-2:] for line in only] == [["else/number-5", "else/double/5"]]


def test_grid_zip_and_runs_multiply_in_the_order_of_the_file(tmp_path: Path) -> None:
    write_sweep(
        tmp_path,
        """
        steps:
          a:
            grid: {x: [1, 2]}
            zip: {y: [p, q], z: [r, s]}
            runs: [{v: 1e-3, w: 007}, {v: on, w: 1_000}]
            values: {tag: "{x}{y}{z}-{v}"}
            outputs: {file: "out/{tag}-{w}"}
            command: touch {file}
        """,
    )
    assert [line[-1] for line in lines(tmp_path, "toy.yml")] == [
        f"out/{x}{y}{z}-{v}-{w}"  # and every scalar as it was typed
        for x in (1, 2)
        for y, z in (("p", "r"), ("q", "s"))
        for v, w in (("1e-3", "007"), ("on", "1_000"))
    ]


def test_lists_repeat_a_word_or_are_joined(tmp_path: Path) -> None:
    write_sweep(
        tmp_path,
        """
        values: {scorers: [const, "random:8"], layers: [3, 5], none: }
        steps:
          a:
            outputs: {file: out/a}
            check: false
            command: echo --scorer={scorers} --layers={layers:,} --weights={none} {{{layers:+}}} {file}
        """,
    )
    assert lines(tmp_path, "toy.yml")[0][1:] == [
        "--scorer=const",
        "--scorer=random:8",
        "--layers=3,5",
        "{3+5}",
        "out/a",
    ]


def test_xargs_and_make_give_the_same_and_run_nothing_twice(tmp_path: Path) -> None:
    for name in ("xargs", "make"):
        (tmp_path / name).mkdir()
        write_sweep(tmp_path / name, TOY)
    by_xargs = tmp_path / "xargs"
    for step in expand_sweep(by_xargs, "toy.yml", "--steps").stdout.split():
        text = expand_sweep(by_xargs, "toy.yml", "--step", step).stdout
        (by_xargs / "lines").write_text(text)
        bash(by_xargs, "xargs -d '\\n' -n1 -P2 bash -c <lines")
    by_make = tmp_path / "make"
    (by_make / "Makefile").write_text(expand_sweep(by_make, "toy.yml", "--make").stdout)
    bash(by_make, "make -j2")
    assert (by_xargs / "out/total").read_text() == (by_make / "out/total").read_text() == "2\n4\n6\n"
    assert set(states(by_xargs, "toy.yml").values()) == {"done"}
    assert set(states(by_make, "toy.yml").values()) == {"done"}

    bash(by_make, "make -j2")
    assert (by_make / "ran").read_text().count("ran") == 6
    (by_make / "out/double/2").unlink()
    bash(by_make, "make -j2 double")
    assert (by_make / "ran").read_text().count("ran") == 7


def test_another_command_for_the_same_output_is_not_done(tmp_path: Path) -> None:
    write_sweep(tmp_path, TOY)
    (tmp_path / "Makefile").write_text(expand_sweep(tmp_path, "toy.yml", "--make").stdout)
    bash(tmp_path, "make")
    other = ["toy.yml", "--set", "number.command=cp toy.yml {file}"]
    found = states(tmp_path, *other)
    assert {found[f"number[{i}]"] for i in range(3)} == {"waiting"}
    assert found["sum[0]"] == "done"


def test_a_failed_task_fails_the_makefile_and_is_reported(tmp_path: Path) -> None:
    write_sweep(tmp_path, TOY.replace("echo ran >>ran' x {file} ", "test $1 != out/number-2' x {file} "))
    makefile = tmp_path / "sweep.mk"
    makefile.write_text(expand_sweep(tmp_path, "toy.yml", "--make").stdout)
    makefile.chmod(0o755)
    bash(tmp_path, "./sweep.mk -k 2>said", code=1)  # `make -f` itself ends with 2, as make does
    assert "double[1]: failed with exit code 1" in (tmp_path / "said").read_text()
    bash(tmp_path, "make -f sweep.mk 2>/dev/null", code=2)
    found = states(tmp_path, "toy.yml")
    assert (found["double[0]"], found["double[1]"], found["sum[0]"]) == ("done", "failed", "waiting")


def test_a_command_that_writes_nothing_has_failed(tmp_path: Path) -> None:
    write_sweep(tmp_path, 'steps: {a: {outputs: {file: out/a}, command: "true"}}')
    (tmp_path / "Makefile").write_text(expand_sweep(tmp_path, "toy.yml", "--make").stdout)
    bash(tmp_path, "make 2>said", code=2)
    assert "the command succeeded but did not write out/a" in (tmp_path / "said").read_text()


ODD = """
    values: {{out: "out it's $HOME", odd: {odd}}}
    state: "{{out}}/.sweep"
    steps:
      show:
        outputs: {{file: "{{out}}/a  b"}}
        command:
          - python
          - -c
          - "import sys; open(sys.argv[1], 'w').write(chr(0).join(sys.argv[2:]))"
          - "{{file}}"
          - "{{odd}}"
"""


@pytest.mark.parametrize("how", ["xargs", "make"])
def test_odd_values_arrive_unchanged(tmp_path: Path, how: str) -> None:
    write_sweep(tmp_path, ODD.format(odd=f"[{', '.join(map(quoted_yaml, ODD_VALUES))}]"))
    if how == "make":
        (tmp_path / "Makefile").write_text(expand_sweep(tmp_path, "toy.yml", "--make").stdout)
        bash(tmp_path, "make")
    else:
        (tmp_path / "lines").write_text(expand_sweep(tmp_path, "toy.yml").stdout)
        bash(tmp_path, "xargs -d '\\n' -n1 bash -c <lines")
    written = (tmp_path / "out it's $HOME/a  b").read_text(encoding="utf-8")
    assert written.split("\0") == ODD_VALUES
    assert not list(tmp_path.rglob("pwned"))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=6))
def test_bash_reads_every_quoted_word_back(words: list[str]) -> None:
    from expand_sweep.quoting import quote_all

    line = quote_all(words)
    assert "\n" not in line
    script = f"printf '%s\\0' x {line}"
    printed = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert printed.decode("utf-8").split("\0")[1:-1] == words


def test_tasks_that_differ_in_few_values_become_one(tmp_path: Path) -> None:
    write_sweep(
        tmp_path,
        """
        steps:
          train:
            grid: {layer: [3, 5], lr: [1e-3, 3e-3], k: [8, 16, 32]}
            outputs: {sae: "out/sae{layer}/lr={lr}_k={k}.h5"}
            command: train-sae acts --layer={layer} --lr {lr} --k {k} --out {sae}
            together: {over: [lr, k], command: "train-sae acts --layer={layer} --sweep {runs} --out {folder}"}
          score:
            grid: {layer: [3, 5]}
            inputs: {saes: {outputs: train, same: layer}}
            outputs: {table: "out/{layer}.csv"}
            command: score-traits --train acts --test acts --scorer={saes} --out {table}
        """,
    )
    from train_sae.grids import read_sweep

    joined = lines(tmp_path, "toy.yml", "--step", "train", "--max-parallel", 4)
    assert [(line[2], line[-1]) for line in joined] == [
        ("--layer=3", "out/sae3"),
        ("--layer=3", "out/sae3"),
        ("--layer=5", "out/sae5"),
        ("--layer=5", "out/sae5"),
    ]
    runs = [run for line in joined[:2] for run in read_sweep(tmp_path / line[4])]
    assert runs == [{"lr": lr, "k": k} for lr in ("1e-3", "3e-3") for k in ("8", "16", "32")]
    scored = lines(tmp_path, "toy.yml", "--step", "score")
    assert sum(word.startswith("--scorer=out/sae5/") for word in scored[1]) == 6
    assert len(lines(tmp_path, "toy.yml", "--step", "train", "--max-parallel", 1)) == 12


def test_ten_thousand_runs_fit_the_arrays_of_a_cluster(tmp_path: Path) -> None:
    write_sweep(
        tmp_path,
        """
        values: {ten: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}
        steps:
          train:
            grid: {layer: "{ten}", k: "{ten}", seed: "{ten}", d: "{ten}"}
            outputs: {sae: "out/{layer}-{k}-{seed}-{d}.h5"}
            command: train-sae --layer={layer} --k 1{k} --seed {seed} --d-sae 1{d} --out {sae}
        """,
    )
    assert len(expand_sweep(tmp_path, "toy.yml").stdout.splitlines()) == 10_000
    expand_sweep(tmp_path, "toy.yml", "--sbatch", "jobs", "--max-array", "1001")
    scripts = sorted(tmp_path.glob("jobs/train-*.sbatch"))
    assert len(scripts) == 10
    assert sum(script.read_text().count("    run() {") for script in scripts) == 10_000
    assert max(script.stat().st_size for script in scripts) < 2**20  # sbatch takes up to 4 MiB


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yml")), ids=lambda path: path.stem)
def test_the_sweeps_of_the_house_fit_the_tools(tmp_path: Path, path: Path) -> None:
    """Every command is one that its tool takes; and one by one they are as many as their parts together."""
    together = lines(tmp_path, path)
    alone = lines(tmp_path, path, "--max-parallel", 1)
    outputs = {word for line in alone for word in line if re.fullmatch(r"out/.*/sae/.*\.h5", word)}
    trained = [line for line in together if line[0].endswith("train-sae")]
    assert len(alone) - len(together) == len(outputs) - len(trained)
    table = next(line for line in together if line[0].endswith("collect-runs"))
    assert together[-1] == table


def test_the_readme_names_every_key_and_option(tmp_path: Path) -> None:
    from expand_sweep.sweep import STEP_KEYS, SWEEP_KEYS

    text = (ROOT / "tools/expand-sweep/README.md").read_text(encoding="utf-8")
    for key in (*SWEEP_KEYS, *STEP_KEYS):
        assert f"{key}:" in text or f"`{key}" in text, key
    said = expand_sweep(tmp_path, "--help").stdout
    for option in (
        "--set",
        "--step",
        "--steps",
        "--make",
        "--sbatch",
        "--resubmit",
        "--status",
        "--max-parallel",
    ):
        assert option in text and option in said, option
