"""Tools that write to a disk which fills up, and then again to one with room."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from campaign import Campaign
from compare import partial_files
from kills import run_again
from record import Case
from runs import Server
from zoo import JOBS

WRITERS = [job for job in JOBS if not job.prints]  # the others print, and write no file
LEAST = 4096  # bytes: the smallest disk


def fill(found: Campaign, server: Server, number: int) -> Case:
    """A tmpfs of a random size, mostly too small; where mounting is not allowed, a limit to the size of a file."""
    job, rng = WRITERS[number % len(WRITERS)], found.rng("disks", number)
    whole, place = found.undisturbed[job.name], found.folder("disks", number)

    def verdict(what: str, detail: str = "") -> Case:
        return Case("disks", job.name, number, what, detail)

    run = place / "run"
    run.mkdir()
    given = sum(path.stat().st_size for _, path in _inputs(found, job.copies))
    size = given + int(rng.uniform(LEAST, max(2 * LEAST, whole.n_bytes * 1.1)))
    mounted = _mount(run, size)
    try:
        job.prepare(found.zoo, run)
        command = job.command(found.zoo, run, place, "full")
        limit = None if mounted else max(LEAST, int(rng.uniform(0, whole.largest)))
        done = server.run(command.limited(limit), real=mounted and found.is_real(number))
        when = f"a disk of {size} bytes" if mounted else f"files of at most {limit} bytes"
        if done.code is None:
            return verdict("hung", when)
        if crash := done.crash():
            return verdict("crashed", f"{when}: {crash}")
        if done.code not in (0, 1):
            return verdict("crashed", f"{when}: exit code {done.code}, expected 1")
        if done.code and (wrong := done.bad_error()):
            return verdict("crashed", f"{when}: {wrong}")
        if done.code and not any(words in done.error() for words in FULL):
            return verdict(
                "different", f"{when}: it does not say that the disk is full: {done.error()[:200]}"
            )
        if left := partial_files(run) or "; ".join(done.survivors):
            return verdict("left over", f"{when}: {left}")
        if half := whole.half(run):
            return verdict("different", f"{when}: half a file: {half}")
        if mounted:
            _more_room(run)
        again = run_again(found, server, job, place, verdict, when, False)
        return verdict("refused") if again.verdict == "same" and done.code else again
    finally:
        if mounted:
            shutil.copytree(run, place / "disk", dirs_exist_ok=True)  # to be looked at, where this is a fault
            subprocess.run(["umount", "--lazy", str(run)], check=True)


# How the tools say it: while writing, or before, when they reserve the room of a file or of all of them
FULL = ("the disk is full", "File too large", "bytes free", "are free", "no room")


def _inputs(found: Campaign, copies: tuple[tuple[str, str], ...]) -> list[tuple[str, Path]]:
    return [
        (target, path)
        for source, target in copies
        for path in [found.zoo / source, *(found.zoo / source).rglob("*")]
        if path.is_file()
    ]


def _mount(folder: Path, size: int) -> bool:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={-(-size // 4096) * 4096}", "campaign", str(folder)],
        capture_output=True,
        check=False,
    )
    return done.returncode == 0


def _more_room(folder: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=256m", str(folder)], check=True)
