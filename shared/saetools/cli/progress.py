"""Progress on stderr: a bar on a terminal, a line every half minute in a log file."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from saetools.log import logger

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Counts towards `total` of `unit`; shows `notes` (for example the loss) beside the count.

    >>> with Progress("training", total=1000, unit="tokens") as progress:
    ...     progress.advance(64, loss="0.31")
    """

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        from tqdm import tqdm

        self.what, self.total, self.unit = what, total, unit
        self.done = 0
        self._started = self._last_line = time.monotonic()
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
        self._bar.update(count)
        if notes:
            self._bar.set_postfix(notes, refresh=False)
        if self._bar.disable and time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            logger.info("%s", self._line(notes))

    def _line(self, notes: dict[str, str]) -> str:
        of = f" of {self.total:,}" if self.total else ""
        rate = self.done / (time.monotonic() - self._started)
        said = "".join(f", {name} {value}" for name, value in notes.items())
        left = f", {(self.total - self.done) / rate / 60:,.1f} min left" if self.total and rate > 0 else ""
        return f"{self.what}: {self.done:,}{of} {self.unit}, {rate:,.{0 if rate >= 10 else 2}f} a second{left}{said}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
