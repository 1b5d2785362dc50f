"""Signals that ask a training run to save its state and stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Stopped(Exception):
    """A signal came while nothing was going on that had to be finished first."""


class StopSignals:
    """Notes SIGTERM, SIGUSR1 and Ctrl-C within its block.

    >>> with StopSignals() as stop:
    ...     with stop.interruptible():
    ...         x_bd = next(batches)
    ...     if stop.number:
    ...         ...
    """

    def __init__(self, active: bool) -> None:
        self.number = 0
        self._active, self._idle = active, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if self._active:
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within, a signal raises Stopped at once."""
        self._idle = True
        try:
            if self.number:
                raise Stopped
            yield
        finally:
            self._idle = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        if self._idle:
            self._idle = False
            raise Stopped


def leave(number: int) -> None:
    """End the process as after the signal: exit code 130 after Ctrl-C, else 128 + its number."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
