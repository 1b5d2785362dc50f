"""Records the activations of an image set into a folder of shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dump_acts.decoding import Decoding, decode
from dump_acts.int8_scales import find_scales
from dump_acts.patch_labels import LabelSettings
from dump_acts.pausing import wait_for_room
from dump_acts.plan import Plan
from dump_acts.storing import BackgroundWriter, OpenShard
from saetools.cli.progress import Progress
from saetools.errors import UserError
from saetools.files.atomic import remove_stale
from saetools.files.formats import SHARDS
from saetools.files.provenance import Provenance, first_difference
from saetools.shards.header import Examples, ShardHeader, shard_name
from saetools.shards.reader import Shard
from saetools.shards.writer import new_shard
from saetools.vision.models import VisionModel


@dataclass(frozen=True)
class RunSettings:
    """How a recording is made; labels alone decides what is in it.

    skip_bad: leave out images that cannot be decoded. max_disk: bytes that the folder may hold.
    """

    labels: LabelSettings | None
    batch_size: int
    workers: int
    skip_bad: bool
    max_disk: int | None


def record(model: VisionModel, plan: Plan, settings: RunSettings) -> Iterator[Path]:
    """Yield the path of each shard of the plan's part as soon as it is complete, in order.

    A shard that is there already with the same settings is kept. Raises UserError where the folder
    holds shards of other settings, an image cannot be decoded, or an activation does not fit the dtype.
    """
    identity = _identity(model, plan, settings)
    plan.folder.mkdir(parents=True, exist_ok=True)
    _check_folder(plan, identity)
    todo = plan.missing()
    for shard in todo:
        remove_stale(plan.target(shard))
    decoding = Decoding(model.outline.preprocess, list(plan.contents.layers.values()), settings.labels)
    layers = list(plan.contents.layers)
    scales = find_scales(model, plan, decoding, settings.batch_size, settings.workers) if todo else {}
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
            yield from background.paths(wait=True)  # what is complete is told also when the rest fails
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


def _batches(rows: range, batch_size: int) -> list[range]:
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def _identity(model: VisionModel, plan: Plan, settings: RunSettings) -> dict[str, Any]:
    """The settings that decide what is in the shards: two runs with the same can share a folder."""
    # Only where it is there: recordings that an earlier version began can be gone on with
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
