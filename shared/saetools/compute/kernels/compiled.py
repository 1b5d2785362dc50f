"""numba's `njit`, where neither the installation nor the home folder can be written, or the cache is broken, too.

numba keeps compiled kernels beside their source, else in the user's cache folder, and raises RuntimeError where it can
write neither. Then they are kept in a folder of the user's own under $TMPDIR, or, where that cannot be, in memory.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

from saetools.log import logger

_told = False


def njit(**options: Any) -> Callable[[Any], Any]:
    """A decorator like `numba.njit(**options)`; with cache=True it never fails because of the cache."""

    def compiled(function: Callable[..., Any]) -> Any:
        if not options.get("cache"):
            return numba.njit(**options)(function)
        try:
            kernel = numba.njit(**options)(function)
        except RuntimeError:
            folder = private_folder("saetools-kernels")
            _tell(folder)
            if folder is None:
                return numba.njit(**{**options, "cache": False})(function)
            os.environ["NUMBA_CACHE_DIR"] = str(folder)  # worker processes get it too
            numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]
            kernel = numba.njit(**options)(function)
        _forgive(kernel._cache)
        return kernel

    return compiled


def private_folder(name: str) -> Path | None:
    """A folder under $TMPDIR that nobody else can write: what is in it will be run. None where there can be none."""
    try:
        folder = Path(tempfile.gettempdir()) / f"{name}-{os.geteuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o077:
            with tempfile.TemporaryFile(dir=folder):
                return folder
    except OSError:
        pass
    return None


def _tell(folder: Path | None) -> None:
    global _told
    if not _told:
        where = "in memory, for this run alone" if folder is None else f"in {folder}"
        logger.info(
            "compiled kernels are kept %s: numba can write no cache beside them or in the home folder", where
        )
    _told = True


def _forgive(cache: Any) -> None:
    """A cache that cannot be read or written, or whose files are broken, costs a compilation, and no more."""
    load, save = cache.load_overload, cache.save_overload

    def load_overload(*given: Any) -> Any:
        try:
            return load(*given)
        except Exception as error:  # a broken pickle raises anything
            logger.debug("numba's cache cannot be read (%s); compiling again", error)
            with contextlib.suppress(Exception):
                cache.flush()
            return None

    def save_overload(*given: Any) -> None:
        try:
            save(*given)
        except Exception as error:
            logger.debug("numba's cache cannot be written (%s)", error)

    cache.load_overload, cache.save_overload = load_overload, save_overload
