"""Writes the batch script of every array, and submit.sh, which submits them in order."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from expand_sweep.context import FUNCTIONS, RunContext, describe_task
from expand_sweep.quoting import as_printed, check_utf8, quote, quote_all
from expand_sweep.slurm.arrays import Array
from expand_sweep.slurm.header import render_header, seconds_before_limit
from expand_sweep.sweep import Sweep
from expand_sweep.tasks import Task
from expand_sweep.templates import Resolved
from saetools.files.atomic import write_text

MARK = "written by expand-sweep"

_BODY = r"""
{functions}

node='' pid='' time_is_up=''
clean() {{ [ -z "$node" ] || rm -rf "$node"; }}
stop() {{ [ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null; }}
trap clean EXIT
trap 'time_is_up=1; stop' USR1 # {seconds} seconds before the time limit
trap stop TERM

is_done && {{ echo "$name: done before; nothing to do" >&2; exit 0; }}
start
{stage}
code=0
if [ -z "$time_is_up" ]; then
    run &
    pid=$!
    while :; do # a signal ends `wait`, but not the task
        wait "$pid"
        code=$?
        kill -0 "$pid" 2>/dev/null || break
    done
    wait "$pid" 2>/dev/null # it may have ended between the two
    last=$?
    [ "$last" -eq 127 ] || code=$last
fi
{requeue}[ "$code" -eq 0 ] || note_failed "$code"
note_done
"""

_STAGE = r"""
node=$(mktemp -d "${TMPDIR:-/tmp}/sweep-XXXXXX") || note_failed 1
for i in "${!staged[@]}"; do
    { mkdir "$node/$i" && cp -R -- "${staged[$i]}" "$node/$i/"; } || note_failed 1
done
"""

_REQUEUE = r"""
if [ -n "$time_is_up" ] && ! { [ "$code" -eq 0 ] && [ -n "$pid" ]; }; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt LIMIT ]; then
        echo "$name: out of time; requeued, to continue from what is complete" >&2
        clean
        scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" && exit 0
    fi
    echo "$name: out of time, for the last of LIMIT times; raise time: or requeues:" >&2
fi
"""

_SUBMIT = r"""#!/bin/bash
# Submits the sweep {name}; {mark}.
#   submit.sh              submits, and prints the job ids
#   submit.sh --wait [S]   and waits, asking every S seconds (30); exit code 1 where a task failed
cd {root} || exit 1
state={state} scripts={scripts}
mkdir -p "$state/logs" "$state/done" "$state/failed"
touch "$state/jobs"

queued() {{ squeue --noheader --me --format=%F 2>/dev/null | grep -qxFf <(cut -f1 "$state/jobs"); }}
submit() {{ # NAME STEP OFFSET [DEPENDENCY]: leaves the job's id in $id
    id=$(sbatch --parsable ${{4:+--dependency="$4"}} "$scripts/$1.sbatch") || give_up "$1"
    id=${{id%%;*}}
    ids+=("$id")
    printf '%s\t%s\t%s\n' "$id" "$2" "$3" >>"$state/jobs"
    echo "$1: job $id"
}}
give_up() {{
    echo "submit.sh: $1 was refused; withdrawing what was submitted before it" >&2
    [ "${{#ids[@]}}" -eq 0 ] || scancel "${{ids[@]}}"
    exit 1
}}

if [ -s "$state/jobs" ] && queued; then
    echo "submit.sh: jobs of this sweep are still in the queue; wait for them, or scancel them first" >&2
    exit 1
fi
ids=()
{submits}
[ "${{1:-}}" = --wait ] || exit 0
sleep 2
until queue=$(squeue --noheader --me --format=%F) && ! grep -qxFf <(printf '%s\n' "${{ids[@]}}") <<<"$queue"; do
    sleep "${{2:-30}}"
done
failed=0
while read -r stamp digest name; do
    [ "$(cat "$state/done/$stamp" 2>/dev/null)" = "$digest" ] && continue
    echo "submit.sh: $name is not done" >&2
    failed=1
