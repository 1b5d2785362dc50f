"""How far a sweep is: from the outputs of its tasks, from their notes and, where Slurm answers, from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from expand_sweep.place import Place, is_noted
from expand_sweep.slurm_queue import RUNNING, queued_tasks, read_jobs
from expand_sweep.tasks import Task

STATES = ("done", "running", "waiting", "failed")
LOG_LINES = 5  # of a failed task that are shown


@dataclass(frozen=True)
class TaskStatus:
    """state: one of STATES; note: what more is known; log: of a failed task, where it has one"""

    task: Task
    state: str
    note: str = ""
    log: Path | None = None

    @property
    def queued(self) -> bool:
        return self.note.startswith(("PENDING", *RUNNING))


def find_status(expanded: Mapping[str, Sequence[Task]], place: Place) -> list[TaskStatus]:
    """The state of every task, in order."""
    queued = queued_tasks(place)
    offsets: dict[str, list[int]] = {}
    for _job, step, offset in read_jobs(place):
        offsets.setdefault(step, []).append(offset)
    return [_status(task, place, queued, offsets) for tasks in expanded.values() for task in tasks]


def is_done(task: Task, place: Place) -> tuple[bool, str]:
    """Whether the outputs of a task are complete, and if not, what is to be said about them.

    They are where all exist and the task's note says so, or where there is no note (the command was run by
    itself) and each is a file, or a folder of ours that says itself how many files belong to it.
    """
    noted = is_noted(task, place)
    outputs = [Path(place.root, path) for path in task.output_paths]
    if not all(path.exists() for path in outputs):
        return False, ""
    if noted is None:
        failed = place.failed / task.stamp
        older = failed.exists() and min(path.stat().st_mtime for path in outputs) <= failed.stat().st_mtime
        return not older and all(map(_is_complete, outputs)), ""
    return noted, "" if noted else "its outputs are those of another command"


def last_lines(log: Path) -> list[str]:
    """The last lines of a log that say something."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-LOG_LINES:]


def _status(
    task: Task,
    place: Place,
    queued: Mapping[tuple[str, int], str] | None,
    offsets: Mapping[str, Sequence[int]],
) -> TaskStatus:
    done, note = is_done(task, place)
    if done:
        return TaskStatus(task, "done")
    in_queue = (queued or {}).get((task.step.name, task.index))
    if in_queue is not None:
        return TaskStatus(task, "running" if in_queue.startswith(RUNNING) else "waiting", in_queue)
    failed = place.failed / task.stamp
    log = _log(task, place, offsets)
    if failed.exists():
        return TaskStatus(task, "failed", f"exit code {failed.read_text(encoding='utf-8').strip()}", log)
    if log is not None and queued is not None and is_noted(task, place) is None:
        return TaskStatus(task, "failed", "it ended without a word: time limit, memory, or cancelled", log)
    return TaskStatus(task, "waiting", note)


def _log(task: Task, place: Place, offsets: Mapping[str, Sequence[int]]) -> Path | None:
    for offset in sorted(set(offsets.get(task.step.name, ())), reverse=True):
        path = place.logs / log_name(task.step.name, offset, str(task.index - offset))
        if task.index >= offset and path.exists():
            return path
    return None


def log_name(step: str, offset: int, index: str) -> str:
    """The log of the task `offset + index`; sbatch knows the second part alone, as %a."""
    return f"{step}{f'+{offset}' if offset else ''}-{index}.log"


def _is_complete(path: Path) -> bool:
    """A file is complete where it is; a folder of shards or latents says itself how many files belong to it."""
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
