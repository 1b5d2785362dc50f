"""The shards to train on: all given at the start, or arriving on stdin during training."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saetools.errors import UserError
from saetools.files.provenance import canonical_json
from saetools.log import logger
from saetools.shards.held_out import HOLDOUT, uniform_of_paths
from saetools.shards.reader import Shard, check_complete, choose_layer, iterate_shards

IMAGES_PER_BLOCK = 16


@dataclass(frozen=True)
class Block:
    """Images of one shard that are read together: `rows`, ascending and close to each other.

    kept: int64, ascending: which of their patches, counted through all rows, are used; None: all.
    """

    shard: Shard
    layer: int
    rows: np.ndarray
    kept: np.ndarray | None = None

    @property
    def n_tokens(self) -> int:
        return len(self.rows) * self.shard.shape(self.layer)[0] if self.kept is None else len(self.kept)

    def read(self, buffer: np.ndarray | None = None) -> torch.Tensor:
        """The tokens {n_tokens, D}, in the type they are stored in; `buffer` as in `Shard.read_acts`."""
        acts_nd = self.shard.read_acts(self.layer, self.rows, buffer).flatten(0, 1)
        return acts_nd if self.kept is None else acts_nd[torch.from_numpy(self.kept)]

    def at(self, places: np.ndarray) -> torch.Tensor:
        """The tokens {len(places), D} at these places of `read`; only the images that they are from are read."""
        n_patches = self.shard.shape(self.layer)[0]
        kept = places if self.kept is None else self.kept[places]
        images, which = np.unique(kept // n_patches, return_inverse=True)
        acts_nd = self.shard.read_acts(self.layer, self.rows[images]).flatten(0, 1)
        return acts_nd[torch.from_numpy(which * n_patches + kept % n_patches)]

    def origins(self) -> tuple[np.ndarray, np.ndarray]:
        """int32 {n_tokens} each: the image that a token is from (its place in the data set), and its patch there."""
        n_patches = self.shard.shape(self.layer)[0]
        kept = np.arange(len(self.rows) * n_patches) if self.kept is None else self.kept
        images = self.shard.examples.index[self.rows[kept // n_patches]]
        return images.astype(np.int32), (kept % n_patches).astype(np.int32)


class ShardSource:
    """The blocks of every epoch, without the held-out images and the patches of excluded labels.

    arriving: whether `paths` arrive during training. Then the first epoch takes shards in their order of arrival.
    Otherwise all are opened at once, and every epoch shuffles the blocks of all.
    consume: delete each shard after its last block has been read; there is one epoch then.
    allow_incomplete: accept a part of the shards of a recording. Otherwise IncompleteShards is raised, at once, or
    after the last one where they arrive.
    check: called with every shard once, when it arrives, before it is used.
    rank, world: each of several processes takes every world-th shard.
    """

    def __init__(
        self,
        paths: Iterator[Path],
        layer: int | None,
        holdout: float,
        *,
        arriving: bool,
        excluded: Sequence[int] = (),
        consume: bool = False,
        allow_incomplete: bool = False,
        check: Callable[[Shard], None] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.arriving, self.holdout, self.excluded, self.consume = arriving, holdout, tuple(excluded), consume
        self._rank, self.world = rank, world
        self.allow_incomplete, self._check = allow_incomplete, check
        self._remaining = iterate_shards(paths, allow_incomplete=allow_incomplete)
        self._shards: list[Shard] = []
        self._all_arrived = [False]
        self._unread: dict[Path, int] = {}  # blocks of a shard that is to be consumed
        first = next(self._arrivals())
        self.layer = choose_layer(first, layer)
        (self.n_patches, self.d_model), self.dtype = first.shape(self.layer), first.dtype(self.layer)
        self.header = first.header
        if not arriving:
            self.all_shards()
            if len(self._shards) < world:
                raise UserError(
                    f"{len(self._shards)} shards for {world} processes: each needs one of its own at least;"
                    " start fewer, or record smaller shards"
                )

    def view(self, holdout: float, excluded: Sequence[int]) -> ShardSource:
        """The same shards, with another choice of images and patches."""
        other = copy.copy(self)
        other.holdout, other.excluded, other._unread = holdout, tuple(excluded), {}
        return other

    def tokens(self, holdout: float = 0.0) -> int:
        """Tokens of an epoch by the header, the same before all shards have arrived as after.

        Held-out images are left out, patches of excluded labels and shards that are missing are not.
        """
        return round(self.header.n_examples_total * (1 - holdout)) * self.n_patches

    @property
    def all_arrived(self) -> bool:
        """Whether the last shard has arrived."""
        return self._all_arrived[0]

    @property
    def order(self) -> dict[str, Any]:
        """What the order of tokens depends on besides the settings, the shards and their order (see StartSettings)."""
        return {"arriving": self.arriving, "processes": self.world}

    def epoch(self, number: int, rng: np.random.Generator) -> Iterator[list[Block]]:
        """Yield groups of blocks, each in random order: one per arriving shard, or a single one."""
        if number == 0 and self.arriving:
            for shard in self._arrivals():
                yield _shuffled(self._expected(shard, self._training_blocks(shard)), rng)
        else:
            mine = self._shards[self._rank :: self.world]
            blocks = [
                block for shard in mine for block in self._expected(shard, self._training_blocks(shard))
            ]
            yield _shuffled(blocks, rng)

    def was_read(self, block: Block) -> None:
        """Delete a shard that is to be consumed after the last of its blocks."""
        path = block.shard.path
        if path in self._unread:
            self._unread[path] -= 1
            if self._unread[path] == 0:
                path.unlink(missing_ok=True)

    def all_shards(self) -> list[Shard]:
        """All shards, once the last one has arrived."""
        return list(self._arrivals())

    def finish(self) -> None:
        """After the last token was read, wait for the shards that have not arrived.

        Those that are to be consumed go as they come: a recorder with --max-disk waits for that, else for ever.
        """
        for shard in self._arrivals():
            if self.consume and self.arriving:
                shard.path.unlink(missing_ok=True)

    def identities(self) -> list[str]:
        """Digests of the shards that have arrived, in order; equal for a shard that was recorded again."""
        return [
            hashlib.sha256(canonical_json([shard.header.source(), shard.digests]).encode()).hexdigest()[:16]
            for shard in self._shards
        ]

    def held_out_blocks(self) -> list[Block]:
        """The held-out images of all shards; raises UserError where there are none."""
        blocks = [
            block for shard in self.all_shards() for block in self._blocks(shard, self._held_out(shard))
        ]
        if not blocks:
            raise UserError(
                f"`holdout` {self.holdout}: the shards have too few images for any to be held out;"
                " raise it, or give shards with `val`"
            )
        return blocks

    def _arrivals(self) -> Iterator[Shard]:
        """The shards in order of arrival, first those that have arrived already."""
        yield from self._shards
        for shard in self._remaining:
            if self._shards:
                self._check_dtype(shard)
            if self._check is not None:
                self._check(shard)
            self._shards.append(shard)
            yield shard
        if not self.allow_incomplete:
            check_complete(
                self._shards,
                "the rest never came: run the same commands again to go on, or accept a part with `allow_incomplete`"
                if self.arriving
                else "give the others too, or accept a part with `allow_incomplete`",
            )
        self._all_arrived[0] = True

    def _check_dtype(self, shard: Shard) -> None:
        if (dtype := shard.dtype(self.layer)) != self.dtype:
            raise UserError(
                f"{shard.path}: stored as {dtype}, but as {self.dtype} in {self._shards[0].path};"
                " train on shards of one --dtype"
            )

    def _expected(self, shard: Shard, blocks: list[Block]) -> list[Block]:
        if self.consume:
            self._unread[shard.path] = len(blocks)
            if not blocks:
                shard.path.unlink(missing_ok=True)
        return blocks

    def _training_blocks(self, shard: Shard) -> list[Block]:
        return self._blocks(shard, ~self._held_out(shard))

    def _blocks(self, shard: Shard, chosen: np.ndarray) -> list[Block]:
        return cut_blocks(shard, self.layer, chosen, self.excluded)

    def _held_out(self, shard: Shard) -> np.ndarray:
        """bool {N}. Decided by an image's path alone: the order and the sizes of shards do not matter."""
        return uniform_of_paths(shard.examples.path, HOLDOUT) < self.holdout


