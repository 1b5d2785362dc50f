"""From activations to active latents, without a dense {tokens, latents} block larger than a few megabytes.

    keep (b, k) where  z_bk > cut_k  and z_bk is among the m largest of token b

with z the pre-activations of the scorer. Cut and m stand for its activation function: ReLU has a cut of 0, JumpReLU and
BatchTopK their thresholds, TopK a cut of 0 and m = k, the triangle code of k-means a cut of 0. `--threshold` raises the
cut, `--top` lowers m. Among equal values the lower latents are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from encode_acts.triangle import Triangle
from saetools.compute.matmul import float32_matmul
from saetools.compute.selection import set_depth
from saetools.compute.threads import Workers, even_pieces
from saetools.errors import UserError
from saetools.scorers.baselines import Linear, Units
from saetools.scorers.sae import SAE

# Bytes of z at a time. On a CPU a larger block leaves the cache, and glibc returns larger ones to the system.
CPU_BYTES = 24 << 20
GPU_BYTES = 256 << 20
MIN_TOKENS = 64  # fewer make the matrix product slow
MAX_PIECES = 64


@dataclass(frozen=True)
class ActiveLatents:
    """count_b int64: latents kept of each token; latent_e int32, ascending within a token; value_e float32."""

    count_b: np.ndarray
    latent_e: np.ndarray
    value_e: np.ndarray


class Encoder:
    """Applies a scorer to tokens and keeps the active latents.

    threshold: only values above it are kept (None: all); top: at most so many of each token, the largest (None: all).
    """

    def __init__(
        self,
        scorer: SAE | Linear | Units | Triangle,
        threshold: float | None,
        top: int | None,
        device: torch.device,
    ) -> None:
        self._scorer, self._device = scorer.to(device), device
        self._values, cut_s, k = _selection(self._scorer)
        self._cut_s = torch.maximum(cut_s, torch.tensor(-torch.inf if threshold is None else threshold))
        limits = [limit for limit in (k, top) if limit is not None and limit < scorer.n_prototypes]
        self._max_active = min(limits, default=None)
        self.n_latents = scorer.n_prototypes
        n_bytes = CPU_BYTES if device.type == "cpu" else GPU_BYTES
        self.tokens = max(MIN_TOKENS, n_bytes // (4 * scorer.n_prototypes))
        self._workers = Workers()

    def __call__(self, x_bd: torch.Tensor) -> ActiveLatents:
        """x float32 {b, D} -> its active latents; b is at most `tokens`. Raises UserError for NaN."""
        assert len(x_bd) <= self.tokens, "more tokens than a block may hold"
        if not torch.isfinite(x_bd).all():
            raise UserError("the activations hold NaN or infinite values; record them again with dump-acts")
        with torch.no_grad(), float32_matmul():
            z_bs = self._values(x_bd.to(self._device))
        if self._device.type != "cpu":
            return self.select_torch(z_bs)
        return (
            self._select_above(z_bs.numpy())
            if self._max_active is None
            else self._select_largest(z_bs.numpy())
        )

    def _select_above(self, z_bs: np.ndarray) -> ActiveLatents:
        from saetools.compute.kernels.selection import count_above_rows, take_above_rows

        pieces = even_pieces(len(z_bs), MAX_PIECES)
        cut_s, zero_s = self._cut_s.numpy(), np.zeros(z_bs.shape[1], np.float32)  # the bias is in z already
        n_b = np.empty(len(z_bs), np.int32)
        self._workers.run(count_above_rows, pieces, z_bs, zero_s, cut_s, n_b)
        ptr_b = np.concatenate([[0], np.cumsum(n_b, dtype=np.int64)])
        latent_e, value_e = np.empty(ptr_b[-1], np.int32), np.empty(ptr_b[-1], np.float32)
        self._workers.run(take_above_rows, pieces, z_bs, zero_s, cut_s, cut_s, ptr_b[:-1], latent_e, value_e)
        return ActiveLatents(n_b.astype(np.int64), latent_e, value_e)

    def _select_largest(self, z_bs: np.ndarray) -> ActiveLatents:
        from saetools.compute.kernels.selection import top_k_rows

        assert self._max_active is not None
        shape = (len(z_bs), self._max_active)
        latent_bk, value_bk = np.empty(shape, np.int32), np.empty(shape, np.float32)
        zero_s, floor = np.zeros(z_bs.shape[1], np.float32), np.float32(-np.inf)
        depth = set_depth(z_bs.shape[1], self._max_active)
        pieces = even_pieces(len(z_bs), MAX_PIECES)
        self._workers.run(
            top_k_rows, pieces, z_bs, zero_s, self._max_active, depth, floor, latent_bk, value_bk
        )
        kept_bk = value_bk > self._cut_s.numpy()[latent_bk]
        return ActiveLatents(kept_bk.sum(axis=1), latent_bk[kept_bk], value_bk[kept_bk])

    def select_torch(self, z_bs: torch.Tensor) -> ActiveLatents:
        """The same selection in PyTorch, for other devices than the CPU."""
        kept_bs = z_bs > self._cut_s.to(z_bs)
        if self._max_active is not None:
            # stable: of equal values the lower latents come first
            order_bs = z_bs.sort(dim=1, descending=True, stable=True).indices[:, : self._max_active]
            kept_bs &= torch.zeros_like(kept_bs).scatter_(1, order_bs, True)
        latent_e = kept_bs.nonzero()[:, 1].int()
        return ActiveLatents(
            kept_bs.sum(1).cpu().numpy(), latent_e.cpu().numpy(), z_bs[kept_bs].cpu().numpy()
        )


def _selection(
    scorer: SAE | Linear | Units | Triangle,
) -> tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor, int | None]:
    """(pre-activations, cut {K} on the CPU, most latents per token) of a scorer."""
    n = scorer.n_prototypes
    if isinstance(scorer, Linear | Units):
        return scorer, torch.full((n,), -torch.inf), None
    cut_s = torch.zeros(n)
    if isinstance(scorer, Triangle):
        return scorer, cut_s, None
    if scorer.threshold is not None:
        cut_s = scorer.threshold.cpu().clamp(min=0.0)
    k = scorer.config.k if scorer.config.activation == "topk" else None
    return scorer.pre_activations, cut_s, k
