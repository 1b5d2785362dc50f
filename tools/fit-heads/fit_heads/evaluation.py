"""Heads on the test images: one pass over them, after everything is chosen."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from fit_heads.features import read_tokens
from saetools.labels.rows import RowLabels
from saetools.metrics.classification import ClassTally, TraitTally
from saetools.shards.reader import ShardSet

ROWS_AT_ONCE = 4096
Weights = tuple[torch.Tensor, torch.Tensor]  # {C, D}, {C}


def evaluate(
    shards: ShardSet, layer: int, tokens: str, labels: RowLabels, heads: Mapping[str, Weights]
) -> dict[str, ClassTally | TraitTally]:
    """What each head says of the rows of `shards` that have a label."""
    kind = ClassTally if labels.ids is not None else TraitTally
    tallies: dict[str, ClassTally | TraitTally] = {name: kind(labels.n_classes) for name in heads}
    per_image = labels.n_rows // shards.n_images
    keep_n = np.asarray(labels.keep.reshape(shards.n_images, per_image).any(axis=1))
    for images, acts_npd in read_tokens(shards, layer, tokens, keep_n, "testing"):
        rows = (images[:, None] * per_image + np.arange(per_image)).ravel()
        for start in range(0, len(rows), ROWS_AT_ONCE):
            here = rows[start : start + ROWS_AT_ONCE]
            x_bd = acts_npd.flatten(0, 1)[start : start + ROWS_AT_ONCE].double()
            for name, (weight_cd, bias_c) in heads.items():
                _add(tallies[name], labels, here, torch.addmm(bias_c.cpu(), x_bd, weight_cd.cpu().T).numpy())
    return tallies


def _add(tally: ClassTally | TraitTally, labels: RowLabels, rows: np.ndarray, logits_bc: np.ndarray) -> None:
    if isinstance(tally, ClassTally):
        assert labels.ids is not None
        tally.add(logits_bc, labels.ids[rows])
    else:
        assert labels.table is not None and labels.known is not None
        tally.add(logits_bc, labels.table[rows], labels.known[rows])
