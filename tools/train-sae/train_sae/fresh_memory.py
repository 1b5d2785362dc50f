"""Fresh memory, asked for from the system a little before it is written to."""

from __future__ import annotations

import ctypes
import mmap
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

POPULATE_WRITE = 23  # MADV_POPULATE_WRITE, of Linux 5.14 and later
CHUNK = 32 << 20
AHEAD = 256 << 20


class FreshMemory:
    """Gets the pages of a tensor that was just allocated, in a thread, up to 256 MB ahead of what is in use.

    A page is otherwise got, and zeroed, when it is first written to: 1.5 GB a second, by the thread that writes. What
    was written is never changed, and on systems without such a call nothing happens.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self._tensor = tensor  # keeps the memory
        begin = tensor.data_ptr()
        self._next = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
        self._begin, self._end = begin, (begin + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        self._madvise = ctypes.CDLL(None).madvise if sys.platform == "linux" else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="memory")

    def use(self, n_bytes: int) -> None:
        """That many bytes from the beginning on are about to be in use."""
        wanted = min(self._begin + n_bytes + AHEAD, self._end)
        while self._madvise is not None and self._next < wanted:
            length = min(CHUNK, self._end - self._next)
            self._thread.submit(self._populate, self._next, length)
            self._next += length

    def _populate(self, address: int, length: int) -> None:
        assert self._madvise is not None
        # Where it fails, pages come as they are written to.
        self._madvise(ctypes.c_void_p(address), ctypes.c_size_t(length), POPULATE_WRITE)