def all_blocks(shards: Iterable[Shard], layer: int, excluded: Sequence[int] = ()) -> list[Block]:
    """All images of the shards, without the patches of excluded labels; raises UserError where nothing is left."""
    blocks = [
        block
        for shard in shards
        for block in cut_blocks(shard, layer, np.ones(shard.n_images, bool), excluded)
    ]
    if not blocks:
        raise UserError(
            f"`exclude_labels` {_listed(excluded)}: no other patch is left in the shards of `val`"
        )
    return blocks


def cut_blocks(shard: Shard, layer: int, chosen: np.ndarray, excluded: Sequence[int]) -> list[Block]:
    """The chosen {N} images of a shard in blocks, without the patches of excluded labels.

    Raises UserError where labels are to be excluded and the shard has none.
    """
    rows = np.flatnonzero(chosen)
    pieces = [rows[start : start + IMAGES_PER_BLOCK] for start in range(0, len(rows), IMAGES_PER_BLOCK)]
    if not excluded:
        return [Block(shard, layer, piece) for piece in pieces]
    labels_np = shard.labels(layer)
    if labels_np is None:
        raise UserError(
            f"{shard.path}: it holds no patch labels, which `exclude_labels` {_listed(excluded)} needs;"
            " record images with masks, or leave it out"
        )
    kept = [np.flatnonzero(~np.isin(labels_np[piece], excluded).ravel()) for piece in pieces]
    blocks = [Block(shard, layer, piece, here) for piece, here in zip(pieces, kept, strict=True) if len(here)]
    if len(rows) and not blocks:
        logger.info("%s: every patch has an excluded label", shard.path)
    return blocks


def _listed(labels: Sequence[int]) -> str:
    return ",".join(map(str, labels))


def _shuffled(blocks: list[Block], rng: np.random.Generator) -> list[Block]:
    return [blocks[i] for i in rng.permutation(len(blocks))]
