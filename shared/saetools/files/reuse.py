"""Whether an existing file is the one that a command would write, and whether another run is writing it."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saetools.errors import UserError
from saetools.files.atomic import partial_path
from saetools.files.formats import Format
from saetools.files.provenance import Provenance, canonical_json, first_difference
from saetools.files.tables import read_csv
from saetools.log import logger
from saetools.unfinished import unfinished

if TYPE_CHECKING:
    import pandas as pd

TRIES = 200  # of 5 to 20 ms: as long as others may take to write the settings into a lock
# File systems without locks, and network file systems whose lock server does not answer.
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EIO}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}


def check_reusable(path: Path, found: Provenance, wanted: Provenance) -> None:
    """Raise UserError, naming the first difference, unless both have the same settings and parents."""
    mine, other = ({**each.settings, "parents": list(each.parents)} for each in (found, wanted))
    if difference := first_difference(mine, other):
        raise UserError(
            f"{path}: it was made with other settings: {difference}; choose another `out`, or remove it"
        )


def read_reusable(path: Path, format: Format, wanted: Provenance) -> pd.DataFrame | None:
    """The table at `path`, or None if there is none; raises UserError if it is broken, or made with other settings."""
    if not path.exists():
        return None
    table, found = read_csv(path, format)
    check_reusable(path, found, wanted)
    return table


@contextlib.contextmanager
def writing(
    target: Path | None, settings: Mapping[str, Any], parents: Sequence[str] = (), *, folder: bool = False
) -> Iterator[None]:
    """Within its block, runs with other settings cannot write `target`: they get a UserError. Others share it.

    settings, parents: all that decides what is written, as in `Provenance`. folder: `target` is one, which is made.
    Raises UserError at once where `target` cannot be written, unless it is there already.

    The lock is a hidden file with the settings, `.NAME.lock` beside a file and `.lock` in a folder, held with flock(2).
    The last run that shares it removes it; after SIGKILL, the next run does. Where the file system has no locks, there
    is none. target: None for nothing to write.
    """
    if target is None:
        yield
        return
    check_place(target, folder)
    there = any(target.iterdir()) if folder and target.is_dir() else target.exists()
    made = folder and not target.is_dir()
    lock = target / ".lock" if folder else target.with_name(f".{target.name}.lock")
    try:
        (target if folder else target.parent).mkdir(parents=True, exist_ok=True)
        if not folder:
            partial = partial_path(target)  # its name is longer than that of the lock
            partial.touch()
            partial.unlink()
        descriptor = _share(lock, json.loads(canonical_json({**settings, "parents": list(parents)})), target)
    except OSError as error:
        if not (there and error.errno in _NOT_WRITABLE):
            raise UserError(f"{target}: it cannot be written: {_reason(error)}") from error
        descriptor = None
    if descriptor is None:
        yield
        return
    leave = functools.partial(_leave, lock, descriptor)
    with unfinished(lock, remove=leave):
        try:
            yield
        except BaseException:
            leave()
            if made:
                with contextlib.suppress(OSError):  # something is in it
                    target.rmdir()
            raise
        leave()


def check_place(target: Path, folder: bool) -> None:
    """Raise UserError where something else is at `target`, or on the way to it."""
    try:
        _check_place(target, folder)
    except OSError as error:
        raise UserError(f"{target}: it cannot be written: {_reason(error)}") from error


def _check_place(target: Path, folder: bool) -> None:
    wanted, other = ("a folder", "a file") if folder else ("a file", "a folder")
    if target.is_symlink() and not target.exists():
        raise UserError(
            f"{target}: it is a link to {target.readlink()}, which does not exist; expected {wanted}, or nothing;"
            " choose another `out`, or remove the link"
        )
    if target.exists() and target.is_dir() != folder:
        raise UserError(f"{target}: it is {other}, but `out` is {wanted}; choose another `out`, or remove it")
    for parent in target.parents:
        if parent.exists():
            if not parent.is_dir():
                raise UserError(
                    f"{parent}: it is a file, but {target} needs a folder there; choose another `out`"
                )
            break


def _reason(error: OSError) -> str:
    if error.errno in _NOT_WRITABLE:
        what = "the disk is read-only" if error.errno == errno.EROFS else "permission denied"
        return f"{what}; choose another `out`, or change the permissions of its folder"
    if error.errno == errno.ENAMETOOLONG:
        return "its name is too long, with room for a temporary name; choose a shorter `out`"
    if error.errno == errno.ENOSPC:
        return "the disk is full; free some space, or choose another `out`"
    return f"{error.strerror}; choose another `out`"


def _share(lock: Path, settings: Mapping[str, Any], target: Path) -> int | None:
    """A descriptor that shares the lock with runs of equal settings; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    found: Any = None
    for _ in range(TRIES):
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if _lock(fcntl.LOCK_EX, descriptor) and _is_at(lock, descriptor):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, json.dumps(settings).encode(), 0)
            # Also after the first: another run may have come between giving up one lock and getting the other.
            if _lock(fcntl.LOCK_SH, descriptor) and _is_at(lock, descriptor):
                found = _settings_in(descriptor)
                if found == settings:
                    return descriptor
        except OSError as error:
            os.close(descriptor)
            if error.errno in _NO_LOCKS:
                logger.debug("%s: no locks here (%s); two runs could write it at once", lock, error.strerror)
                lock.unlink(missing_ok=True)
                return None
            raise
        _leave(lock, descriptor)
        time.sleep(random.uniform(0.005, 0.02))
    difference = first_difference(found, settings) if isinstance(found, dict) else None
    raise UserError(
        f"{target}: another run is writing it with other settings{f': {difference}' if difference else ''};"
        " wait until it has ended, or choose another `out`"
    )


def _lock(kind: int, descriptor: int) -> bool:
    """Whether it was got, without waiting."""
    import fcntl

    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(lock: Path, descriptor: int) -> bool:
    """Whether the file that is locked is still the one with this name: the last run removes it."""
    try:
        return os.path.samestat(lock.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _settings_in(descriptor: int) -> Any:
    try:
        return json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
    except ValueError:  # a run that was killed while it wrote them
        return None


def _leave(lock: Path, descriptor: int) -> None:
    import fcntl

    with contextlib.suppress(OSError):
        if _lock(fcntl.LOCK_EX, descriptor) and _is_at(lock, descriptor):
            lock.unlink()
        fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked worker may have the descriptor too
    os.close(descriptor)
