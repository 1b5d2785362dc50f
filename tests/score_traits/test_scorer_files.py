"""Scorer files as scorers: a file for each repeat, and files that were trained on the test images."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from processes import error_lines
from sklearn.metrics import average_precision_score

from saetools.files.ap_tables import rows_of_scorer, scorer_files
from saetools.files.formats import SCORERS
from saetools.files.provenance import Provenance
from saetools.scorers.file import load_scorer
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.shards.reader import open_shards


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
    save_scorer(path, TrainedScorer("sae", sae, provenance, trained_on, {"nmse": 0.1 + seed}))
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
    refused(score_traits(*command), 1, str(second), "the same scorer as", "here with seed 1")
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


def test_the_sidecar_lists_every_scorer_file(birds, options, score_traits, tmp_path) -> None:
    """By which the rows of a table are those of some latents' scorer; the list follows files that are written anew."""
    for seed in (0, 1):
        sae_file(tmp_path / f"sae-seed{seed}.h5", birds, seed)
    one, spec, out = (
        sae_file(tmp_path / "one.h5", birds, 7),
        tmp_path / "sae-seed{seed}.h5",
        tmp_path / "ap.csv",
    )
    specs = [part for scorer in (one, spec, "const", "random:5", "linear") for part in ("--scorer", scorer)]
    command = [*options, *specs, "--repeats", 2, "--n-train", 40, "--out", out]
    assert score_traits(*command, "--save-scorer", tmp_path / "saved").returncode == 0
    listed = scorer_files(out)
    paths = {
        one: (str(one), "sae", 4, None),
        **{tmp_path / f"sae-seed{s}.h5": (str(spec), "sae", 4, s) for s in (0, 1)},
        **{tmp_path / f"saved/layer3-random-5-seed{s}.h5": ("random:5", "random", 5, s) for s in (0, 1)},
        **{tmp_path / f"saved/layer3-linear-n40-seed{s}.h5": ("linear", "linear", 3, s) for s in (0, 1)},
    }
    names = ("spec", "kind", "n_prototypes", "seed")
    assert [tuple(entry[name] for name in names) for entry in listed] == list(paths.values())
    assert [entry["uid"] for entry in listed] == [load_scorer(path).provenance.uid for path in paths]
    assert {entry["layer"] for entry in listed} == {3}
    assert [entry.get("n_train") for entry in listed] == [None] * 5 + [40] * 2
    table = pd.read_csv(out)
    for path, (_, kind, k, seed) in paths.items():
        mine = rows_of_scorer(out, table, uid=load_scorer(path).provenance.uid, kind=kind, n_prototypes=k)
        assert sorted(set(mine.seed)) == ([0, 1] if seed is None else [seed])
        assert set(mine.scorer) == {kind}
        assert len(mine) == 3 * len(set(mine.seed))
    text = out.read_bytes()
    before = load_scorer(one).provenance.uid
    sae_file(one, birds, 7)
    assert score_traits(*command).returncode == 0
    assert [entry["uid"] for entry in scorer_files(out)] == [
        load_scorer(one).provenance.uid if entry["uid"] == before else entry["uid"] for entry in listed
    ]
    assert out.read_bytes() == text


def test_nmse_standardized_stands_after_nmse(birds, options, score_traits, tmp_path) -> None:
    old = sae_file(tmp_path / "old.h5", birds, 0)
    new = sae_file(tmp_path / "new.h5", birds, 1)
    found = load_scorer(new)
    save_scorer(new, replace(found, evaluation={**found.evaluation, "nmse_standardized": 0.625}))
    table = read(score_traits(*options, "--scorer", old, "--scorer", new))
    assert list(table.columns)[-2:] == ["nmse", "nmse_standardized"]
    assert table[table.checkpoint == str(old)].nmse_standardized.isna().all()
    assert set(table[table.checkpoint == str(new)].nmse_standardized) == {0.625}


def test_the_summary_names_files_and_leaves_the_deviation_empty_where_nothing_varied(
    birds, options, score_traits, tmp_path
) -> None:
    for seed in (0, 1):
        sae_file(tmp_path / f"wide-seed{seed}.h5", birds, seed)
    specs = [tmp_path / "wide-seed{seed}.h5", sae_file(tmp_path / "other.h5", birds, 3), "const"]
    scorers = [part for spec in specs for part in ("--scorer", spec)]
    done = score_traits(*options, *scorers, "--repeats", 2, "--summary", "--per-group")
    table = read(done)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in done.stderr.splitlines() if "|" in line
    ]
    head = rows[0]
    assert head[:7] == ["scorer", "prototypes", "layer", "train images", "seeds", "mAP", "sd"]
    shown = {row[0]: row for row in rows[2:5]}
    assert list(shown) == ["sae wide", "sae other", "const"]
    per_seed = table[table.checkpoint == str(specs[0])].groupby("seed").ap.mean()
    assert shown["sae wide"][4:7] == ["2", f"{per_seed.mean():.3f}", f"{per_seed.std():.3f}"]
    assert [shown[name][6] for name in ("sae other", "const")] == ["", ""]
    assert {row[0] for row in rows[7:]} == set(shown)
