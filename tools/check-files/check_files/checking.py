"""Checks files and folders one by one, and then whether those that were given belong together.

A new format needs no code here, but for a check of its own in CHECKS where more is to check than its container.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from check_files.edits import (
    check_effects,
    check_fidelity,
    check_folder_of_predictions,
    check_predictions,
)
from check_files.files import (
    SAEV_SUFFIX,
    SUFFIXES,
    Facts,
    check_container,
    check_folder_of_latents,
    check_head,
    check_latents,
    check_scorer,
    format_name,
)
from check_files.shards import check_folder_of_shards, check_shard
from saetools.errors import UserError
from saetools.files.formats import (
    EDIT_EFFECTS,
    EDIT_FIDELITY,
    EDIT_PREDICTIONS,
    FORMATS,
    HEADS,
    LATENTS,
    SCORERS,
    SHARDS,
)
from saetools.files.provenance import first_difference
from saetools.files.reading import reading
from saetools.scorers.saelens import is_saelens

CHECKS: Mapping[str, Callable[[Path, bool], Facts]] = {
    SHARDS.name: check_shard,
    SCORERS.name: check_scorer,
    HEADS.name: check_head,
    LATENTS.name: check_latents,
    EDIT_EFFECTS.name: check_effects,
    EDIT_FIDELITY.name: check_fidelity,
    EDIT_PREDICTIONS.name: check_predictions,
}
# the files of a folder -> the check of the whole folder
FOLDERS = {
    "shard-*.h5": check_folder_of_shards,
    "latents-*.npz": check_folder_of_latents,
    "predictions-*.npz": check_folder_of_predictions,
}


@dataclass(frozen=True)
class Verdict:
    """On a file or folder: facts about it, or what is wrong with it."""

    path: Path
    facts: Sequence[Facts] = ()
    fault: str | None = None

    def line(self) -> str:
        """`PATH: ok, ...` or `PATH: what is wrong`."""
        if self.fault is not None:
            return f"{self.path}: {self.fault}"
        return f"{self.path}: ok, {self.facts[0].summary}"


def check_file(path: Path, deep: bool) -> Facts:
    """Check a file by the format that it names, or as another library's SAE; raises UserError with what is wrong."""
    if path.suffix == SAEV_SUFFIX or path.is_dir():
        return check_scorer(path, deep)
    name = format_name(path)
    formats = {format.name: format for format in FORMATS}
    if name not in formats:
        raise UserError(
            f"{path}: its format {name!r} is unknown to this version; known are {', '.join(sorted(formats))};"
            " update saetools"
        )
    return CHECKS[name](path, deep) if name in CHECKS else check_container(path, formats[name], deep)


def check_paths(paths: Iterable[Path], deep: bool) -> Iterator[Verdict]:
    """Yield a verdict for each file and each folder of shards or latents; other folders are searched."""
    sound: list[Verdict] = []
    for path in paths:
        for verdict in _check_folder(path, deep) if path.is_dir() else [_check_file(path, deep)]:
            if verdict.fault is None:
                sound.append(verdict)
            else:
                yield verdict
    mismatches = dict(_mismatches(sound))
    for verdict in sound:
        yield Verdict(verdict.path, fault=mismatches[verdict.path]) if verdict.path in mismatches else verdict


def _check_file(path: Path, deep: bool) -> Verdict:
    try:
        with reading(path, "write it again"):  # whatever the file holds, there is a verdict
            return Verdict(path, [check_file(path, deep)])
    except UserError as error:
        return _fault(path, error)


def _fault(path: Path, error: UserError) -> Verdict:
    """The verdict with a reader's error, in one line."""
    text = " ".join(str(error).split())
    return Verdict(path, fault=text.removeprefix(f"{path}: "))


def _check_folder(folder: Path, deep: bool, above: Sequence[Path] = ()) -> Iterator[Verdict]:
    """above: the folders that it is in, to notice a link to one of them."""
    if (real := folder.resolve()) in above:
        yield Verdict(folder, fault="it is a link to a folder that it is in")
        return
    if is_saelens(folder):
        yield _check_file(folder, deep)
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        yield Verdict(folder, fault=f"it cannot be listed ({error.strerror})")
        return
    kinds = [kind for kind in FOLDERS if any(folder.glob(kind))]
    for kind in kinds:
        found = FOLDERS[kind](folder, deep)
        facts = [item for item in found if isinstance(item, Facts)]
        faults = [_fault(*item) for item in found if not isinstance(item, Facts)]
        yield from faults or [Verdict(folder, facts)]
    n_checked = len(kinds)
    for path in entries:
        if path.name.startswith(".") or any(path.match(kind) for kind in kinds):
            continue
        if path.is_dir() or path.suffix in (*SUFFIXES, SAEV_SUFFIX):
            n_checked += 1
            yield from (
                _check_folder(path, deep, (*above, real)) if path.is_dir() else [_check_file(path, deep)]
            )
    if not n_checked:
        yield Verdict(folder, fault="it holds no file of saetools")


def _mismatches(sound: list[Verdict]) -> Iterator[tuple[Path, str]]:
    """Files whose parents, or who and whose parents, are of different models; each with the first difference."""
    by_uid = {facts.uid: (verdict.path, facts) for verdict in sound for facts in verdict.facts if facts.uid}
    for verdict in sound:
        for facts in verdict.facts:
            family = [(verdict.path, facts)] + [by_uid[uid] for uid in facts.parents if uid in by_uid]
            told = [(path, member.source) for path, member in family if member.source]
            for path, source in told[1:]:
                if difference := first_difference(told[0][1], source):
                    own = told[0][0] == verdict.path
                    yield (
                        verdict.path,
                        f"it was made from {path}, but they do not belong together: {difference}"
                        if own
                        else f"its parents {told[0][0]} and {path} do not belong together: {difference}",
                    )
                    break
