"""A process that has imported the tools and forks a child for each run: starting Python with torch takes seconds.

A child is a process of its own, in a session of its own, with the signal handlers of a fresh interpreter, the stdin,
stdout and stderr it was given, and a traceback and exit code as Python gives them. It calls the command's entry point.
What this leaves out: the start of the interpreter with its imports, and the destruction of its modules at the end,
which would take seconds with so many of them. So one run in twenty is a real command instead.

Run as `server.py FD...`; each FD is a socket over which one client sends requests, a JSON object per line:
    {"start": {"argv", "cwd", "stdin", "stdout", "stderr", "env", "call"?, "fsize"?}} -> {"pid"}
    {"wait": pid, "timeout": seconds} -> {"status": as of os.waitpid, or null: it still runs}
call: MODULE:FUNCTION to call in place of the command's entry point.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import socket
import sys
import threading
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    *("torch", "h5py", "pandas", "numba", "scipy.sparse", "matplotlib.pyplot"),
    *("PIL.Image", "timm", "safetensors.torch"),
)
TOOLS = Path(__file__).resolve().parents[2] / "tools"
PACKAGES = ("saetools", *sorted(tool.name.replace("-", "_") for tool in TOOLS.iterdir() if tool.is_dir()))


def preload() -> None:
    """Import all that the tools import; this must start no thread, which a fork would lose."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for name in PACKAGES:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, name + "."):
            importlib.import_module(module.name)
    gc.freeze()  # so that a child's collections do not copy all of it
    n_threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
    assert n_threads == 1, f"{n_threads} threads after the imports"


def serve(client: socket.socket) -> Callable[[], None] | None:
    """Answer requests until the client has gone; in a child that was forked, return what it is to do."""
    pending: dict[int, int] = {}
    with client.makefile("rw", encoding="utf-8", newline="\n") as stream:
        while line := stream.readline():
            request = json.loads(line)
            if "start" in request:
                pid = os.fork()
                if pid == 0:
                    client.close()
                    return lambda: run(request["start"])
                pending[pid] = os.pidfd_open(pid)
                answer: dict[str, Any] = {"pid": pid}
            else:
                pid = request["wait"]
                over, _, _ = select.select([pending[pid]], [], [], request["timeout"])
                answer = {"status": os.waitpid(pid, 0)[1] if over else None}
                if over:
                    os.close(pending.pop(pid))
            stream.write(json.dumps(answer) + "\n")
            stream.flush()
    return None


def run(start: dict[str, Any]) -> None:
    """Become the command; returns or raises as its `main` does."""
    os.setsid()
    os.chdir(start["cwd"])
    for number, (name, flags) in enumerate(
        [
            ("stdin", os.O_RDONLY),
            ("stdout", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
            ("stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        ]
    ):
        descriptor = os.open(start[name], flags, 0o644)
        os.dup2(descriptor, number)
        os.close(descriptor)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    os.closerange(3, highest + 1)  # sockets and pidfds of the server
    os.environ.update(start["env"])
    faulthandler.enable(2)
    sys.argv = start["argv"]
    if (limit := start.get("fsize")) is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    if call := start.get("call"):
        module, _, name = call.partition(":")
        getattr(importlib.import_module(module), name)()
    else:
        (entry,) = entry_points(group="console_scripts", name=Path(sys.argv[0]).name)
        sys.exit(entry.load()())


def main() -> None:
    descriptors = [int(number) for number in sys.argv[1:]]
    preload()
    sys.stdout.flush()
    mine = descriptors[0]
    for descriptor in descriptors[1:]:
        if os.fork() == 0:
            mine = descriptor
            break
    for descriptor in descriptors:
        if descriptor != mine:
            os.close(descriptor)
    with socket.socket(fileno=mine) as client:
        work = serve(client)
    if work is not None:
        leave(work)
    os._exit(0)  # without the destruction of the modules


def leave(work: Callable[[], None]) -> NoReturn:
    """Run the command and end as Python ends: the traceback, threads, atexit, streams, exit code."""
    code = 0
    try:
        work()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 120  # as Python
    os._exit(code & 0xFF)


if __name__ == "__main__":
    main()
