"""The example's whole sweep as arrays on a real Slurm, against the same by make and by xargs."""

from __future__ import annotations

import csv
import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from processes import BIN
from slurm.one_node import OneNode, missing_programs

from sweeps import bash, expand_sweep

ROOT = Path(__file__).resolve().parents[2]
SWEEP = ROOT / "sweeps/birds.yml"
LAYERS, SAES_OF_A_LAYER, BASELINES = 3, 4, 3
HOLD = ROOT / "tests/support/slurm/hold_once.py"
SMALL = ["count=4", "tokens=50k", "d_sae=128", "n_train=[16, all]"]
# The training of layer 5 stands still until its time limit of a minute is near, and then has to continue.
HELD = "--layer={layer} --d-sae {d_sae} --tokens {tokens} --sweep {runs} --out {folder}"
HELD = (
    f"python {HOLD} {{out}}/held-{{layer}} {{folder}} {BIN}/train-sae {{acts}} --val {{val}} --log-every 1"
    f" --checkpoint-every 2 {HELD}"
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing_programs()),
        reason=f"{', '.join(missing_programs())} not installed (Debian: slurmctld slurmd slurm-client munge)",
    ),
]


@pytest.fixture
def slurm() -> Iterator[OneNode]:
    with OneNode(cpus=2) as node:
        yield node


def settings(*more: str) -> list[str]:
    return [word for setting in (*SMALL, *more) for word in ("--set", setting)]


def folder_for(tmp_path: Path, how: str) -> Path:
    folder = tmp_path / how
    folder.mkdir()
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def table_of(folder: Path) -> bytes:
    return (folder / "out/sweeps/birds/table-validation.csv").read_bytes()


def status(folder: Path, slurm: OneNode, *arguments: str) -> dict[str, str]:
    text = expand_sweep(folder, SWEEP, *arguments, "--status", env=slurm.environment).stdout
    return {f"{row['step']}[{row['task']}]": row["state"] for row in csv.DictReader(io.StringIO(text))}


def run_by_make(folder: Path) -> None:
    (folder / "sweep.mk").write_text(expand_sweep(folder, SWEEP, *settings(), "--make").stdout)
    bash(folder, "make -j2 -f sweep.mk >&2")


def run_by_xargs(folder: Path) -> None:
    for step in expand_sweep(folder, SWEEP, *settings(), "--steps").stdout.split():
        lines = expand_sweep(folder, SWEEP, *settings(), "--step", step, "--max-parallel", "2").stdout
        (folder / "lines").write_text(lines)
        bash(folder, "xargs -d '\\n' -n1 -P2 bash -c <lines >&2")


def submit(folder: Path, slurm: OneNode, code: int) -> None:
    done = subprocess.run(
        ["./jobs/submit.sh", "--wait", "1"], cwd=folder, env=slurm.environment, capture_output=True, text=True,
        timeout=1200, check=False,
    )  # fmt: skip
    logs = "".join(f"\n== {log.name}\n{log.read_text()}" for log in sorted(folder.rglob("*.log")))
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}{logs}"


def run_by_slurm(folder: Path, slurm: OneNode) -> None:
    """One training runs out of time and continues; one scoring fails and is submitted again."""
    arguments = settings(
        f"train.together.command={HELD}", "train.slurm.time=1", "train.slurm.signal=20", "slurm.mem=1G"
    )
    for layer in (3, 7):
        held = folder / f"out/sweeps/birds/held-{layer}"
        held.parent.mkdir(parents=True, exist_ok=True)
        held.touch()
    in_the_way = folder / "out/sweeps/birds/ap/validation/layer7.csv"
    in_the_way.mkdir(parents=True)

    expand_sweep(folder, SWEEP, *arguments, "--sbatch", "jobs", env=slurm.environment)
    if bash(folder, "command -v shellcheck", code=None):
        bash(folder, "shellcheck jobs/*.sbatch jobs/submit.sh")
    submit(folder, slurm, code=1)
    log = (folder / "out/sweeps/birds/.sweep/logs/train-1.log").read_text()
    assert "train[1]: out of time; requeued" in log, log
    found = status(folder, slurm, *arguments)
    assert {name: state for name, state in found.items() if state != "done"} == {
        "score[2]": "failed",
        "table[0]": "waiting",
    }

    in_the_way.rmdir()
    expand_sweep(folder, SWEEP, *arguments, "--resubmit", "jobs", env=slurm.environment)
    assert sorted(path.name for path in (folder / "jobs").glob("*.sbatch")) == [
        "score.sbatch",
        "table.sbatch",
    ]
    submit(folder, slurm, code=0)
    assert set(status(folder, slurm, *arguments).values()) == {"done"}


def test_the_table_is_the_same_by_slurm_make_and_xargs(tmp_path: Path, slurm: OneNode) -> None:
    """Number for number: with 4 SAEs on one stream under Slurm and make, and 2 and 2 under xargs."""
    assert os.environ["OMP_NUM_THREADS"]  # the same number of threads everywhere
    folders = {how: folder_for(tmp_path, how) for how in ("slurm", "make", "xargs")}
    run_by_slurm(folders["slurm"], slurm)
    run_by_make(folders["make"])
    run_by_xargs(folders["xargs"])

    table = pd.read_csv(folders["slurm"] / "out/sweeps/birds/table-validation.csv")
    assert len(table) == LAYERS * (SAES_OF_A_LAYER + BASELINES) * 2  # two training sizes
    assert table_of(folders["slurm"]) == table_of(folders["make"]) == table_of(folders["xargs"])
