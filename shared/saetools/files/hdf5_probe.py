"""Opens HDF5 files without a seal in a process of its own, which may loop or crash on damaged bytes; refuses links.

python -m saetools.files.hdf5_probe     reads paths from stdin, one a line in JSON; answers each with one line:
                                        "ok", or what is wrong
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py

from saetools.errors import UserError

SECONDS = 8  # for one file; a sound one takes milliseconds
MEMORY = 8 << 30  # bytes of addresses: damaged sizes can ask for any amount
SMALL = 1 << 24  # bytes of a data set that is read whole
DEEPEST = 16  # groups in groups; ours have two


def links(group: h5py.Group, depth: int = 0) -> str | None:
    """What may lead elsewhere: a soft or external link, an external or virtual data set; None if nothing does."""
    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = "an external link" if isinstance(link, h5py.ExternalLink) else "a soft link"
            return f"{group.name.rstrip('/')}/{name} is {kind}"
        item = group[name]
        if isinstance(item, h5py.Dataset):
            plan = item.id.get_create_plist()
            if plan.get_external_count():
                return f"the bytes of {item.name} are in another file"
            if item.is_virtual:
                return f"{item.name} is a virtual data set"
        elif depth >= DEEPEST:
            return f"{item.name} is {depth + 1} groups deep"
        elif isinstance(item, h5py.Group) and (found := links(item, depth + 1)):
            return found
    return None


def check_by_probe(path: Path, again: str) -> None:
    """Raise UserError unless another process could read the structure of the file; it is asked once."""
    status = path.stat()
    key = path, status.st_ino, status.st_size, status.st_mtime_ns
    if key not in _answers:
        _answers[key] = _Probe.running().ask(path)
    if (answer := _answers[key]) != "ok":
        raise UserError(f"{path}: it is damaged, or no HDF5 file ({answer}); {again}")


_answers: dict[tuple[Path, int, int, int], str] = {}


class _Probe:
    """The process, started for the first file without a seal, and again after one that ended it."""

    _running: _Probe | None = None

    def __init__(self) -> None:
        self._owner = os.getpid()
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C is for the command
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it has started

    @staticmethod
    def running() -> _Probe:
        found = _Probe._running
        if found is None or found._owner != os.getpid() or found._process.poll() is not None:
            found = _Probe._running = _Probe()
        return found

    def ask(self, path: Path) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(os.fspath(path.absolute())) + "\n")
            self._process.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(self._process.stdout, selectors.EVENT_READ)
                answer = self._process.stdout.readline().strip() if selector.select(SECONDS) else ""
        except BrokenPipeError:
            answer = ""
        if not answer:
            ended = self._process.poll() is not None
            self._process.kill()
            self._process.wait()
            _Probe._running = None
            return "the HDF5 library crashed on it" if ended else f"no end of reading it after {SECONDS} s"
        return answer


def _look(path: str) -> str:
    try:
        with h5py.File(path, "r", locking=False) as file:
            if found := links(file):
                return f"{found}, which saetools never writes: it may lead to another file"
            for item in (file, *_items(file)):
                dict(item.attrs)
                if isinstance(item, h5py.Dataset) and (item.nbytes <= SMALL or item.dtype.hasobject):
                    item[...]
    except Exception as error:  # whatever it is: the file is what caused it
        return " ".join(str(error).split())[:200] or type(error).__name__
    return "ok"


def _items(group: h5py.Group) -> Iterator[h5py.Group | h5py.Dataset]:
    for item in group.values():
        yield item
        if isinstance(item, h5py.Group):
            yield from _items(item)


def _limit() -> None:
    """An end for a loop even where the command was killed meanwhile."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        _, most = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + 2 * SECONDS, most))


def _serve() -> None:
    print("ready", flush=True)  # noqa: T201
    for line in sys.stdin:
        _limit()
        print(_look(json.loads(line)), flush=True)  # noqa: T201 (the answer to the parent)


if __name__ == "__main__":
    _serve()
