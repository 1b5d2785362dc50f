"""One pass over the shards that scores every image, or patch, with all scorers of all layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch

from saetools.cli.progress import Progress
from saetools.compute.matmul import float32_matmul
from saetools.metrics.pooling import Pool, pool_scores
from saetools.scorers.baselines import Scorer
from saetools.shards.reader import Shard, ShardSet
from score_traits.score_files import ScoreFileWriter

BLOCK_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Task:
    """A scorer on the device, the layer it scores, and where its scores go."""

    layer: int
    scorer: Scorer
    writer: ScoreFileWriter


def score_shards(
    shards: ShardSet, tasks: Sequence[Task], pool: Pool | None, device: torch.device, what: str
) -> None:
    """Score all images in order; pool None scores their patches. Each layer's activations are read once."""
    layers = sorted({task.layer for task in tasks})
    with ExitStack() as stack:
        stack.enter_context(float32_matmul())
        total = shards.n_images * len(tasks)
        progress = stack.enter_context(Progress(f"scoring {what}", total=total, unit="images"))
        for shard in shards.shards:
            for layer in layers:
                here = [task for task in tasks if task.layer == layer]
                _score_layer(shard, layer, here, pool, device, progress)


def _score_layer(
    shard: Shard,
    layer: int,
    tasks: Sequence[Task],
    pool: Pool | None,
    device: torch.device,
    progress: Progress,
) -> None:
    n_patches, d_model = shard.shape(layer)
    at_a_time = max(1, BLOCK_BYTES // (4 * n_patches * d_model))
    for start in range(0, shard.n_images, at_a_time):
        acts_npd = shard.patches(layer, start, start + at_a_time).to(device)
        for task in tasks:
            for scores_nk in _scores(task.scorer, acts_npd, pool):
                task.writer.append(scores_nk)
            progress.advance(len(acts_npd))


def _scores(scorer: Scorer, acts_npd: torch.Tensor, pool: Pool | None) -> Iterator[np.ndarray]:
    """Scores of the images, or patches, in order, a few at a time."""
    rows = acts_npd if pool is not None else acts_npd.reshape(-1, acts_npd.shape[2])
    for part in rows.split(max(1, BLOCK_BYTES // (4 * scorer.n_prototypes))):
        with torch.no_grad():
            scores_nk = scorer(part) if pool is None else pool_scores(scorer, part, pool)
        yield scores_nk.cpu().numpy()
