"""Runs tools one after another as if on another system: without what Linux alone has.

    python another_platform.py FILE     FILE: one JSON list of a command's words in each line

Every command runs in this process by its own app; workers are started by spawn, as on macOS.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
from pathlib import Path

MISSING = (
    "posix_fallocate",
    "posix_fadvise",
    "sched_getaffinity",
    "sched_setaffinity",
    "memfd_create",
    "sendfile",
)


def pretend() -> None:
    """Take the calls away, hide /proc, and say darwin on arm64, once the large libraries have been imported."""
    for name in (
        "torch.utils.data",
        "timm",
        "numba",
        "h5py",
        "pandas",
        "scipy.sparse",
        "PIL.Image",
        "matplotlib",
    ):
        importlib.import_module(name)
    for name in MISSING:
        if hasattr(os, name):
            delattr(os, name)
    read_text, sysconf = Path.read_text, os.sysconf

    def without_proc(self: Path, *arguments: object, **how: object) -> str:
        if str(self).startswith("/proc"):
            raise FileNotFoundError(str(self))
        return read_text(self, *arguments, **how)  # type: ignore[arg-type]

    def fewer_names(name: str | int) -> int:
        if name == "SC_PHYS_PAGES":
            raise ValueError("unrecognized configuration name")
        return sysconf(name)

    Path.read_text, os.sysconf = without_proc, fewer_names  # type: ignore[method-assign, assignment]
    sys.platform = "darwin"


def main() -> None:
    multiprocessing.set_start_method("spawn")
    pretend()
    from saetools.cli.app import call

    for line in Path(sys.argv[1]).read_text().splitlines():
        words = json.loads(line)
        app = importlib.import_module(f"{words[0].replace('-', '_')}.cli").app
        sys.argv = words
        code = call(words[0], app)
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
