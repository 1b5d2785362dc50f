"""train-sae as a program: streams, determinism, what it refuses, what it leaves behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from in_process import runner
from processes import BIN, Tool, error_lines
from small_shards import clustered_acts, write_shards

from saetools.scorers.file import load_scorer
from train_sae.cli import app
from train_sae.resuming import state_path

in_process = runner("train-sae", app)
SMALL = ["--d-sae", 64, "--k", 4, "--batch-size", 256, "--tokens", "20k", "--log-every", 10]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_shards(tmp_path_factory.mktemp("acts"), clustered_acts(240), n_shards=4)


def weights(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][...] for name in file}


def assert_same_weights(one: Path, other: Path) -> None:
    mine, others = weights(one), weights(other)
    assert mine.keys() == others.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name], others[name])


def test_it_learns(tool: Tool, shards: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "sae.h5"
    assert tool("train-sae", *shards, "--out", out, *SMALL, "--tokens", "100k").stdout == f"{out}\n"
    found = load_scorer(out)
    assert found.evaluation["nmse"] < 0.2
    assert found.evaluation["l0"] <= 4
    assert found.trained_on["layer"] == 3
    norms = found.scorer.W_dec.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    metrics = pd.read_csv(tmp_path / "sae.metrics.csv")
    assert metrics.loss.iloc[-1] < 0.5 * metrics.loss.iloc[0]
    assert metrics.eval_nmse.iloc[-1] == pytest.approx(found.evaluation["nmse"])


def test_evaluation_equals_float64_by_hand(tool: Tool, shards: list[Path], tmp_path: Path) -> None:
    test_acts = clustered_acts(50, seed=1)
    val = write_shards(tmp_path / "val", test_acts, n_shards=1, paths=[f"val/{i}" for i in range(50)])
    out = tmp_path / "sae.h5"
    tool("train-sae", *shards, "--val", *val, "--out", out, *SMALL)
    w = {name: value.astype(np.float64) for name, value in weights(out).items()}
    with h5py.File(out) as file:
        scale = file.attrs["scale"]
    x = test_acts.reshape(-1, 16).astype(np.float64)
    pre = ((x - w["mean"]) / scale - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    f = np.zeros_like(pre)
    for row in range(len(x)):
        best = np.argsort(-pre[row])[:4]
        f[row, best] = np.maximum(pre[row, best], 0)
    x_hat = (f @ w["W_dec"] + w["b_dec"]) * scale + w["mean"]
    squared_error = ((x - x_hat) ** 2).sum()
    evaluation = load_scorer(out).evaluation
    assert evaluation["n_tokens"] == len(x)
    assert evaluation["mse"] == pytest.approx(squared_error / x.size, rel=1e-5)
    assert evaluation["nmse"] == pytest.approx(squared_error / ((x - x.mean(0)) ** 2).sum(), rel=1e-5)
    error_d, spread_d = ((x - x_hat) ** 2).sum(0), ((x - x.mean(0)) ** 2).sum(0)
    assert evaluation["nmse_standardized"] == pytest.approx((error_d / spread_d).mean(), rel=1e-5)
    metrics = pd.read_csv(tmp_path / "sae.metrics.csv")
    assert metrics.eval_nmse_standardized.iloc[-1] == pytest.approx(evaluation["nmse_standardized"])
    assert (metrics.nmse_standardized > 0).all()
    assert evaluation["l0"] == pytest.approx((f > 0).sum() / len(x))
    assert evaluation["dead"] == pytest.approx((~(f > 0).any(0)).mean())
    assert evaluation["dense"] == pytest.approx(((f > 0).mean(0) > 0.01).mean())


def test_same_seed_same_bytes(tool: Tool, shards: list[Path], tmp_path: Path) -> None:
    for name, seed in (("a", 5), ("b", 5)):
        tool("train-sae", *shards, "--out", tmp_path / f"{name}.h5", *SMALL, "--seed", seed)
    train_in_process(shards, tmp_path / "c.h5", "--seed", 6)
    assert_same_weights(tmp_path / "a.h5", tmp_path / "b.h5")
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "a.h5", tmp_path / "c.h5")


def test_training_starts_with_the_first_shard_and_timing_changes_nothing(
    tool: Tool, shards: list[Path], tmp_path: Path
) -> None:
    """A slow producer and a finished list give the same weights; batches flow before the last shard is known."""
    listed, slow = tmp_path / "listed.h5", tmp_path / "slow.h5"
    tool("train-sae", "-", "--out", listed, *SMALL, stdin="".join(f"{path}\n" for path in shards))
    process = subprocess.Popen(
        [BIN / "train-sae", "-", "--out", slow, *map(str, SMALL), "--checkpoint-every", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    for path in shards:
        before = saved_steps(slow)
        process.stdin.write(f"{path}\n")
        process.stdin.flush()
        while process.poll() is None and saved_steps(slow) == before:
            time.sleep(0.02)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out == f"{slow}\n"
    assert_same_weights(listed, slow)


def saved_steps(out: Path) -> int:
    """Steps in the saved state, which is replaced as a whole; 0 before the first."""
    if not state_path(out).exists():
        return 0
    with h5py.File(state_path(out)) as file:
        return int(file.attrs["n_steps"])


def test_batches_come_before_the_last_shard(shards: list[Path]) -> None:
    """The stream yields from the first shard while the list of shards is still open."""
    from saetools.shards.token_source import ShardSource
    from train_sae.stream import TokenStream

    taken: list[Path] = []

    def arriving() -> object:
        for path in shards:
            taken.append(path)
            yield path

    source = ShardSource(arriving(), None, 0.0, arriving=True)  # type: ignore[arg-type]
    stream = iter(TokenStream(source, 128, 10**9, 0))
    next(stream)
    assert len(taken) == 1


def test_held_out_images_are_never_trained_on(tmp_path: Path) -> None:
    from saetools.shards.token_source import ShardSource
    from train_sae.stream import TokenStream

    ids = np.repeat(np.arange(400, dtype=np.float32)[:, None, None], 4, axis=1)
    paths = write_shards(tmp_path, ids, n_shards=3)
    source = ShardSource(iter(paths), None, 0.2, arriving=False)
    held_out = {
        int(block.shard.examples.index[row]) for block in source.held_out_blocks() for row in block.rows
    }
    assert 40 <= len(held_out) <= 120
    stream = iter(TokenStream(source, 64, 10**6, 0))
    seen = {int(value) for _ in range(60) for value in next(stream)[:, 0]}
    assert not seen & held_out


def train_in_process(shards: list[Path], out: Path, *arguments: object) -> None:
    """Without the start of a process, which takes longer than the training."""
    in_process(*shards, "--out", out, *SMALL, *arguments)


@pytest.mark.parametrize(("activation", "flag"), [("relu", "--l1"), ("jumprelu", "--l0")])
def test_penalties_make_it_sparser(shards: list[Path], tmp_path: Path, activation: str, flag: str) -> None:
    l0 = []
    for weight in ("1e-4", "1"):
        out = tmp_path / f"{weight}.h5"
        train_in_process(shards, out, "--activation", activation, flag, weight)
        l0.append(load_scorer(out).evaluation["l0"])
    assert l0[1] < l0[0]


def test_the_same_command_again_does_nothing_and_other_settings_are_refused(
    shards: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "sae.h5"
    in_process(*shards, "--out", out, *SMALL)
    before = out.read_bytes()
    again = in_process(*shards, "--out", out, *SMALL)
    assert again.stdout == f"{out}\n"
    assert out.read_bytes() == before
    refused = in_process(*shards, "--out", out, *SMALL, "--lr", 5e-4, code=1)
    assert "lr: 0.001 against 0.0005" in error_lines(refused)
    refused = in_process(*shards[:3], "--out", out, *SMALL, "--allow-incomplete", code=1)
    assert "shards" in error_lines(refused)
    assert out.read_bytes() == before


def test_killed_it_leaves_nothing_under_a_final_name(shards: list[Path], tmp_path: Path) -> None:
    for kind in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        folder = tmp_path / kind.name
        folder.mkdir()
        command = [
            BIN / "train-sae",
            *shards,
            "--out",
            folder / "sae.h5",
            *SMALL,
            "--tokens",
            "100M",
            "--checkpoint-every",
            10,
        ]
        process = subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE)
        while process.poll() is None and not (folder / ".sae.h5.training").exists():
            time.sleep(0.05)
        assert process.poll() is None
        process.send_signal(kind)
        _, err = process.communicate(timeout=30)
        assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}.get(kind, -9), err
        assert not [path for path in folder.iterdir() if not path.name.startswith(".")]
        if kind != signal.SIGKILL:
            assert {path.name for path in folder.iterdir()} == {".sae.h5.training"}  # to go on from
        else:
            assert (folder / ".sae.h5.lock").exists()  # the next run takes it over


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--activation", "swish"], 2, "--activation swish: expected one of topk"),
        (["--allow-overlap"], 2, "--allow-overlap: it does nothing without --val"),
        (["--k", "65"], 2, "there are only 64 latents"),
        (["--tokens", "many"], 2, "--tokens many: expected a number such as 500k or 100M"),
        (["--pool-memory", "big"], 2, "--pool-memory big: expected a size"),
        (["--holdout", "0"], 2, "give shards with --val"),
        (["--layer", "4"], 1, "it holds no layer 4, only [3]"),
        (["--batch-size", "100000"], 1, "fewer than one batch of 100000"),
        (["--device", "tpu9"], 2, "--device tpu9"),
        (["--no-such-flag"], 2, "No such option"),
        (["--objective", "mae"], 2, "--objective mae: expected one of mse"),
        (["--optimizer", "sgd"], 2, "--optimizer sgd: expected one of adam"),
        (["--decay", "steps"], 2, "--decay steps: expected one of cosine"),
        (["--normalize", "max"], 2, "--normalize max: expected one of none"),
        (["--b-dec", "zero"], 2, "--b-dec zero: expected one of mean"),
        (["--l0", "1"], 2, "--l0: it does nothing without --activation jumprelu"),
        (["--bandwidth", "1"], 2, "--bandwidth: it does nothing without --activation jumprelu"),
        (["--n-prefixes", "3"], 2, "--n-prefixes: it does nothing without --objective matryoshka"),
        (
            ["--threshold-decay", "0.9"],
            2,
            "--threshold-decay: it does nothing without --activation batchtopk",
        ),
        (["--aux-weight", "1"], 2, "--aux-weight: it does nothing without --aux-k"),
        (["--sparsity-warmup", "0.5"], 2, "--sparsity-warmup: it does nothing without an L1 or L0 penalty"),
        (["--objective", "matryoshka", "--n-prefixes", "65"], 2, "have fewer different prefixes"),
        (["--grad-clip", "0"], 2, "--grad-clip 0.0: expected a number above 0"),
        (["--exclude-labels", "sky"], 2, "--exclude-labels"),
        (["--exclude-labels", "70000"], 2, "expected numbers from 0 to 65535"),
        (["--exclude-labels", "0"], 1, "it holds no patch labels"),
        (["--consume"], 2, "give shards with --val"),
        (["--autocast", "--device", "cpu"], 2, "--autocast: on a CPU it does nothing"),
        (["--sae-memory", "much"], 2, "--sae-memory much: expected a size"),
        (["--wandb", "project"], 1, "--wandb: it is not installed"),
    ],
)
def test_wrong_settings(
    shards: list[Path], tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    done = in_process(*shards, "--out", tmp_path / "sae.h5", *SMALL, *arguments, code=code)
    assert said in error_lines(done)
    assert not list(tmp_path.iterdir())


def test_shards_of_two_models(shards: list[Path], tmp_path: Path) -> None:
    other = write_shards(tmp_path / "other", clustered_acts(40), model="timm/other", n_shards=1)
    said = error_lines(in_process(*shards, *other, "--out", tmp_path / "sae.h5", *SMALL, code=1))
    assert str(other[0]) in said
    assert str(shards[0]) in said
    assert "model: 'timm/test' against 'timm/other'" in said


def test_a_shard_cut_short(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "acts", clustered_acts(80), n_shards=2)
    paths[1].write_bytes(paths[1].read_bytes()[:-1000])
    said = error_lines(in_process(*paths, "--out", tmp_path / "sae.h5", *SMALL, code=1))
    assert str(paths[1]) in said
    assert "cut short" in said


def test_a_folder_with_a_missing_shard(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "acts", clustered_acts(80), n_shards=3)
    paths[1].unlink()
    said = error_lines(in_process(tmp_path / "acts", "--out", tmp_path / "sae.h5", *SMALL, code=1))
    assert "1 of 3 shards are missing (number 1)" in said


def test_no_shards_at_all(tmp_path: Path) -> None:
    said = error_lines(in_process("--out", tmp_path / "sae.h5", stdin="", code=1))
    assert "no activation shards were given" in said
    said = error_lines(in_process(tmp_path / "nowhere", "--out", tmp_path / "sae.h5", code=1))
    assert "no such file or folder" in said


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from train_sae.cli import app;"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "heavy = {'torch', 'timm', 'numba', 'pandas', 'h5py'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
