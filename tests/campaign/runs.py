"""Running a command: as a child of the fork server, or as a real process; and what it left running."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

BIN = Path(sys.executable).parent
HERE = Path(__file__).resolve().parent
REAL_SHARE = 20  # one run in so many is a real command
PATIENCE = 10  # seconds for workers to notice that their parent has gone (those of torch look every 5 s)
TRACES = ("Traceback", "Exception ignored", "Fatal Python error", "Segmentation fault")


@dataclass(frozen=True)
class Command:
    """argv[0] is the tool's name; cwd is made where it is missing; stdout and stderr are appended to LOGS/NAME.*."""

    argv: Sequence[str]
    cwd: Path
    logs: Path
    name: str = "run"
    stdin: str = os.devnull
    env: Mapping[str, str] | None = None
    call: str | None = None
    fsize: int | None = None

    def limited(self, fsize: int | None) -> Command:
        """The same with a limit to the size of the files that it writes."""
        return replace(self, fsize=fsize)

    def started(self) -> dict[str, Any]:
        for folder in (self.cwd, self.logs, self.logs / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("stdout", "stderr"):
            (self.logs / f"{self.name}.{name}").touch()
        own = {"TMPDIR": str(self.logs / "tmp"), "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"}
        return {
            "argv": [str(BIN / self.argv[0]), *self.argv[1:]],
            "cwd": str(self.cwd),
            "stdin": self.stdin,
            "stdout": str(self.logs / f"{self.name}.stdout"),
            "stderr": str(self.logs / f"{self.name}.stderr"),
            "env": {**own, **(self.env or {})},
            "call": self.call,
            "fsize": self.fsize,
        }


class Running(Protocol):
    pid: int

    def wait(self, timeout: float) -> int | None:
        """Its exit code (negative: the signal that ended it); None: it still runs."""
        ...


@dataclass
class Done:
    """code: None where it had to be killed after its time was over. survivors: processes it left."""

    code: int | None
    stdout: str
    stderr: str
    survivors: list[str]

    def where(self) -> str:
        """Where a run that had to be killed was: the innermost calls of each of its threads."""
        stacks = re.split(r"^(?:Current thread|Thread) .*\n", self.stderr, flags=re.MULTILINE)[1:]
        return "\n".join(["", *("    ".join(stack.splitlines(keepends=True)[:12]) for stack in stacks)])

    def crash(self) -> str | None:
        """What makes this a crash: a signal, or a traceback; None otherwise."""
        if self.code is not None and self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        if found := next((line for line in self.stderr.splitlines() if any(t in line for t in TRACES)), None):
            last = self.stderr.rstrip().splitlines()[-1]
            return f"{found.strip()[:60]} ... {last.strip()[:140]}"
        return None

    def error(self) -> str:
        """What its error says, in one line; empty where there is none."""
        lines = self.stderr.replace("\r", "\n").splitlines()
        start = next((i for i, line in enumerate(lines) if ": error: " in line), None)
        return "" if start is None else " ".join(" ".join(lines[start:]).split())

    def bad_error(self) -> str | None:
        """What is wrong with the message of a run that failed; None where it is as it should be."""
        lines = [line for line in self.stderr.replace("\r", "\n").splitlines() if line.strip()]
        starts = [i for i, line in enumerate(lines) if ": error: " in line]
        if len(starts) != 1:
            return f"{len(starts)} lines with 'error:' on stderr, expected 1"
        if len(lines) - starts[0] > 3:
            return f"its message has {len(lines) - starts[0]} lines, expected 1 to 3"
        return None


class _Forked:
    def __init__(self, server: Server, pid: int) -> None:
        self._server, self.pid = server, pid

    def wait(self, timeout: float) -> int | None:
        status = self._server.ask({"wait": self.pid, "timeout": timeout})["status"]
        return None if status is None else os.waitstatus_to_exitcode(status)


class _Real:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self.pid = process, process.pid

    def wait(self, timeout: float) -> int | None:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


class Server:
    """A client of one fork server; used by one thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._stream = connection.makefile("rw", encoding="utf-8", newline="\n")

    def close(self) -> None:
        """Let the fork server end."""
        self._stream.close()
        self._connection.close()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        self._stream.write(json.dumps(request) + "\n")
        self._stream.flush()
        answer: dict[str, Any] = json.loads(self._stream.readline())
        return answer

    def start(self, command: Command, real: bool = False) -> Running:
        """Start it, forked, or as a real process."""
        wanted = command.started()
        if not real:
            return _Forked(self, self.ask({"start": wanted})["pid"])
        with (
            Path(wanted["stdin"]).open("rb") as stdin,
            Path(wanted["stdout"]).open("ab") as out,
            Path(wanted["stderr"]).open("ab") as err,
        ):
            process = subprocess.Popen(
                wanted["argv"],
                stdin=stdin,
                stdout=out,
                stderr=err,
                cwd=wanted["cwd"],
                env=os.environ | wanted["env"],
                start_new_session=True,
            )
        return _Real(process)

    def finish(self, running: Running, command: Command, timeout: float = 120) -> Done:
        """Wait for its end, kill it after `timeout` seconds, and look for what it left running."""
        code = running.wait(timeout)
        if code is None:
            signal_group(running.pid, signal.SIGABRT)  # faulthandler writes where it is
            running.wait(5)
            signal_group(running.pid, signal.SIGKILL)
            running.wait(30)
        left = survivors(running.pid, PATIENCE if code is not None else 0)
        signal_group(running.pid, signal.SIGKILL)
        texts = [
            (command.logs / f"{command.name}.{name}").read_text(errors="replace")
            for name in ("stdout", "stderr")
        ]
        return Done(code, *texts, left)

    def run(self, command: Command, timeout: float = 120, real: bool = False) -> Done:
        return self.finish(self.start(command, real), command, timeout)


def start_servers(n: int) -> tuple[subprocess.Popen[bytes], list[Server]]:
    """n fork servers that share the memory of the imports."""
    pairs = [socket.socketpair() for _ in range(n)]
    theirs = [str(other.fileno()) for _, other in pairs]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(HERE / "server.py"), *theirs],
        pass_fds=[int(number) for number in theirs],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    for _, other in pairs:
        other.close()
    return process, [Server(mine) for mine, _ in pairs]


def signal_group(pid: int, number: int) -> None:
    """To all processes of a run's session that are in its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def survivors(session: int, patience: float) -> list[str]:
    """Processes of a session that still run after `patience` seconds, the leader aside."""
    deadline = time.monotonic() + patience
    while True:
        found = [f"{pid} {name}" for pid, name in _members(session) if pid != session]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def _members(session: int) -> list[tuple[int, str]]:
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if name.isdigit():
            try:
                command, _, rest = Path(f"/proc/{name}/stat").read_text().rpartition(")")
            except OSError:
                continue
            state, _, _, its_session = rest.split()[:4]
            if int(its_session) == session and state not in "ZX":
                found.append((int(name), command.partition("(")[2]))
    return found


def wait_until_caught(pid: int, number: int) -> bool:
    """Wait until the process catches this signal; False where it ended before."""
    while True:
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return False
        if "\nState:\tZ" in status:
            return False
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        if caught >> (number - 1) & 1:
            return True
        time.sleep(0.0005)
