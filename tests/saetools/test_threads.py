"""Work shared out among threads: every piece once, and an error ends it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from saetools.compute.threads import Workers, share_out


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("n", "block"), [(0, 3), (1, 3), (7, 3), (7, 7), (7, 100)])
def test_every_item_once_in_blocks(threads: int, n: int, block: int) -> None:
    count_n, sizes = np.zeros(n, int), []

    def run(first: int, last: int) -> None:
        count_n[first:last] += 1
        sizes.append(last - first)

    share_out(n, block, threads, run)
    assert (count_n == 1).all() and all(size <= block for size in sizes)


def test_several_threads_work_at_once() -> None:
    """Each of three pieces waits for the two others: one thread alone would wait for ever."""
    together = threading.Barrier(3)
    share_out(3, 1, 3, lambda _first, _last: together.wait(timeout=60) and None)
    assert not together.broken


@pytest.mark.parametrize("bad", [0, 1])
def test_an_error_ends_the_work_and_is_raised_when_nothing_runs_any_more(bad: int) -> None:
    """Pieces 0 and 1 run at the same time, one fails; the 98 behind them are not started."""
    together, started, running = threading.Barrier(2), [], []

    def kernel(piece: int, _lo: int, _hi: int) -> None:
        started.append(piece)
        running.append(piece)
        try:
            if piece < 2:
                together.wait(timeout=60)
            if piece == bad:
                raise ZeroDivisionError("piece")
            if piece < 2:
                # The other one stays at work until the failing piece has cleared the queue.
                for _ in range(10_000):
                    if bad not in running:
                        break
                    threading.Event().wait(0.001)
        finally:
            running.remove(piece)

    with pytest.raises(ZeroDivisionError):
        Workers(2).run(kernel, np.arange(101))
    assert running == [] and len(started) < 100


def test_no_threads_are_refused() -> None:
    with pytest.raises(ValueError, match="threads: found 0"):
        share_out(3, 1, 0, lambda _first, _last: None)
