"""Principal components of the training patches, exact, in one pass."""

from __future__ import annotations

import torch

from saetools.compute.devices import float64_device
from saetools.errors import UserError
from saetools.scorers.baselines import Linear
from saetools.shards.reader import ShardSet
from score_traits.random_patches import token_blocks


def fit_pca(train: ShardSet, layer: int, k: int, device: torch.device) -> Linear:
    """The K directions of the largest variance; a patch's score is (x - mean) . direction.

    The covariance {D, D} is summed up in float64 around the mean of the first block, so that no digits cancel,
    and then decomposed: equal to `sklearn.decomposition.PCA` on all patches at once. A direction's sign is
    arbitrary; as there, its largest component in magnitude is positive. Memory: D^2 and a block of patches.
    """
    _, d_model = train.shape(layer)
    if k > d_model:
        raise UserError(
            f"--scorer pca:{k}: activations of width {d_model} have that many components; ask for fewer"
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
