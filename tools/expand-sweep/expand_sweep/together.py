"""Joins tasks that differ in a few values alone: many SAEs on one stream of activations.

The values of each joined task go into a small YAML file, `runs: [{lr: "1e-3", k: "8"}, ...]`, whose path the
command of `together` has as {runs}, as `train-sae --sweep` takes it; {folder} is where all of them write.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path

from expand_sweep.sweep import Step
from expand_sweep.tasks import Task, digest
from expand_sweep.templates import Resolved
from saetools.cli.located_yaml import fail
from saetools.errors import near_names
from saetools.files.atomic import write_text


def join_tasks(step: Step, tasks: Sequence[Task], max_parallel: int, state: Path) -> list[Task]:
    """The tasks of a step with `together`, at most `max_parallel` of the old ones in each new one."""
    assert step.together is not None
    for name in step.together.over:
        if tasks and name not in tasks[0].choices:
            known = list(tasks[0].choices)
            raise fail(name, f"over: the step does not vary {name!r}{near_names(name, known)}")
    if max_parallel == 1:
        return list(tasks)
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        same = {name: task.values[name] for name in task.choices if name not in step.together.over}
        groups.setdefault(json.dumps(same), []).append(task)
    chunks = (
        group[start : start + max_parallel]
        for group in groups.values()
        for start in range(0, len(group), max_parallel)
    )
    return [_join(step, index, chunk, state) for index, chunk in enumerate(chunks)]


def write_runs(tasks: Sequence[Task]) -> None:
    """Write the files that the commands of joined tasks read; their names follow from what is in them."""
    for task in tasks:
        if task.runs_file is not None and not task.runs_file.exists():
            task.runs_file.parent.mkdir(parents=True, exist_ok=True)
            write_text(task.runs_file, task.runs_text)


def _join(step: Step, index: int, tasks: Sequence[Task], state: Path) -> Task:
    assert step.together is not None
    over = step.together.over
    first = tasks[0]
    folders = {posixpath.dirname(path) for task in tasks for path in task.output_paths}
    if len(folders) != 1:
        raise fail(
            over[0],
            f"together: outputs are in {len(folders)} folders, {', '.join(sorted(folders)[:3])}; use one",
        )
    text = "".join(["runs:\n", *(f"- {json.dumps(row)}\n" for row in _rows(tasks, over))])
    path = state / "together" / f"{step.name}-{digest([text])}.yml"
    values: dict[str, Resolved] = dict(first.values)
    for name in over:
        values[name] = [word for task in tasks for word in _words(task.values[name])]
    values |= {"runs": str(path), "folder": folders.pop()}
    return Task(
        step=step,
        index=index,
        values=values,
        choices={name: value for name, value in first.choices.items() if name not in over},
        inputs={name: _union(task.inputs[name] for task in tasks) for name in first.inputs},
        outputs={name: _union(task.outputs[name] for task in tasks) for name in first.outputs},
        template=step.together.command,
        members=tuple(tasks),
        runs_file=path,
        runs_text=text,
    )


def _rows(tasks: Sequence[Task], over: Sequence[str]) -> Iterator[dict[str, Resolved]]:
    for task in tasks:
        yield {str(name): task.values[name] for name in over}


def _words(value: Resolved) -> list[str]:
    return [value] if isinstance(value, str) else value


def _union(lists: Iterator[list[str]]) -> list[str]:
    return list(dict.fromkeys(path for paths in lists for path in paths))
