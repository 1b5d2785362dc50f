"""Draws pictures in worker processes, and only those that have changed: each file has a key of its contents in it."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

from saetools import __version__
from saetools.cli.process import end_with_parent, starting_workers
from saetools.cli.progress import Progress
from saetools.errors import UserError
from saetools.files.provenance import canonical_json
from saetools.log import logger
from saetools.vision.pictures import open_image

Task = TypeVar("Task")
KEY = "saetools"


def content_key(*what: Any) -> str:
    """A digest of everything that determines a picture; it is written into the picture itself."""
    return hashlib.sha256(canonical_json([__version__, *what]).encode()).hexdigest()[:32]


def file_stat(path: Path) -> tuple[int, int]:
    """Size and modification time of a file, by which a change is noticed."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def key_in_picture(target: Path) -> str | None:
    """The key in a picture, PNG or JPEG; None where there is no picture, or a broken one, or no key."""
    try:
        with open_image(target) as image:
            found = image.info.get(KEY, image.info.get("comment"))
    except UserError:
        return None
    return found.decode("ascii", "replace") if isinstance(found, bytes) else found


def draw_changed(
    what: str, draw: Callable[[Task], None], tasks: Sequence[tuple[Path, str, Task]], workers: int
) -> int:
    """Call draw(task) for each (target, key, task) whose target has another key; returns how many that were.

    Raises what `draw` raises, after the workers have stopped.
    """
    todo = [task for target, key, task in tasks if key_in_picture(target) != key]
    with Progress(what, total=len(todo), unit="pictures") as progress:
        if workers <= 1 or len(todo) < 2:
            for task in todo:
                draw(task)
                progress.advance(1)
        else:
            few = min(max(len(todo) // (16 * workers), 1), 16)  # at a time: what is still done after Ctrl-C
            # spawn: a forked child of a process with threads can hang
            context = multiprocessing.get_context("spawn")
            with starting_workers():  # and the process that removes their semaphores
                pool = ProcessPoolExecutor(min(workers, len(todo)), context, end_with_parent)
            with pool:
                try:
                    with starting_workers():
                        pending = [
                            pool.submit(_draw_few, draw, todo[start : start + few])
                            for start in range(0, len(todo), few)
                        ]
                    for done in as_completed(pending):
                        progress.advance(done.result())
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
    if len(todo) < len(tasks):
        logger.info("%s: %d of %d were there already", what, len(tasks) - len(todo), len(tasks))
    return len(todo)


def _draw_few(draw: Callable[[Task], None], tasks: Sequence[Task]) -> int:
    for task in tasks:
        draw(task)
    return len(tasks)
