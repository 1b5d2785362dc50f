"""int8 shards: their scale, and that little is lost, on real activations too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import runner
from small_shards import clustered_acts

from dump_acts.cli import app
from saetools.files.formats import SHARDS
from saetools.files.provenance import Provenance
from saetools.shards.dtypes import int8_scale, to_stored
from saetools.shards.header import Examples, ShardHeader
from saetools.shards.reader import open_shards
from saetools.shards.writer import new_shard
from score_traits.cli import app as score_traits_app

dump = runner("dump-acts", app)
score_traits = runner("score-traits", score_traits_app)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), outliers=st.integers(0, 5), spread=st.floats(0, 4))
def test_scale_and_integers_by_plain_numpy(seed: int, outliers: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    acts = (rng.normal(size=(300, 7)) * np.exp(spread * rng.normal(size=7))).astype(np.float32)
    acts[rng.integers(0, 300, outliers), rng.integers(0, 7, outliers)] *= 30
    acts[:, 2] = 0
    scale = int8_scale(torch.from_numpy(acts)).numpy()
    stored, n_clipped = to_stored(torch.from_numpy(acts), "int8", "test", torch.from_numpy(scale))
    steps = np.rint(acts / scale)  # to nearest even, as torch rounds
    assert stored.dtype == np.int8
    np.testing.assert_array_equal(stored, np.clip(steps, -127, 127))
    assert n_clipped == np.count_nonzero(np.abs(steps) > 127)

    def error(per_dimension: np.ndarray) -> np.ndarray:
        values = np.clip(np.rint(acts / per_dimension), -127, 127) * per_dimension
        return np.square(values.astype(np.float64) - acts).sum(axis=0)

    largest = np.where(np.abs(acts).max(axis=0) > 0, np.abs(acts).max(axis=0), 127)
    assert (error(scale) <= error((largest / 127).astype(np.float32)) * 1.0001 + 1e-12).all()
    assert scale[2] == 1


def nmse(acts: torch.Tensor, near: torch.Tensor) -> float:
    x, y = (part.flatten(0, 1).double() for part in (acts, near))
    return float((x - y).square().sum() / (x - x.mean(dim=0)).square().sum())


@pytest.mark.real
@pytest.mark.slow
def test_real_layers_lose_little(real_data: Path, tmp_path: Path) -> None:
    birds, folders = real_data / "CUB_200_2011", {}
    listed = sorted((birds / "images").rglob("*.jpg"))[::25]
    for split, paths in (("train", listed[::2]), ("test", listed[1::2])):
        root = tmp_path / split
        root.mkdir()
        (root / "birds").symlink_to(birds)
        lines = [f"birds/{path.relative_to(birds)}" for path in paths]
        (root / "list.csv").write_text("\n".join(["path", *lines]) + "\n")
        for dtype in ("float32", "int8"):
            folders[split, dtype] = tmp_path / dtype / split
            dump(root / "list.csv", "--model", "timm/vit_tiny_patch16_224", "--layers", "all", "--dtype", dtype,
                 "--weights", real_data / "vit_tiny_patch16_224.safetensors", "--mean", ".5,.5,.5",
                 "--std", ".5,.5,.5", "--out", folders[split, dtype], "--device", "cpu", "--workers", 0)  # fmt: skip
    exact, near = (open_shards([folders["test", dtype]]) for dtype in ("float32", "int8"))
    for layer in exact.header.layers:
        whole, rounded = (
            torch.cat([shard.patches(layer) for shard in shards.shards]) for shards in (exact, near)
        )
        assert nmse(whole, rounded) < 1e-3, layer
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / dtype).rglob("*.h5")) for dtype in ("int8", "float32")
    ]
    assert sizes[0] <= 0.27 * sizes[1]


def write_one(folder: Path, acts_npd: np.ndarray, paths: list[str], dtype: str) -> None:
    n_images, n_patches, d_model = acts_npd.shape
    folder.mkdir(parents=True)
    header = ShardHeader("timm/test", "0" * 64, [3], "test", {"size": [1, 1]}, n_images, 0, 1)
    examples = Examples(
        np.array(paths, object),
        np.arange(n_images),
        np.full(n_images, -1),
        np.tile([1, n_patches], (n_images, 1)),
    )
    scales = {3: int8_scale(torch.from_numpy(acts_npd[:50]).flatten(0, 1))} if dtype == "int8" else None
    provenance = Provenance.of(SHARDS, "dump-acts", {"test": dtype})
    shape = {"n_patches": n_patches, "d_model": d_model, "dtype": dtype, "scales": scales}
    with new_shard(folder / "shard-000000.h5", header, provenance, examples, **shape) as writer:
        writer.append({3: acts_npd})


def test_a_table_from_int8_shards(tmp_path: Path) -> None:
    acts, tables = clustered_acts(400), {}
    present = (acts @ np.random.default_rng(5).normal(size=(16, 6))).max(axis=1)
    has_trait = present > np.median(present, axis=0)
    rows = ["path,a,b,c,d,e,f"]
    rows += [f"i/{i}.jpg," + ",".join(str(int(v)) for v in has_trait[i]) for i in range(400)]
    (tmp_path / "traits.csv").write_text("\n".join(rows) + "\n")
    for dtype in ("float32", "int8"):
        for split, part in (("train", slice(0, 200)), ("test", slice(200, 400))):
            paths = [f"i/{i}.jpg" for i in range(part.start, part.stop)]
            write_one(tmp_path / dtype / split, acts[part], paths, dtype)
        out = tmp_path / f"{dtype}.csv"
        score_traits("--train", tmp_path / dtype / "train", "--test", tmp_path / dtype / "test", "--traits",
                     tmp_path / "traits.csv", "--layer", 3, "--scorer", "random:64", "--out", out)  # fmt: skip
        tables[dtype] = pd.read_csv(out)
    means = {dtype: table.groupby(["scorer", "n_train"]).ap.mean() for dtype, table in tables.items()}
    assert means["float32"].max() > 0.6
    assert (means["float32"] - means["int8"]).abs().max() < 0.01
