"""Every flag of train-sae shows in the result, and the parts behind them are what the documentation says."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from in_process import runner
from processes import BIN
from small_shards import clustered_acts, write_shards

from saetools.scorers.file import load_scorer
from saetools.scorers.start import make_start
from train_sae.cli import app, train_sae
from train_sae.config import SAETraining
from train_sae.optimizers import make_training_step
from train_sae.ranks import Ranks
from train_sae.steps import TrainingStep
from train_sae.steps.parameters import SAEParameters
from train_sae.tracking import coherence, mean_correlation
from train_sae.trainer import Schedule

SMALL = ["--d-sae", 48, "--k", 4, "--batch-size", 128, "--tokens", "3k", "--log-every", 10, "--device", "cpu"]
JUMP = ["--activation", "jumprelu"]
NEST = ["--objective", "matryoshka"]
AUX = ["--aux-k", 8, "--dead-after", "256", "--k", 1]
# flag -> (settings beside which it is tried, another value than the default)
WEIGHTS: dict[str, tuple[list[object], list[object]]] = {
    "--d-sae": ([], [32]),
    "--activation": ([], ["relu"]),
    "--objective": ([], ["matryoshka"]),
    "--k": ([], [5]),
    "--l1": ([], [0.05]),
    "--l0": (JUMP, [0.5]),
    "--bandwidth": (JUMP, [0.5]),
    "--threshold-decay": (["--activation", "batchtopk"], [0.5]),
    "--n-prefixes": (NEST, [3]),
    "--prefix-min": (NEST, [10]),
    "--prefix-power": (NEST, [2.0]),
    "--aux-k": (["--dead-after", "256", "--k", 1], [8]),
    "--aux-weight": (AUX, [0.5]),
    "--dead-after": (["--aux-k", 8, "--k", 1], ["256"]),
    "--tokens": ([], ["2k"]),
    "--batch-size": ([], [64]),
    "--optimizer": ([], ["muon"]),
    "--lr": ([], [1e-4]),
    "--warmup": ([], [0.5]),
    "--decay": ([], ["linear"]),
    "--sparsity-warmup": (["--l1", 0.05], [0.8]),
    "--grad-clip": ([], [1e-9]),
    "--normalize": ([], ["none"]),
    "--blend": ([], [0.2]),
    "--b-dec": ([], ["geometric-median"]),
    "--start-l0": (["--activation", "relu"], [4]),
    "--holdout": ([], [0.3]),
    "--exclude-labels": ([], ["1"]),
    "--pool-memory": ([], ["20kB"]),
    "--seed": ([], [3]),
    "--layer": ([], [4]),
    "--val": ([], ["VAL"]),
}
# Those that show elsewhere, and the test in which they do.
ELSEWHERE = {
    "--out": "every test",
    "--expansion": "test_expansion_counts_widths",
    "--grid": "test_grid.py",
    "--sweep": "test_grid.py",
    "--sae-memory": "test_grid.py",
    "--consume": "test_stream.py, test_grid.py",
    "--allow-incomplete": "test_sets.py",
    "--allow-overlap": "test_sets.py",
    "--checkpoint-every": "test_resume.py",
    "--log-every": "test_rows_every_so_many_steps",
    "--tensorboard": "test_trackers_get_every_row",
    "--wandb": "test_trackers_get_every_row",
    "--device": "test_command.py",
    "--autocast": "test_command.py",
    "--verbose": "test_cli_kit.py",
    "--version": "test_cli_kit.py",
    "--help": "test_command.py",
    "--install-completion": "test_help.py",
    "--show-completion": "test_help.py",
}
train = runner("train-sae", app)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers in one shard each way: the second is the first, mirrored; with labels 0, 1, 2."""
    acts = clustered_acts(80)
    labels = np.random.default_rng(0).integers(0, 3, acts.shape[:2]).astype(np.uint16)
    folder = tmp_path_factory.mktemp("acts")
    write_shards(folder / "both", acts, n_shards=2, labels_np=labels, layers=(3, 4))
    others = [f"val/{i}" for i in range(20)]
    write_shards(folder / "val", clustered_acts(20, seed=1), n_shards=1, layers=(3, 4), paths=others)
    return folder


def contents(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][...] for name in file}


def test_each_option_is_tried() -> None:
    import typer.main

    options = {name for parameter in typer.main.get_command(app).params for name in parameter.opts}
    assert {name for name in options if name.startswith("--")} == set(WEIGHTS) | set(ELSEWHERE) - {"--help"}
    assert train_sae.__doc__


@pytest.mark.parametrize("flag", WEIGHTS)
def test_every_flag_changes_the_result(flag: str, shards: Path, tmp_path: Path) -> None:
    beside, value = WEIGHTS[flag]
    value = [shards / "val" if part == "VAL" else part for part in value]
    base = [shards / "both", *SMALL, *(["--layer", 3] if flag != "--layer" else []), *beside]
    plain = [*base, "--layer", 3] if flag == "--layer" else base
    train(*plain, "--out", tmp_path / "one.h5")
    train(*base, "--out", tmp_path / "other.h5", flag, *value)
    one, other = contents(tmp_path / "one.h5"), contents(tmp_path / "other.h5")
    assert any(one[name].shape != other[name].shape or (one[name] != other[name]).any() for name in one)


