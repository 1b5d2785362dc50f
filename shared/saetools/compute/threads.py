"""The one way to run work on several threads: pieces of a kernel's work, taken from a queue by threads.

    share_out(n, block, threads, run)    for one call: `run(first, last)` for each block of range(n)
    Workers()                            for many calls, as in training: the threads stay

Kernels release the interpreter's lock (numba's `nogil=True`). Threads of our own instead of numba's `prange`: its
`parallel=True` compiles several times slower, dies in forked children under one threading layer and aborts under the
other when two threads call it.

A piece's result never depends on who computes it, and in `Workers` the cut into pieces never on the number of threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from itertools import pairwise
from typing import Any

import numpy as np


class Workers:
    """Runs pieces of work on `n_threads` threads, the caller's included; by default as many as torch uses."""

    def __init__(self, n_threads: int | None = None) -> None:
        if n_threads is None:
            import torch  # slow to import, and not needed to count cores

            n_threads = torch.get_num_threads()
        if n_threads < 1:
            raise ValueError(f"threads: found {n_threads}, expected at least 1")
        self.n_threads = n_threads
        self._pool = ThreadPoolExecutor(max(1, n_threads - 1), thread_name_prefix="saetools")

    def run(self, kernel: Callable[..., None], bounds: np.ndarray, *args: Any) -> None:
        """Call `kernel(piece, lo, hi, *args)` for each piece [bounds[i], bounds[i + 1]).

        Where a call raises, or after Ctrl-C, no further piece is started; the exception is raised once none runs.
        """
        cuts = [int(bound) for bound in bounds]
        pieces = deque((i, lo, hi) for i, (lo, hi) in enumerate(pairwise(cuts)) if hi > lo)

        def work() -> None:
            while True:
                try:
                    piece = pieces.popleft()
                except IndexError:
                    return
                try:
                    kernel(*piece, *args)
                except BaseException:
                    pieces.clear()
                    raise

        others = [self._pool.submit(work) for _ in range(min(self.n_threads, len(pieces)) - 1)]
        try:
            work()
        finally:
            pieces.clear()
            wait(others)
        for other in others:
            other.result()

    def run_torch(self, function: Callable[[int, int, int], None], bounds: np.ndarray) -> None:
        """`function(piece, lo, hi)` for each piece, as `run`; what it calls of torch uses one thread each."""
        import torch

        def on_one_thread(piece: int, lo: int, hi: int) -> None:
            if torch.get_num_threads() != 1:
                torch.set_num_threads(1)  # of this thread, and of threads to come
            function(piece, lo, hi)

        before = torch.get_num_threads()
        try:
            self.run(on_one_thread, bounds)
        finally:
            torch.set_num_threads(before)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def share_out(n_items: int, block: int, threads: int | None, run: Callable[[int, int], None]) -> None:
    """Call run(first, last) for all blocks of 0..n_items-1, on several threads (by default one a core).

    Raises as `Workers.run`, and ValueError for less than one thread.
    """
    workers = Workers(available_threads() if threads is None else threads)
    try:
        bounds = np.array([*range(0, n_items, block), n_items])
        workers.run(lambda _piece, first, last: run(first, last), bounds)
    finally:
        workers.close()


def even_pieces(n: int, at_most: int) -> np.ndarray:
    """Bounds of at most `at_most` about equal pieces of range(n)."""
    return np.linspace(0, n, min(n, at_most) + 1).astype(np.int64)


def pieces_of_equal_work(ptr: np.ndarray, cost_per_row: int, n_pieces: int) -> np.ndarray:
    """Bounds of pieces of rows, where row i costs `ptr[i + 1] - ptr[i] + cost_per_row`."""
    work = ptr + cost_per_row * np.arange(len(ptr))
    targets = np.linspace(0, work[-1], min(n_pieces, len(ptr) - 1) + 1)
    bounds = np.searchsorted(work, targets)
    bounds[0], bounds[-1] = 0, len(ptr) - 1
    return bounds


def available_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
