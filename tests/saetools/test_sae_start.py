"""The start of a training without the training: `train-sae --tokens 0`, and what rebuilds it from the shards."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from in_process import runner
from processes import Tool, error_lines
from small_shards import clustered_acts, write_shards

from saetools.errors import UserError
from saetools.scorers import start as sae_start
from saetools.scorers.file import load_scorer
from saetools.scorers.sae import SAE
from saetools.scorers.start import make_start, read_sample, rebuild_start, training_shards, untrained_topk
from saetools.scorers.start_settings import StartSettings
from saetools.shards.reader import Shard, iterate_shards, open_shards
from saetools.shards.token_source import ShardSource
from train_sae import trainer as trainer_module
from train_sae.cli import app
from train_sae.stream import TokenStream

SMALL = ["--d-sae", 64, "--k", 4, "--batch-size", 256, "--tokens", "2k", "--device", "cpu"]
train = runner("train-sae", app)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    labels = np.random.default_rng(0).integers(0, 3, (240, 9)).astype(np.uint16)
    folder = tmp_path_factory.mktemp("acts")
    return write_shards(folder, clustered_acts(240), n_shards=4, dtype="float16", labels_np=labels)


def assert_same(one: SAE, other: SAE) -> None:
    """To the byte."""
    assert one.config == other.config and one.scale == other.scale
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "mean"):
        mine, others = getattr(one, name), getattr(other, name)
        assert (mine is None) == (others is None), name
        if mine is not None:
            assert mine.numpy().tobytes() == others.numpy().tobytes(), name


def rebuilt(out: Path, shards: list[Path]) -> SAE:
    """Of a scorer file, from shards that are given in another order."""
    found = load_scorer(out)
    given = list(iterate_shards(reversed(shards)))
    return rebuild_start(found.provenance.settings, training_shards(found, str(out), given), 3, str(out))


def sae_of(path: Path) -> SAE:
    scorer = load_scorer(path).scorer
    assert isinstance(scorer, SAE)
    return scorer


@pytest.mark.parametrize("pool_tokens", [1, 900, 10**6])
@pytest.mark.parametrize("arriving", [False, True])
@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize("excluded", [(), (0, 2)])
def test_the_sample_is_that_of_the_stream(
    shards: list[Path],
    pool_tokens: int,
    arriving: bool,
    world: int,
    excluded: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sae_start, "SAMPLE_TOKENS", 500)
    for seed in range(3):
        chosen = StartSettings(
            64, holdout=0.2, batch_size=128, pool_bytes=pool_tokens * 32, seed=seed, processes=world
        )
        samples = []
        for own in (False, True):
            source = ShardSource(iter(shards), 3, 0.2, arriving=arriving, excluded=excluded, world=world)
            stream_or_own = (
                read_sample(source, chosen)
                if own
                else TokenStream(source, 128 // world, chosen.pool_bytes, seed).sample(seed)
            )
            samples.append(stream_or_own)
        assert len(samples[0]) >= 100
        torch.testing.assert_close(samples[1], samples[0], rtol=0, atol=0)


def test_only_images_of_the_sample_are_read(shards: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sae_start, "SAMPLE_TOKENS", 20)
    n_read = 0
    real = Shard.read_acts

    def read_acts(self: Shard, layer: int, rows: np.ndarray, buffer: object = None) -> torch.Tensor:
        nonlocal n_read
        n_read += len(rows)
        return real(self, layer, rows)

    monkeypatch.setattr(Shard, "read_acts", read_acts)
    sample = read_sample(ShardSource(iter(shards), 3, 0.0, arriving=False), StartSettings(64, batch_size=256))
    assert len(sample) == 20 and 10 < n_read <= 20


FLAGS = [
    ["--activation", "topk", "--seed", 1],
    ["--activation", "batchtopk", "--seed", 2],
    ["--activation", "relu", "--exclude-labels", "0,2"],
    ["--activation", "relu", "--start-l0", 0, "--seed", 5],
    ["--activation", "jumprelu", "--bandwidth", 0.1, "--pool-memory", "20kB"],
    ["--objective", "matryoshka", "--b-dec", "geometric-median", "--normalize", "mean", "--blend", 0.3],
]


@pytest.mark.parametrize("flags", FLAGS, ids=lambda flags: " ".join(map(str, flags)))
@pytest.mark.parametrize("evaluated_on", ["holdout", "val"])
def test_tokens_0_is_where_training_starts(
    shards: list[Path],
    tmp_path: Path,
    flags: list[object],
    evaluated_on: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its file equals what a trained SAE's file is rebuilt to, and what the training began with."""
    held = ["--holdout", 0.1]
    if evaluated_on == "val":
        val = clustered_acts(40, seed=1)
        labels = np.ones((40, 9), np.uint16)
        names = [f"val/{i}" for i in range(40)]
        held = [
            "--val",
            *write_shards(tmp_path / "val", val, n_shards=1, paths=names, dtype="float16", labels_np=labels),
        ]
    begun = []

    def noted(*arguments: object) -> sae_start.Start:
        begun.append(make_start(*arguments))  # type: ignore[arg-type]
        return begun[-1]

    monkeypatch.setattr(trainer_module, "make_start", noted)
    for name, tokens in (("trained", "2k"), ("start", 0)):
        train(*shards, "--out", tmp_path / f"{name}.h5", *SMALL, *flags, *held, "--tokens", tokens)
    assert_same(sae_of(tmp_path / "start.h5"), rebuilt(tmp_path / "trained.h5", shards))
    assert_same(sae_of(tmp_path / "start.h5"), rebuilt(tmp_path / "start.h5", shards))
    # The parameters of the trained one were changed in place since, all but the normalisation.
    assert torch.equal(begun[0].normalization.mean, begun[1].normalization.mean)
    assert not torch.equal(sae_of(tmp_path / "trained.h5").W_enc, sae_of(tmp_path / "start.h5").W_enc)


