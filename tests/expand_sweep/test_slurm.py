"""The arrays on a real Slurm of one node: values, order, failures, limits and signals, with steps that are quick."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm.one_node import OneNode, missing_programs

from sweeps import ODD_VALUES, bash, expand_sweep, quoted_yaml, write_sweep

pytestmark = pytest.mark.skipif(
    bool(missing_programs()),
    reason=f"{', '.join(missing_programs())} not installed (Debian: slurmctld slurmd slurm-client munge)",
)

MAX_ARRAY = 5


@pytest.fixture(scope="module")
def slurm() -> Iterator[OneNode]:
    with OneNode(cpus=4, max_array=MAX_ARRAY) as node:
        yield node


def submit(folder: Path, slurm: OneNode, code: int = 0) -> str:
    """Run jobs/submit.sh and wait for its jobs; what it said on stderr."""
    done = subprocess.run(
        ["./jobs/submit.sh", "--wait", "0.3"],
        cwd=folder,
        env=slurm.environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    logs = "".join(f"\n== {log.name}\n{log.read_text()}" for log in sorted(folder.rglob("*.log")))
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}{logs}"
    return done.stderr


def states(folder: Path, slurm: OneNode, *arguments: object) -> tuple[dict[str, str], str]:
    done = expand_sweep(folder, *arguments, "--status", env=slurm.environment)
    table = csv.DictReader(io.StringIO(done.stdout))
    return {f"{row['step']}[{row['task']}]": row["state"] for row in table}, done.stderr


def shellcheck(folder: Path) -> None:
    """Say nothing about any script in `folder`, where shellcheck is installed."""
    if bash(folder, "command -v shellcheck", code=None):
        scripts = [str(path) for path in sorted(folder.glob("jobs/*")) if path.suffix in (".sbatch", ".sh")]
        done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")


def test_odd_values_arrive_unchanged_and_nothing_is_expanded(tmp_path: Path, slurm: OneNode) -> None:
    """Through the real sbatch, in a folder whose name is as odd, staged on the node or not."""
    folder = tmp_path / "it's $HOME 100%"
    folder.mkdir()
    (folder / "a file").write_text("staged\n")
    write_sweep(
        folder,
        f"""
        values: {{odd: [{", ".join(map(quoted_yaml, ODD_VALUES))}]}}
        state: "out/%j state's"
        preamble: |
          # a preamble's own business: unquoted words, unset variables
          export GREETING=$(echo hello)
        slurm: {{comment: 'it is "quoted" $HOME', time: 5, nice: 10}}
        sbatch: ["--no-kill"]
        steps:
          show:
            inputs: {{file: a file}}
            outputs: {{file2: "out/a  b"}}
            command:
              - {sys.executable}
              - -c
              - "import os, sys; text = open(sys.argv[2]).read() + sys.argv[2] + os.environ['GREETING'];
                open(sys.argv[1], 'w').write(chr(0).join([text, *sys.argv[3:]]))"
              - "{{file2}}"
              - "{{file}}"
              - "{{odd}}"
            stage: file
        """,
    )
    expand_sweep(folder, "toy.yml", "--sbatch", "jobs", env=slurm.environment)
    shellcheck(folder)
    submit(folder, slurm)
    staged, *words = (folder / "out/a  b").read_text(encoding="utf-8").split("\0")
    assert words == ODD_VALUES
    assert staged.startswith("staged\n/") and staged.endswith("/a filehello"), staged
    assert not Path(staged.split("\n")[1].removesuffix("hello")).exists(), (
        "the copy on the node is still there"
    )
    assert not list(tmp_path.rglob("pwned"))
    assert (folder / "out/%j state's/logs/show-0.log").exists()


CHAIN = """
    steps:
      first:
        grid: {n: [0, 1, 2, 3, 4, 5, 6]}
        outputs: {file: "out/first-{n}"}
        command: sh -c 'test ! -e bad-$1 && echo "$1" >"$2"; ' x {n} {file}
        throttle: 2
      second:
        grid: {n: [0, 1, 2, 3, 4, 5, 6]}
        inputs: {file: "out/first-{n}"}
        outputs: {file2: "out/second-{n}"}
        command: sh -c 'date +%s.%N >>ran; cat "$1" >"$2"' x {file} {file2}
      last:
        inputs: {files: {outputs: second}}
        outputs: {sum: "out/sum"}
        command: cat {files}
        stdout: sum
    state: out/state