@pytest.mark.parametrize("activation", ["batchtopk", "jumprelu"])
def test_other_activations_train(activation: str, shards: Path, tmp_path: Path) -> None:
    train(shards / "both", "--layer", 3, *SMALL, "--out", tmp_path / "sae.h5", "--activation", activation)
    assert load_scorer(tmp_path / "sae.h5").evaluation["nmse"] < 1


def test_expansion_counts_widths(shards: Path, tmp_path: Path) -> None:
    train(shards / "both", "--layer", 3, *SMALL[2:], "--out", tmp_path / "sae.h5", "--expansion", 3)
    assert load_scorer(tmp_path / "sae.h5").scorer.n_prototypes == 3 * 16


def test_rows_every_so_many_steps(shards: Path, tmp_path: Path) -> None:
    base = [shards / "both", "--layer", 3, *SMALL]
    train(*base, "--out", tmp_path / "a.h5", "--log-every", 5)
    table = pd.read_csv(tmp_path / "a.metrics.csv")
    n_steps = 3000 // 128
    assert table.step.tolist() == sorted({*range(1, n_steps + 1, 5), n_steps})
    evaluated = [name for name in table if not name.startswith("eval_")]
    assert np.isfinite(table[evaluated].to_numpy(float)).all()
    assert table.decoder_norm.to_numpy() == pytest.approx(1, abs=1e-5)
    assert (table.loss - table.mse - table.l1 - table.l0_loss - table.aux).abs().max() < 1e-6
    assert (table.nmse + table.explained_variance).to_numpy() == pytest.approx(1)
    assert table.grad_norm.min() > 0
    train(*base, "--out", tmp_path / "b.h5", "--log-every", 1000)
    one, other = contents(tmp_path / "a.h5"), contents(tmp_path / "b.h5")
    assert all((one[name] == other[name]).all() for name in one)  # looking changes nothing


def test_frequency_and_mean_value(shards: Path, tmp_path: Path) -> None:
    train(shards / "both", "--layer", 3, *SMALL, "--val", shards / "val", "--out", tmp_path / "sae.h5")
    found = load_scorer(tmp_path / "sae.h5")
    x_bd = torch.from_numpy(clustered_acts(20, seed=1)).flatten(0, 1)
    f_bs = found.scorer.encode(x_bd).double()
    on_s = (f_bs > 0).sum(0)
    assert found.frequency_s is not None and found.mean_value_s is not None
    torch.testing.assert_close(found.frequency_s.double(), on_s.double() / len(x_bd), atol=1e-6, rtol=0)
    expected = f_bs.sum(0) / on_s.clamp(min=1)
    torch.testing.assert_close(found.mean_value_s.double(), expected, atol=1e-5, rtol=1e-5)


def test_auxk_does_nothing_without_dead_latents(shards: Path, tmp_path: Path) -> None:
    plain = [shards / "both", "--layer", 3, *SMALL, "--k", 1]
    train(*plain, "--out", tmp_path / "off.h5")
    train(*plain, "--out", tmp_path / "on.h5", "--aux-k", 8, "--dead-after", "10M")  # nothing is dead before
    one, other = contents(tmp_path / "off.h5"), contents(tmp_path / "on.h5")
    assert all((one[name] == other[name]).all() for name in one)
    assert (pd.read_csv(tmp_path / "on.metrics.csv").aux == 0).all()


def test_trackers_get_every_row(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[str, list[tuple[int, dict[str, float]]]] = {}

    class Run:
        def __init__(self, project: str, name: str, **_: str) -> None:
            self.rows = got.setdefault(f"{project}/{name}", [])

        def log(self, values: dict[str, float], step: int) -> None:
            self.rows.append((step, values))

        def finish(self) -> None:
            self.rows.append((-1, {}))

    class Writer:
        def __init__(self, folder: str) -> None:
            self.rows = got.setdefault(folder, [])

        def add_scalar(self, key: str, value: float, step: int) -> None:
            self.rows.append((step, {key: value}))

        def close(self) -> None:
            self.rows.append((-1, {}))

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=Run))
    board = types.SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    where = ["--wandb", "birds", "--tensorboard", tmp_path / "board"]
    train(shards / "both", "--layer", 3, *SMALL, "--out", tmp_path, "--grid", "lr=1e-4,1e-3", *where)
    for lr in ("1e-4", "1e-3"):
        table = pd.read_csv(tmp_path / f"lr={lr}.metrics.csv")
        rows = got[f"birds/lr={lr}"]
        assert [step for step, _ in rows] == [*table.step, -1]
        assert [values["loss"] for _, values in rows[:-1]] == pytest.approx(table.loss.tolist())
        losses = [row[1]["loss"] for row in got[str(tmp_path / "board" / f"lr={lr}")] if "loss" in row[1]]
        assert losses == pytest.approx(table.loss.tolist())


