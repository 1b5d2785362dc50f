"""Memory of a training run: an estimate that divides a sweep into groups, and pages allocated ahead of their use."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from train_sae.config import TrainingSettings
from train_sae.trainer import Run

POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, of Linux 5.14 and later
CHUNK = 32 << 20
AHEAD = 256 << 20
DEFAULT_BYTES = 4 << 30  # taken to be free on systems that say nothing of their memory
CHUNK_BYTES = 64 * 2**20  # pre-activations that are held at a time


def peak_bytes(settings: TrainingSettings, d_model: int) -> int:
    """An estimate for one SAE: its matrices with two moments each, gradients (for their norm), the residuals of each
    prefix, and for ReLU and JumpReLU, whose latents can be dense, all latents of a batch."""
    d, s, b, step = d_model, settings.d_sae, settings.options.batch_size, settings.step
    matrices = 6 * 4 * s * d
    slabs = (step.n_prefixes if step.objective == "matryoshka" else 1) + (step.aux_k > 0) + 2
    dense = step.activation in ("relu", "jumprelu") or settings.options.optimizer == "muon"
    codes = 4 * b * s + 2 * 4 * s * d if dense else CHUNK_BYTES + 16 * b * step.k
    return matrices + 4 * slabs * b * d + codes


def groups(runs: Sequence[Run], memory: int, d_model: int) -> Iterator[list[Run]]:
    """Groups of runs that share a stream and fit in `memory` bytes by estimate; a run that does not fit is alone."""
    by_stream: dict[object, list[Run]] = {}
    for run in runs:
        by_stream.setdefault(run.settings.stream, []).append(run)
    for sharing in by_stream.values():
        group: list[Run] = []
        used = 0
        for run in sharing:
            needed = peak_bytes(run.settings, d_model)
            if group and used + needed > memory:
                yield group
                group, used = [], 0
            group, used = [*group, run], used + needed
        yield group


def available_bytes() -> int:
    """Memory that is free or can be freed; where the system does not say, half of the machine's memory, or 4 GiB."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no Linux
    try:
        pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # no such call, or no such number
        return DEFAULT_BYTES
    return pages * page // 2 if pages > 0 and page > 0 else DEFAULT_BYTES


class FreshMemory:
    """Has the system provide the pages of a new tensor in a thread, up to 256 MB ahead of what is in use.

    Otherwise a page is provided and zeroed when it is first written to, which holds the writing thread to 1.5 GB a
    second. Written pages are never changed. On systems without this call (Linux before 5.14, others) nothing happens.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor  # keeps the memory
        begin = tensor.data_ptr()
        self._next = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        self._begin, self._end = begin, (begin + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        self._madvise = ctypes.CDLL(None).madvise if sys.platform == "linux" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memory")

    def use(self, n_bytes: int) -> None:
        """The first `n_bytes` of the tensor are about to be in use."""
        wanted = min(self._begin + n_bytes + AHEAD, self._end)
        while self._madvise is not None and self._next < wanted:
            length = min(CHUNK, self._end - self._next)
            self._thread.submit(self._populate, self._next, length)
            self._next += length

    @property
    def n_left(self) -> int:
        """Bytes of whole pages that have not been asked for."""
        return self._end - self._next

    def wait(self) -> None:
        """Wait until all pages asked for are there; none can be asked for afterwards."""
        self._thread.shutdown()

    def _populate(self, address: int, length: int) -> None:
        assert self._madvise is not None
        # If it fails, pages are allocated when they are written to.
        self._madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), POPULATE_WRITE)
