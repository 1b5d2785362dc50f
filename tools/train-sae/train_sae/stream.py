"""A shuffled stream of tokens from activation shards.

Blocks of consecutive images are read into a large pool of tokens. Batches are drawn from the pool at
random until it is half empty, then further blocks fill it up. In every epoch each token comes exactly
once; the few that do not fill a batch wait in the pool for the next epoch.

Which tokens make up a batch depends on the seed and on the order of the shards, never on timing: while
shards arrive, half of the pool is drawn before waiting for the next one. So a stream can resume at any
batch: the shuffle plan is replayed up to there without reading.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from saetools.scorers.start import draw_sample
from saetools.shards.pool_plan import Draw, Load, Replay, plan, pool_capacity
from saetools.shards.token_source import IMAGES_PER_BLOCK, Block, ShardSource
from train_sae.memory import FreshMemory
from train_sae.tracking import batch_entropy

READ_AHEAD = 8  # blocks


@dataclass(frozen=True)
class Read:
    """Tokens {n, D} of a block, and the buffer that they may share memory with."""

    tokens_nd: torch.Tensor
    buffer: np.ndarray


class TokenStream:
    """Iterates over float32 batches {batch_size, D}; without end, unless shards are consumed.

    pool_bytes: memory of the pool, which keeps tokens in the type of the shards. skip: batches already drawn, after
    which the stream resumes. The caller may change a batch in place, until it asks for the next one.
    """

    def __init__(
        self, source: ShardSource, batch_size: int, pool_bytes: int, seed: int, skip: int = 0, rank: int = 0
    ) -> None:
        dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(source.dtype, torch.float32)
        capacity = pool_capacity(source, batch_size, pool_bytes)
        self._source = source
        # Only slots that are written to use memory; torch.zeros would touch all of it.
        self._pool = torch.empty(capacity, source.d_model, dtype=dtype)
        self._fresh = FreshMemory(self._pool)
        # The same memory with one value per token, which is copied at once.
        self._pool_rows = _as_rows(self._pool)
        self._image_of, self._patch_of = np.zeros(capacity, np.int32), np.zeros(capacity, np.int32)
        self._batch = torch.empty(batch_size, source.d_model, dtype=dtype)
        self._float = torch.empty(batch_size, source.d_model)
        self._plan = plan(
            source, batch_size, capacity, np.random.default_rng([seed, 2, rank] if rank else [seed, 2])
        )
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._row_bytes = source.d_model * dtype.itemsize
        # Blocks are read into used buffers: allocating fresh pages takes longer than filling them.
        self._buffers: deque[np.ndarray] = deque()
        self._to_come: deque[Block] = deque()  # will be read; the system has not been told yet
        self._block_bytes = IMAGES_PER_BLOCK * source.n_patches * source.d_model * 4
        self._n_loaded, self._bytes_read, self._reported = 0, 0, (time.monotonic(), 0)
        if skip:
            self._replay(skip, capacity)
        self._actions = self._with_tokens()
        self._next = self._load_until_draw()  # fills the pool, for `sample`

    def sample(self, seed: int) -> torch.Tensor:
        """float32 {n, D}: distinct random tokens from the pool, before the first batch is drawn.

        `saetools.scorers.start.read_sample` gives the same without filling the pool.
        """
        slots = draw_sample(self._n_loaded, seed)  # slots are filled in order until the first draw
        return self._pool[torch.from_numpy(slots)].float()

    def __iter__(self) -> Iterator[torch.Tensor]:
        while (draw := self._next or self._load_until_draw()) is not None:
            self._last, self._next = draw, None
            torch.index_select(self._pool, 0, torch.from_numpy(draw.slots), out=self._batch)
            yield self._float.copy_(self._batch)

    def report(self) -> dict[str, float]:
        """How well the last batch was mixed (`batch_entropy`), and how fast shards were read since the last report."""
        (before, bytes_before), now = self._reported, time.monotonic()
        self._reported = now, self._bytes_read
        slots = self._last.slots
        return {
            **_named("image", batch_entropy(self._image_of[slots], self._source.header.n_examples_total)),
            **_named("patch", batch_entropy(self._patch_of[slots], self._source.n_patches)),
            "read_mb_per_second": (self._bytes_read - bytes_before) / 1e6 / max(now - before, 1e-9),
        }

    def _replay(self, skip: int, capacity: int) -> None:
        replay, drawn = Replay(capacity), 0
        while drawn < skip:
            action = next(self._plan)
            replay.follow(action)
            if isinstance(action, Draw):
                drawn += 1
                continue
            self._n_loaded += len(action.slots)
            if self._source.consume:  # a recorder may be waiting for this shard to be deleted
                self._put(action.block, self._read(action.block), None, action.slots)
                self._source.was_read(action.block)
        if not self._source.consume:
            for block, places, slots in replay.contents():
                self._put(block, self._read(block), places, slots)

    def _load_until_draw(self) -> Draw | None:
        for action, read in self._actions:
            if isinstance(action, Draw):
                return action
            assert read is not None
            self._n_loaded += len(action.slots)
            self._put(action.block, read.result(), None, action.slots)
            self._source.was_read(action.block)
        return None

    def _with_tokens(self) -> Iterator[tuple[Load | Draw, Future[Read] | None]]:
        """The plan's actions, with blocks read ahead; it never waits for a shard that has not arrived."""
        queue: deque[tuple[Load | Draw, Future[Read] | None]] = deque()
        waiting, ended = 0, False
        while True:
            while not ended and (not queue or (self._source.all_arrived and waiting < READ_AHEAD)):
                action = next(self._plan, None)
                if action is None:
                    ended = True
                elif isinstance(action, Load):
                    self._to_come.append(action.block)
                    queue.append((action, self._reader.submit(self._read, action.block)))
                    waiting += 1
                else:
                    queue.append((action, None))
            if not queue:
                return
            action, read = queue.popleft()
            waiting -= read is not None
            yield action, read

    def _read(self, block: Block) -> Read:
        while self._to_come:  # while this one is read and checked, the system fetches the others
            coming = self._to_come.popleft()
            coming.shard.will_read(coming.layer, coming.rows)
        try:
            buffer = self._buffers.pop()
        except IndexError:
            buffer = np.empty(self._block_bytes, np.uint8)
        return Read(block.read(buffer), buffer)

    def _put(self, block: Block, read: Read, places: np.ndarray | None, slots: np.ndarray) -> None:
        tokens_nd = read.tokens_nd
        images, patches = block.origins()
        self._fresh.use((int(slots[-1]) + 1) * self._row_bytes)
        if places is not None:
            tokens_nd, images, patches = tokens_nd[torch.from_numpy(places)], images[places], patches[places]
        self._pool_rows[slots] = _as_rows(tokens_nd)
        self._image_of[slots], self._patch_of[slots] = images, patches
        self._bytes_read += len(block.rows) * self._source.n_patches * self._row_bytes
        self._buffers.append(read.buffer)


def _named(what: str, values: dict[str, float]) -> dict[str, float]:
    return {f"{what}_{name}": value for name, value in values.items()}


def _as_rows(acts_nd: torch.Tensor) -> np.ndarray:
    """Contiguous {N, D} as {N} of opaque values, sharing memory."""
    row = np.dtype((np.void, acts_nd.shape[1] * acts_nd.itemsize))
    return acts_nd.view(torch.uint8).numpy().reshape(len(acts_nd), -1).view(row).reshape(-1)
