"""The shards to train on: all known, or arriving on stdin while training goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saetools.errors import UserError
from saetools.scorer_inputs import choose_layer
from saetools.shard_reader import Shard, iterate_shards

IMAGES_PER_BLOCK = 16


@dataclass(frozen=True)
class Block:
    """Images of one shard that are read together: `rows`, ascending and close to each other."""

    shard: Shard
    rows: np.ndarray

    @property
    def n_tokens(self) -> int:
        return len(self.rows) * self.shard.n_patches


class ShardSource:
    """Gives the blocks of every epoch, without the held-out images.

    arriving: whether `paths` come in while training goes on. Then the first epoch takes shards in their
    order of arrival. Otherwise all are opened at once, and every epoch takes blocks from all over.
    """

    def __init__(self, paths: Iterator[Path], layer: int | None, holdout: float, *, arriving: bool) -> None:
        self._arriving, self.holdout = arriving, holdout
        self._remaining = iterate_shards(paths)
        self._shards: list[Shard] = []
        first = next(self._arrivals())
        self.layer = choose_layer(first, layer)
        self.d_model, self.n_patches, self.dtype = first.d_model, first.n_patches, first.dtype(self.layer)
        self.header = first.header
        if not arriving:
            self.all_shards()

    def epoch(self, number: int, rng: np.random.Generator) -> Iterator[list[Block]]:
        """Yield groups of blocks, each in random order: one per arriving shard, or a single one."""
        if number == 0 and self._arriving:
            for shard in self._arrivals():
                yield _shuffled(self._training_blocks(shard), rng)
        else:
            yield _shuffled([block for shard in self._shards for block in self._training_blocks(shard)], rng)

    def all_shards(self) -> list[Shard]:
        """All shards, once the last one has arrived."""
        return list(self._arrivals())

    def held_out_blocks(self) -> list[Block]:
        """The images of all shards that are never trained on; raises UserError where there are none."""
        blocks = [block for shard in self.all_shards() for block in _blocks(shard, self._held_out(shard))]
        if not blocks:
            raise UserError(
                f"--holdout {self.holdout}: the shards have too few images for any to be held out;"
                " raise it, or give shards with --val"
            )
        return blocks

    def _arrivals(self) -> Iterator[Shard]:
        """The shards in order of arrival, those that are here already first."""
        yield from self._shards
        for shard in self._remaining:
            if self._shards:
                self._check_dtype(shard)
            self._shards.append(shard)
            yield shard

    def _check_dtype(self, shard: Shard) -> None:
        if (dtype := shard.dtype(self.layer)) != self.dtype:
            raise UserError(
                f"{shard.path}: stored as {dtype}, but as {self.dtype} in {self._shards[0].path};"
                " train on shards of one --dtype"
            )

    def _training_blocks(self, shard: Shard) -> list[Block]:
        return _blocks(shard, ~self._held_out(shard))

    def _held_out(self, shard: Shard) -> np.ndarray:
        """bool {N}. Decided by an image's path alone: the order and the sizes of shards do not matter."""
        return np.array([_uniform(path) < self.holdout for path in shard.examples.path], dtype=bool)


def all_blocks(shards: Iterable[Shard]) -> list[Block]:
    """All images of the shards."""
    return [block for shard in shards for block in _blocks(shard, np.ones(shard.n_images, bool))]


def _blocks(shard: Shard, chosen: np.ndarray) -> list[Block]:
    rows = np.flatnonzero(chosen)
    return [
        Block(shard, rows[start : start + IMAGES_PER_BLOCK])
        for start in range(0, len(rows), IMAGES_PER_BLOCK)
    ]


def _shuffled(blocks: list[Block], rng: np.random.Generator) -> list[Block]:
    return [blocks[i] for i in rng.permutation(len(blocks))]


def _uniform(path: str) -> float:
    """A number in [0, 1) that is as good as random, the same for a path everywhere."""
    digest = hashlib.blake2b(path.encode(), digest_size=8, person=b"holdout").digest()
    return int.from_bytes(digest, "little") / 2**64
