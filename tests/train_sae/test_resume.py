"""A training run that was stopped, in whatever way, goes on to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from in_process import runner
from processes import BIN, Tool, error_lines
from small_shards import clustered_acts, write_shards

from saetools.shards.token_source import ShardSource
from train_sae import loop
from train_sae.cli import app
from train_sae.resuming import state_path
from train_sae.stream import TokenStream

SMALL = [
    "--d-sae",
    64,
    "--k",
    4,
    "--batch-size",
    256,
    "--tokens",
    "10k",
    "--log-every",
    10,
    "--device",
    "cpu",
]
train = runner("train-sae", app)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_shards(tmp_path_factory.mktemp("acts"), clustered_acts(240), n_shards=4)


def contents(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][...] for name in file}


def assert_same(one: Path, other: Path) -> None:
    """The same weights, the same evaluation, and the same metrics but for the speed."""
    mine, others = contents(one), contents(other)
    assert mine.keys() == others.keys()
    for name in mine:
        np.testing.assert_array_equal(mine[name], others[name])
    tables = [pd.read_csv(path.with_name(f"{path.stem}.metrics.csv")) for path in (one, other)]
    tables = [table.drop(columns=["tokens_per_second", "read_mb_per_second"]) for table in tables]
    pd.testing.assert_frame_equal(*tables)


class Crash(Exception):
    pass


def crash_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch of that step, counted from here, never comes."""
    left = step
    real = loop.next_batch

    def next_batch(*args: object) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise Crash
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "next_batch", next_batch)


@pytest.mark.parametrize(
    "flags",
    [
        ["--objective", "matryoshka"],
        ["--activation", "batchtopk", "--aux-k", 8, "--dead-after", "2k"],
        ["--activation", "relu", "--sparsity-warmup", 0.7, "--decay", "linear", "--log-every", 7],
        ["--activation", "jumprelu", "--objective", "matryoshka", "--grad-clip", 0.01],
        ["--optimizer", "muon", "--tokens", "6k"],
        ["--pool-memory", "20kB", "--tokens", "15k"],
    ],
    ids=lambda flags: " ".join(map(str, flags)),
)
def test_whatever_is_trained(
    flags: list[object], shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(*shards, "--out", tmp_path / "whole.h5", *SMALL, *flags)
    for crashes_after in (8, 7):
        with monkeypatch.context() as patch, pytest.raises(Crash):
            crash_at(crashes_after, patch)
            train(*shards, "--out", tmp_path / "stopped.h5", *SMALL, *flags, "--checkpoint-every", 6)
    done = train(*shards, "--out", tmp_path / "stopped.h5", *SMALL, *flags, "--checkpoint-every", 6)
    assert "resumes after step 12" in done.stderr  # saved at 6, then 7 more
    assert_same(tmp_path / "whole.h5", tmp_path / "stopped.h5")
    assert not state_path(tmp_path / "stopped.h5").exists()


def test_a_state_beside_a_finished_file_is_removed(shards: list[Path], tmp_path: Path) -> None:
    """The run was ended after it had written the file, before it could remove its state."""
    out, command = tmp_path / "sae.h5", [*shards, "--out", tmp_path / "sae.h5", *SMALL]
    train(*command)
    state_path(out).write_bytes(b"of the last step")
    assert "it is trained already" in train(*command).stderr
    assert not state_path(out).exists()


def test_killed_at_random_moments(tool: Tool, shards: list[Path], tmp_path: Path) -> None:
    long = [*SMALL, "--tokens", "500k", "--checkpoint-every", 150]
    train(*shards, "--out", tmp_path / "whole.h5", *long)
    out = tmp_path / "killed.h5"
    rng = np.random.default_rng(int.from_bytes(os.urandom(4), "little"))
    kills, saved = 0, b""
    while kills < 2:
        process = subprocess.Popen([str(part) for part in [BIN / "train-sae", *shards, "--out", out, *long]])
        while process.poll() is None and (
            not state_path(out).exists() or state_path(out).read_bytes() == saved
        ):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.15))  # any moment will do
        if process.poll() is not None:
            break  # it was done before it was its turn
        process.kill()
        process.wait()
        saved, kills = state_path(out).read_bytes(), kills + 1
        assert not out.exists()
    assert kills > 0
    done = tool("train-sae", *shards, "--out", out, *long)
    assert kills < 2 or "resumes after step" in done.stderr
    assert_same(tmp_path / "whole.h5", out)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138), (signal.SIGINT, 130)],
)
def test_a_signal_saves_and_stops(
    number: signal.Signals, code: int, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sae.h5"
    train(*shards, "--out", tmp_path / "whole.h5", *SMALL)
    real, steps = loop.Trainer.step, 0

    def step(self: loop.Trainer, x_bd: object) -> object:
        nonlocal steps
        steps += 1
        if steps == 17:
            signal.raise_signal(number)
        return real(self, x_bd)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "step", step)
        err = train(*shards, "--out", out, *SMALL, code=code).stderr
    assert ("interrupted" if number == signal.SIGINT else f"stopped by {number.name}") in err
    assert {path.name for path in tmp_path.iterdir() if "whole" not in path.name} == {".sae.h5.training"}
    assert "resumes after step 17" in train(*shards, "--out", out, *SMALL).stderr
    assert_same(tmp_path / "whole.h5", out)


