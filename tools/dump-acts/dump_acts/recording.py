"""Records the activations of an image set into a folder of shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dump_acts.decoding import Decoding, decode
from dump_acts.patch_labels import LabelSettings
from dump_acts.plan import Plan, wait_for_room
from dump_acts.storing import BackgroundWriter, OpenShard
from saetools.cli.progress import Progress
from saetools.errors import UserError
from saetools.files.atomic import remove_stale
from saetools.files.formats import SHARDS
from saetools.files.provenance import Provenance, first_difference
from saetools.files.reuse import writing
from saetools.shards.dtypes import int8_scale
from saetools.shards.header import Examples, ShardHeader, shard_name
from saetools.shards.reader import Shard
from saetools.shards.writer import new_shard
from saetools.vision.models import VisionModel

# int8 takes its scales from the first images, and from so few patches of each that all layers of a large model fit
# into memory.
SCALE_IMAGES = 256
SCALE_PATCHES = 64


@dataclass(frozen=True)
class RunSettings:
    """labels: how masks become patch labels, None without masks; it changes what the shards hold, the others do not.

    skip_bad: leave out images that cannot be decoded. max_disk: bytes that the folder may hold; None: any number.
    """

    labels: LabelSettings | None
    batch_size: int
    workers: int
    skip_bad: bool
    max_disk: int | None


def record(model: VisionModel, plan: Plan, settings: RunSettings) -> Iterator[Path]:
    """Record the plan's part of the shards; yield the path of each, in order, when it is complete.

    Shards that exist already with the same settings are kept. Raises UserError where the folder holds shards of other
    settings, an image cannot be decoded, or an activation does not fit the dtype.
    """
    identity = _identity(model, plan, settings)
    with writing(plan.folder, identity, folder=True):
        yield from _fill(model, plan, settings, identity)


def _fill(model: VisionModel, plan: Plan, settings: RunSettings, identity: dict[str, Any]) -> Iterator[Path]:
    _check_folder(plan, identity)
    todo = plan.missing()
    for shard in todo:
        remove_stale(plan.target(shard))
    decoding = Decoding(model.outline.preprocess, list(plan.contents.layers.values()), settings.labels)
    layers = list(plan.contents.layers)
    scales = _find_scales(model, plan, decoding, settings.batch_size, settings.workers) if todo else {}
    cut = {shard: _batches(plan.rows(shard), settings.batch_size) for shard in todo}
    # The workers start here, before there is a thread that writes: a forked process should not inherit one.
    batches = decode(
        plan.images,
        decoding,
        [batch for shard in todo for batch in cut[shard]],
        settings.workers,
        pin=model.device.type == "cuda",
    )
    with (
        Progress("recording", total=sum(len(plan.rows(i)) for i in plan.mine()), unit="images") as progress,
        BackgroundWriter(plan.contents) as background,
    ):
        try:
            for shard in plan.mine():
                if shard not in cut:
                    background.keep(plan.target(shard))
                    progress.advance(len(plan.rows(shard)))
                    continue
                if settings.max_disk is not None:
                    yield from background.paths(wait=True)
                    room = plan.shard_bytes(shard) * (2 if settings.skip_bad else 1)
                    wait_for_room(plan.folder, min(room, settings.max_disk), settings.max_disk)
                with background.shard(plan.target(shard), _open_shard(model, plan, identity, shard, scales)):
                    for rows in cut[shard]:
                        batch = next(batches)
                        if batch.faults and not settings.skip_bad:
                            raise UserError(batch.faults[min(batch.faults)])
                        background.append(batch, [model.acts(group.pixels, layers) for group in batch.groups])
                        progress.advance(len(rows))
                        yield from background.paths(wait=False)
        except UserError:
            yield from background.paths(wait=True)  # complete shards are printed also when a later one fails
            raise
        yield from background.paths(wait=True)


def _open_shard(
    model: VisionModel, plan: Plan, identity: dict[str, Any], index: int, scales: dict[int, torch.Tensor]
) -> OpenShard:
    rows, contents = plan.rows(index), plan.contents
    header = ShardHeader(
        model=model.outline.name,
        weights=model.weights,
        layers=list(contents.layers),
        hook=model.outline.hook,
        preprocess=model.outline.preprocess.to_settings(),
        n_examples_total=len(plan.images),
        shard_index=index,
        n_shards=plan.n_shards,
    )
    examples = Examples(
        path=np.array(plan.images.path[rows.start : rows.stop], dtype=object),
        index=np.arange(rows.start, rows.stop),
        target=plan.images.target[rows.start : rows.stop],
        grid=np.zeros((len(rows), 2), np.int16),
        size=np.zeros((len(rows), 2), np.int32),
        digest=np.full(len(rows), "", "U32"),
        class_name=plan.images.class_names(rows),
    )
    return new_shard(
        plan.target(index),
        header,
        Provenance.of(SHARDS, "dump-acts", identity),
        examples,
        n_patches={layer: shape.n_patches for layer, shape in contents.layers.items()},
        d_model={layer: shape.d_model for layer, shape in contents.layers.items()},
        dtype=contents.dtype,
        has_cls=contents.cls,
        has_labels=contents.labels,
        scales=scales,
    )


def _find_scales(
    model: VisionModel, plan: Plan, decoding: Decoding, batch_size: int, workers: int
) -> dict[int, torch.Tensor]:
    """The int8 scale {D} of each layer; none for other types.

    Taken from a shard that exists already, else from the first images of the whole data set, so that every part of it
    gets the same. Images that cannot be decoded are skipped.
    """
    if plan.contents.dtype != "int8":
        return {}
    layers = list(plan.contents.layers)
    for index in range(plan.n_shards):
        if plan.target(index).exists():
            shard = Shard(plan.target(index))
            return {layer: scale for layer in layers if (scale := shard.scale(layer)) is not None}
    rows = range(min(SCALE_IMAGES, len(plan.images)))
    batches = _batches(rows, batch_size)
    tokens: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
    for batch in decode(plan.images, decoding, batches, workers, pin=False):
        for group in batch.groups:
            for layer, acts in model.acts(group.pixels, layers).items():
                tokens[layer].append(_some_patches(acts.patches))
    if not tokens[layers[0]]:
        raise UserError(
            f"{plan.images.root}: none of the first {len(rows)} images can be decoded, but the scale of int8 is"
            " taken from them; repair or remove them"
        )
    return {layer: int8_scale(torch.cat(found)) for layer, found in tokens.items()}


def _some_patches(patches_bpd: torch.Tensor) -> torch.Tensor:
    """float32 {n, D}: the same number of patches from each image, drawn at random with a fixed seed."""
    n_images, n_patches, _ = patches_bpd.shape
    draw = torch.Generator().manual_seed(0)
    chosen = torch.rand(n_images, n_patches, generator=draw).topk(min(SCALE_PATCHES, n_patches)).indices
    image = torch.arange(n_images)[:, None]
    return patches_bpd.cpu().float()[image, chosen].flatten(0, 1)


def _batches(rows: range, batch_size: int) -> list[range]:
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def _identity(model: VisionModel, plan: Plan, settings: RunSettings) -> dict[str, Any]:
    """The settings that change what the shards hold: runs with equal ones can write to one folder."""
    # Only where it was given, so that recordings of an earlier version can be continued
    part = {} if plan.images.part is None else {"split_validation": plan.images.part}
    return {
        **part,
        "model": model.outline.name,
        "weights": model.weights,
        "preprocess": model.outline.preprocess.to_settings(),
        "precision": model.precision,
        "layers": list(plan.contents.layers),
        "dtype": plan.contents.dtype,
        "cls": plan.contents.cls,
        "labels": settings.labels.to_settings() if settings.labels is not None else None,
        "images": plan.images.digest(),
        "images_per_shard": plan.images_per_shard,
    }


def _check_folder(plan: Plan, identity: dict[str, Any]) -> None:
    """Raise UserError where the folder holds shards of another recording, before anything is computed."""
    names = {shard_name(index) for index in range(plan.n_shards)}
    for path in sorted(plan.folder.glob("shard-*.h5")):
        found = Shard(path)
        if difference := first_difference(found.provenance.settings, identity):
            raise UserError(
                f"{path}: it was recorded with other settings: {difference};"
                " choose another --out, or remove the old shards"
            )
        if path.name not in names:
            raise UserError(
                f"{path}: not one of the {plan.n_shards} shards of this recording; choose another --out"
            )
