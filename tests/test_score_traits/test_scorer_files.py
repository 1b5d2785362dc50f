"""Scorer files as scorers: a file for each repeat, and files that were trained on the test images."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from processes import error_lines
from sklearn.metrics import average_precision_score

from saetools.provenance import Provenance
from saetools.sae import SAE, SAEConfig
from saetools.scorer_file import SCORERS, ScorerFile, save_scorer
from saetools.shard_reader import open_shards


def refused(done, code: int, *words: str) -> None:
    """One error of one to three lines, nothing on stdout, no traceback."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert len(error_lines(done).splitlines()) <= 3
    for word in words:
        assert word in error_lines(done)


def weights(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((6, 4)).astype(np.float32)


def sae_file(
    path: Path, birds, seed: int, *, parents: list[str] | None = None, d_sae: int = 4, **settings: object
) -> Path:
    """A ReLU SAE of its own for each seed, which says that it was trained on the training shards."""
    train = open_shards([birds.train])
    enc_ds = torch.from_numpy(weights(seed)[:, :d_sae].copy())
    dec_sd = enc_ds.T.contiguous()
    sae = SAE(SAEConfig(6, d_sae, "relu"), enc_ds, torch.zeros(d_sae), dec_sd, torch.zeros(6))
    settings = {"objective": "mse", "lr": 0.01, **settings, "seed": seed}
    provenance = Provenance.of(SCORERS, "train-sae", settings, train.uids if parents is None else parents)
    trained_on = {**train.header.source(), "layer": 3, "tokens": 240}
    save_scorer(path, ScorerFile("sae", sae, provenance, trained_on, {"nmse": 0.1 + seed}))
    return path


def read(done) -> pd.DataFrame:
    assert done.returncode == 0, done.stderr
    return pd.read_csv(io.StringIO(done.stdout))


@pytest.fixture
def options(birds) -> list[object]:
    return [*birds.options, "--layer", 3]


def test_each_repeat_has_its_own_file(birds, options, score_traits, tmp_path) -> None:
    for seed in (4, 5, 6):
        sae_file(tmp_path / f"sae-seed{seed}.h5", birds, seed)
    spec = tmp_path / "sae-seed{seed}.h5"
    found = read(score_traits(*options, "--scorer", spec, "--seed", 4, "--repeats", 3))
    assert found.seed.tolist() == [4] * 3 + [5] * 3 + [6] * 3
    assert set(found.checkpoint) == {str(spec)}
    assert found.nmse.tolist() == pytest.approx([4.1] * 3 + [5.1] * 3 + [6.1] * 3)
    for row in found.itertuples():
        images_nk = np.maximum(birds.acts[3] @ weights(row.seed), 0).max(1)
        labels = birds.labels_nt[:, birds.traits.index(row.trait)]
        on_train = [average_precision_score(labels[:60], images_nk[:60, k]) for k in range(4)]
        assert row.prototype == np.argmax(on_train)
        expected = average_precision_score(labels[60:], images_nk[60:, row.prototype])
        assert row.ap == pytest.approx(expected, abs=1e-12)


def test_repeats_whose_files_are_no_repeats(birds, options, score_traits, tmp_path) -> None:
    spec = tmp_path / "sae-seed{seed}.h5"
    sae_file(tmp_path / "sae-seed0.h5", birds, 0)
    command = [*options, "--scorer", spec, "--repeats", 2]
    refused(score_traits(*command), 1, str(tmp_path / "sae-seed1.h5"), "no such file")
    second = tmp_path / "sae-seed1.h5"
    for change, words in (
        ({"lr": 0.02}, "lr: 0.01 against 0.02"),
        ({"d_sae": 3}, "d_sae: 4 against 3"),
        ({"parents": ["1"]}, "shards: "),
    ):
        sae_file(second, birds, 1, **change)
        refused(score_traits(*command), 1, str(second), "more than the seed", words)
    sae_file(second, birds, 0)
    refused(score_traits(*command), 1, str(second), "the same scorer as", "--seed 1")
    sae_file(second, birds, 1)
    read(score_traits(*command))


def test_a_scorer_that_was_trained_on_the_test_shards(birds, options, score_traits, tmp_path) -> None:
    """--train and --test confused: a warning that names the shard; none where the scorer saw others."""
    test = open_shards([birds.test])
    good = sae_file(tmp_path / "good.h5", birds, 0)
    assert "warning" not in score_traits(*options, "--scorer", good).stderr
    bad = sae_file(tmp_path / "bad.h5", birds, 0, parents=test.uids)
    done = score_traits(*options, "--scorer", bad)
    read(done)
    (said,) = [line for line in done.stderr.splitlines() if "warning" in line]
    assert f"{bad}: it was trained on 2 of the --test shards" in said
    assert str(test.shards[0].path) in said
    swapped = ["--train", birds.test, "--test", birds.train, "--traits", birds.table, "--layer", 3]
    assert "trained on 3 of the --test shards" in score_traits(*swapped, "--scorer", good).stderr
