"""The triangle code of k-means centroids: how much nearer a centroid is than the average centroid.

    f_k = max(0, mean_j d_j - d_k)                  d_k = |x - v_k|

Coates, Lee and Ng, "An analysis of single-layer networks in unsupervised feature learning", AISTATS 2011, section 3.2.2
("K-means (triangle)"). About half of the latents of a patch are 0, which means far, so latents that are not stored are
rightly read as 0. The score of k-means itself, -d^2, would not do: 0 is its highest value.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from saetools.compute.kernels.compiled import njit
from saetools.compute.kernels.flags import FAST
from saetools.compute.threads import Workers, even_pieces

MAX_PIECES = 64


class Triangle:
    """x {B, D} -> mean_j d_j - d_k {B, K} for centroids v {K, D}; the code is its positive part.

    Distances come from one matrix product, |x|^2 + |v|^2 - 2 x . v in float32. The mean centroid is subtracted from
    both first, since activations have a large common part, which would cost digits.
    """

    def __init__(self, vectors: torch.Tensor) -> None:
        self._vectors = vectors
        centre_d = vectors.double().mean(0)
        near_kd = vectors.double() - centre_d
        self._centre_d, self._near_kd = centre_d.float(), near_kd.float()
        self._square_k = near_kd.square().sum(1).float()
        self._workers = Workers()

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        z_bk, square_b = self.squares(activations)
        if z_bk.device.type != "cpu":
            return self.code_torch(z_bk, square_b)
        pieces = even_pieces(len(z_bk), MAX_PIECES)
        self._workers.run(triangle_rows, pieces, z_bk.numpy(), square_b.numpy())
        return z_bk

    def squares(self, activations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """|v|^2 - 2 x . v {B, K} and |x|^2 {B}, whose sum is d^2."""
        x_bd = activations - self._centre_d
        return torch.addmm(self._square_k, x_bd, self._near_kd.T, alpha=-2), x_bd.square().sum(1)

    @staticmethod
    def code_torch(z_bk: torch.Tensor, square_b: torch.Tensor) -> torch.Tensor:
        """The same as `triangle_rows`, in PyTorch, for other devices than the CPU."""
        d_bk = z_bk.add_(square_b[:, None]).clamp_(min=0).sqrt_()
        return d_bk.mean(1, keepdim=True) - d_bk

    def to(self, device: torch.device) -> Triangle:
        moved = Triangle.__new__(Triangle)
        moved.__dict__.update(
            {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in self.__dict__.items()}
        )
        return moved

    @property
    def n_prototypes(self) -> int:
        return len(self._vectors)


@njit(**FAST)
def triangle_rows(_piece, lo, hi, z_bk, square_b):  # type: ignore[no-untyped-def]
    """z = mean_j d_j - d_k with d_k = sqrt(z_bk + square_b), below 0 where centroid k is farther than the mean.

    In place. z comes as |v|^2 - 2 x . v, square as |x|^2; rounding can make their sum a little less than 0.
    """
    n = z_bk.shape[1]
    for b in range(lo, hi):
        square = square_b[b]
        total = np.float32(0)
        for k in range(n):
            d = math.sqrt(max(z_bk[b, k] + square, np.float32(0)))
            z_bk[b, k] = d
            total += d
        mean = total / np.float32(n)
        for k in range(n):
            z_bk[b, k] = mean - z_bk[b, k]
