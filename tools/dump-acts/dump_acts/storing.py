"""Writes shards in a background thread, while the model computes the next batch."""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dump_acts.decoding import Batch
from dump_acts.plan import Contents
from saetools.log import logger
from saetools.shards.writer import ShardWriter
from saetools.vision.models import LayerActs

OpenShard = contextlib.AbstractContextManager[ShardWriter]


class BackgroundWriter:
    """A thread that writes shards, at most one batch behind the model."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._finished: deque[tuple[Future[Any], Path]] = deque()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._behind: Future[Any] = _done()
        self._shard: Future[ShardWriter]

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, *_error: object) -> None:
        self._executor.shutdown(wait=True)

    @contextlib.contextmanager
    def shard(self, target: Path, opened: OpenShard) -> Iterator[None]:
        """Within the block, batches are appended to this shard; it is complete some time after, or never."""
        try:
            self._shard = self._executor.submit(opened.__enter__)
            yield
            self._behind.result()
        except BaseException:
            self._executor.submit(_abandon, opened, sys.exc_info()).result()
            raise
        self._finished.append((self._executor.submit(_finish, opened, self._shard.result(), target), target))

    def append(self, batch: Batch, acts: Sequence[dict[int, LayerActs]]) -> None:
        """Append a batch, with the activations of each of its groups; raises the error of an earlier batch."""
        self._behind.result()
        self._behind = self._executor.submit(_store, self._shard, batch, acts, self._contents)

    def keep(self, target: Path) -> None:
        """Report a shard that exists already, in its place among the others."""
        self._finished.append((_done(), target))

    def paths(self, *, wait: bool) -> Iterator[Path]:
        """The shards completed since the last call, in order; wait: for all of them."""
        while self._finished and (wait or self._finished[0][0].done()):
            future, target = self._finished.popleft()
            future.result()
            yield target


def _done() -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(None)
    return future


def _finish(opened: OpenShard, writer: ShardWriter, target: Path) -> None:
    opened.__exit__(None, None, None)
    if writer.n_clipped:
        logger.info(
            "%s: %d activations exceeded the range of int8 and were clipped", target, writer.n_clipped
        )
    for reason in writer.skipped.values():
        logger.warning("skipped: %s", reason)


def _abandon(opened: OpenShard, error: Any) -> None:
    """Close the shard with the error, which removes the partial file; the caller raises the error itself."""
    with contextlib.suppress(error[0]):
        opened.__exit__(*error)


def _store(
    shard: Future[ShardWriter], batch: Batch, acts: Sequence[dict[int, LayerActs]], contents: Contents
) -> None:
    """Append a batch in the order of its images; those that cannot be decoded are skipped in their places."""
    patches: dict[int, torch.Tensor] = {}
    cls: dict[int, torch.Tensor] = {}
    grids: dict[int, np.ndarray] = {}
    labels: dict[int, np.ndarray] = {}
    places = [place for group in batch.groups for place in group.places]
    order = np.argsort(places)
    size_n2 = np.concatenate([np.empty((0, 2), np.int32), *(group.sizes for group in batch.groups)])[order]
    digest_n = np.concatenate([np.empty(0, "U32"), *(group.digests for group in batch.groups)])[order]
    for layer, shape in contents.layers.items() if places else ():
        groups = [found[layer] for found in acts]
        sizes = [len(group.places) for group in batch.groups]
        patches[layer] = _in_order([group.patches for group in groups], order)
        grids[layer] = np.repeat([group.grid for group in groups], sizes, axis=0)[order]
        if contents.cls:
            cls[layer] = _in_order([group.cls for group in groups if group.cls is not None], order)
        if contents.labels:
            labels[layer] = np.concatenate([group.labels[shape.stride] for group in batch.groups])[order]
    writer, start = shard.result(), 0
    for place in range(len(places) + len(batch.faults) + 1):
        # Up to each fault, and at the end, append what has come before it.
        stop = place - sum(fault < place for fault in batch.faults)
        at_end = place == len(places) + len(batch.faults)
        if stop > start and (at_end or place in batch.faults):
            run = slice(start, stop)
            writer.append(
                {layer: found[run] for layer, found in patches.items()},
                {layer: found[run] for layer, found in cls.items()} or None,
                grids={layer: found[run] for layer, found in grids.items()},
                sizes=size_n2[run],
                digests=digest_n[run],
                labels={layer: found[run] for layer, found in labels.items()} or None,
            )
            start = stop
        if place in batch.faults:
            writer.skip(batch.faults[place])


def _in_order(parts: Sequence[torch.Tensor], order: np.ndarray) -> torch.Tensor:
    """The rows of all parts in the given order, on the CPU."""
    if len(parts) == 1:  # its places ascend already: not copied
        return parts[0].cpu()
    return torch.cat([part.cpu() for part in parts])[torch.from_numpy(order)]