def batches_before_the_third(shards: list[Path]) -> int:
    """Batches that the stream draws from two shards before it asks for the third one."""
    drawn = 0

    def arriving() -> Iterator[Path]:
        yield from shards[:2]
        raise EOFError

    with pytest.raises(EOFError):
        for _ in TokenStream(ShardSource(arriving(), None, 0.05, arriving=True), 256, 2 * 10**9, 0):
            drawn += 1
    assert drawn > 0
    return drawn


def saved_steps(out: Path) -> int:
    """Steps in the saved state, which is replaced as a whole; 0 before the first."""
    if not state_path(out).exists():
        return 0
    with h5py.File(state_path(out)) as file:
        return int(file.attrs["n_steps"])


def test_a_signal_while_waiting_for_shards(shards: list[Path], tmp_path: Path) -> None:
    """The state is saved although the next shard never comes, and the order of arrival is checked later."""
    out = tmp_path / "sae.h5"
    command = [str(part) for part in [BIN / "train-sae", "-", "--out", out, *SMALL, "--checkpoint-every", 1]]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdin is not None
    process.stdin.write(f"{shards[0]}\n{shards[1]}\n")
    process.stdin.flush()
    while process.poll() is None and saved_steps(out) < batches_before_the_third(shards):
        time.sleep(0.02)
    before = state_path(out).stat().st_ino
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 138, err
    assert state_path(out).stat().st_ino != before
    listed = "".join(f"{shards[i]}\n" for i in (1, 0, 2, 3))
    done = subprocess.run(command, input=listed, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "on other shards, or in another order" in error_lines(done)
    command = command[:-2]
    listed = "".join(f"{path}\n" for path in shards)
    done = subprocess.run(command, input=listed, capture_output=True, text=True, check=True)
    assert "resumes after step" in done.stderr
    subprocess.run(
        [*command[:3], tmp_path / "whole.h5", *command[4:]],
        input=listed,
        capture_output=True,
        text=True,
        check=True,
    )
    assert_same(tmp_path / "whole.h5", out)


def test_other_settings_or_shards_are_refused(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sae.h5"
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_at(9, patch)
        train(*shards, "--out", out, *SMALL, "--checkpoint-every", 4)
    said = error_lines(train(*shards, "--out", out, *SMALL, "--lr", 5e-4, code=1))
    assert "unfinished run with other settings: lr: 0.001 against 0.0005" in said
    said = error_lines(train(*shards[:3], "--out", out, *SMALL, "--allow-incomplete", code=1))
    assert "on other shards" in said
    state_path(out).write_bytes(state_path(out).read_bytes()[:-2000])
    assert "cut short" in error_lines(train(*shards, "--out", out, *SMALL, code=1))


def test_without_checkpoints_nothing_is_saved(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Crash):
        crash_at(20, patch)
        train(*shards, "--out", tmp_path / "sae.h5", *SMALL, "--checkpoint-every", 0)
    assert not list(tmp_path.iterdir())
