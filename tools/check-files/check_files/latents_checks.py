"""CSR latents: one file, and a folder of them."""

from __future__ import annotations

from pathlib import Path

from check_files.containers import check_members
from check_files.facts import Facts
from saetools.errors import UserError
from saetools.latents.reader import LatentsFile, open_latents

EVENTS_AT_ONCE = 4_000_000


def check_latents(path: Path, deep: bool) -> Facts:
    """Sizes; with `deep` every member's check sum, and the numbers of all latents."""
    found = LatentsFile(path)
    if deep:
        check_members(path)
        for start, stop in found.blocks(EVENTS_AT_ONCE):
            _, _, values = found.images(start, stop)
            if not bool((values == values).all()):
                raise UserError(f"{path}: values of images {start} to {stop - 1} hold NaN")
    summary = (
        f"latents of {found.n_images} images, {found.n_latents} latents, {found.n_active} active latents"
    )
    return Facts(summary, found.provenance.uid, found.provenance.parents, found.header.source)


def check_folder_of_latents(folder: Path, deep: bool) -> list[Facts | tuple[Path, UserError]]:
    """Facts of the whole folder first, then of each file, or else every file with what is wrong with it."""
    found: list[Facts | tuple[Path, UserError]] = []
    for path in sorted(folder.glob("latents-*.npz")):
        try:
            found.append(check_latents(path, deep))
        except UserError as error:
            found.append((path, error))
    if any(not isinstance(item, Facts) for item in found):
        return found
    try:
        files = open_latents([folder])
    except UserError as error:
        return [*found, (folder, error)]
    summary = f"{len(files.files)} files, latents of {files.n_images} images, {files.n_latents} latents"
    return [Facts(summary, ""), *found]
