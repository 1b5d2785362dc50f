"""The state of each task: from its outputs, the records of its runs and, where there is one, Slurm's queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expand_sweep.context import RunContext, is_noted
from expand_sweep.slurm.queue import RUNNING, queued_tasks, read_jobs
from expand_sweep.tasks import Task

STATES = ("done", "running", "waiting", "failed")
LOG_LINES = 5  # shown of the log of a failed task


@dataclass(frozen=True)
class TaskStatus:
    """state: one of STATES; note: a reason or Slurm's state; log: that of a failed task, where it has one"""

    task: Task
    state: str
    note: str = ""
    log: Path | None = None

    @property
    def queued(self) -> bool:
        return self.note.startswith(("PENDING", *RUNNING))


def find_status(expanded: Mapping[str, Sequence[Task]], context: RunContext) -> list[TaskStatus]:
    """The state of every task, in order."""
    queued = queued_tasks(context)
    offsets: dict[str, list[int]] = {}
    for _job, step, offset in read_jobs(context):
        offsets.setdefault(step, []).append(offset)
    return [_status(task, context, queued, offsets) for tasks in expanded.values() for task in tasks]


def is_done(task: Task, context: RunContext) -> tuple[bool, str]:
    """Whether the outputs of a task are complete, and if not, a note for the user.

    They are complete if all exist and the task is recorded as done. Without a record, as of a command that was run by
    hand, each must be a file, or a folder of shards or latents with all its files.
    """
    noted = is_noted(task, context)
    outputs = [Path(context.root, path) for path in task.output_paths]
    if not all(path.exists() for path in outputs):
        return False, ""
    if noted is None:
        failed = context.failed / task.stamp
        older = failed.exists() and min(path.stat().st_mtime for path in outputs) <= failed.stat().st_mtime
        return not older and all(map(_is_complete, outputs)), ""
    return noted, "" if noted else "its outputs were made by another command"


def last_lines(log: Path) -> list[str]:
    """The last lines of a log that are not blank."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-LOG_LINES:]


def _status(
    task: Task,
    context: RunContext,
    queued: Mapping[tuple[str, int], str] | None,
    offsets: Mapping[str, Sequence[int]],
) -> TaskStatus:
    done, note = is_done(task, context)
    if done:
        return TaskStatus(task, "done")
    in_queue = (queued or {}).get((task.step.name, task.index))
    if in_queue is not None:
        return TaskStatus(task, "running" if in_queue.startswith(RUNNING) else "waiting", in_queue)
    failed = context.failed / task.stamp
    log = _log(task, context, offsets)
    if failed.exists():
        code = failed.read_text(encoding="utf-8", errors="replace").strip()
        return TaskStatus(task, "failed", f"exit code {code}", log)
    if log is not None and queued is not None and is_noted(task, context) is None:
        return TaskStatus(task, "failed", "no exit status: time limit, out of memory, or cancelled", log)
    return TaskStatus(task, "waiting", note)


def _log(task: Task, context: RunContext, offsets: Mapping[str, Sequence[int]]) -> Path | None:
    for offset in sorted(set(offsets.get(task.step.name, ())), reverse=True):
        path = context.logs / log_name(task.step.name, offset, str(task.index - offset))
        if task.index >= offset and path.exists():
            return path
    return None


def log_name(step: str, offset: int, index: str) -> str:
    """The log of the task `offset + index`; index can be %a, which sbatch replaces."""
    return f"{step}{f'+{offset}' if offset else ''}-{index}.log"


def _is_complete(path: Path) -> bool:
    """A file is complete if it exists; a folder of shards or latents if it holds all of its files."""
    if path.is_file():
        return True
    from saetools.errors import UserError

    try:
        if next(path.glob("shard-*.h5"), None):
            from saetools.shards.reader import open_shards

            open_shards([path])
        elif next(path.glob("latents-*.npz"), None):
            from saetools.latents.reader import open_latents

            open_latents([path])
        else:
            return False
    except UserError:
        return False
    return True
