"""The fault campaign, small: a few minutes of what `make campaign` does in large. docs/reliability.md."""

from __future__ import annotations

import csv
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
# Multiples of the numbers of tools and formats: each is tried as often as any other.
SMALL = {"kills": 23, "interrupts": 46, "disks": 21, "corruptions": 330, "mixtures": 48, "pairs": 18}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the campaign looks into /proc"),
]


@pytest.fixture(scope="session")
def campaign(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of one small campaign, which the first worker that comes runs for all."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "campaign"
    shared.mkdir(exist_ok=True)
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "table.csv").exists():
            numbers = [part for kind, n in SMALL.items() for part in (f"--{kind}", str(n))]
            run(shared, *numbers, "--seed", "1", "--out", str(shared / "table.csv"))
    return shared


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(HERE), *arguments, "--keep", str(folder / "runs")],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    (folder / "said").write_text(done.stderr)
    return done


@pytest.mark.parametrize("kind", SMALL)
def test_no_fault(campaign: Path, kind: str) -> None:
    with (campaign / "table.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["kind"] == kind and row["of"] == "all"]
    assert int(row["tried"]) == SMALL[kind]
    found = {name: row[name] for name in ("different", "crashed", "hung", "left over", "missed")}
    assert set(found.values()) == {"0"}, f"{found}\n{(campaign / 'said').read_text()}"
    # Faults that were never met would prove nothing.
    assert int(row["refused"]) + int(row["same"]) > SMALL[kind] // 2
    assert kind in ("kills", "pairs") or int(row["refused"]) > SMALL[kind] // 4
