"""A command as a process: signals from the first line on, streams that are closed or full, workers that end with it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from processes import BIN

TOOLS = sorted(path.parent.name for path in (Path(__file__).parents[2] / "tools").glob("*/pyproject.toml"))
INTERRUPTED = "demo: error: interrupted; files that are complete are kept\n"
STOPPED = "demo: stopped by {}; files that are complete are kept; run the same command again to go on\n"
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]

PROGRAM = """
import atexit, multiprocessing, os, sys, threading, time
from pathlib import Path
from concurrent.futures import ProcessPoolExecutor
from saetools.cli import process
from saetools.cli.process import end_with_parent, starting_workers
from saetools.files.atomic import atomic_path
from saetools.cli.app import VerboseOption, VersionOption, new_app, run, write_line
from saetools.cli.paths import iterate_paths
from saetools.log import logger
from saetools.unfinished import unfinished

app = new_app()
KEPT = []

def work(ready):
    with atomic_path(Path("of-a-worker.txt")) as partial:
        partial.write_text("half")
        ready.put(os.getpid())
        time.sleep(60)

def worker(ready):
    end_with_parent()
    work(ready)

@app.command()
def main(what: str, verbose: VerboseOption = False, version: VersionOption = False) -> None:
    if what == "import":
        with atomic_path(Path("target.txt")) as partial:
            partial.write_text("half")
            import slow_module
    if what == "thread":
        def make():
            second, first, slow = Path("second"), Path("first"), lambda: time.sleep(0.1)
            with unfinished(second), unfinished(first), unfinished(Path("slow"), remove=slow):
                first.touch()
                while first.exists():
                    time.sleep(0.0005)
                second.touch()
                time.sleep(60)
        threading.Thread(target=make, daemon=True).start()
        while not Path("first").exists():
            time.sleep(0.001)
        import slow_module
    if what in ("stuck", "stuck-at-end"):
        process.SECONDS_TO_LEAVE = 1
        lock = threading.Lock()
        lock.acquire()
        if what == "stuck-at-end":
            threading.Thread(target=lock.acquire).start()
        try:
            write_line("ready")
            time.sleep(60)
        finally:
            if what == "stuck":
                lock.acquire()
    if what == "outside":
        KEPT.append(atomic_path(Path("target.txt")))
        KEPT[0].__enter__().write_text("half")
        atexit.register(os._exit, 143)
        write_line("ready")
        time.sleep(60)
    if what in ("wait", "slow-end"):
        with atomic_path(Path("target.txt")) as partial:
            partial.write_text("half")
            try:
                write_line("ready")
                time.sleep(60)
            finally:
                if what == "slow-end":
                    write_line("leaving")
                    time.sleep(60)
    if what == "destructor":
        class Slow:
            def __del__(self):
                write_line("ready")
                time.sleep(60)
        slow = Slow()
        del slow
        write_line("it went on")
    if what == "swallow":
        write_line("ready")
        while True:
            try:
                time.sleep(60)
            except BaseException:
                pass
    if what == "end-of-file":
        raise EOFError("Ran out of input")
    if what == "paths":
        for path in iterate_paths([Path("-")], "files"):
            write_line(str(path))
    if what == "print":
        sys.stdout.write("data\\n" * 9)
    if what == "say":
        logger.info("for people")
        write_line("data")
        with Path("data.txt").open("w") as file:
            logger.info("for people")
            file.write("data")
    if what == "os-error":
        open("folder/file/inner")
    if what == "memory":
        raise MemoryError
    if what == "pool":
        with starting_workers():
            pool = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), end_with_parent)
        with pool:
            with starting_workers():
                pending = [pool.submit(time.sleep, 0.2) for _ in range(400)]
            write_line("ready")
            try:
                pending[-1].result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
    if what == "workers":
        context = multiprocessing.get_context("spawn")
        ready = context.Queue()
        for _ in range(2):
            context.Process(target=worker, args=[ready]).start()
        write_line(f"{ready.get()} {ready.get()}")
        time.sleep(60)

if __name__ == "__main__":
    run("demo", app)
