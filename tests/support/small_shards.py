"""Small activation shards that tests write themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from saetools.files.formats import SHARDS
from saetools.files.provenance import Provenance
from saetools.shards.header import Examples, ShardHeader, shard_name
from saetools.shards.writer import new_shard


def write_shards(
    folder: Path,
    acts_npd: np.ndarray,
    *,
    n_shards: int = 2,
    layers: Sequence[int] = (3,),
    paths: Sequence[str] | None = None,
    dtype: str = "float32",
    model: str = "timm/test",
    labels_np: np.ndarray | None = None,
    digests: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    targets: Sequence[int] | None = None,
    cls_nd: np.ndarray | None = None,
) -> list[Path]:
    """Write activations {N, P, D} as complete shards, and if given patch labels {N, P}, digests, classes and
    targets {N}, class tokens {N, D}.

    Of several layers the first holds them as they are, the second twice as large, and so on.
    """
    n_images, n_patches, d_model = acts_npd.shape
    paths = paths or [f"images/{i:04d}.jpg" for i in range(n_images)]
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index, rows in enumerate(np.array_split(np.arange(n_images), n_shards)):
        header = ShardHeader(
            model, "0" * 64, list(layers), "test", {"size": [1, 1]}, n_images, index, n_shards
        )
        examples = Examples(
            np.array([paths[row] for row in rows], object),
            rows,
            np.full(len(rows), -1) if targets is None else np.asarray(targets)[rows],
            np.tile([1, n_patches], (len(rows), 1)),
            np.stack([40 + rows, 60 + rows], axis=1),
            None if digests is None else np.array(digests)[rows],
            None if class_names is None else np.array(class_names, object)[rows],
        )
        provenance = Provenance.of(SHARDS, "dump-acts", {"test": model})
        written.append(folder / shard_name(index))
        shape = {"n_patches": n_patches, "d_model": d_model, "has_labels": labels_np is not None,
                 "has_cls": cls_nd is not None}  # fmt: skip
        labels = None if labels_np is None else dict.fromkeys(layers, labels_np[rows])
        with new_shard(written[-1], header, provenance, examples, dtype=dtype, **shape) as writer:
            here = acts_npd[rows].astype(np.float32)
            cls = None if cls_nd is None else {n: (i + 1) * cls_nd[rows] for i, n in enumerate(layers)}
            writer.append({layer: (i + 1) * here for i, layer in enumerate(layers)}, cls, labels=labels)
    return written


def clustered_acts(n_images: int, n_patches: int = 9, d_model: int = 16, seed: int = 0) -> np.ndarray:
    """Activations {N, P, D} with structure to learn: sparse sums of 24 directions, and a little noise."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).normal(size=(24, d_model))
    weights = rng.exponential(size=(n_images, n_patches, 24)) * (rng.random((n_images, n_patches, 24)) < 0.1)
    noise = 0.05 * rng.normal(size=(n_images, n_patches, d_model))
    return (3 + weights @ directions + noise).astype(np.float32)