"""


def test_failures_stop_only_what_needs_them_and_resubmitting_runs_the_rest(
    tmp_path: Path, slurm: OneNode
) -> None:
    write_sweep(tmp_path, CHAIN)
    expand_sweep(tmp_path, "toy.yml", "--sbatch", "jobs", env=slurm.environment)
    shellcheck(tmp_path)
    scripts = sorted(path.name for path in (tmp_path / "jobs").glob("*.sbatch"))
    assert scripts == [
        "first-1.sbatch",
        "first-2.sbatch",
        "last.sbatch",
        "second-1.sbatch",
        "second-2.sbatch",
    ]
    text = (tmp_path / "jobs/first-1.sbatch").read_text()
    assert "--array               0-4%2\n" in text  # indices below the cluster's limit
    submits = (tmp_path / "jobs/submit.sh").read_text()
    assert 'submit first-2 first 5 "afterany:$job_1"' in submits  # the throttle is that of the step
    assert 'submit second-2 second 5 "aftercorr:$job_2"' in submits
    assert 'submit last last 0 "afterok:$job_3,afterok:$job_4"' in submits

    (tmp_path / "bad-3").touch()
    said = submit(tmp_path, slurm, code=1)
    assert {line.split()[1] for line in said.splitlines()} == {"first[3]", "second[3]", "last[0]"}
    found, said = states(tmp_path, slurm, "toy.yml")
    assert {name for name, state in found.items() if state != "done"} == {"first[3]", "second[3]", "last[0]"}
    assert found["first[3]"] == "failed"
    assert found["second[3]"] == found["last[0]"] == "waiting"
    assert "first[3]: failed with exit code 1" in said  # from the log

    (tmp_path / "bad-3").unlink()
    expand_sweep(tmp_path, "toy.yml", "--resubmit", "jobs", env=slurm.environment)
    shellcheck(tmp_path)
    assert "--array               3%2\n" in (tmp_path / "jobs/first.sbatch").read_text()
    assert "--array               3\n" in (tmp_path / "jobs/second.sbatch").read_text()
    assert not (tmp_path / "jobs/first-1.sbatch").exists()
    submit(tmp_path, slurm)
    assert (tmp_path / "out/sum").read_text() == "".join(f"{n}\n" for n in range(7))
    assert set(states(tmp_path, slurm, "toy.yml")[0].values()) == {"done"}

    n_ran = len((tmp_path / "ran").read_text().splitlines())
    assert n_ran == 7
    expand_sweep(tmp_path, "toy.yml", "--sbatch", "jobs", env=slurm.environment)
    submit(tmp_path, slurm)  # everything again: nothing runs
    assert len((tmp_path / "ran").read_text().splitlines()) == n_ran
    expand_sweep(tmp_path, "toy.yml", "--resubmit", "jobs", env=slurm.environment)
    shellcheck(tmp_path)
    assert "nothing to submit" in submit(tmp_path, slurm)


def test_while_jobs_are_queued_nothing_is_submitted_twice(tmp_path: Path, slurm: OneNode) -> None:
    write_sweep(
        tmp_path,
        """
        state: out/state
        steps:
          slow:
            grid: {n: [0, 1]}
            outputs: {file: "out/{n}"}
            command: sh -c 'echo going; while [ ! -e "go" ]; do sleep 0.1; done; touch "$1"' x {file}
            throttle: 1
        """,
    )
    expand_sweep(tmp_path, "toy.yml", "--sbatch", "jobs", env=slurm.environment)
    bash(tmp_path, "./jobs/submit.sh", env=slurm.environment)
    log = tmp_path / "out/state/logs/slow-0.log"
    deadline = time.monotonic() + 60
    while not (log.exists() and "going" in log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert states(tmp_path, slurm, "toy.yml")[0] == {"slow[0]": "running", "slow[1]": "waiting"}
    again = bash(tmp_path, "./jobs/submit.sh 2>&1", code=1, env=slurm.environment)
    assert "still in the queue" in again
    done = expand_sweep(tmp_path, "toy.yml", "--resubmit", "jobs", code=1, env=slurm.environment)
    assert "still in Slurm's queue" in done.stderr
    (tmp_path / "go").touch()
    deadline = time.monotonic() + 60
    while set(states(tmp_path, slurm, "toy.yml")[0].values()) != {"done"} and time.monotonic() < deadline:
        time.sleep(0.3)
    assert set(states(tmp_path, slurm, "toy.yml")[0].values()) == {"done"}


def test_a_refused_job_withdraws_those_before_it(tmp_path: Path, slurm: OneNode) -> None:
    write_sweep(tmp_path, CHAIN.replace("      last:", "      last:\n        slurm: {partition: nowhere}"))
    expand_sweep(tmp_path, "toy.yml", "--sbatch", "jobs", env=slurm.environment)
    said = bash(tmp_path, "./jobs/submit.sh 2>&1", code=1, env=slurm.environment)
    assert "last was refused; withdrawing" in said
    deadline = time.monotonic() + 60
    while (queue := slurm.ask("squeue", "-h", "-o", "%Z")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert str(tmp_path) not in queue


def test_a_task_out_of_time_is_requeued_and_continues(tmp_path: Path, slurm: OneNode) -> None:
    """Stopped by the signal before its limit, it leaves what it has, and its second start ends the work."""
    program = tmp_path / "count.py"
    program.write_text(
        "import pathlib, signal, sys, time\n"
        "state, out = map(pathlib.Path, sys.argv[1:3])\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "print('starts', state.exists(), flush=True)\n"
        "if not state.exists():\n"
        "    state.touch()\n"
        "    time.sleep(300)\n"
        "out.touch()\n"
    )
    write_sweep(
        tmp_path,
        f"""
        state: out/state
        steps:
          count:
            grid: {{n: [0, 1]}}
            outputs: {{file: "out/{{n}}"}}
            command: {sys.executable} count.py out/state-{{n}} {{file}}
            slurm: {{time: 1, signal: 55}}
          after:
            inputs: {{files: {{outputs: count}}}}
            outputs: {{file: out/after}}
            command: touch {{file}}
          corresponding:
            grid: {{n: [0, 1]}}
            inputs: {{before: "out/{{n}}"}}
            outputs: {{file: "out/corresponding-{{n}}"}}
            command: touch {{file}}
        """,
    )
    expand_sweep(tmp_path, "toy.yml", "--sbatch", "jobs", env=slurm.environment)
    (tmp_path / "out/state-1").touch()
    submit(tmp_path, slurm)
    log = (tmp_path / "out/state/logs/count-0.log").read_text()
    assert log.count("starts") == 2 and "count[0]: out of time; requeued" in log, log
    assert (tmp_path / "out/state/logs/count-1.log").read_text().count("starts") == 1
    assert set(states(tmp_path, slurm, "toy.yml")[0].values()) == {"done"}


def test_without_a_cluster_status_goes_by_outputs(tmp_path: Path) -> None:
    write_sweep(tmp_path, CHAIN)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/first-2").touch()
    environment = {**os.environ, "SLURM_CONF": str(tmp_path / "none.conf")}
    done = expand_sweep(tmp_path, "toy.yml", "--status", env=environment)
    found = [row for row in csv.reader(io.StringIO(done.stdout)) if row[2] == "done"]
    assert [row[:2] for row in found] == [["first", "2"]]
