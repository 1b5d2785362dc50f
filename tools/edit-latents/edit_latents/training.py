"""What edits take from the training images: one pass over their activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from saetools.cli.progress import Progress
from saetools.labels.rows import RowLabels
from saetools.scorers.sae import SAE
from saetools.shards.reader import IMAGES_AT_ONCE, ShardSet


@dataclass(frozen=True)
class Training:
    """mean {D}: of all patches. diff_means {C, D}: mean of the rows of a class less that of the rest, NaN where one of
    them has no row. frequency_s {S}: share of patches in which each latent fires; largest: the largest value of some
    latents. None and empty where they were not asked for.
    """

    mean: torch.Tensor
    diff_means: torch.Tensor | None
    frequency_s: np.ndarray | None
    largest: Mapping[int, float]


@torch.inference_mode()
def read_training(
    shards: ShardSet,
    layer: int,
    labels: RowLabels | None,
    sae: SAE,
    largest_of: Sequence[int] = (),
    frequency: bool = False,
) -> Training:
    """labels: of patches, or of images, whose rows are the means of their patches; None: no means of classes."""
    n_patches, d_model = shards.shape(layer)
    sum_d = torch.zeros(d_model, dtype=torch.float64)
    n_classes = 0 if labels is None else labels.n_classes
    sum_2cd, rows_2c = torch.zeros(2, n_classes, d_model, dtype=torch.float64), torch.zeros(2, n_classes)
    count_s, latents = torch.zeros(sae.n_prototypes, dtype=torch.float64), list(largest_of)
    largest_l = torch.zeros(len(latents))
    device = sae.W_enc.device
    with Progress("training images", total=shards.n_images, unit="images") as progress:
        for first, acts_npd in shards.blocks(layer, IMAGES_AT_ONCE):
            exact_npd = acts_npd.double()
            sum_d += exact_npd.sum((0, 1))
            if labels is not None:
                of_patches = labels.n_rows > shards.n_images
                x_rd = exact_npd.flatten(0, 1) if of_patches else exact_npd.mean(1)
                start = first * (n_patches if of_patches else 1)
                yes_no_2rc = _yes_and_no(labels, slice(start, start + len(x_rd)))
                sum_2cd += torch.einsum("krc,rd->kcd", yes_no_2rc.double(), x_rd)
                rows_2c += yes_no_2rc.sum(1)
            if frequency or latents:
                f_nps = sae.encode(acts_npd.to(device))
                count_s += (f_nps > 0).sum((0, 1)).cpu()
                largest_l = torch.maximum(largest_l, f_nps[..., latents].amax((0, 1)).cpu())
            progress.advance(len(acts_npd))
    n_tokens = shards.n_images * n_patches
    mean_2cd = sum_2cd / rows_2c[..., None]
    return Training(
        (sum_d / n_tokens).float(),
        (mean_2cd[0] - mean_2cd[1]).float() if labels is not None else None,
        (count_s / n_tokens).numpy() if frequency else None,
        dict(zip(latents, largest_l.tolist(), strict=True)),
    )


def _yes_and_no(labels: RowLabels, rows: slice) -> torch.Tensor:
    """bool {2, r, C}: rows that are of a class, and rows that are known not to be."""
    if labels.ids is not None:
        ids_r = torch.from_numpy(labels.ids[rows].astype(np.int64))[:, None]
        yes_rc = ids_r == torch.arange(labels.n_classes)
        return torch.stack([yes_rc, ~yes_rc & (ids_r >= 0)])
    assert labels.table is not None and labels.known is not None
    yes_rc = torch.from_numpy(labels.table[rows].astype(np.float64) >= 0.5)
    known_rc = torch.from_numpy(np.ascontiguousarray(labels.known[rows]))
    return torch.stack([yes_rc & known_rc, ~yes_rc & known_rc])
