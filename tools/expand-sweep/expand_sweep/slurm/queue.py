"""The tasks of a sweep in Slurm's queue, and the limits of the cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence

from expand_sweep.context import RunContext
from saetools.errors import UserError

SLURMS_DEFAULT_LIMIT = 1001  # MaxArraySize where the cluster sets no other
RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "STAGE_OUT", "SUSPENDED", "STOPPED", "SIGNALING")


def array_limit() -> int:
    """The cluster's MaxArraySize: indices are below it. Slurm's default where no cluster answers."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _ask(["scontrol", "show", "config"]) or "", re.MULTILINE)
    return int(found[1]) if found else SLURMS_DEFAULT_LIMIT


def queued_tasks(context: RunContext) -> dict[tuple[str, int], str] | None:
    """(step, index) of this sweep's tasks in the queue -> state and reason; None where Slurm does not answer."""
    submitted = {}
    for job, step, offset in read_jobs(context):
        submitted[job] = (step, offset)
    if not submitted:
        return {}
    answer = _ask(["squeue", "--noheader", "--array", "--me", "--format=%F|%K|%T|%r"])
    if answer is None:
        return None
    queued = {}
    for line in answer.splitlines():
        job, index, state, reason = [*line.strip().split("|", 3), "", "", ""][:4]
        if job in submitted and index.isdecimal():
            step, first = submitted[job]
            queued[step, first + int(index)] = state if state in RUNNING else f"{state}: {reason}"
    return queued


def read_jobs(context: RunContext) -> list[tuple[str, str, int]]:
    """Job id, step and offset of every array that was submitted, oldest first."""
    if not context.jobs.exists():
        return []
    jobs = []
    lines = context.jobs.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if found := re.fullmatch(r"(\S+)\t(\S+)\t([0-9]{1,9})", line):
            jobs.append((found[1], found[2], int(found[3])))
        elif line:
            raise UserError(
                f"{context.jobs}: line {number} is broken, found {line[:60]!r}, expected a job's id, step and offset"
                " with tabs between them; correct it, or remove the line once that job has ended"
            )
    return jobs


def _ask(command: Sequence[str]) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=30, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
