"""expand-sweep: turn a sweep into commands, a Makefile or Slurm arrays."""

from __future__ import annotations

import csv
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saetools.cli.app import VerboseOption, VersionOption, examples, new_app, run, write_line
from saetools.errors import UsageError, UserError
from saetools.log import logger

if TYPE_CHECKING:
    from expand_sweep.context import RunContext
    from expand_sweep.slurm.submitted import Submitted
    from expand_sweep.sweep import Sweep
    from expand_sweep.tasks import Task

app = new_app()
MAX_PARALLEL = 16


@app.command(
    groups={
        "What is printed or written": "step steps make sbatch resubmit status",
        "Settings": "set_ max_parallel max_array",
    },
    epilog=examples(
        "expand-sweep sweeps/birds.yml",
        "expand-sweep sweeps/birds.yml --set 'layers=[7]' --set tokens=2M --step train",
        "expand-sweep sweeps/birds.yml --make",
    ),
)
def expand_sweep(
    sweep_file: Annotated[
        Path,
        typer.Argument(
            metavar="SWEEP.yml",
            help="The sweep: its steps with their commands; or the DIR of an earlier --sbatch.",
        ),
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Replace a value; KEY can be STEP.KEY or slurm.KEY; repeatable.",
        ),
    ] = None,
    step: Annotated[
        list[str] | None, typer.Option(help="Print only the commands of this step; repeatable.")
    ] = None,
    steps: Annotated[
        bool, typer.Option("--steps", help="Print the names of the steps, in dependency order.")
    ] = False,
    make: Annotated[bool, typer.Option("--make", help="Print a Makefile.")] = False,
    sbatch: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write Slurm arrays and DIR/submit.sh.")
    ] = None,
    resubmit: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Like --sbatch, but only for tasks that are not done.")
    ] = None,
    status: Annotated[
        bool, typer.Option("--status", help="Print the state of each task: done, running, waiting or failed.")
    ] = False,
    max_parallel: Annotated[
        int | None,
        typer.Option(min=1, help="Tasks that `together` joins into one, at most. Default: 16."),
    ] = None,
    max_array: Annotated[
        int | None,
        typer.Option(min=1, help="Size of an array, at most. Default: the cluster's limit, else 1001."),
    ] = None,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Turn a sweep into commands, one per line, in dependency order; or into a Makefile, or Slurm arrays.

    Every command is checked against the options of its tool before anything is printed or written.
    Run the lines with bash, one step at a time:

    \b
    for s in $(expand-sweep S.yml --steps); do expand-sweep S.yml --step $s | xargs -d '\\n' -n1 -P4 bash -c; done
    """
    chosen = [bool(step), steps, make, sbatch is not None, resubmit is not None, status]
    if sum(chosen) > 1:
        raise UsageError("choose one of --step, --steps, --make, --sbatch, --resubmit and --status")

    from expand_sweep.command_check import check_commands, find_programs
    from expand_sweep.context import RunContext, make_folders
    from expand_sweep.slurm.submitted import SWEEP, Submitted, check_as_submitted, save_submitted
    from expand_sweep.sweep import read_sweep
    from expand_sweep.tasks import expand, write_runs
    from saetools.files.reuse import writing

    settings, before = set_ or [], None
    if sweep_file.is_dir():
        before = _read_folder(sweep_file)
        sweep_file = sweep_file / SWEEP
    if max_parallel is None:
        max_parallel = MAX_PARALLEL if before is None else before.max_parallel
    sweep = read_sweep(sweep_file, settings)
    tasks = expand(sweep, max_parallel)
    every = [task for found in tasks.values() for task in found]
    if steps:
        for name in tasks:
            write_line(name)
        return
    programs = find_programs(every)
    check_commands(every, programs)
    context = RunContext(Path.cwd(), Path.cwd() / sweep.state, programs)
    if before is None and (status or resubmit is not None):
        option = "--status" if status else f"--resubmit {resubmit}"
        check_as_submitted(context.state, settings, max_parallel, option, exactly=status)
    if status:
        _print_status(tasks, context)
        return
    _check_inputs(every, refuse=make or sbatch is not None or resubmit is not None)
    write_runs(every)
    if make:
        from expand_sweep.makefile import render_makefile

        sys.stdout.writelines(render_makefile(sweep, tasks, context))
    elif (folder := sbatch or resubmit) is not None:
        known = [*(before.settings if before is not None else []), *settings]
        as_given = Submitted(known, max_parallel, str(context.root), str(folder.absolute()))
        with writing(
            folder,
            {**asdict(as_given), "sweep": str(sweep.table), "again": resubmit is not None},
            folder=True,
        ):
            _write_arrays(folder, sweep, tasks, context, max_array, only_missing=sbatch is None)
            save_submitted(folder, context.state, sweep, as_given)
    else:
        for name in step or tasks:
            if name not in tasks:
                raise UsageError(f"--step {name}: the sweep has the steps {', '.join(tasks)}")
        chosen_tasks = [task for name in step or tasks for task in tasks[name]]
        make_folders(chosen_tasks)
        _print_commands(chosen_tasks, context)


def _read_folder(folder: Path) -> Submitted:
    """The record of an earlier --sbatch or --resubmit in its folder; raises UserError."""
    from expand_sweep.slurm.submitted import SWEEP, read_submitted

    found = read_submitted(folder)
    if found is None or not (folder / SWEEP).is_file():
        raise UserError(
            f"{folder}: the folder has no {SWEEP} and submitted.json, which --sbatch writes; give the sweep's YAML,"
            " with the same --set as when it was submitted"
        )
    if Path(found.root) != Path.cwd():
        raise UserError(
            f"{folder}: its paths are relative to {found.root}, but this is {Path.cwd()}; change to that folder first"
        )
    return found


def _print_commands(tasks: Sequence[Task], context: RunContext) -> None:
    """One line for each task; a program that is not on PATH by its full path."""
    from expand_sweep.quoting import quote, quote_all

    on_path = {name for name, path in context.programs.items() if shutil.which(name) == str(path)}
    for task in tasks:
        words = task.command
        program = words[0] if words[0] in on_path else str(context.programs[words[0]])
        line = quote_all([program, *words[1:]])
        if task.stdout:
            partial, target = quote(task.stdout + ".partial"), quote(task.stdout)
            line = f"{line} >{partial} && mv -f -- {partial} {target}"
        sys.stdout.write(line + "\n")


def _print_status(tasks: Mapping[str, Sequence[Task]], context: RunContext) -> None:
    """A CSV of all tasks on stdout; on stderr the counts, and why tasks failed."""
    from expand_sweep.slurm.status import STATES, find_status, last_lines

    found = find_status(tasks, context)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["step", "task", "state", "note"])
    writer.writerows([one.task.step.name, one.task.index, one.state, one.note] for one in found)
    for name in tasks:
        counts = Counter(one.state for one in found if one.task.step.name == name)
        logger.info(
            "%s: %s", name, ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        )
    for one in found:
        if one.state == "failed":
            logger.info(
                "%s failed: %s%s", one.task.name, one.note, f"; {one.log} ends with" if one.log else ""
            )
            for line in last_lines(one.log) if one.log else []:
                logger.info("    %s", line)


def _check_inputs(tasks: Sequence[Task], refuse: bool) -> None:
    """Warn of inputs that do not exist and that no step writes; refuse: raise UserError for the first."""
    from expand_sweep.tasks import missing_inputs

    for path, task in missing_inputs(tasks).items():
        if Path(path).exists():
            continue
        key = next(key for key, paths in task.inputs.items() if path in paths)
        where = next(name for name in task.step.inputs if name == key).where
        message = f"{where}: {path} does not exist, and no step writes it; make it, or correct the path"
        if refuse:
            raise UserError(message)
        logger.warning("%s", message)


def _write_arrays(
    folder: Path,
    sweep: Sweep,
    tasks: Mapping[str, Sequence[Task]],
    context: RunContext,
    max_array: int | None,
    only_missing: bool,
) -> None:
    from expand_sweep.slurm.arrays import plan_arrays
    from expand_sweep.slurm.queue import array_limit
    from expand_sweep.slurm.scripts import write_scripts

    wanted = {name: {task.index for task in found} for name, found in tasks.items()}
    if only_missing:
        from expand_sweep.slurm.status import find_status

        found = find_status(tasks, context)
        queued = [one.task.name for one in found if one.queued]
        if queued:
            raise UserError(
                f"{context.state}: {len(queued)} tasks of this sweep are still in Slurm's queue, such as {queued[0]};"
                " wait for them or cancel them with scancel, then resubmit"
            )
        wanted = {name: set() for name in tasks}
        for one in found:
            if one.state != "done":
                wanted[one.task.step.name].add(one.task.index)
    arrays = plan_arrays(tasks, wanted, max_array or array_limit())
    for path in write_scripts(folder, sweep, arrays, context):
        write_line(str(path))
    n_tasks = sum(len(indices) for indices in wanted.values())
    logger.info("%d tasks in %d arrays; submit them with %s", n_tasks, len(arrays), folder / "submit.sh")


def main() -> None:
    run("expand-sweep", app)
