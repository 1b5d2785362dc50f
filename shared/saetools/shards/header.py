"""Names and header of activation shards, and which shards can be used together.

See docs/formats.md. A shard holds a run of consecutive images of a data set, HDF5 data sets of
shapes {N images, P patches, D model width}.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from saetools.errors import UserError
from saetools.files.formats import SHARDS
from saetools.files.provenance import canonical_json, first_difference

if TYPE_CHECKING:
    import pandas as pd

DIGEST_CHARACTERS = 32  # of the digest of an image: hexadecimal


def as_paths(paths: str | Path | Iterable[str | Path]) -> Iterator[Path]:
    """One path or several, as they are given from Python or from a stream."""
    return map(Path, [paths] if isinstance(paths, str | Path) else paths)


def shard_name(index: int) -> str:
    return f"shard-{index:06d}.h5"


def layer_group(layer: int) -> str:
    return f"layer_{layer}"


@dataclass(frozen=True)
class ShardHeader:
    """The root attributes: what was recorded.

    model: its name, `timm/NAME` or `open_clip/NAME/PRETRAINED`
    weights: SHA-256 over the model's parameters and buffers
    layers: 0-based blocks, ascending
    hook: where in the block activations are taken
    preprocess: how images become model input
    n_examples_total: images in the whole data set, over all of its n_shards shards
    """

    model: str
    weights: str
    layers: Sequence[int]
    hook: str
    preprocess: Mapping[str, Any]
    n_examples_total: int
    shard_index: int
    n_shards: int

    def source(self) -> dict[str, Any]:
        """What must agree between files that are used together."""
        return {
            "model": self.model,
            "weights": self.weights,
            "hook": self.hook,
            "preprocess": dict(self.preprocess),
        }

    def to_attributes(self) -> dict[str, Any]:
        preprocess = canonical_json(self.preprocess)
        return {**asdict(self), "layers": np.asarray(self.layers, "<i8"), "preprocess": preprocess}

    @staticmethod
    def from_attributes(attributes: Mapping[str, Any], path: Path) -> ShardHeader:
        names = list(ShardHeader.__dataclass_fields__)
        if missing := [name for name in names if name not in attributes]:
            raise UserError(
                f"{path}: the attribute {missing[0]!r} is missing; activation shards have it;"
                f" record it again with {SHARDS.made_by}"
            )
        values = {name: attributes[name] for name in names}
        for name in ("n_examples_total", "shard_index", "n_shards"):
            values[name] = int(values[name])
        values["layers"] = tuple(int(layer) for layer in values["layers"])
        values["preprocess"] = json.loads(values["preprocess"])
        return ShardHeader(**values)


@dataclass(frozen=True)
class Examples:
    """The images of a shard: one entry each, in order.

    path {N} relative to the data set's root; index {N} int64 position in the whole data set;
    target {N} int64 class, -1 unknown; grid {N, 2} int16 rows and columns of patches; size {N, 2} int32
    height and width in pixels of the image as it was decoded; digest {N} str of 32 characters,
    that of `saetools.vision.pictures.picture_digest`; class_name {N} str, empty where the class is not known. size,
    digest and class_name are None where they were not recorded.
    """

    path: np.ndarray
    index: np.ndarray
    target: np.ndarray
    grid: np.ndarray
    size: np.ndarray | None = None
    digest: np.ndarray | None = None
    class_name: np.ndarray | None = None

    def texts(self) -> list[str]:
        """Path and class of each image in one text, as long as both: for the room that they take in a file."""
        return (
            [*self.path]
            if self.class_name is None
            else list(map("".join, zip(self.path, self.class_name, strict=True)))
        )

    def __len__(self) -> int:
        return len(self.path)

    def frame(self) -> pd.DataFrame:
        """A row for each image: path, index, target, rows, columns (of patches), height, width, class; NaN: unknown."""
        import pandas as pd

        height, width = (np.nan, np.nan) if self.size is None else np.asarray(self.size).T
        return pd.DataFrame(
            {
                "path": np.asarray(self.path, object),
                "index": self.index,
                "target": self.target,
                "rows": self.grid[:, 0],
                "columns": self.grid[:, 1],
                "height": height,
                "width": width,
                "class": np.nan
                if self.class_name is None
                else [str(name) or np.nan for name in self.class_name],
            }
        )


def check_same_source(
    mine: Mapping[str, Any], my_path: Path, other: Mapping[str, Any], other_path: Path
) -> None:
    """Raise UserError where two files were recorded differently (see `ShardHeader.source`)."""
    if difference := first_difference(mine, other):
        raise UserError(
            f"{other_path}: recorded differently from {my_path}: {difference};"
            " use files of one model, weights and preprocessing together"
        )
