"""Many SAEs on one stream: each as in its own run, in groups that fit into memory, named by what differs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from in_process import runner
from processes import error_lines
from small_shards import clustered_acts, write_shards

from saetools.errors import UserError
from saetools.scorers.file import load_scorer
from train_sae import loop
from train_sae.api import train_all
from train_sae.cli import app
from train_sae.config import SAETraining
from train_sae.grids import parse_grid, read_sweep

SMALL = ["--d-sae", 48, "--k", 4, "--batch-size", 128, "--tokens", "4k", "--log-every", 10, "--device", "cpu"]
train = runner("train-sae", app)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_shards(tmp_path_factory.mktemp("acts"), clustered_acts(120), n_shards=3)


def assert_same(one: Path, other: Path) -> None:
    with h5py.File(one) as mine, h5py.File(other) as others:
        assert set(mine) == set(others)
        for name in mine:
            np.testing.assert_array_equal(mine[name][...], others[name][...])
    assert load_scorer(one).provenance.settings == load_scorer(other).provenance.settings


def test_each_equals_its_own_run(shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other widths, activations, lengths and seeds in one sweep; whatever shares a stream is trained on one."""
    (tmp_path / "sweep.yml").write_text(
        "runs:\n  - {lr: 1e-4, k: 3}\n  - {lr: 1e-4, k: 5}\n  - {lr: 3e-4, k: 3}\n  - {lr: 3e-4, k: 5}\n"
        "  - {d-sae: 32, seed: 1}\n  - {d-sae: 64, seed: 2}\n"
        "  - {activation: relu, l1: 0.02}\n"
        "  - {activation: jumprelu, objective: matryoshka, n_prefixes: 3}\n"
        "  - {activation: batchtopk, aux_k: 4, dead_after: 1k, tokens: 2k, normalize: none}\n"
    )
    streams = []
    real = loop.TokenStream
    monkeypatch.setattr(loop, "TokenStream", lambda *args: streams.append(args) or real(*args))
    done = train(*shards, "--out", tmp_path / "many", *SMALL, "--sweep", tmp_path / "sweep.yml")
    assert len(streams) == 3  # seeds 0, 1, 2
    single = {
        "lr=1e-4_k=3": ["--lr", 1e-4, "--k", 3],
        "lr=1e-4_k=5": ["--lr", 1e-4, "--k", 5],
        "lr=3e-4_k=3": ["--lr", 3e-4, "--k", 3],
        "lr=3e-4_k=5": ["--lr", 3e-4, "--k", 5],
        "d_sae=32_seed=1": ["--d-sae", 32, "--seed", 1],
        "d_sae=64_seed=2": ["--d-sae", 64, "--seed", 2],
        "activation=relu_l1=0.02": ["--activation", "relu", "--l1", 0.02],
        "activation=jumprelu_objective=matryoshka_n_prefixes=3": [
            *("--activation", "jumprelu", "--objective", "matryoshka", "--n-prefixes", 3)
        ],
        "activation=batchtopk_aux_k=4_dead_after=1k_tokens=2k_normalize=none": [
            *("--activation", "batchtopk", "--aux-k", 4, "--dead-after", "1k"),
            *("--tokens", "2k", "--normalize", "none"),
        ],
    }
    printed = done.stdout.splitlines()
    assert sorted(printed) == sorted(str(tmp_path / "many" / f"{name}.h5") for name in single)
    for name, flags in single.items():
        train(*shards, "--out", tmp_path / "one.h5", *SMALL, *flags)
        assert_same(tmp_path / "many" / f"{name}.h5", tmp_path / "one.h5")
        (tmp_path / "one.h5").unlink()
        assert (tmp_path / "many" / f"{name}.metrics.csv").exists()


