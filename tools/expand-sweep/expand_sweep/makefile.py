"""A sweep as a Makefile: one phony target for each task, `STEP.INDEX`, and one for each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from expand_sweep.context import FUNCTIONS, RunContext, describe_task
from expand_sweep.quoting import as_printed, quote, quote_all
from expand_sweep.sweep import Sweep
from expand_sweep.tasks import Task

# GNU make ends with 2 after a failed task. Started as a program, the file ends with 1, as our tools do.
_HEAD = """#!/usr/bin/env -S bash -c 'make -f "$0" "$@" || exit 1'
# The sweep {name} of {path}, written by expand-sweep.
#   make -j4 -f THIS        or, executable, THIS -j4: everything
#   make -j4 -f THIS STEP   one step, with what it needs: {steps}

SHELL := /bin/bash
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := all
"""

_RUN = """state={state}
{functions}
run() {{ # COMMAND...: runs the task that the variables describe
    cd {root} || exit 1
    is_done && return 0
    printf '%s:' "$name" >&2; printf ' %q' "$@" >&2; echo >&2
    start
    if [ -n "$stdout" ]; then "$@" >"$stdout.partial"; else "$@"; fi || note_failed $?
    note_done
}}"""


def render_makefile(sweep: Sweep, tasks: Mapping[str, Sequence[Task]], context: RunContext) -> Iterator[str]:
    """The Makefile's text, piece by piece."""
    yield _HEAD.format(name=sweep.name, path=as_printed(sweep.path.name), steps=", ".join(tasks))
    run = _RUN.format(root=quote(str(context.root)), state=quote(str(context.state)), functions=FUNCTIONS)
    yield "export FUNCTIONS\ndefine FUNCTIONS\n" + run.replace("$", "$$") + "\nendef\n\n"
    yield f".PHONY: all {' '.join(tasks)}\nall: {' '.join(tasks)}\n\n"
    for name, found in tasks.items():
        targets = " ".join(f"{name}.{task.index}" for task in found)
        yield f"{name}: {targets}\n.PHONY: {targets}\n"
        for task in found:
            needs = "".join(f" {step}.{index}" for step in task.needs for index in sorted(task.needs[step]))
            recipe = f"{describe_task(task)}; run {quote_all(context.words(task))}".replace("$", "$$")
            yield f'{name}.{task.index}:{needs}\n\t@eval "$$FUNCTIONS"; {recipe}\n'
        yield "\n"
