"""A command as a process: its streams, its signals, and the worker processes that end with it.

Only light modules are imported here, so that `start` comes before everything that takes time.

After Ctrl-C, SIGTERM, SIGHUP or SIGUSR1 a command leaves through its `finally` blocks, says one line and exits with 128
plus the signal's number. It ends at once, after removing its temporary files, where an exception would be lost: while a
module is being imported, after a second signal, where something has caught the exception, and where leaving takes long.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from saetools.unfinished import remove_unfinished

# Slurm sends SIGUSR1 before a time limit. Windows has neither this nor SIGHUP.
SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
]
SECONDS_TO_BEGIN_LEAVING = 0.5
SECONDS_TO_LEAVE = (
    15.0  # a lock can be held for ever: the exception came just after it was acquired, in threading
)
LONGEST_FOLDER = 60  # bytes of the path of TMPDIR: names in it are up to 40 long


class _Process:
    """name: of the command; pid: of the process whose signals these are; number: of the first signal that came; said:
    whether its line was printed; running: whether the command runs, so that `raised` is caught; until: when it must
    have left, by time.monotonic."""

    name, pid, number, said, running, until = "", 0, 0, False, False, 0.0
    raised: BaseException | None = None


def start(name: str) -> NoReturn:
    """Run the command `name` from its very beginning: what it imports can be interrupted too."""
    prepare(name)
    from importlib import import_module

    sys.exit(import_module(f"{name.replace('-', '_')}.cli").main())


def prepare(name: str) -> None:
    """Open missing standard streams and handle signals. Signals that are ignored, as nohup does, stay ignored."""
    _Process.name = name
    if _Process.pid == os.getpid():
        return
    _Process.pid, _Process.number, _Process.said = os.getpid(), 0, False
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _on_signal)
    sys.unraisablehook = _on_unraisable
    _open_streams()
    # A process of Python's removes the semaphores of a command that was killed; it need not tell, nor need we that it
    # was killed, too. The options are for processes that are started.
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    warnings.filterwarnings("ignore", "resource_tracker", UserWarning)


def signal_line(number: int) -> str:
    """What a command says when a signal has ended it."""
    if number == signal.SIGINT:
        return "error: interrupted; files that are complete are kept"
    which = signal.Signals(number).name
    return f"stopped by {which}; files that are complete are kept; run the same command again to go on"


def say_stopped(name: str, number: int) -> int:
    """Say that a signal has ended the command; returns its exit code."""
    _Process.number, _Process.said = number, True  # a further signal ends the process at once, without a word
    remove_unfinished()  # what was being begun just then, outside of the block that removes it
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{name}: {signal_line(number)}\n")
    return 128 + number


@contextlib.contextmanager
def exceptions_from_signals() -> Iterator[None]:
    """Within its block, a signal raises KeyboardInterrupt, or SystemExit with 128 plus its number."""
    _Process.running = True
    try:
        yield
    except BaseException as error:
        # While the blocks are left, another one can take its place: that a worker has ended, too.
        if _Process.raised is not None and error is not _Process.raised:
            raise _Process.raised from error
        raise
    finally:
        _Process.running = False
        if _Process.number and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


def ignore_signals() -> None:
    """Nothing is left to be stopped. Python would reset handlers of ours, but not this, before it has ended."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    if _Process.number and hasattr(signal, "setitimer"):  # once, and late: Python resets this handler too
        signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_LEAVE)
    _let_workers_end()


def reader_is_gone() -> bool:
    """Whether stdout is a pipe whose reader has ended."""
    import select

    try:
        descriptor = sys.stdout.fileno()
        poll = select.poll()
    except (OSError, AttributeError):  # stdout is no file, or the system has no poll
        return False
    poll.register(descriptor, select.POLLERR)
    gone = select.POLLERR | select.POLLHUP  # on Linux, on macOS
    return any(event & gone for _, event in poll.poll(0))