def test_the_first_batch_meets_the_rebuilt_parameters(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = []
    real = trainer_module.Trainer.step

    def step(self: trainer_module.Trainer, x_bd: torch.Tensor) -> object:
        if not first:
            first.append({k: v.clone() for k, v in self.parameters.trained().items()})
        return real(self, x_bd)

    monkeypatch.setattr(trainer_module.Trainer, "step", step)
    train(*shards, "--out", tmp_path / "sae.h5", *SMALL)
    start = rebuilt(tmp_path / "sae.h5", shards)
    assert torch.equal(first[0]["enc_sd"].T, start.W_enc) and torch.equal(first[0]["dec_sd"], start.W_dec)
    assert torch.equal(first[0]["b_enc_s"], start.b_enc) and torch.equal(first[0]["b_dec_d"], start.b_dec)


def test_from_a_pipe(tool: Tool, shards: list[Path], tmp_path: Path) -> None:
    """The sample is of what arrived before the first batch, not of all shards."""
    listed = "".join(f"{path}\n" for path in shards)
    tool("train-sae", "-", "--out", tmp_path / "start.h5", *SMALL, "--tokens", 0, stdin=listed)
    tool("train-sae", "-", "--out", tmp_path / "trained.h5", *SMALL, stdin=listed)
    train(*shards, "--out", tmp_path / "files.h5", *SMALL, "--tokens", 0)
    assert_same(sae_of(tmp_path / "start.h5"), rebuilt(tmp_path / "trained.h5", shards))
    assert not torch.equal(sae_of(tmp_path / "start.h5").W_enc, sae_of(tmp_path / "files.h5").W_enc)


def test_many_at_once(shards: list[Path], tmp_path: Path) -> None:
    train(*shards, "--out", tmp_path / "many", *SMALL, "--grid", "tokens=0,2k seed=0,7 k=2,4")
    for seed in (0, 7):
        for k in (2, 4):
            alone = tmp_path / f"{seed}-{k}.h5"
            train(*shards, "--out", alone, *SMALL, "--tokens", 0, "--seed", seed, "--k", k)
            start, trained = (
                tmp_path / "many" / f"tokens={tokens}_seed={seed}_k={k}.h5" for tokens in ("0", "2k")
            )
            assert_same(sae_of(start), sae_of(alone))
            assert_same(sae_of(start), rebuilt(trained, shards))


@pytest.mark.parametrize("seed", [0, 4])
def test_untrained_is_the_start_with_no_other_settings(
    shards: list[Path], tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = ["--d-sae", 48, "--k", 3, "--seed", seed, "--tokens", 0]
    many = write_shards(tmp_path / "acts", clustered_acts(1000), n_shards=2)
    train(*many, "--out", tmp_path / "sae.h5", *plain)
    assert_same(untrained_topk(48, 3, seed, open_shards(many).shards, 3), sae_of(tmp_path / "sae.h5"))
    # Fewer tokens than a batch are enough, which train-sae refuses.
    train(*shards, "--out", tmp_path / "few.h5", *plain, "--batch-size", 64)
    assert_same(untrained_topk(48, 3, seed, open_shards(shards).shards, 3), sae_of(tmp_path / "few.h5"))


@pytest.mark.parametrize("k", [1, 5, 64])
def test_batchtopk_starts_with_a_threshold_for_its_k(shards: list[Path], k: int) -> None:
    source = ShardSource(iter(shards), 3, 0.0, arriving=False)
    chosen = StartSettings(64, "batchtopk", k, batch_size=256)
    sample_nd = read_sample(source, chosen)
    sae = make_start(chosen, sample_nd.clone()).sae()
    active = (sae.encode(sample_nd[: sae_start.SCALE_TOKENS]) > 0).sum(1).double().mean().item()
    if k == 64:  # half of the latents are positive at the start
        assert sae.threshold is not None and (sae.threshold == 0).all() and 16 < active < 48
    else:
        assert active == pytest.approx(k, abs=0.01)


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "relu", "jumprelu"])
def test_its_tables(shards: list[Path], tmp_path: Path, activation: str) -> None:
    for name, tokens in (("start", 0), ("trained", "2k")):
        train(
            *shards, "--out", tmp_path / f"{name}.h5", *SMALL, "--activation", activation, "--tokens", tokens
        )
    exact = {"float_precision": "round_trip"}
    start, trained = (pd.read_csv(tmp_path / f"{name}.metrics.csv", **exact) for name in ("start", "trained"))
    of_batches = {column for column in trained.columns if column.startswith(("image_", "patch_", "read_"))}
    assert set(start.columns) == set(trained.columns) - of_batches and len(of_batches) == 7
    assert len(start) == 1 and start.step[0] == 0 and start.tokens[0] == 0 and start.loss.isna()[0]
    found = load_scorer(tmp_path / "start.h5")
    assert found.trained_on["tokens"] == 0
    assert (
        start.eval_nmse[0]
        == found.evaluation["nmse"]
        > load_scorer(tmp_path / "trained.h5").evaluation["nmse"]
    )
    expected = 4 if "topk" in activation else 32
    assert start.eval_l0[0] == pytest.approx(expected, rel=0.2)  # of 12 images or so
    # On the first tokens of the sample, and on held-out images: about the same.
    assert start.nmse[0] == pytest.approx(start.eval_nmse[0], rel=0.2)
    assert "trained already" in train(*shards, "--out", tmp_path / "start.h5", *SMALL, "--activation", activation,
                                      "--tokens", 0).stderr  # fmt: skip


