"""Temporary files and folders that this process is writing, for whoever ends it at once: it removes them first."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PATHS: dict[str, tuple[int, Callable[[], None] | None]] = {}


@contextlib.contextmanager
def unfinished(path: Path, remove: Callable[[], None] | None = None) -> Iterator[Path]:
    """Within its block, `path` is removed if the process is ended at once. The block itself removes nothing.

    remove: removes it in another way.
    """
    name = str(path)
    _PATHS[name] = os.getpid(), remove
    try:
        yield path
    finally:
        _PATHS.pop(name, None)


def remove_unfinished() -> None:
    """Remove all of them; those that a parent process had begun before it forked are its own.

    Another thread may be about to make one, so they are looked for more than once.
    """
    for _ in range(3):
        mine = [(name, remove) for name, (pid, remove) in list(_PATHS.items()) if pid == os.getpid()]
        for name, remove in mine:
            with contextlib.suppress(OSError):
                remove() if remove is not None else _remove(Path(name))
        if not mine or threading.active_count() == 1:
            return
        time.sleep(0.01)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            _remove(inner)
        path.rmdir()
    else:
        path.unlink()