def test_groups_fit_into_memory_and_change_nothing(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[int] = []
    real = loop.run_steps
    monkeypatch.setattr(
        loop, "run_steps", lambda trainers, *rest: groups.append(len(trainers)) or real(trainers, *rest)
    )
    grid = ["--grid", "lr=1e-4,2e-4,3e-4"]
    train(*shards, "--out", tmp_path / "together", *SMALL, *grid)
    train(*shards, "--out", tmp_path / "apart", *SMALL, *grid, "--sae-memory", "1MB")
    assert groups == [3, 1, 1, 1]
    for name in ("lr=1e-4", "lr=2e-4", "lr=3e-4"):
        assert_same(tmp_path / "together" / f"{name}.h5", tmp_path / "apart" / f"{name}.h5")


def test_only_what_is_missing_is_trained(shards: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "many"
    train(*shards, "--out", out, *SMALL, "--grid", "lr=1e-4,3e-4")
    before = {path.name: path.read_bytes() for path in out.glob("*.h5")}
    done = train(*shards, "--out", out, *SMALL, "--grid", "lr=1e-4,3e-4,5e-4")
    assert len(done.stdout.splitlines()) == 3
    assert done.stderr.count("it is trained already") == 2
    assert {name: (out / name).read_bytes() for name in before} == before
    train(*shards, "--out", tmp_path / "one.h5", *SMALL, "--lr", 5e-4)
    assert_same(out / "lr=5e-4.h5", tmp_path / "one.h5")


def test_a_sweep_goes_on_where_it_was_killed(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where one of its SAEs was saved later than the other, and one was added."""
    out = tmp_path / "many"
    real, steps = loop.Trainer.step, 0

    def step(self: loop.Trainer, x_bd: object) -> object:
        nonlocal steps
        steps += 1
        if steps > 24:  # of two SAEs: in the 13th step of the first
            raise ZeroDivisionError
        return real(self, x_bd)  # type: ignore[arg-type]

    flags = ["--checkpoint-every", 5]
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(loop.Trainer, "step", step)
        train(*shards, "--out", out, *SMALL, *flags, "--grid", "lr=1e-4,3e-4")
    assert len(list(out.glob(".*.training"))) == 2
    early = out / ".lr=3e-4.h5.training"
    kept = early.read_bytes()
    steps = 10
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(loop.Trainer, "step", step)
        train(*shards, "--out", out, *SMALL, *flags, "--grid", "lr=1e-4,3e-4")
    early.write_bytes(kept)  # as if it had been killed between the two
    done = train(*shards, "--out", out, *SMALL, *flags, "--grid", "lr=1e-4,3e-4,1e-3")
    assert done.stderr.count("resumes after step") == 2
    for lr in ("1e-4", "3e-4", "1e-3"):
        train(*shards, "--out", tmp_path / f"{lr}.h5", *SMALL, "--lr", lr)
        assert_same(out / f"lr={lr}.h5", tmp_path / f"{lr}.h5")


def test_consume_has_one_pass(shards: list[Path], tmp_path: Path) -> None:
    acts = write_shards(tmp_path / "acts", clustered_acts(60), n_shards=2)
    others = [f"val/{i}" for i in range(30)]
    val = write_shards(tmp_path / "val", clustered_acts(30, seed=1), n_shards=1, paths=others)
    given = [*acts, "--val", *val, "--consume", "--out", tmp_path / "many", *SMALL]
    assert "needs 2 passes" in error_lines(train(*given, "--grid", "seed=1,2", code=2))
    assert all(path.exists() for path in acts)
    train(*given, "--grid", "lr=1e-4,3e-4")
    assert not any(path.exists() for path in acts)
    trained_on = load_scorer(tmp_path / "many" / "lr=1e-4.h5").trained_on
    assert trained_on["tokens"] == 60 * 9 // 128 * 128
    acts = write_shards(tmp_path / "acts", clustered_acts(60), n_shards=2)
    again = train(*given, "--grid", "lr=1e-4,3e-4")
    assert again.stderr.count("it is trained already") == 2
    assert all(path.exists() for path in acts)


def test_fewer_tokens_than_an_epoch_let_the_recorder_end(tmp_path: Path) -> None:
    """As dump-acts with --max-disk: it records the next shard once there is room, so all must be deleted."""
    made = write_shards(tmp_path / "made", clustered_acts(240), n_shards=12)
    val = write_shards(
        tmp_path / "val", clustered_acts(30, seed=1), n_shards=1, paths=[f"val/{i}" for i in range(30)]
    )
    folder = tmp_path / "acts"
    folder.mkdir()

    def recorded() -> Iterator[Path]:
        for path in made:
            assert len(list(folder.iterdir())) < 3, "the recorder waits for room, and training for its shard"
            yield path.rename(folder / path.name)

    config = SAETraining(d_sae=16, k=2, batch_size=128, tokens=384)
    out = tmp_path / "sae.h5"
    (trained,) = train_all(recorded(), {out: config}, val=val, arriving=True, consume=True, device="cpu")
    assert trained.record.trained_on["tokens"] == 384
    assert len(trained.record.provenance.parents) == 12
    assert not list(folder.iterdir())


def test_grids_on_the_command_line() -> None:
    assert parse_grid("lr=1e-4,3e-4  k=16") == [{"lr": "1e-4", "k": "16"}, {"lr": "3e-4", "k": "16"}]
    assert parse_grid("b-dec=mean") == [{"b_dec": "mean"}]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("", "it is empty"),
        ("lr", "expected FLAG=VALUE"),
        ("lr=1,,2", "expected FLAG=VALUE"),
        ("lr=1 lr=2", "stands there twice"),
        ("sparsty-warmup=1", "'sparsty-warmup' is no flag that can be swept; did you mean sparsity_warmup"),
        ("out=a,b", "'out' is no flag that can be swept"),
        ("lr=fast", "lr=fast: expected a number"),
        ("k=1.5", "k=1.5: expected a whole number"),
        ("lr=-1", "lr=-1: expected a number that is not negative"),
        ("k=0", "--k 0: expected a number of at least 1"),
        ("warmup=2", "--warmup 2.0: expected a number of at least 0 and at most 1"),
        ("autocast=yes", "expected true or false"),
        ("activation=topk,swish", "--activation swish: expected one of topk"),
        ("lr=1e-4,1e-4", "holds this combination twice"),
        ("k=4,100", "there are only 48 latents"),
        ("l0=0.1", "--l0: it does nothing without --activation jumprelu"),
    ],
)
def test_wrong_grids(grid: str, said: str, shards: list[Path], tmp_path: Path) -> None:
    done = train(*shards, "--out", tmp_path / "many", *SMALL, "--grid", grid, code=2)
    assert said in error_lines(done)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- 1", "sweep.yml:1:1: expected a mapping"),
        ("grids: {}", r"sweep.yml:1:1: .* no key 'grids'; did you mean grid\?"),
        ("grid: [1]", "sweep.yml:1:7: grid must be a mapping"),
        ("grid: {lr: []}", "sweep.yml:1:12: 'lr' has no values"),
        ("zip: {lr: [1, 2], k: [1]}", "sweep.yml:1:1: zip: its lists differ in length"),
        ("runs: 3", "sweep.yml:1:7: runs must be a list"),
        ("runs: [3]", "sweep.yml:1:8: an entry of runs must be a mapping"),
        ("runs: []", "it asks for no runs"),
        ("grid: {}", "it asks for no runs"),
        ("runs:\n- {lr: 1, lrr: 1}", "sweep.yml:2:11: 'lrr' is no flag"),
        ("runs: [{lr: {a: b}}]", "sweep.yml:1:13: expected a value"),
        ("grid: {lr: [1", r"sweep.yml:2:1: not YAML"),
    ],
)
def test_wrong_sweep_files(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yml").write_text(text)
    with pytest.raises(UserError, match=said):
        read_sweep(tmp_path / "sweep.yml")
    with pytest.raises(UserError, match="expected a sweep in YAML"):
        read_sweep(tmp_path / "nowhere.yml")


def test_values_in_a_sweep_file(tmp_path: Path) -> None:
    """Lists become FLAG=A,B; plain numbers are read by YAML, quoted ones stay as typed: both name the file."""
    (tmp_path / "sweep.yml").write_text(
        "runs: [{exclude-labels: [0, 3], autocast: true, lr: 1e-4, l1: 1.0e-4, warmup: '1.0e-4'}]"
    )
    assert read_sweep(tmp_path / "sweep.yml") == [
        {"exclude_labels": "0,3", "autocast": "true", "lr": "1e-4", "l1": "0.0001", "warmup": "1.0e-4"}
    ]
    (tmp_path / "sweep.yml").write_text("grid: {k: 3, lr: [1, 2]}")
    assert read_sweep(tmp_path / "sweep.yml") == [{"k": "3", "lr": "1"}, {"k": "3", "lr": "2"}]


def test_a_file_of_several_keys_is_refused_with_what_it_meant_before(tmp_path: Path) -> None:
    """Earlier versions trained the combinations of each key, where expand-sweep takes the product of the keys."""
    path = tmp_path / "sweep.yml"
    path.write_text(
        "grid: {lr: [1e-4, '3e-4'], k: [3, 5]}\nzip: {d-sae: [32, 64], seed: [1, 2]}\n"
        "runs: [{activation: relu, exclude-labels: [0, 3]}]"
    )
    with pytest.raises(UserError, match="grid and zip and runs in one file are a product") as raised:
        read_sweep(path)
    path.write_text(str(raised.value).splitlines()[-1])
    assert read_sweep(path) == [
        {"lr": "1e-4", "k": "3"},
        {"lr": "1e-4", "k": "5"},
        {"lr": "3e-4", "k": "3"},
        {"lr": "3e-4", "k": "5"},
        {"d_sae": "32", "seed": "1"},
        {"d_sae": "64", "seed": "2"},
        {"activation": "relu", "exclude_labels": "0,3"},
    ]
    path.write_text(f"grid: {{lr: {list(range(200))}}}\nruns: [{{k: 3}}]")
    with pytest.raises(UserError, match=r"runs: \[\{lr: 0\}, \.\.\.\] with each of the 201 as an entry"):
        read_sweep(path)


def test_grid_and_sweep_exclude_each_other(shards: list[Path], tmp_path: Path) -> None:
    both = ["--grid", "lr=1", "--sweep", tmp_path / "no.yml"]
    assert "give one of them" in error_lines(train(*shards, "--out", tmp_path / "o", *SMALL, *both, code=2))


def test_metrics_of_each_are_its_own(shards: list[Path], tmp_path: Path) -> None:
    train(*shards, "--out", tmp_path, *SMALL, "--grid", "k=2,8")
    l0 = [pd.read_csv(tmp_path / f"k={k}.metrics.csv").l0.iloc[-1] for k in (2, 8)]
    assert l0[0] <= 2 < l0[1] <= 8