def test_schedules() -> None:
    cosine, linear, none = (Schedule(2.0, 4, 14, decay) for decay in ("cosine", "linear", "none"))
    for schedule in (cosine, linear, none):
        assert [schedule.at(step) for step in range(4)] == [0.5, 1.0, 1.5, 2.0]
    assert [linear.at(step) for step in (4, 9, 13)] == pytest.approx([2.0, 1.0, 0.2])
    assert [cosine.at(step) for step in (4, 9)] == pytest.approx([2.0, 1.0])
    assert cosine.at(13) == pytest.approx(1 + math.cos(0.9 * math.pi))
    assert none.at(13) == 2.0
    sparsity = Schedule(1.0, 0, 10, sparsity_warmup=4)
    assert [sparsity.sparsity_at(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert cosine.sparsity_at(0) == 1


def test_correlation_and_coherence_of_known_cases() -> None:
    generator = torch.Generator().manual_seed(0)
    a_b = torch.rand(400, generator=generator)
    f_bs = torch.stack([a_b, 2 * a_b + 1, 1 - a_b, torch.zeros(400)], dim=1)
    assert mean_correlation(f_bs, generator) == pytest.approx(1)  # the constant one does not count
    f_bs = torch.rand(2000, 5, generator=generator)
    expected = np.abs(np.corrcoef(f_bs.numpy().T))[~np.eye(5, dtype=bool)].mean()
    assert mean_correlation(f_bs, generator) == pytest.approx(expected, rel=1e-5)
    assert mean_correlation(torch.zeros(5, 4), generator) == 0
    w_sd = torch.randn(200, 8, generator=generator)
    unit_sd = torch.nn.functional.normalize(w_sd, dim=1)
    cosine_ss = (unit_sd @ unit_sd.T).abs().fill_diagonal_(0)
    assert coherence(w_sd, generator) == pytest.approx(cosine_ss.max().item(), rel=1e-5)
    assert coherence(torch.eye(6), generator) == 0


def test_two_processes_train_together(shards: Path, tmp_path: Path) -> None:
    """Through the program, by torchrun, each on its own shard; they agree to the end, and one of them writes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", BIN / "train-sae", shards / "both"]
    flags = ["--layer", 3, *SMALL, "--val", shards / "val", "--activation", "batchtopk"]
    done = subprocess.run(
        [str(part) for part in [*command, *flags, "--out", tmp_path / "two.h5"]],
        capture_output=True, text=True, check=False, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'two.h5'}\n"
    found = load_scorer(tmp_path / "two.h5")
    assert found.evaluation["nmse"] < 0.7
    assert found.trained_on["tokens"] == 3000 // 128 * 128


def halves(rank: int, rendezvous: str, results: str) -> None:
    """One of two processes: steps on its half of each batch; what it ends with is written to `results`."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    step = made_step(Ranks(rank, 2))
    reports = [step.step(x_bd[32 * rank : 32 * (rank + 1)], 1e-2) for x_bd in batches()]
    np.savez(
        f"{results}{rank}.npz", fired=step.fired_s, loss=reports[-1]["loss"], **step.parameters.state_dict()
    )
    dist.destroy_process_group()


def batches() -> list[torch.Tensor]:
    return list(torch.randn(6, 64, 10, generator=torch.Generator().manual_seed(1)))


def made_step(ranks: Ranks) -> TrainingStep:
    options = SAETraining(
        d_sae=40, objective="matryoshka", k=3, n_prefixes=4, aux_k=4, dead_after=64, batch_size=64,
        normalize="none", seed=3,
    )  # fmt: skip
    settings = options.settings(d_model=10, epoch=100, holdout=0, log_every=1)
    sample_nd = torch.randn(100, 10, generator=torch.Generator().manual_seed(2))
    parameters = SAEParameters.at_start(make_start(settings.start(), sample_nd))
    return make_training_step(parameters, settings, ranks)


def test_two_halves_of_a_batch_are_one_batch(tmp_path: Path) -> None:
    """Gradients averaged over two processes, gloo: the parameters of one process on the whole batch."""
    torch.multiprocessing.spawn(halves, (str(tmp_path / "meet"), str(tmp_path / "result")), nprocs=2)
    one, other = (dict(np.load(tmp_path / f"result{rank}.npz")) for rank in range(2))
    whole = made_step(Ranks())
    loss = [whole.step(x_bd, 1e-2) for x_bd in batches()][-1]["loss"]
    for name, value in whole.parameters.state_dict().items():
        np.testing.assert_array_equal(one[name], other[name])
        np.testing.assert_allclose(one[name], value, rtol=2e-3, atol=2e-5)
    np.testing.assert_array_equal(one["fired"], whole.fired_s)
    assert float(one["loss"]) == pytest.approx(loss, rel=1e-4)
