"""Training patches drawn at random: the baseline that needs no training, and where k-means starts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from saetools.errors import UserError
from saetools.scorers.baselines import Linear
from saetools.shards.reader import ShardSet

BLOCK_BYTES = 32 * 2**20


def draw_random(train: ShardSet, layer: int, k: int, seed: int) -> Linear:
    """K of the training patches, each set of K equally likely, scored by inner product."""
    n_patches, d_model = train.shape(layer)
    n_tokens = train.n_images * n_patches
    if k > n_tokens:
        raise UserError(
            f"--scorer random:{k}: the training shards hold only {n_tokens} patches; ask for fewer"
        )
    chosen = np.random.default_rng(seed).choice(n_tokens, size=k, replace=False)
    vectors_kd = torch.empty(k, d_model)
    start = 0
    for shard in train.shards:
        end = start + shard.n_images * n_patches
        (here,) = np.nonzero((chosen >= start) & (chosen < end))
        vectors_kd[torch.from_numpy(here)] = shard.tokens(layer, chosen[here] - start)
        start = end
    return Linear(vectors_kd)


def draw_random_centred(train: ShardSet, layer: int, k: int, seed: int) -> Linear:
    """The patches x that `draw_random` draws, as unit vectors v from the mean m of all training patches.

        v = (x - m) / |x - m|        score of a patch y: (y - m) . v

    Activations have a large mean in common, which inner products of raw patches measure first of all. m is summed in
    float64. A patch at the mean has no direction: its v is 0.
    """
    drawn_kd = draw_random(train, layer, k, seed).vectors.double()
    sum_d = torch.zeros(train.shape(layer)[1], dtype=torch.float64)
    n = 0
    for block_bd in token_blocks(train, layer):
        sum_d += block_bd.sum(0, dtype=torch.float64)
        n += len(block_bd)
    mean_d = sum_d / n
    vectors_kd = torch.nn.functional.normalize(drawn_kd - mean_d, dim=1)
    return Linear(vectors_kd.float(), -(vectors_kd @ mean_d).float())


def token_blocks(train: ShardSet, layer: int, images: np.ndarray | None = None) -> Iterator[torch.Tensor]:
    """Yield the patches float32 {B, D} of all images, or of those at the ascending positions `images`."""
    n_patches, d_model = train.shape(layer)
    per_block = max(1, BLOCK_BYTES // (4 * n_patches * d_model))
    start = 0
    for shard in train.shards:
        end = start + shard.n_images
        rows = np.arange(shard.n_images)
        if images is not None:
            rows = images[(images >= start) & (images < end)] - start
        for first in range(0, len(rows), per_block):
            acts_npd = shard.read_acts(layer, rows[first : first + per_block])
            yield acts_npd.float().reshape(-1, d_model)
        start = end