def end_with_parent(*_: object) -> None:
    """Called first in a worker process: it ends when its parent has ended, however that came about.

    Other signals than SIGTERM, with which the parent ends it, may reach all processes of a terminal; only the parent
    handles them.
    """
    import threading
    from multiprocessing import connection, parent_process

    ignore_signals()
    signal.signal(signal.SIGTERM, _end_worker)
    parent = parent_process()
    assert parent is not None, "a worker process has a parent"

    def watch() -> None:
        connection.wait([parent.sentinel])
        remove_unfinished()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _end_worker(number: int, _frame: object) -> NoReturn:
    remove_unfinished()
    os._exit(128 + number)


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Processes that are started in its block get SIGTERM alone, from before their first line on."""
    _find_room_for_sockets()
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(SIGNALS) - {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _find_room_for_sockets() -> None:
    """Worker processes have sockets in TMPDIR, whose path may be too long for them: 107 bytes, 103 on macOS."""
    import tempfile
    from multiprocessing import util

    if len(os.fsencode(tempfile.gettempdir())) > LONGEST_FOLDER and os.access("/tmp", os.W_OK):
        before, tempfile.tempdir = tempfile.tempdir, "/tmp"
        try:
            util.get_temp_dir()  # is kept by this process and its workers, and removed at its end
        finally:
            tempfile.tempdir = before


def _on_signal(number: int, frame: FrameType | None) -> None:
    if os.getpid() != _Process.pid:  # a forked worker, before `end_with_parent`
        if number != signal.SIGINT:
            os._exit(128 + number)
        return
    if _Process.number or not _Process.running or _is_importing(frame):
        _leave_at_once(number)
    _let_workers_end()
    _Process.number = number
    _Process.until = time.monotonic() + SECONDS_TO_LEAVE
    _Process.raised = KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)
    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, _check_leaving)
        signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_BEGIN_LEAVING, SECONDS_TO_BEGIN_LEAVING)
    raise _Process.raised


def _let_workers_end() -> None:
    """Torch's handler raises an exception when a worker ends, at whatever moment that is."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _on_unraisable(found: sys.UnraisableHookArgs) -> None:
    """End at once where the exception of a signal came in a destructor or a callback, which can pass none on."""
    if _Process.raised is not None and found.exc_value is _Process.raised and os.getpid() == _Process.pid:
        _leave_at_once(_Process.number)
    # Python's words for a signal that came in the very moment in which it was set to be ignored, as it now is
    if isinstance(found.exc_value, OSError) and "ignored due to race condition" in str(found.exc_value):
        return
    sys.__unraisablehook__(found)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported; extension modules turn or swallow exceptions that come then."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _check_leaving(_number: int, _frame: object) -> None:
    """End at once where the exception of a signal was caught, as in a destructor: no block is being left by it.

    Or where it is late: a block does not end, or, after all of them, a thread does not.
    """
    if not _Process.running or time.monotonic() > _Process.until:
        _leave_at_once(_Process.number)
    error = sys.exc_info()[1]
    while error is not None and error is not _Process.raised:
        error = error.__context__
    if error is None:
        _leave_at_once(_Process.number)


def _leave_at_once(number: int) -> NoReturn:
    first = _Process.number or number
    remove_unfinished()
    if not _Process.said:
        with contextlib.suppress(OSError):
            os.write(2, f"{_Process.name}: {signal_line(first)}\n".encode())
    os._exit(128 + first)


def _open_streams() -> None:
    """Standard streams that are closed become /dev/null: a file that is opened later must not get their numbers.

    Names of files pass through stdin and stdout as the bytes that they are, in whatever language and encoding.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(descriptor, "w" if descriptor else "r", closefd=False))  # noqa: SIM115
        # A name that is not in this encoding is a text with escapes, which are written as the bytes they stand for.
        encoding = "utf-8" if descriptor and _only_ascii() else sys.getfilesystemencoding()
        errors = "backslashreplace" if name == "stderr" else "surrogateescape"
        getattr(sys, name).reconfigure(encoding=encoding, errors=errors)


def _only_ascii() -> bool:
    return codecs.lookup(sys.getfilesystemencoding()).name == "ascii"
