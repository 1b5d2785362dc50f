"""The code of k-means centroids as latents: how much nearer a centroid is than centroids are on average.

    f_k = max(0, mean_j d_j - d_k)                  d_k = |x - v_k|

Coates, Lee and Ng, "An analysis of single-layer networks in unsupervised feature learning", AISTATS 2011, section 3.2.2
("K-means (triangle)"). About half of the centroids are 0, which means far: so latents that are not kept read rightly as
0, which -d^2 of k-means' own score does not, as 0 is the highest of those.
"""

from __future__ import annotations

import torch

from encode_acts.kernels.triangle_kernels import triangle_rows
from saetools.compute.threads import Workers, even_pieces

MAX_PIECES = 64


class Triangle:
    """x {B, D} -> mean_j d_j - d_k {B, K}, of which the code is what is above 0; for centroids v {K, D}.

    Distances come from one matrix product, |x|^2 + |v|^2 - 2 x . v in float32, with the mean centroid taken from both
    first: activations have a large common part, which would cost digits.
    """

    def __init__(self, vectors: torch.Tensor) -> None:
        self._vectors = vectors
        centre_d = vectors.double().mean(0)
        near_kd = vectors.double() - centre_d
        self._centre_d, self._near_kd = centre_d.float(), near_kd.float()
        self._square_k = near_kd.square().sum(1).float()
        self._workers = Workers()

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        z_bk, square_b = self._squares(activations)
        if z_bk.device.type != "cpu":
            return self._torch(z_bk, square_b)
        pieces = even_pieces(len(z_bk), MAX_PIECES)
        self._workers.run(triangle_rows, pieces, z_bk.numpy(), square_b.numpy())
        return z_bk

    def _squares(self, activations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """|v|^2 - 2 x . v {B, K} and |x|^2 {B}, whose sum is d^2."""
        x_bd = activations - self._centre_d
        return torch.addmm(self._square_k, x_bd, self._near_kd.T, alpha=-2), x_bd.square().sum(1)

    @staticmethod
    def _torch(z_bk: torch.Tensor, square_b: torch.Tensor) -> torch.Tensor:
        """What the kernel does, where there is none."""
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
