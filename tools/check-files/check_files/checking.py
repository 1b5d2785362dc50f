"""Checks files and folders one by one, and then whether those that were given belong together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from check_files.containers import SUFFIXES
from check_files.facts import Facts, Verdict, fault_of
from check_files.formats import check_file
from check_files.latents_checks import check_folder_of_latents
from check_files.shard_checks import check_folder_of_shards
from saetools.errors import UserError
from saetools.files.provenance import first_difference

# files that make up a folder -> what checks the folder
FOLDERS = {"shard-*.h5": check_folder_of_shards, "latents-*.npz": check_folder_of_latents}


def check_paths(paths: Iterable[Path], deep: bool) -> Iterator[Verdict]:
    """Yield a verdict for each file and each folder of shards or latents; other folders are gone through."""
    sound: list[Verdict] = []
    for path in paths:
        for verdict in _check_folder(path, deep) if path.is_dir() else [_check_file(path, deep)]:
            if verdict.fault is None:
                sound.append(verdict)
            else:
                yield verdict
    strangers = dict(_strangers(sound))
    for verdict in sound:
        yield Verdict(verdict.path, fault=strangers[verdict.path]) if verdict.path in strangers else verdict


def _check_file(path: Path, deep: bool) -> Verdict:
    try:
        return Verdict(path, [check_file(path, deep)])
    except UserError as error:
        return fault_of(path, error)


def _check_folder(folder: Path, deep: bool) -> Iterator[Verdict]:
    kinds = [kind for kind in FOLDERS if any(folder.glob(kind))]
    for kind in kinds:
        found = FOLDERS[kind](folder, deep)
        facts = [item for item in found if isinstance(item, Facts)]
        faults = [fault_of(*item) for item in found if not isinstance(item, Facts)]
        yield from faults or [Verdict(folder, facts)]
    n_checked = len(kinds)
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or any(path.match(kind) for kind in kinds):
            continue
        if path.is_dir() or path.suffix in SUFFIXES:
            n_checked += 1
            yield from _check_folder(path, deep) if path.is_dir() else [_check_file(path, deep)]
    if not n_checked:
        yield Verdict(folder, fault="it holds no file of saetools")


def _strangers(sound: list[Verdict]) -> Iterator[tuple[Path, str]]:
    """Files that were made from files which do not belong together, or which they do not belong to."""
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
