"""A shuffled stream of tokens from activation shards.

Blocks of consecutive images are read into a large pool of tokens. Batches are drawn from the pool at
random until it is half empty, then further blocks fill it up. In every epoch each token comes exactly
once; the few that do not fill a batch wait in the pool for the next epoch.

Which tokens make up a batch depends on the seed and on the order of the shards, never on timing: of
arriving shards, half of what is in the pool is drawn before the next one is waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from saetools.errors import UserError
from train_sae.sources import IMAGES_PER_BLOCK, Block, ShardSource


@dataclass(frozen=True)
class Load:
    """Read a block of images into these slots {n} of the pool, patch by patch."""

    block: Block
    slots: np.ndarray


@dataclass(frozen=True)
class Draw:
    """Make a batch of the tokens in these slots {batch_size}, which are free afterwards."""

    slots: np.ndarray


def plan(
    source: ShardSource, batch_size: int, capacity: int, rng: np.random.Generator
) -> Iterator[Load | Draw]:
    """What happens to a pool of `capacity` slots, without end and without touching activations."""
    free = np.arange(capacity)
    live: list[np.ndarray] = []  # slots that hold a token
    n_live = 0

    def draw_down_to(floor: int) -> Iterator[Draw]:
        nonlocal free, live, n_live
        n_drawn = max(0, (n_live - floor) // batch_size) * batch_size
        if not n_drawn:
            return
        slots = rng.permutation(np.concatenate(live))
        for start in range(0, n_drawn, batch_size):
            yield Draw(slots[start : start + batch_size])
        free = np.concatenate([slots[:n_drawn], free])
        live, n_live = [slots[n_drawn:]], n_live - n_drawn

    epoch = 0
    while True:
        loaded = 0
        for group in source.epoch(epoch, rng):
            for block in group:
                if block.n_tokens > len(free):
                    yield from draw_down_to(n_live // 2)
                slots, free = free[: block.n_tokens], free[block.n_tokens :]
                live.append(slots)
                n_live += block.n_tokens
                loaded += block.n_tokens
                yield Load(block, slots)
            yield from draw_down_to(n_live // 2)
        _check_enough(loaded, batch_size)
        yield from draw_down_to(0)
        epoch += 1


class TokenStream:
    """Iterates over float32 batches {batch_size, D}, without end.

    pool_bytes bounds the memory of the pool, which keeps tokens as the shards store them.
    """

    def __init__(self, source: ShardSource, batch_size: int, pool_bytes: int, seed: int) -> None:
        dtype = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(source.dtype, torch.float32)
        least = 2 * (batch_size + IMAGES_PER_BLOCK * source.n_patches)
        capacity = max(least, pool_bytes // (source.d_model * dtype.itemsize))
        # Memory is used from the first slot on, and only where tokens are written (calloc's pages).
        self._pool = torch.zeros(capacity, source.d_model, dtype=dtype)
        self._batch = torch.empty(batch_size, source.d_model, dtype=dtype)
        self._layer = source.layer
        self._plan = plan(source, batch_size, capacity, np.random.default_rng([seed, 2]))
        self._n_loaded = 0
        self._next = self._load_until_draw()

    def sample(self, n_tokens: int, seed: int) -> torch.Tensor:
        """float32 {n, D}: different tokens out of those in the pool before the first batch; call it before that."""
        n = self._n_loaded  # slots are taken in order as long as nothing has been drawn
        slots = np.random.default_rng([seed, 3]).choice(n, min(n, n_tokens), replace=False)
        return self._pool[torch.from_numpy(slots)].float()

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            torch.index_select(self._pool, 0, torch.from_numpy(self._next.slots), out=self._batch)
            yield self._batch.float()
            self._next = self._load_until_draw()

    def _load_until_draw(self) -> Draw:
        for step in self._plan:
            if isinstance(step, Draw):
                return step
            self._n_loaded += len(step.slots)
            acts_npd = step.block.shard.images(self._layer, step.block.rows)
            self._pool.index_copy_(0, torch.from_numpy(step.slots), acts_npd.flatten(0, 1))
        raise AssertionError("a plan has no end")


def _check_enough(n_tokens: int, batch_size: int) -> None:
    if n_tokens < batch_size:
        raise UserError(
            f"the shards hold {n_tokens} tokens to train on, fewer than one batch of {batch_size};"
            " give more shards, lower --batch-size, or lower --holdout"
        )
