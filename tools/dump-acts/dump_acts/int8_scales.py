"""The scale of each dimension with which int8 stores activations, from the first images of the data set."""

from __future__ import annotations

import torch

from dump_acts.decoding import Decoding, decode
from dump_acts.plan import Plan
from saetools.errors import UserError
from saetools.shards.dtypes import int8_scale
from saetools.shards.reader import Shard
from saetools.vision.models import VisionModel

IMAGES = 256
PATCHES_PER_IMAGE = 64  # so that all layers of a large model fit into memory


def find_scales(
    model: VisionModel, plan: Plan, decoding: Decoding, batch_size: int, workers: int
) -> dict[int, torch.Tensor]:
    """The scale {D} of each layer; none for other types than int8.

    A shard that is there already gives it; else the first images of the whole data set do, which are
    the same for every part of it. Images that cannot be decoded are passed over.
    """
    if plan.contents.dtype != "int8":
        return {}
    layers = list(plan.contents.layers)
    for index in range(plan.n_shards):
        if plan.target(index).exists():
            shard = Shard(plan.target(index))
            return {layer: scale for layer in layers if (scale := shard.scale(layer)) is not None}
    rows = range(min(IMAGES, len(plan.images)))
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    tokens: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    for batch in decode(plan.images, decoding, batches, workers, pin=False):
        for group in batch.groups:
            for layer, acts in model.acts(group.pixels, layers).items():
                tokens[layer].append(_some_patches(acts.patches))
    if not tokens[layers[0]]:
        raise UserError(
            f"{plan.images.root}: none of the first {len(rows)} images can be decoded, but int8 takes its"
            " scale from them; mend them"
        )
    return {layer: int8_scale(torch.cat(found)) for layer, found in tokens.items()}


def _some_patches(patches_bpd: torch.Tensor) -> torch.Tensor:
    """float32 {n, D}: of each image the same number of patches, drawn at random but always alike."""
    n_images, n_patches, _ = patches_bpd.shape
    draw = torch.Generator().manual_seed(0)
    chosen = torch.rand(n_images, n_patches, generator=draw).topk(min(PATCHES_PER_IMAGE, n_patches)).indices
    image = torch.arange(n_images)[:, None]
    return patches_bpd.cpu().float()[image, chosen].flatten(0, 1)
