"""Expands a sweep into tasks: each with its command, its inputs and outputs, and the tasks that it waits for.

Tasks that differ in a few values only are joined by `together`: many SAEs on one stream of activations. The values of
each go into a small YAML file, `runs: [{lr: "1e-3", k: "8"}, ...]`, whose path the command has as {runs}, as `train-sae
--sweep` takes it; {folder} is the folder of their outputs.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from expand_sweep.sweep import OutputsOf, Step, Sweep, resolve_all
from expand_sweep.templates import Resolved, Template, compiled, resolve
from saetools.cli.located_yaml import Text, Value, as_text_or_list, fail
from saetools.cli.sweeps import Run
from saetools.errors import UserError, near_names
from saetools.files.atomic import write_text


@dataclass(eq=False)
class Task:
    """One command of a step.

    values: all names of its templates; choices: the values that the step varies, as they stand in the file
    members: the tasks that `together` joined into this one; runs_file, runs_text: the file of their values, which its
        command reads
    inputs, outputs: paths by name; needs: step -> indices of the tasks that come first
    """

    step: Step
    index: int
    values: dict[str, Resolved]
    choices: Mapping[str, Value]
    inputs: dict[str, list[str]]
    outputs: dict[str, list[str]]
    template: list[Template]
    needs: dict[str, set[int]] = field(default_factory=dict)
    members: tuple[Task, ...] = ()
    runs_file: Path | None = None
    runs_text: str = ""

    @property
    def name(self) -> str:
        return f"{self.step.name}[{self.index}]"

    @property
    def input_paths(self) -> list[str]:
        return [path for paths in self.inputs.values() for path in paths]

    @property
    def output_paths(self) -> list[str]:
        return [path for paths in self.outputs.values() for path in paths]

    @cached_property
    def command(self) -> list[str]:
        """The words of the command."""
        return self.command_with({})

    def command_with(self, replaced: Mapping[str, Resolved]) -> list[str]:
        """The words of the command where some names have other values (inputs that were copied elsewhere)."""
        values = {**self.values, **replaced} if replaced else self.values
        return [word for template in self.template for word in template.words(values)]

    @property
    def folders(self) -> list[str]:
        """The folders to make before it runs: those of its outputs, except folders that the command itself makes."""
        named = {word.rpartition("=")[2] for word in self.command}
        found = dict.fromkeys(map(posixpath.dirname, self.output_paths))
        for folder in list(found):
            if folder in named:
                del found[folder]
                found[posixpath.dirname(folder)] = None
        return [folder for folder in found if folder]

    @property
    def stdout(self) -> str | None:
        """The output that the command writes to its stdout."""
        return self.outputs[self.step.stdout][0] if self.step.stdout else None

    @cached_property
    def digest(self) -> str:
        """Identifies the command among others with the same outputs."""
        return digest(self.command)

    @cached_property
    def stamp(self) -> str:
        """The name of the file that records that this task's outputs are complete."""
        return f"{self.step.name}-{digest(self.output_paths)}"


def digest(words: Sequence[str]) -> str:
    """Twelve hexadecimal digits of a SHA-256 that identify a list of words."""
    return hashlib.sha256(json.dumps(list(words)).encode()).hexdigest()[:12]


def expand(sweep: Sweep, max_parallel: int) -> dict[str, list[Task]]:
    """The tasks of every step, steps in dependency order; raises UserError with file and line.

    max_parallel: how many tasks of a step with `together` are joined into one, at most.
    """
    expanded: dict[str, list[Task]] = {}
    for name in _order({name: _named_steps(step, sweep) for name, step in sweep.steps.items()}, sweep):
        step = sweep.steps[name]
        tasks = [_expand_run(step, index, run, sweep, expanded) for index, run in enumerate(step.runs)]
        expanded[name] = join_tasks(step, tasks, max_parallel, sweep.state) if step.together else tasks
    makers = _makers(expanded)
    for tasks in expanded.values():
        for task in tasks:
            task.needs = _needs(task, makers, expanded)
    edges = {
        name: {needed: expanded[name][0].step.where for task in tasks for needed in task.needs}
        for name, tasks in expanded.items()
    }
    return {name: expanded[name] for name in _order(edges, sweep)}


def needs_own_only(tasks: Sequence[Task], step: str, before: Sequence[Task]) -> bool:
    """Whether every task needs exactly one task of `step`, the one with its own index."""
    return len(tasks) == len(before) and all(task.needs.get(step) == {task.index} for task in tasks)


def missing_inputs(tasks: Sequence[Task]) -> dict[str, Task]:
    """The inputs that no task writes -> the first that reads it."""
    found: dict[str, Task] = {}
    makers = {posixpath.normpath(path): task for task in tasks for path in task.output_paths}
    for task in tasks:
        for path in task.input_paths:
            if path not in found and maker_of(path, makers) is None:
                found[path] = task
    return found


def maker_of(path: str, makers: Mapping[str, Task]) -> Task | None:
    """The task that writes `path`, or a folder that `path` is in."""
    place = posixpath.normpath(path)
    while place not in makers:
        parent = posixpath.dirname(place)
        if parent == place or not parent:
            return None
        place = parent
    return makers[place]


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
    """Write the files of values that the commands of joined tasks read; a digest of the text is in their names."""
    for task in tasks:
        if task.runs_file is not None and not task.runs_file.exists():
            task.runs_file.parent.mkdir(parents=True, exist_ok=True)
            write_text(task.runs_file, task.runs_text)


