"""The shuffle plan: which tokens go where in the pool, and which make a batch, without reading any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from saetools.errors import UserError
from saetools.shards.token_source import IMAGES_PER_BLOCK, Block, ShardSource


@dataclass(frozen=True)
class Load:
    """Read a block of images into these slots {n} of the pool, patch by patch."""

    block: Block
    slots: np.ndarray


@dataclass(frozen=True)
class Draw:
    """Make a batch of the tokens in these slots {batch_size}, which are free afterwards."""

    slots: np.ndarray


def pool_capacity(source: ShardSource, batch_size: int, pool_bytes: int) -> int:
    """Slots of a pool of that many bytes, which keeps tokens as the shards store them (int8 as float32)."""
    itemsize = 2 if source.dtype in ("float16", "bfloat16") else 4
    least = 2 * (batch_size + IMAGES_PER_BLOCK * source.n_patches)
    return max(least, pool_bytes // (source.d_model * itemsize))


def plan(
    source: ShardSource, batch_size: int, capacity: int, rng: np.random.Generator
) -> Iterator[Load | Draw]:
    """The loads and draws of a pool of `capacity` slots, in order.

    They go on without end, unless the shards are consumed: then for one epoch, whose last tokens are left over where
    they do not fill a batch.
    """
    freed = np.empty(0, dtype=np.int64)  # slots that held a token; they are used before those that never did
    n_used = 0
    live: list[np.ndarray] = []  # slots that hold a token
    n_live = 0

    def draw_down_to(floor: int) -> Iterator[Draw]:
        nonlocal freed, live, n_live
        n_drawn = max(0, (n_live - floor) // batch_size) * batch_size
        if not n_drawn:
            return
        slots = rng.permutation(np.concatenate(live))
        for start in range(0, n_drawn, batch_size):
            yield Draw(slots[start : start + batch_size])
        freed = np.concatenate([np.sort(slots[:n_drawn]), freed])  # ascending: blocks are written faster
        live, n_live = [slots[n_drawn:]], n_live - n_drawn

    epoch = 0
    while True:
        loaded = 0
        for group in source.epoch(epoch, rng):
            for block in group:
                if n_live + block.n_tokens > capacity:
                    yield from draw_down_to(n_live // 2)
                slots, freed = freed[: block.n_tokens], freed[block.n_tokens :]
                if (n_new := block.n_tokens - len(slots)) > 0:
                    slots = np.concatenate([slots, np.arange(n_used, n_used + n_new)])
                    n_used += n_new
                live.append(slots)
                n_live += block.n_tokens
                loaded += block.n_tokens
                yield Load(block, slots)
            yield from draw_down_to(n_live // 2)
        _check_enough(loaded, batch_size)
        yield from draw_down_to(0)
        if source.consume:
            return
        epoch += 1


class Replay:
    """Replays a plan up to a batch without reading, to find which tokens are in the pool then."""

    def __init__(self, capacity: int) -> None:
        self._loads: list[Load] = []
        self._load_of = np.zeros(capacity, dtype=np.int32)  # counted from 1; 0: no token
        self._place_of = np.zeros(capacity, dtype=np.int32)

    def follow(self, action: Load | Draw) -> None:
        if isinstance(action, Draw):
            self._load_of[action.slots] = 0
            return
        self._loads.append(action)
        self._load_of[action.slots] = len(self._loads)
        self._place_of[action.slots] = np.arange(len(action.slots))

    def contents(self) -> Iterator[tuple[Block, np.ndarray, np.ndarray]]:
        """Yield blocks that have tokens in the pool: places {n} in the block, and slots {n} where they belong."""
        slots = np.flatnonzero(self._load_of)
        slots = slots[np.argsort(self._load_of[slots], kind="stable")]
        loads, starts = np.unique(self._load_of[slots], return_index=True)
        for load, here in zip(loads, np.split(slots, starts[1:]), strict=False):
            yield self._loads[load - 1].block, self._place_of[here], here


def _check_enough(n_tokens: int, batch_size: int) -> None:
    if n_tokens < batch_size:
        raise UserError(
            f"the shards hold {n_tokens} tokens to train on, fewer than one batch of {batch_size};"
            " give more shards, lower `batch_size`, or lower `holdout`"
        )
