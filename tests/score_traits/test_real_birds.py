"""The trait table of real birds: numbers that were known before there was this code."""

from __future__ import annotations

import io

import pandas as pd
import pytest


@pytest.mark.real
@pytest.mark.slow
def test_const_random_and_linear_on_real_birds(tool, real_data, tmp_path) -> None:
    """const 0.140; random:2048 with all 500 training images 0.48 to 0.57, falling to const; linear above all."""
    cub = real_data / "CUB_200_2011"
    for split in ("train", "test"):
        tool(
            *("dump-acts", cub, "--split", split, "--out", tmp_path / split, "--layers", 11),
            *("--model", "timm/vit_tiny_patch16_224", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"),
            *("--weights", real_data / "vit_tiny_patch16_224.safetensors"),
        )
    done = tool(
        *("score-traits", "--train", tmp_path / "train", "--test", tmp_path / "test", "--traits", cub),
        *("--scorer", "const", "--scorer", "random:2048", "--scorer", "linear", "--n-train", "16,64,256,all"),
        *("--bootstrap", 200, "--null", 3),
    )
    table = pd.read_csv(io.StringIO(done.stdout))
    found = table.dropna(subset=["ap"]).groupby(["scorer", "n_train"])["ap"].mean()
    assert round(found["const", 500], 3) == 0.140
    assert 0.48 <= found["random", 500] <= 0.57
    sizes = (16, 64, 256, 500)
    assert list(found["random"][list(sizes)]) == sorted(found["random"])
    assert found["random", 16] < 0.25
    assert all(found["linear", size] > found["random", size] for size in sizes)
    random = table[(table.scorer == "random") & (table.n_train == 500)].iloc[0]
    assert random.map_low < random.map_high < random.map_low + 0.1
    assert random.null_map == pytest.approx(0.14, abs=0.03)