"""
# As an extension module does: whatever comes while it is imported is lost.
SLOW_MODULE = """
import sys, time
sys.stdout.write("ready\\n")
sys.stdout.flush()
try:
    time.sleep(60)
except BaseException:
    pass
"""


@pytest.fixture
def demo(tmp_path: Path) -> list[str]:
    (tmp_path / "demo.py").write_text(PROGRAM)
    (tmp_path / "slow_module.py").write_text(SLOW_MODULE)
    return [sys.executable, str(tmp_path / "demo.py")]


def begin(command: Sequence[str], folder: Path, **options: object) -> subprocess.Popen[str]:
    """Start it, and wait for its first line."""
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )  # type: ignore[call-overload]
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def shell(script: str, *words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash in a folder; "$@" are the words."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *words],
        cwd=folder,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )


def left_in(folder: Path) -> list[str]:
    ours = {"demo.py", "slow_module.py", "__pycache__"}
    return sorted(path.name for path in folder.iterdir() if path.name not in ours)


def said_of(kind: signal.Signals) -> str:
    return INTERRUPTED if kind == signal.SIGINT else STOPPED.format(kind.name)


@pytest.mark.parametrize("kind", SIGNALS)
@pytest.mark.parametrize("when", ["wait", "import", "swallow", "destructor"])
def test_a_signal_ends_a_command_with_one_line(
    demo: list[str], tmp_path: Path, when: str, kind: signal.Signals
) -> None:
    process = begin([*demo, when], tmp_path)
    process.send_signal(kind)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (128 + kind, said_of(kind))
    assert not left_in(tmp_path)


@pytest.mark.parametrize("when", ["thread", "outside"])
def test_files_begun_in_a_thread_or_outside_of_their_block(
    demo: list[str], tmp_path: Path, when: str
) -> None:
    """A thread makes a file after the signal; a block was entered, and its end is not reached."""
    process = begin([*demo, when], tmp_path)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (143, said_of(signal.SIGTERM))
    assert not left_in(tmp_path)


@pytest.mark.parametrize("kind", SIGNALS)
def test_a_second_signal_ends_a_slow_clean_up(demo: list[str], tmp_path: Path, kind: signal.Signals) -> None:
    process = begin([*demo, "slow-end"], tmp_path)
    assert process.stdout is not None
    process.send_signal(kind)
    assert process.stdout.readline() == "leaving\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (128 + kind, said_of(kind))
    assert not left_in(tmp_path)


@pytest.mark.parametrize("when", ["stuck", "stuck-at-end"])
def test_a_command_that_cannot_leave_ends_all_the_same(demo: list[str], tmp_path: Path, when: str) -> None:
    """A lock that nobody releases: in a block that is being left, or in a thread that Python waits for at its end."""
    process = begin([*demo, when], tmp_path)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (143, said_of(signal.SIGTERM))


@pytest.mark.parametrize("kind", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_is_ignored_stays_ignored(
    demo: list[str], tmp_path: Path, kind: signal.Signals
) -> None:
    ignoring = ["bash", "-c", f"trap '' {kind.name}; exec \"$@\"", "bash", *demo, "wait"]
    process = begin(ignoring, tmp_path)
    process.send_signal(kind)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (143, STOPPED.format("SIGTERM"))


@pytest.mark.parametrize("slow", ["typer", "numpy"])
def test_ctrl_c_while_a_tool_is_being_imported(tmp_path: Path, slow: str) -> None:
    (tmp_path / f"{slow}.py").write_text(SLOW_MODULE)
    (tmp_path / "shard").mkdir()
    command = [str(BIN / "train-sae"), "shard", "--d-sae", "8", "--k", "2", "--tokens", "1k", "--out", "x.h5"]
    process = begin(command, tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    said = "train-sae: error: interrupted; files that are complete are kept\n"
    assert (process.returncode, err) == (130, said)


def test_the_end_of_a_file_is_not_ctrl_c(demo: list[str], tmp_path: Path) -> None:
    done = shell('"$@"', *demo, "end-of-file", folder=tmp_path)
    assert done.returncode == 1
    assert b"EOFError: Ran out of input" in done.stderr


@pytest.mark.parametrize("stream", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_gets_no_other_file(demo: list[str], tmp_path: Path, stream: str) -> None:
    done = shell(f'"$@" {stream}', *demo, "say", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (b"" if " >&-" in f" {stream}" else b"data\n")
    assert done.stderr == (b"" if "2>&-" in stream else b"demo: for people\n" * 2)
    assert (tmp_path / "data.txt").read_text() == "data"


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("stream", [">&-", "2>&- <&-", "| head -n 1 >/dev/null; exit ${PIPESTATUS[0]}"])
def test_help_into_a_closed_stream(tmp_path: Path, name: str, stream: str) -> None:
    done = shell(f'"$@" --help {stream}', str(BIN / name), folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("what", ["print", "say"])
def test_a_full_disk_behind_stdout(demo: list[str], tmp_path: Path, what: str) -> None:
    done = shell('"$@" >/dev/full', *demo, what, folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == (
        "demo: error: the disk is full; free some space or write elsewhere, then run it again"
    )
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("stream", ["2>/dev/full", "2> >(true)"])
def test_the_work_goes_on_where_nobody_reads_stderr(demo: list[str], tmp_path: Path, stream: str) -> None:
    done = shell(f'"$@" {stream}', *demo, "say", folder=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"data\n")


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "PYTHONIOENCODING": "latin-1:strict"},
    ],
    ids=["C", "ascii", "ascii names", "latin-1"],
)
def test_names_pass_as_the_bytes_that_they_are(
    demo: list[str], tmp_path: Path, environment: dict[str, str]
) -> None:
    names = ["Möwe.h5".encode(), b"not-utf-8-\xff\xfe.h5", "海鸥.h5".encode()]
    for name in names:
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))).touch()
    (tmp_path / "list").write_bytes(b"\n".join(names) + b"\n")
    done = shell('"$@" <list', *demo, "paths", folder=tmp_path, **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines() == names
    missing = shell('printf "no-such-\\xff-Möwe\\n" | "$@"', *demo, "paths", folder=tmp_path, **environment)
    assert missing.returncode == 1
    assert missing.stderr.startswith(b"demo: error: no-such-"), missing.stderr


def test_any_error_of_the_system_is_one_line(demo: list[str], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").touch()
    done = shell('"$@"', *demo, "os-error", folder=tmp_path)
    said = "demo: error: folder/file/inner: not a directory; --verbose shows where it happened\n"
    assert (done.returncode, done.stderr.decode()) == (1, said)
    done = shell('"$@"', *demo, "memory", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(b"demo: error: not enough memory"), done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("kind", SIGNALS)
def test_a_signal_to_all_processes_of_a_command(
    demo: list[str], tmp_path: Path, kind: signal.Signals
) -> None:
    """As from a terminal: the workers too, which have only begun to start, and the process for their semaphores."""
    process = begin([*demo, "pool"], tmp_path, start_new_session=True)
    os.killpg(process.pid, kind)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (128 + kind, said_of(kind))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="it looks into /proc")
def test_workers_end_with_their_parent(demo: list[str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*demo, "workers"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    workers = [int(word) for word in process.stdout.readline().split()]
    assert len(workers) == 2
    assert all(is_running(pid) for pid in workers)
    process.kill()
    _, err = process.communicate(timeout=20)  # stderr is closed when the last worker has ended
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.01)
    still = [pid for pid in workers if is_running(pid)]
    for pid in still:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not still
    assert not err
    assert not left_in(tmp_path)


def test_a_signal_that_came_while_it_was_set_to_be_ignored() -> None:
    """Python tells of it as of an error in a destructor; other such errors are told as always."""
    code = """
from saetools.cli.process import prepare

class Told:
    def __init__(self, words):
        self.words = words

    def __del__(self):
        raise OSError(self.words)

prepare("x")
Told("Signal 17 ignored due to race condition")
Told("another error")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "race condition" not in done.stderr
    assert "OSError: another error" in done.stderr
