"""Files that are complete or absent: written beside the target, flushed, renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from saetools.unfinished import unfinished

PARTIAL = ".partial"


@contextlib.contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A path beside `target` to write to; it becomes `target` when the block ends without an exception.

    Its folder is made where it is missing. After an exception the partial file is removed. After SIGKILL it
    stays under its hidden name `.NAME.HOST-PID.partial`; the next writer of the same target on that host
    removes it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(target)
    partial = partial_path(target)
    with unfinished(partial):
        try:
            yield partial
            flush_to_disk(partial)
            partial.rename(target)
            flush_to_disk(target.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """A new folder beside `target` to write files into; it becomes `target` as a file does in `atomic_path`.

    Raises OSError where `target` is there already, unless it is an empty folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(target)
    partial = partial_path(target)
    with unfinished(partial):
        partial.mkdir()
        try:
            yield partial
            for path in [*partial.iterdir(), partial]:
                flush_to_disk(path)
            partial.rename(target)
            flush_to_disk(target.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def partial_path(target: Path) -> Path:
    """The name under which this process writes `target`."""
    return target.with_name(f".{target.name}.{socket.gethostname()}-{os.getpid()}{PARTIAL}")


def write_bytes(target: Path, content: bytes) -> None:
    """Write bytes to `target`, complete or not at all.

    For what Pillow, torch or matplotlib write, too: encoders that write into a file themselves may take a disk that
    fills up for the end of their work.
    """
    with atomic_path(target) as partial:
        partial.write_bytes(content)


def write_text(target: Path, text: str) -> None:
    """Write `text` as UTF-8 to `target`, complete or not at all."""
    write_bytes(target, text.encode())


def flush_to_disk(path: Path) -> None:
    """fsync a file, or a folder's entries."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(target: Path) -> None:
    """Remove partial files and folders of `target` whose writers, on this host, do not run any more."""
    prefix = f".{target.name}.{socket.gethostname()}-"
    if not target.parent.is_dir():
        return
    for name in os.listdir(target.parent):  # noqa: PTH208 (target names may hold glob characters)
        if name.startswith(prefix) and name.endswith(PARTIAL):
            pid = name.removeprefix(prefix).removesuffix(PARTIAL)
            if pid.isdigit() and not _is_running(int(pid)):
                stale = target.parent / name
                shutil.rmtree(stale, ignore_errors=True) if stale.is_dir() else stale.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
