"""Scorers made of training patches, without labels: random patches, k-means centroids, principal components."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from saetools.compute.devices import exact_type, float64_device
from saetools.compute.matmul import float32_matmul
from saetools.errors import UserError
from saetools.log import logger
from saetools.scorers.baselines import Linear, Nearest
from saetools.shards.reader import ShardSet
from score_traits.kernels.cluster_sums import add_to_clusters

BLOCK_BYTES = 32 * 2**20  # of patches at a time
PATCHES_PER_CENTROID = 256  # more hardly move a centroid
MAX_PASSES = 20
TOLERANCE = 1e-3
CHUNK_BYTES = 32 * 2**20
MOVED_PER_CHUNK = 16  # empty clusters that find a new place in a chunk of patches
FAR_LISTS = 64  # chunks whose far patches are kept at a time


def draw_random(train: ShardSet, layer: int, k: int, seed: int) -> Linear:
    """K training patches, drawn uniformly without replacement, scored by inner product."""
    n_patches, d_model = train.shape(layer)
    n_tokens = train.n_images * n_patches
    if k > n_tokens:
        raise UserError(
            f"`scorers` random:{k}: the training shards hold only {n_tokens} patches; ask for fewer"
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


def fit_pca(train: ShardSet, layer: int, k: int, device: torch.device) -> Linear:
    """The K directions of the largest variance; a patch's score is (x - mean) . direction.

    The covariance {D, D} is summed up in float64 around the mean of the first block, so that no digits cancel,
    and then decomposed: equal to `sklearn.decomposition.PCA` on all patches at once. A direction's sign is
    arbitrary; as there, its largest component in magnitude is positive. Memory: D^2 and a block of patches.
    """
    _, d_model = train.shape(layer)
    if k > d_model:
        raise UserError(
            f"`scorers` pca:{k}: activations of width {d_model} have only {d_model} components; ask for fewer"
        )
    device = float64_device(device)
    origin_d = sum_d = gram_dd = None
    n = 0
    for block_bd in token_blocks(train, layer):
        x_bd = block_bd.to(device).double()
        if origin_d is None or sum_d is None or gram_dd is None:
            origin_d = x_bd.mean(0)
            sum_d = torch.zeros_like(origin_d)
            gram_dd = x_bd.new_zeros(d_model, d_model)
        x_bd -= origin_d
        sum_d += x_bd.sum(0)
        gram_dd += x_bd.T @ x_bd
        n += len(x_bd)
    assert origin_d is not None and sum_d is not None and gram_dd is not None
    shift_d = sum_d / n
    covariance_dd = gram_dd / n - torch.outer(shift_d, shift_d)
    _, vectors_dd = torch.linalg.eigh(covariance_dd.cpu())  # ascending
    vectors_kd = vectors_dd.T.flip(0)[:k]
    largest_k1 = vectors_kd.abs().argmax(1, keepdim=True)
    vectors_kd = vectors_kd * vectors_kd.gather(1, largest_k1).sign()
    mean_d = (origin_d + shift_d).cpu()
    return Linear(vectors_kd.float().contiguous(), -(vectors_kd @ mean_d).float())


@dataclass(frozen=True)
class KMeans:
    """The scorer, and the mean squared distance of a patch to its centroid before each pass."""

    scorer: Nearest
    distortion: list[float]


def fit_kmeans(
    train: ShardSet,
    layer: int,
    k: int,
    seed: int,
    device: torch.device,
    *,
    max_passes: int = MAX_PASSES,
    tolerance: float = TOLERANCE,
    patches_per_centroid: int = PATCHES_PER_CENTROID,
) -> KMeans:
    """Lloyd's algorithm (IEEE Trans. Inf. Theory 28, 1982) from K random patches, one pass over the shards a step.

    A patch's score for a centroid is minus their squared distance. Steps end after `max_passes`, or when one
    lowers the distortion by less than `tolerance` of itself. An empty cluster moves to one of the patches farthest
    from their centroids. Where there are more than `patches_per_centroid` K patches, random images with about that
    many are used. Equal, from the same start, to `sklearn.cluster.KMeans`. Memory: three {K, D}, a block of
    patches and a block of scores.
    """
    n_patches, _ = train.shape(layer)
    n_tokens = train.n_images * n_patches
    if k > n_tokens:
        raise UserError(
            f"`scorers` kmeans:{k}: the training shards hold only {n_tokens} patches; ask for fewer"
        )
    images = None
    if n_tokens > patches_per_centroid * k:
        n_images = -(-patches_per_centroid * k // n_patches)
        draw = np.random.default_rng([seed, 2]).choice(train.n_images, size=n_images, replace=False)
        images = np.sort(draw)
    centroids_kd = draw_random(train, layer, k, seed).vectors.to(device)
    distortion: list[float] = []
    for _ in range(max_passes):
        step = _Step(centroids_kd)
        with float32_matmul():
            for block_bd in token_blocks(train, layer, images):
                step.add(block_bd.to(device))
        distortion.append(step.squared_distance / step.n_tokens)
        centroids_kd = step.moved_centroids()
        if len(distortion) > 1 and distortion[-2] - distortion[-1] < tolerance * distortion[-2]:
            break
    logger.debug("k-means %d: %d passes, distortion %.4g", k, len(distortion), distortion[-1])
    return KMeans(Nearest(centroids_kd.cpu()), distortion)


class _Step:
    """One step: every patch to its nearest centroid, then every centroid to the mean of its patches."""

    def __init__(self, centroids_kd: torch.Tensor) -> None:
        k, d = centroids_kd.shape
        device = centroids_kd.device
        exact = exact_type(device)
        self._centroids_kd = centroids_kd
        self._bias_k = -centroids_kd.square().sum(1) / 2
        self._sum_kd = torch.zeros(k, d, dtype=exact, device=device)
        self._count_k = torch.zeros(k, dtype=torch.int64, device=device)
        self._chunk = max(64, CHUNK_BYTES // (4 * k))
        self._scores = centroids_kd.new_empty(self._chunk, k)
        self._far: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.n_tokens = 0
        self.squared_distance = 0.0

    def add(self, block_bd: torch.Tensor) -> None:
        for x_bd in block_bd.split(self._chunk):
            out = self._scores[: len(x_bd)]
            scores_bk = torch.addmm(self._bias_k, x_bd, self._centroids_kd.T, out=out)
            best_b, nearest_b = scores_bk.max(1)
            distance_b = (x_bd.square().sum(1) - 2 * best_b).clamp_(min=0)
            self._add_to_clusters(x_bd, nearest_b)
            values_m, rows_m = distance_b.topk(min(MOVED_PER_CHUNK, len(distance_b)))
            self._far.append((values_m, x_bd[rows_m]))
            if len(self._far) == FAR_LISTS:
                self._far = [self._farthest(FAR_LISTS * MOVED_PER_CHUNK // 2)]
            self.squared_distance += distance_b.sum(dtype=self._sum_kd.dtype).item()
            self.n_tokens += len(x_bd)

    def _add_to_clusters(self, x_bd: torch.Tensor, nearest_b: torch.Tensor) -> None:
        if x_bd.device.type == "cpu":  # torch's index_add_ takes longer than the matrix product
            sums = self._sum_kd.numpy(), self._count_k.numpy()
            add_to_clusters(x_bd.contiguous().numpy(), nearest_b.numpy(), *sums)
        else:
            self._sum_kd.index_add_(0, nearest_b, x_bd.to(self._sum_kd.dtype))
            self._count_k += torch.bincount(nearest_b, minlength=len(self._count_k))

    def moved_centroids(self) -> torch.Tensor:
        moved_kd = (self._sum_kd / self._count_k.clamp(min=1)[:, None]).to(self._centroids_kd)
        (empty,) = torch.nonzero(self._count_k == 0, as_tuple=True)
        moved_kd[empty] = self._centroids_kd[empty]
        if len(empty):
            _, far_md = self._farthest(len(empty))
            moved_kd[empty[: len(far_md)]] = far_md
        return moved_kd

    def _farthest(self, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        values_m = torch.cat([values for values, _ in self._far])
        kept_m = values_m.argsort(descending=True)[:n]
        return values_m[kept_m], torch.cat([patches for _, patches in self._far])[kept_m]
