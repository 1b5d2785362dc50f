"""What CSR latents are: their files' names, header and members, and when two belong together.

See docs/formats.md. One file per activation shard; row = image * P + patch, column = latent. The members `format`,
`shape`, `indptr`, `indices` and `data` are those of `scipy.sparse.load_npz`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saetools.errors import UserError
from saetools.files.formats import LATENTS
from saetools.files.npz import HEADER
from saetools.files.provenance import first_difference

VALUE_TYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}

# What a value says of its latent; see `LatentsHeader.code`.
SCORE, TRIANGLE, MINUS_SQUARED_DISTANCE = "score", "triangle", "minus-squared-distance"

# member -> (dtype, shape in the letters of the docs); dtype "text" is NumPy's unicode, "values" one of VALUE_TYPES.
MEMBERS: dict[str, tuple[str, str]] = {
    "format": ("text", ""),
    "shape": ("<i8", "2"),
    "indptr": ("<i8", "N*P+1"),
    "indices": ("<i4", "E"),
    "data": ("values", "E"),
    "count": ("<i8", "K"),
    "path": ("text", "N"),
    "index": ("<i8", "N"),
    "target": ("<i8", "N"),
    "grid": ("<i2", "N,2"),
    "size": ("<i4", "N,2"),
    "digest": ("|S32", "N"),
    "class": ("text", "N"),
    "labels": ("<u2", "N,P"),
    "sums": ("<u8", "B"),
    HEADER: ("text", ""),
}
OPTIONAL = ("size", "digest", "class", "labels", "sums")
# Members that are compared when they are read, block by block, not with the rest of the file when it is opened; `sums`
# has the checksums of their blocks, one member after the other.
IN_BLOCKS = ("indptr", "indices", "data")
BLOCK_BYTES = 1 << 18  # the last block of a member is shorter


def latents_name(index: int) -> str:
    return f"latents-{index:06d}.npz"


@dataclass(frozen=True)
class LatentsHeader:
    """What a file of latents says of itself, besides its provenance.

    scorer, kind: uid of the scorer file, and its kind
    n_latents, n_patches: K and P
    layer, source: of the activations (`ShardHeader.source`: model, weights, hook, preprocess)
    threshold, top: only values above it were kept (None: all), and at most so many per patch (None: all)
    n_examples_total, shard_index, n_shards: as of the activation shards
    code: `score`, the scorer's own values, or `triangle` of k-means (encode_acts.triangle); version 1 had
        `minus-squared-distance` there, whose absent values read as the highest
    trained_on_these: whether the scorer was trained on this file's shard; None where it does not say
    """

    scorer: str
    kind: str
    n_latents: int
    n_patches: int
    layer: int
    source: Mapping[str, Any]
    threshold: float | None
    top: int | None
    n_examples_total: int
    shard_index: int
    n_shards: int
    code: str = SCORE
    trained_on_these: bool | None = None

    def encoding(self) -> dict[str, Any]:
        """What must agree between latents that are used together, train and test included."""
        values = asdict(self)
        apart = ("n_examples_total", "shard_index", "n_shards", "source", "kind", "trained_on_these")
        for name in apart:
            del values[name]
        return {**values, **self.source}

    @staticmethod
    def from_settings(values: Mapping[str, Any], path: Path) -> LatentsHeader:
        fields = LatentsHeader.__dataclass_fields__
        needed = [name for name, field in fields.items() if field.default is MISSING]
        if missing := [name for name in needed if name not in values]:
            raise UserError(
                f"{path}: its header has no {missing[0]!r}; latents have it; write it again with {LATENTS.made_by}"
            )
        if "code" not in values and values["kind"] == "kmeans":  # version 1
            values = {**values, "code": MINUS_SQUARED_DISTANCE}
        return LatentsHeader(**{name: values[name] for name in fields if name in values})


def check_same_encoding(mine: LatentsHeader, my_path: Path, other: LatentsHeader, other_path: Path) -> None:
    """Raise UserError, naming what differs, unless both were made by one scorer from like activations."""
    if difference := first_difference(mine.encoding(), other.encoding()):
        raise UserError(
            f"{other_path}: encoded differently from {my_path}: {difference};"
            " use latents of one scorer, model and layer together"
        )
