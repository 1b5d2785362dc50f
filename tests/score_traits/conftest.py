"""Small activation shards, written directly, and ways to run score-traits."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import runner

from saetools.files.formats import SHARDS
from saetools.files.provenance import Provenance
from saetools.shards.header import Examples, ShardHeader, shard_name
from saetools.shards.writer import new_shard

HEADER = ShardHeader(
    model="timm/made-by-hand",
    weights="0" * 64,
    layers=(3,),
    hook="output of the block",
    preprocess={"resize": 8},
    n_examples_total=0,
    shard_index=0,
    n_shards=1,
)


def write_shards(
    folder: Path,
    acts: Mapping[int, np.ndarray],
    paths: Sequence[str],
    *,
    target: np.ndarray | None = None,
    n_shards: int = 1,
    labels: np.ndarray | None = None,
    **header: Any,
) -> Path:
    """Record acts {layer: float32 {N, P, D}} of the images at `paths`, and patch labels {N, P}, as shards."""
    n, p, d = next(iter(acts.values())).shape
    target = np.full(n, -1) if target is None else target
    base = replace(HEADER, layers=tuple(acts), n_examples_total=n, n_shards=n_shards, **header)
    folder.mkdir(parents=True)
    for index, rows in enumerate(np.array_split(np.arange(n), n_shards)):
        examples = Examples(
            np.array(paths, dtype=object)[rows], rows, target[rows], np.tile([1, p], (len(rows), 1))
        )
        provenance = Provenance.of(SHARDS, "a test", {})
        shape = {"n_patches": p, "d_model": d, "dtype": "float32", "has_labels": labels is not None}
        with new_shard(
            folder / shard_name(index), replace(base, shard_index=index), provenance, examples, **shape
        ) as writer:
            writer.append(
                {layer: values[rows].astype(np.float32) for layer, values in acts.items()},
                labels=None if labels is None else dict.fromkeys(acts, labels[rows]),
            )
    return folder


def run_process(*arguments: object) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("score-traits")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def run_here(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The same program in this process, which has torch already: seconds less."""
    from score_traits.cli import app

    return runner("score-traits", app)(*arguments, code=None)


@pytest.fixture(scope="session")
def score_traits_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_process


@pytest.fixture(scope="session")
def score_traits() -> Callable[..., subprocess.CompletedProcess[str]]:
    return run_here


@pytest.fixture(scope="session")
def new_shards() -> Callable[..., Path]:
    return write_shards


class Birds:
    """Images of four patches and width 6; trait t of 3 is seen in dimension t of one patch, with noise."""

    traits = ("has_bill::hooked", "has_bill::dagger", "has_wing::red")

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.paths = [f"{'train' if i < 60 else 'test'}/{i % 5}/{i}.png" for i in range(100)]
        self.labels_nt = rng.random((100, 3)) < (0.3, 0.2, 0.1)
        self.labels_nt[[0, 61], :] = True
        acts = rng.standard_normal((100, 4, 6)).astype(np.float32) * 0.5
        acts[:, 1, :3] += 3 * self.labels_nt
        other = rng.standard_normal((100, 4, 6)).astype(np.float32)
        self.acts = {3: acts, 5: other}
        self.target = np.arange(100) % 5
        self.train = write_shards(
            folder / "train", self._of(slice(60)), self.paths[:60], target=self.target[:60], n_shards=3
        )
        self.test = write_shards(
            folder / "test", self._of(slice(60, None)), self.paths[60:], target=self.target[60:], n_shards=2
        )
        self.table = folder / "traits.csv"
        rows = [
            ",".join([path, *map(str, row)])
            for path, row in zip(self.paths, self.labels_nt.astype(int), strict=True)
        ]
        self.table.write_text("\n".join([",".join(["path", *self.traits]), *rows]) + "\n")
        self.options = ["--train", self.train, "--test", self.test, "--traits", self.table]

    def _of(self, images: slice) -> dict[int, np.ndarray]:
        return {layer: values[images] for layer, values in self.acts.items()}


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Birds:
    return Birds(tmp_path_factory.mktemp("birds"))
