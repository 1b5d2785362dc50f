"""Records the activations of an image set into a folder of shards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dump_acts.decoding import decode
from dump_acts.image_sets import ImageSet
from dump_acts.vision_models import HOOK, VisionModel
from saetools.errors import UserError
from saetools.precision import STORED_TYPES
from saetools.progress import Progress
from saetools.provenance import Provenance, first_difference
from saetools.shard_layout import SHARDS, Examples, ShardHeader, shard_name
from saetools.shard_reader import Shard
from saetools.shard_writer import new_shard

# A shard is large enough for fast reading, and small enough for training to start early:
SHARD_BYTES = 256 * 2**20
SHARDS_PER_SET = 8  # ... of a small data set too
SMALLEST_SHARD = 32  # images


@dataclass(frozen=True)
class RecordingSettings:
    """layers: 0-based, ascending; dtype: how activations are stored; cls: record the class token too."""

    layers: list[int]
    dtype: str
    cls: bool
    images_per_shard: int
    batch_size: int
    workers: int


def default_images_per_shard(n_images: int, model: VisionModel, n_layers: int, dtype: str) -> int:
    """As many images as make 256 MiB, but at most an eighth of the data set, and at least 32."""
    image_bytes = n_layers * model.n_patches * model.d_model * STORED_TYPES[dtype].itemsize
    return max(1, min(SHARD_BYTES // image_bytes, max(-(-n_images // SHARDS_PER_SET), SMALLEST_SHARD)))


def record(model: VisionModel, images: ImageSet, folder: Path, settings: RecordingSettings) -> Iterator[Path]:
    """Yield the path of each shard as soon as it is complete, in order.

    A shard that is there already with the same settings is kept. Raises UserError where the folder
    holds shards of other settings, an image cannot be decoded, or an activation does not fit the dtype.
    """
    identity = _identity(model, images, settings)
    n_shards = -(-len(images) // settings.images_per_shard)
    folder.mkdir(parents=True, exist_ok=True)
    _check_folder(folder, identity, n_shards)
    with Progress("recording", total=len(images), unit="images") as progress:
        for index in range(n_shards):
            target = folder / shard_name(index)
            rows = range(len(images))[index * settings.images_per_shard :][: settings.images_per_shard]
            if target.exists():
                _check_settings(Shard(target), identity)
                progress.advance(len(rows))
            else:
                header = ShardHeader(
                    model=model.name,
                    weights=model.weights,
                    layers=settings.layers,
                    hook=HOOK,
                    preprocess=model.preprocess.to_settings(),
                    n_examples_total=len(images),
                    shard_index=index,
                    n_shards=n_shards,
                )
                _record_shard(target, model, images, rows, header, identity, settings, progress)
            yield target


def _record_shard(
    target: Path,
    model: VisionModel,
    images: ImageSet,
    rows: range,
    header: ShardHeader,
    identity: dict[str, Any],
    settings: RecordingSettings,
    progress: Progress,
) -> None:
    paths = images.path[rows.start : rows.stop]
    examples = Examples(
        path=np.array(paths, dtype=object),
        index=np.arange(rows.start, rows.stop),
        target=images.target[rows.start : rows.stop],
        grid=np.tile(model.grid, (len(rows), 1)),
    )
    provenance = Provenance.of(SHARDS, "dump-acts", identity)
    shape = {"n_patches": model.n_patches, "d_model": model.d_model}
    with new_shard(
        target, header, provenance, examples, **shape, dtype=settings.dtype, has_cls=settings.cls
    ) as writer:
        for pixels in decode(images.root, paths, model.preprocess, settings.batch_size, settings.workers):
            acts = model.acts(pixels, settings.layers)
            patches = {layer: _to_numpy(found.patches) for layer, found in acts.items()}
            cls = {layer: _to_numpy(found.cls) for layer, found in acts.items() if found.cls is not None}
            writer.append(patches, cls if settings.cls else None)
            progress.advance(len(pixels))


def _to_numpy(acts: torch.Tensor) -> np.ndarray:
    return acts.float().cpu().numpy()


def _identity(model: VisionModel, images: ImageSet, settings: RecordingSettings) -> dict[str, Any]:
    """The settings that decide what is in the shards: two runs with the same can share a folder."""
    return {
        "model": model.name,
        "weights": model.weights,
        "preprocess": model.preprocess.to_settings(),
        "layers": settings.layers,
        "dtype": settings.dtype,
        "cls": settings.cls,
        "images": images.digest(),
        "images_per_shard": settings.images_per_shard,
    }


def _check_folder(folder: Path, identity: dict[str, Any], n_shards: int) -> None:
    """Raise UserError where the folder holds shards of another recording, before anything is computed."""
    names = {shard_name(index) for index in range(n_shards)}
    for path in sorted(folder.glob("shard-*.h5")):
        _check_settings(Shard(path), identity)
        if path.name not in names:
            raise UserError(
                f"{path}: not one of the {n_shards} shards of this recording; choose another --out"
            )


def _check_settings(shard: Shard, identity: dict[str, Any]) -> None:
    if difference := first_difference(shard.provenance.settings, identity):
        raise UserError(
            f"{shard.path}: it was recorded with other settings: {difference};"
            " choose another --out, or remove the old shards"
        )