done <"$scripts/tasks"
exit "$failed"
"""


def write_scripts(folder: Path, sweep: Sweep, arrays: Sequence[Array], context: RunContext) -> list[Path]:
    """Write the scripts into `folder`, replacing those of an earlier call; returns their paths, submit.sh last."""
    check_utf8(folder.absolute())
    scripts = {folder / f"{array.name}.sbatch": render_script(sweep, array, context) for array in arrays}
    context.make_folders()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.sbatch"):
        if MARK in old.read_text(encoding="utf-8", errors="replace")[:20000]:
            old.unlink()
    for path, text in scripts.items():
        write_text(path, text)
    stamps = "".join(f"{task.stamp} {task.digest} {task.name}\n" for array in arrays for task in array.tasks)
    write_text(folder / "tasks", stamps)
    submit = folder / "submit.sh"
    write_text(submit, _render_submit(folder, sweep, arrays, context))
    submit.chmod(0o755)
    return [*scripts, submit]


def render_script(sweep: Sweep, array: Array, context: RunContext) -> str:
    """The batch script of one array."""
    slurm = array.step.slurm
    seconds = seconds_before_limit(array)
    cases = "\n".join(
        f"{task.index - array.offset})\n{_render_task(task, context)}\n    ;;" for task in array.tasks
    )
    preamble = (
        f"# shellcheck disable=all\n{{\n{slurm.preamble.rstrip()}\n}}\n" if slurm.preamble.strip() else ""
    )
    return "\n".join(
        [
            render_header(sweep, array, context, seconds),
            f"# The step {array.step.name} of {as_printed(sweep.path.name)}; {MARK}.",
            preamble,
            f"cd {quote(str(context.root))} || exit 1",
            f"state={quote(str(context.state))}",
            'case "$SLURM_ARRAY_TASK_ID" in',
            cases,
            '*)\n    echo "there is no task $SLURM_ARRAY_TASK_ID in this array" >&2\n    exit 1\n    ;;',
            "esac",
            _BODY.format(
                functions=FUNCTIONS,
                seconds=seconds,
                stage=_STAGE if slurm.stage else "",
                requeue=_REQUEUE.strip().replace("LIMIT", str(slurm.requeues)) + "\n"
                if slurm.requeues
                else "",
            ),
        ]
    )


def _render_task(task: Task, context: RunContext) -> str:
    staged = task.step.slurm.stage
    paths = {name: task.inputs[name] for name in staged}
    numbered = iter(range(sum(map(len, paths.values()))))
    # A path on the node is known only there: words hold a mark in its context, which becomes "$node" once quoted.
    copies = {
        name: [f"\0{next(numbered)}/{Path(path).name}" for path in found] for name, found in paths.items()
    }
    words = [_quote_staged(word) for word in context.words(task, _as_values(task, copies))]
    lines = [f"    {describe_task(task)}"]
    if staged:
        lines.append(f"    staged=({quote_all(path for found in paths.values() for path in found)})")
    to_file = ' >"$stdout.partial"' if task.stdout else ""
    lines.append(f"    run() {{ exec {' '.join(words)}{to_file}; }}")
    return "\n".join(lines)


def _as_values(task: Task, copies: Mapping[str, list[str]]) -> dict[str, Resolved]:
    return {
        name: found if isinstance(task.values[name], list) else found[0] for name, found in copies.items()
    }


def _quote_staged(word: str) -> str:
    parts = re.split(r"\0", word)
    if len(parts) == 1:
        return quote(word)
    first = quote(parts[0]) if parts[0] else ""
    return first + "".join('"$node"' + quote(f"/{part}") for part in parts[1:])


def _render_submit(folder: Path, sweep: Sweep, arrays: Sequence[Array], context: RunContext) -> str:
    if not arrays:
        return f'#!/bin/bash\n# {MARK}\necho "everything is done; nothing to submit" >&2\n'
    return _SUBMIT.format(
        name=sweep.name,
        mark=MARK,
        root=quote(str(context.root)),
        state=quote(str(context.state)),
        scripts=quote(str(folder.absolute())),
        submits="\n".join(_submit_lines(arrays)),
    )


def _submit_lines(arrays: Sequence[Array]) -> Iterator[str]:
    variables = {array: f"job_{number}" for number, array in enumerate(arrays, start=1)}
    awaited = {before for array in arrays for _, before in array.after}
    for array in arrays:
        dependency = ",".join(f"{kind}:${variables[before]}" for kind, before in array.after)
        quoted = f' "{dependency}"' if dependency else ""
        yield f"submit {array.name} {array.step.name} {array.offset}{quoted}"
        if array in awaited:
            yield f"{variables[array]}=$id"
