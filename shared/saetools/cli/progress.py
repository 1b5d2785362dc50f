"""Progress on stderr: a bar on a terminal, a line every half minute in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from saetools.log import logger

SECONDS_BETWEEN_LINES = 30.0
SECONDS_MEASURED = 3.0  # after the first step, which prepares what the others use


class Progress:
    """Counts towards `total` of `unit`; shows `notes` (for example the loss) beside the count.

    foretell: says once, on a terminal too, how long it will take, measured on the first seconds, and these words.

    >>> with Progress("training", total=1000, unit="tokens") as progress:
    ...     progress.advance(64, loss="0.31")
    """

    def __init__(self, what: str, total: int | None, unit: str, foretell: str | None = None) -> None:
        from tqdm import tqdm

        self.what, self.total, self.unit = what, total, unit
        self.done, self._calls, self._foretell = 0, 0, foretell
        self._measured_from = (time.monotonic(), 0)  # when, and what was done before
        self._last_line = time.monotonic()
        # disable=None: tqdm is silent where stderr is not a terminal
        self._bar = tqdm(
            desc=what,
            total=total,
            unit=f" {unit}",
            unit_scale=True,
            file=sys.stderr,
            disable=None,
            leave=False,
        )

    def advance(self, count: int, **notes: str) -> None:
        self.done += count
        self._calls += 1
        if (
            self._foretell is not None and self._calls <= 2
        ):  # what an earlier run has done, and the first step
            self._measured_from = (time.monotonic(), self.done)
        elif self._foretell is not None and time.monotonic() - self._measured_from[0] >= SECONDS_MEASURED:
            self._say_duration()
        self._bar.update(count)
        if notes:
            self._bar.set_postfix(notes, refresh=False)
        measured = self.done > self._measured_from[1]
        if self._bar.disable and measured and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            logger.info("%s", self._line(notes))

    def _say_duration(self) -> None:
        since, before = self._measured_from
        rate = (self.done - before) / (time.monotonic() - since)
        if self.total and rate > 0:
            left = _duration((self.total - self.done) / rate)
            more = f"; {self._foretell}" if self._foretell else ""
            logger.info(
                "%s takes about %s at %s %s a second%s", self.what, left, f"{rate:,.0f}", self.unit, more
            )
        self._foretell = None

    def _line(self, notes: dict[str, str]) -> str:
        of = f" of {self.total:,}" if self.total else ""
        since, before = self._measured_from
        rate = (self.done - before) / max(time.monotonic() - since, 1e-9)
        said = "".join(f", {name} {value}" for name, value in notes.items())
        left = f", {(self.total - self.done) / rate / 60:,.1f} min left" if self.total and rate > 0 else ""
        return f"{self.what}: {self.done:,}{of} {self.unit}, {rate:,.{0 if rate >= 10 else 2}f} a second{left}{said}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()


def _duration(seconds: float) -> str:
    """40 s; 12 min; 3.5 h; 2.1 days."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
