"""Every format that is known, and what checks it: add a line here for a new one.

A checker takes a file and whether to read all of it (`--deep`), returns its `Facts`, and raises UserError with what
is wrong. One that is a folder of files has a checker of the folder too (see `folders`). Formats with no more to check
than what their container holds are checked by `_container`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from check_files.containers import check_csv, check_hdf5, check_npz, format_name
from check_files.facts import Facts
from check_files.latents_checks import check_latents
from check_files.scorer_checks import check_scorer
from check_files.shard_checks import check_shard
from saetools.errors import UserError
from saetools.files.formats import FORMATS, LATENTS, SCORERS, SHARDS, Format

Check = Callable[[Path, bool], Facts]


@dataclass(frozen=True)
class Checker:
    format: Format
    check: Check


def _container(format: Format) -> Checker:
    def check(path: Path, deep: bool) -> Facts:
        by_suffix = {".csv": check_csv, ".npz": check_npz}
        return by_suffix.get(path.suffix, check_hdf5)(path, format, deep)

    return Checker(format, check)


CHECKERS = {format.name: _container(format) for format in FORMATS} | {
    checker.format.name: checker
    for checker in (
        Checker(SHARDS, check_shard),
        Checker(SCORERS, check_scorer),
        Checker(LATENTS, check_latents),
    )
}


def check_file(path: Path, deep: bool) -> Facts:
    """Recognise a file by the format that it names, and check it; raises UserError with what is wrong."""
    name = format_name(path)
    if name not in CHECKERS:
        raise UserError(
            f"{path}: its format is {name!r}, which this version does not know; known are"
            f" {', '.join(sorted(CHECKERS))}; update saetools"
        )
    return CHECKERS[name].check(path, deep)
