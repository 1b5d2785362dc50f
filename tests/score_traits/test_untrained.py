"""Scorers as they were before their training: rebuilt from the training shards, to the byte."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import runner
from processes import error_lines
from small_shards import clustered_acts, write_shards

from saetools.scorers.file import load_scorer
from train_sae.cli import app

train_sae = runner("train-sae", app)
SMALL = ["--d-sae", 64, "--k", 4, "--batch-size", 256, "--device", "cpu", "--layer", 3]
TENSORS = ("W_enc", "b_enc", "W_dec", "b_dec", "mean")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Shards, traits, and SAEs of two seeds after their training and at its start."""
    folder = tmp_path_factory.mktemp("untrained")
    acts = clustered_acts(300)
    write_shards(folder / "train", acts[:240], n_shards=3, paths=[f"a/{i}" for i in range(240)])
    write_shards(folder / "test", acts[240:], n_shards=1, paths=[f"b/{i}" for i in range(60)])
    for seed in (0, 1):
        for name, tokens in (("sae", "2k"), ("start", 0)):
            out = folder / f"{name}-seed{seed}.h5"
            train_sae(folder / "train", *SMALL, "--tokens", tokens, "--seed", seed, "--out", out)
    red = np.random.default_rng(0).random(300) < 0.4
    rows = [f"{'a' if i < 240 else 'b'}/{i if i < 240 else i - 240},{int(red[i])}" for i in range(300)]
    (folder / "traits.csv").write_text("\n".join(["path,red", *rows]) + "\n")
    return folder


def table_of(done) -> pd.DataFrame:
    assert done.returncode == 0, done.stderr
    return pd.read_csv(io.StringIO(done.stdout))


def options(folder: Path, train: str = "train") -> list[object]:
    return [
        "--train",
        folder / train,
        "--test",
        folder / "test",
        "--traits",
        folder / "traits.csv",
        "--device",
        "cpu",
    ]


def assert_same_weights(one: Path, other: Path) -> None:
    mine, others = load_scorer(one).scorer, load_scorer(other).scorer
    assert mine.config == others.config and mine.scale == others.scale
    for name in TENSORS:
        assert getattr(mine, name).numpy().tobytes() == getattr(others, name).numpy().tobytes(), name


def test_the_start_of_a_file_is_what_train_sae_writes_with_no_tokens(folder, score_traits, tmp_path) -> None:
    spec = f"untrained:{folder}/sae-seed{{seed}}.h5"
    saved = ["--save-scorer", tmp_path]
    done = score_traits(
        *options(folder), "--scorer", spec, "--repeats", 2, *saved, "--out", tmp_path / "ap.csv"
    )
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "ap.csv")
    for seed in (0, 1):
        made = tmp_path / f"layer3-untrained-sae-seed{seed}.h5"
        assert load_scorer(made).kind == "untrained"
        assert_same_weights(made, folder / f"start-seed{seed}.h5")
    assert set(table.scorer) == {"untrained"}
    assert table.seed.tolist() == [0, 1]
    assert set(table.checkpoint) == {spec.removeprefix("untrained:")}
    assert (set(table.d_sae), set(table.activation), set(table.sparsity)) == ({64}, {"topk"}, {4})
    assert table[["l0", "nmse"]].isna().all().all()
    starts = table_of(
        score_traits(*options(folder), "--scorer", folder / "start-seed{seed}.h5", "--repeats", 2)
    )
    columns = ["scorer", "seed", "n_prototypes", "prototype", "ap_train", "ap"]
    pd.testing.assert_frame_equal(table[columns], starts[columns])
    trained = table_of(score_traits(*options(folder), "--scorer", folder / "sae-seed0.h5"))
    assert trained.ap_train[0] != starts.ap_train[0]


def test_a_start_of_any_size(folder, score_traits, tmp_path) -> None:
    """untrained:K:k, of train-sae's defaults and the row's seed."""
    spec = ["--scorer", "untrained:32:3", "--seed", 5]
    table = table_of(score_traits(*options(folder), *spec, "--save-scorer", tmp_path))
    known = (table.scorer[0], table.n_prototypes[0], table.d_sae[0], table.activation[0], table.sparsity[0])
    assert known == ("untrained", 32, 32, "topk", 3)
    made = load_scorer(tmp_path / "layer3-untrained-32-3-seed5.h5")
    assert made.scorer.config.k == 3 and made.trained_on["tokens"] == 0
    other = table_of(score_traits(*options(folder), *spec[:2], "--seed", 6))
    assert other.ap_train[0] != table.ap_train[0]
    for text in ("untrained:4:9", "untrained:4:0", "untrained:nothing.h5"):
        assert f"--scorer {text}" in error_lines(score_traits(*options(folder), "--scorer", text))


def test_a_start_is_made_of_the_shards_of_the_training(folder, score_traits, tmp_path) -> None:
    write_shards(
        tmp_path / "again", clustered_acts(300)[:240], n_shards=3, paths=[f"a/{i}" for i in range(240)]
    )
    spec = f"untrained:{folder}/sae-seed0.h5"
    done = score_traits("--train", tmp_path / "again", *options(folder)[2:], "--scorer", spec)
    said = error_lines(done)
    assert done.returncode == 1
    assert "3 of the 3 shards that it was trained on are not among the given training shards" in said
