"""Where a sweep runs and keeps its logs, and how a task records there that it is done."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from expand_sweep.quoting import check_utf8, quote, quote_all
from expand_sweep.tasks import Task
from expand_sweep.templates import Resolved


@dataclass(frozen=True)
class RunContext:
    """root: where commands run; state: the folder of logs and notes; both absolute.

    programs: full path of every program, for jobs that start without the shell that wrote them
    """

    root: Path
    state: Path
    programs: Mapping[str, Path]

    def __post_init__(self) -> None:
        for path in (self.root, self.state, *self.programs.values()):
            check_utf8(path)

    @property
    def done(self) -> Path:
        return self.state / "done"

    @property
    def failed(self) -> Path:
        return self.state / "failed"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def jobs(self) -> Path:
        """The file with a line for each submitted array: job id, step, and the index of its task 0 in the step."""
        return self.state / "jobs"

    def words(self, task: Task, replaced: Mapping[str, Resolved] | None = None) -> list[str]:
        """The command with its program's full path."""
        program, *rest = task.command_with(replaced) if replaced else task.command
        return [str(self.programs[program]), *rest]

    def make_folders(self) -> None:
        for folder in (self.done, self.failed, self.logs):
            folder.mkdir(parents=True, exist_ok=True)


def make_folders(tasks: Iterable[Task]) -> None:
    """Make the folders for the outputs of tasks, for commands that are printed."""
    for folder in {folder for task in tasks for folder in task.folders}:
        Path(folder).mkdir(parents=True, exist_ok=True)


def describe_task(task: Task) -> str:
    """The task as bash variables, for `FUNCTIONS`."""
    return (
        f"name={quote(task.name)} stamp={quote(task.stamp)} digest={task.digest}"
        f" outputs=({quote_all(task.output_paths)}) folders=({quote_all(task.folders)})"
        f" stdout={quote(task.stdout or '')}"
    )


def is_noted(task: Task, context: RunContext) -> bool | None:
    """Whether this very command is recorded as done; None where nothing is recorded for its outputs."""
    try:
        noted = (context.done / task.stamp).read_text(encoding="utf-8", errors="replace")
        return noted.strip() == task.digest
    except FileNotFoundError:
        return None


# bash: is_done; start; note_done; note_failed CODE. They use $state and what `describe_task` sets.
FUNCTIONS = r"""
is_done() {
    [ "$(cat "$state/done/$stamp" 2>/dev/null)" = "$digest" ] && has_outputs
}
has_outputs() {
    local output
    for output in "${outputs[@]}"; do
        [ -e "$output" ] || { missing=$output; return 1; }
    done
}
start() {
    mkdir -p -- "$state/done" "$state/failed" "${folders[@]}"
    rm -f "$state/done/$stamp" "$state/failed/$stamp"
}
note_done() {
    [ -z "$stdout" ] || mv -f -- "$stdout.partial" "$stdout"
    has_outputs || { echo "$name: the command succeeded but did not write $missing" >&2; note_failed 1; }
    echo "$digest" >"$state/done/$stamp"
}
note_failed() {
    echo "$name: failed with exit code $1" >&2
    echo "$1" >"$state/failed/$stamp"
    exit 1
}
""".strip()
