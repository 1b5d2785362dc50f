"""The record of a submission, beside the scripts and in the state folder, by which --status finds the same tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from expand_sweep.sweep import Sweep
from saetools.cli.located_yaml import as_yaml
from saetools.errors import UserError
from saetools.files.atomic import write_text

SWEEP, SUBMITTED = "sweep.yml", "submitted.json"


@dataclass(frozen=True)
class Submitted:
    """settings: of --set; root: where commands run; scripts: the folder of --sbatch, which holds sweep.yml."""

    settings: Sequence[str]
    max_parallel: int
    root: str
    scripts: str


def save_submitted(folder: Path, state: Path, sweep: Sweep, found: Submitted) -> None:
    """Write sweep.yml, the sweep with every --set in it, and submitted.json into the folder of the scripts.

    submitted.json goes into the state folder too, where a later call without the folder looks for it.
    """
    write_text(folder / SWEEP, as_yaml({**sweep.table, "name": sweep.name}))
    for place in (folder, state):
        write_text(place / SUBMITTED, json.dumps(asdict(found), indent=1) + "\n")


def read_submitted(folder: Path) -> Submitted | None:
    """The record in a folder of scripts or a state folder; None where it has none; raises UserError."""
    path = folder / SUBMITTED
    if not path.is_file():
        return None
    try:
        found = Submitted(**json.loads(path.read_text(encoding="utf-8")))
        if not (isinstance(found.settings, list) and all(isinstance(one, str) for one in found.settings)):
            raise ValueError("its settings are no list of texts")
        if not (type(found.max_parallel) is int and found.max_parallel >= 1):
            raise ValueError(f"its max_parallel is {found.max_parallel!r}")
        if not (isinstance(found.root, str) and isinstance(found.scripts, str)):
            raise ValueError("its folders are no texts")
        return found
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path}: the file is broken ({error}); write it again with expand-sweep --sbatch or --resubmit"
        ) from error


def check_as_submitted(
    state: Path, settings: Sequence[str], max_parallel: int, option: str, *, exactly: bool
) -> None:
    """Raise UserError where a sweep was submitted with other settings than are given now.

    exactly: the values must be the same; otherwise each KEY that was set must be set again, to any value. Nothing is
    checked where there is no record, as of an earlier version.
    """
    found = read_submitted(state)
    if found is None:
        return
    here = settings if exactly else [one.partition("=")[0] for one in settings]
    forgotten = [one for one in found.settings if (one if exactly else one.partition("=")[0]) not in here]
    new = [one for one in settings if one not in found.settings] if exactly else []
    if forgotten or new or max_parallel != found.max_parallel:
        before = [*(f"--set '{one}'" for one in found.settings), f"--max-parallel {found.max_parallel}"]
        raise UserError(
            f"{state}: this sweep was submitted with {' '.join(before)}, not with the settings given now, so"
            f" finished tasks would be taken for others;\ngive the same, or: expand-sweep {found.scripts} {option}"
        )
