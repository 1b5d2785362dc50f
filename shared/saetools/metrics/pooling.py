"""Scores of images from scores of their patches.

    max            pooled_nk = max_p scores_npk
    mean           pooled_nk = 1/P sum_p scores_npk
    topk-mean:m    pooled_nk = mean of the m largest of scores_npk over p

A few images are scored and pooled at a time, so that the patch scores (P times as large as the result) are still
in cache when they are pooled and are never held for all images. The cost is then that of the scorer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from saetools.compute.threads import share_out
from saetools.errors import UserError
from saetools.scorers.baselines import Linear, Scorer

# Of patch scores: more leaves the cache (and glibc hands blocks above 32 MiB back to the system each time), less
# makes slow matrix products.
_BLOCK_BYTES = 24 * 2**20


@dataclass(frozen=True)
class Pool:
    """How the patch scores of an image become one score; `m` is for topk-mean alone."""

    name: str
    m: int = 0

    def __str__(self) -> str:
        return f"{self.name}:{self.m}" if self.m else self.name


def parse_pool(text: str) -> Pool:
    """`max`, `mean` or `topk-mean:m` -> Pool. Raises UserError for anything else."""
    if text in ("max", "mean"):
        return Pool(text)
    name, _, m = text.partition(":")
    if name == "topk-mean" and m.isascii() and m.isdigit() and int(m) > 0:
        return Pool(name, int(m))
    raise UserError(
        f"pool: found {text!r}, expected max, mean or topk-mean:M with M of at least 1 (topk-mean:5)"
    )


def pool_scores(
    scorer: Scorer,
    acts_npd: torch.Tensor,
    pool: str | Pool = "max",
    *,
    out: torch.Tensor | None = None,
    images_per_block: int | None = None,
) -> torch.Tensor:
    """Image scores float32 {N, K} of patch activations float32 {N, P, D}, on the activations' device.

    scorer:           called on {B, D} blocks of whole images, B a multiple of P
    pool:             `max`, `mean`, `topk-mean:m`, or what `parse_pool` made of it
    out:              filled and returned where given; contiguous float32 {N, K} on the same device
    images_per_block: by default so many that their patch scores take 24 MiB

    NaN in a patch score gives NaN. Raises UserError where m is larger than P, ValueError for shapes that do not fit.
    """
    if isinstance(pool, str):
        pool = parse_pool(pool)
    if acts_npd.ndim != 3 or acts_npd.shape[1] < 1:
        raise ValueError(
            f"acts: found shape {tuple(acts_npd.shape)}, expected (N, P, D) with P of at least 1"
        )
    n_images, n_patches, d_model = acts_npd.shape
    n_prototypes = scorer.n_prototypes
    if pool.m > n_patches:
        raise UserError(
            f"pool {pool}: found {n_patches} patches an image, expected {pool.m}; use a smaller number"
        )
    if out is None:
        out = acts_npd.new_empty(n_images, n_prototypes, dtype=torch.float32)
    if out.shape != (n_images, n_prototypes) or out.dtype != torch.float32 or not out.is_contiguous():
        raise ValueError(
            f"out: found {out.dtype} {tuple(out.shape)}, expected contiguous float32 {(n_images, n_prototypes)}"
        )
    if images_per_block is None:
        images_per_block = max(1, _BLOCK_BYTES // (4 * n_patches * max(1, n_prototypes)))
    if images_per_block < 1:
        raise ValueError(f"images_per_block: found {images_per_block}, expected at least 1")
    buffer = None
    with torch.no_grad():
        for first in range(0, n_images, images_per_block):
            block_npd = acts_npd[first : first + images_per_block]
            acts_bd = block_npd.reshape(-1, d_model)
            if isinstance(scorer, Linear):
                if buffer is None:
                    buffer = acts_bd.new_empty(len(acts_bd), n_prototypes)
                scores_bk = scorer.score_into(acts_bd, buffer[: len(acts_bd)])
            else:
                scores_bk = scorer(acts_bd)
            if scores_bk.shape != (len(block_npd) * n_patches, n_prototypes):
                raise ValueError(
                    f"scorer: found scores of shape {tuple(scores_bk.shape)} for"
                    f" {len(block_npd) * n_patches} activations and {n_prototypes} prototypes"
                )
            scores_npk = scores_bk.view(len(block_npd), n_patches, n_prototypes)
            _pool_block(scores_npk, pool, out[first : first + images_per_block])
    return out


def _pool_block(scores_npk: torch.Tensor, pool: Pool, out_nk: torch.Tensor) -> None:
    if pool.name == "max":
        torch.amax(scores_npk, 1, out=out_nk)
    elif pool.name == "mean":
        torch.mean(scores_npk, 1, out=out_nk)
    elif scores_npk.device.type == "cpu" and scores_npk.dtype == torch.float32:
        _mean_of_largest_cpu(scores_npk, pool.m, out_nk)
    else:
        torch.mean(torch.topk(scores_npk, pool.m, dim=1, sorted=False).values, 1, out=out_nk)


def _mean_of_largest_cpu(scores_npk: torch.Tensor, m: int, out_nk: torch.Tensor) -> None:
    """torch.topk along patches that lie K numbers apart takes longer than the matrix product before it."""
    from saetools.compute.kernels.pooling import mean_of_largest

    scores, pooled = scores_npk.contiguous().numpy(), out_nk.numpy()
    threads = torch.get_num_threads()
    share_out(
        len(scores),
        -(-len(scores) // threads),
        threads,
        lambda first, last: mean_of_largest(scores, m, first, last, pooled),
    )
