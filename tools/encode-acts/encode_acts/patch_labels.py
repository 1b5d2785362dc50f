"""Patch labels of a shard, where its data set has masks."""

from __future__ import annotations

import numpy as np

from saetools.errors import UserError
from saetools.hdf5 import open_hdf5
from saetools.shard_layout import SHARDS
from saetools.shard_reader import Shard


def read_patch_labels(shard: Shard) -> np.ndarray | None:
    """uint16 {N, P}, 65535 = ignore; None where the shard has no labels. Raises UserError for another shape."""
    with open_hdf5(shard.path, SHARDS) as file:
        if "labels" not in file:
            return None
        labels_np = file["labels"][...]
    if labels_np.shape != (shard.n_images, shard.n_patches) or labels_np.dtype != np.uint16:
        raise UserError(
            f"{shard.path}: /labels is {labels_np.dtype} {labels_np.shape}, expected uint16"
            f" {(shard.n_images, shard.n_patches)}; record the shard again with {SHARDS.made_by}"
        )
    return labels_np