def test_what_it_refuses(shards: list[Path], tmp_path: Path) -> None:
    train(*shards, "--out", tmp_path / "sae.h5", *SMALL)
    found = load_scorer(tmp_path / "sae.h5")
    with pytest.raises(UserError, match="1 of the 4 shards that it was trained on are not among"):
        training_shards(found, "sae.h5", list(iterate_shards(shards[:3])))
    settings = {name: value for name, value in found.provenance.settings.items() if name != "b_dec"}
    with pytest.raises(UserError, match=r"sae\.h5: the setting b_dec is missing"):
        rebuild_start(settings, list(iterate_shards(shards)), 3, "sae.h5")
    said = error_lines(
        train(
            *shards, "--out", tmp_path / "no.h5", *SMALL, "--tokens", 0, "--consume", "--val", *shards, code=2
        )
    )
    assert "--consume: --tokens 0 uses no shard to its end" in said
    assert all(path.exists() for path in shards)


def test_older_files_are_taken_as_trained_on_files(
    shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(*shards, "--out", tmp_path / "sae.h5", *SMALL)
    settings = dict(load_scorer(tmp_path / "sae.h5").provenance.settings)
    expected = rebuild_start(settings, list(iterate_shards(shards)), 3)
    del settings["arriving"], settings["processes"]
    assert_same(rebuild_start(settings, list(iterate_shards(shards)), 3), expected)


def test_the_stream_goes_on_as_before(shards: list[Path]) -> None:
    """Taking a sample without the pool leaves a source as it was."""
    source = ShardSource(iter(shards), 3, 0.1, arriving=True)
    read_sample(source, StartSettings(64, holdout=0.1, batch_size=128, arriving=True))
    mine = [x.clone() for x in islice(TokenStream(source, 128, 10**6, 0), 5)]
    fresh = ShardSource(iter(shards), 3, 0.1, arriving=True)
    for one, other in zip(mine, islice(TokenStream(fresh, 128, 10**6, 0), 5), strict=True):
        assert torch.equal(one, other)
