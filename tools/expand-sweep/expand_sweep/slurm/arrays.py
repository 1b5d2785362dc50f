"""The Slurm arrays of a sweep, and the dependencies between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from expand_sweep.sweep import Step
from expand_sweep.tasks import Task, needs_own_only


@dataclass(eq=False)
class Array:
    """Tasks that are submitted as one job array.

    offset: added to an index of the array gives the index of the task, since the cluster limits array indices
    after: the arrays that it waits for, each with the kind of dependency in sbatch's terms
    """

    name: str
    step: Step
    tasks: list[Task]
    offset: int
    after: list[tuple[str, Array]] = field(default_factory=list)

    @property
    def indices(self) -> list[int]:
        return [task.index - self.offset for task in self.tasks]


def plan_arrays(
    expanded: Mapping[str, Sequence[Task]], wanted: Mapping[str, set[int]], limit: int
) -> list[Array]:
    """Arrays of the `wanted` tasks of every step, in the order in which they can be submitted.

    limit: array indices are below it. Where each task needs only the task of the same index, the dependency is
    `aftercorr`, else `afterok` on all arrays of that step. Tasks whose predecessors are done wait for none.
    """
    arrays: dict[str, list[Array]] = {}
    for name, tasks in expanded.items():
        array_of = {
            (task.step.name, task.index): array
            for found in arrays.values()
            for array in found
            for task in array.tasks
        }
        before = dict.fromkeys(step for task in tasks for step in task.needs)
        own = {step for step in before if needs_own_only(tasks, step, expanded[step])}
        groups: dict[tuple[object, ...], list[Task]] = defaultdict(list)
        awaited: dict[tuple[object, ...], _Awaited] = {}
        for task in tasks:
            if task.index in wanted[name]:
                one = [
                    array_of[step, task.index]
                    for step in before
                    if step in own and (step, task.index) in array_of
                ]
                whole = [
                    step
                    for step in before
                    if step not in own and not task.needs.get(step, set()).isdisjoint(wanted[step])
                ]
                key = (*map(id, one), *whole, task.index // limit)
                awaited[key] = _Awaited(one, [array for step in whole for array in arrays[step]])
                groups[key].append(task)
        arrays[name] = []
        for number, (key, group) in enumerate(groups.items(), start=1):
            array = Array(
                name if len(groups) == 1 else f"{name}-{number}",
                group[0].step,
                group,
                group[0].index // limit * limit,
            )
            array.after += [("aftercorr", found) for found in awaited[key].one]
            array.after += [("afterok", found) for found in awaited[key].whole]
            if array.step.slurm.throttle and arrays[name]:
                array.after.append(
                    ("afterany", arrays[name][-1])
                )  # else each would take the throttle for itself
            arrays[name].append(array)
    return [array for found in arrays.values() for array in found]


@dataclass(frozen=True)
class _Awaited:
    """one: arrays where a task waits for the task of its own index; whole: arrays where it waits for all tasks"""

    one: list[Array]
    whole: list[Array]


def compress(indices: Sequence[int]) -> str:
    """0, 1, 2, 5 -> 0-2,5"""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and ranges[-1][1] == index - 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(f"{low}-{high}" if low < high else str(low) for low, high in ranges)