def _expand_run(step: Step, index: int, run: Run, sweep: Sweep, expanded: Mapping[str, list[Task]]) -> Task:
    values = dict(sweep.values)
    for name, choice in run.items():
        chosen = as_text_or_list(choice, f"the value {name!r}")
        others = {**values, **_plain(run, name)} if "{" in str(chosen) else values
        values[name] = resolve(chosen, others)
    values = resolve_all(step.values, values)
    inputs: dict[str, list[str]] = {}
    for key, found in step.inputs.items():
        if isinstance(found, OutputsOf):
            inputs[key], is_list = _outputs_of(found, values, expanded), True
        else:
            inputs[key] = _resolved_list(found, values)
            is_list = len(found) != 1 or _lists(found[0], values)
        values[key] = inputs[key] if is_list else inputs[key][0]
    outputs: dict[str, list[str]] = {}
    for key, texts in step.outputs.items():
        outputs[key] = _resolved_list(texts, values)
        values[key] = outputs[key] if len(texts) != 1 or _lists(texts[0], values) else outputs[key][0]
        if not outputs[key]:
            raise fail(key, f"the output {key!r} names no file")
    return Task(step, index, values, run, inputs, outputs, step.command)


def _plain(run: Run, but: str) -> dict[str, Resolved]:
    """The other values of a run that need no filling in: a value may refer to them."""
    return {name: str(value) for name, value in run.items() if name != but and isinstance(value, Text)}


def _resolved_list(items: list[Text], values: Mapping[str, Resolved]) -> list[str]:
    found = resolve(items, values)
    assert isinstance(found, list)
    return found


def _lists(item: Text, values: Mapping[str, Resolved]) -> bool:
    return "{" in item and compiled(item, item.where).is_list(values)


def _outputs_of(
    wanted: OutputsOf, values: Mapping[str, Resolved], expanded: Mapping[str, list[Task]]
) -> list[str]:
    paths = []
    for task in expanded[wanted.step]:
        for name in wanted.same:
            if name not in task.values or name not in values:
                raise fail(name, f"same: {name!r} is not a value of both steps")
        if all(task.values[name] == values[name] for name in wanted.same):
            if wanted.output is None:
                paths += task.output_paths
            elif wanted.output in task.outputs:
                paths += task.outputs[wanted.output]
            else:
                known = list(task.outputs)
                raise fail(
                    wanted.output,
                    f"{wanted.step} has no output {wanted.output!r}{near_names(wanted.output, known)};"
                    f" it has {', '.join(known)}",
                )
    if not paths:
        raise fail(wanted.step, f"no task of {wanted.step} has the same {', '.join(wanted.same)}")
    return paths


def _named_steps(step: Step, sweep: Sweep) -> dict[str, str]:
    """The steps that a step names in `needs` and `inputs` -> where."""
    named = [*step.needs, *(found.step for found in step.inputs.values() if isinstance(found, OutputsOf))]
    for other in named:
        if other not in sweep.steps:
            raise fail(other, f"there is no step {other!r}{near_names(other, list(sweep.steps))}")
    return {str(other): other.where for other in named}


def _order(edges: Mapping[str, Mapping[str, str]], sweep: Sweep) -> list[str]:
    """The steps, each after those that it needs, else as in the file; raises UserError for a cycle."""
    order: list[str] = []
    path: list[str] = []

    def visit(name: str, where: str) -> None:
        if name in order:
            return
        if name in path:
            cycle = [*path[path.index(name) :], name]
            raise UserError(
                f"{where}: the steps wait for each other: {' needs '.join(cycle)}; remove one of these dependencies"
            )
        path.append(name)
        for needed, place in edges[name].items():
            visit(needed, place)
        path.pop()
        order.append(name)

    for name in sweep.steps:
        visit(name, sweep.steps[name].where)
    return order


def _makers(expanded: Mapping[str, list[Task]]) -> dict[str, Task]:
    """Path -> the task that writes it; raises UserError where two tasks write one file."""
    makers: dict[str, Task] = {}
    for tasks in expanded.values():
        for task in tasks:
            for key, paths in task.outputs.items():
                for path in paths:
                    place = posixpath.normpath(path)
                    other = makers.setdefault(place, task)
                    if other is not task:
                        raise _two_writers(path, key, task, other)
    return makers


def _two_writers(path: str, key: str, task: Task, other: Task) -> UserError:
    at = next(name for name in task.step.outputs if name == key)
    remedy = "name them differently"
    if task.step is other.step:
        differ = [name for name in task.choices if task.values.get(name) != other.values.get(name)]
        remedy = f"put what differs into its name: {', '.join(f'{{{name}}}' for name in differ)}"
    return fail(at, f"{other.name} and {task.name} both write {path}; {remedy}")


def _needs(task: Task, makers: Mapping[str, Task], expanded: Mapping[str, list[Task]]) -> dict[str, set[int]]:
    needs: dict[str, set[int]] = defaultdict(set)
    for path in task.input_paths:
        maker = maker_of(path, makers)
        if maker is task:
            raise fail(task.step, f"{task.name} reads {path}, which it writes itself")
        if maker is not None:
            needs[maker.step.name].add(maker.index)
    for step in task.step.needs:
        needs[step].update(range(len(expanded[step])))
    return dict(needs)


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
    text = "".join(["runs:\n", *(f"- {_as_flow(row)}\n" for row in _rows(tasks, over))])
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


def _as_flow(row: Mapping[str, Resolved]) -> str:
    """The row as JSON that is YAML too, which has no pairs of surrogates and breaks lines at more characters."""
    text = json.dumps(row, ensure_ascii=False)
    return re.sub("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _rows(tasks: Sequence[Task], over: Sequence[str]) -> Iterator[dict[str, Resolved]]:
    for task in tasks:
        yield {str(name): task.values[name] for name in over}


def _words(value: Resolved) -> list[str]:
    return [value] if isinstance(value, str) else value


def _union(lists: Iterator[list[str]]) -> list[str]:
    return list(dict.fromkeys(path for paths in lists for path in paths))
