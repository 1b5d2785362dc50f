"""How long a run will be: its default, and what is said before it starts and when it is stopped."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from pathlib import Path

import h5py
import pytest
from in_process import runner
from processes import BIN
from small_shards import clustered_acts, write_shards

from saetools.cli import progress
from train_sae.cli import app
from train_sae.config import SAETraining
from train_sae.planned import default_tokens

SMALL = ["--d-sae", 32, "--k", 4, "--device", "cpu"]
train = runner("train-sae", app)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_shards(tmp_path_factory.mktemp("acts"), clustered_acts(240), n_shards=4)


def n_patches() -> int:
    return clustered_acts(2).shape[1]


@pytest.mark.parametrize(
    ("epoch", "tokens"), [(1, 10**6), (49_999, 10**6), (98_000, 1_960_000), (10**7, 10**8), (10**9, 10**8)]
)
def test_the_default_is_twenty_epochs_within_bounds(epoch: int, tokens: int) -> None:
    assert default_tokens(epoch) == tokens
    assert SAETraining().n_tokens(epoch) == tokens
    assert SAETraining(tokens="5k").n_tokens(epoch) == 5000
    assert SAETraining(tokens=0).n_tokens(epoch) == 0


@pytest.mark.parametrize(
    ("tokens", "dead_after", "log_every"),
    [
        (10**8, 10**7, 50),  # from here on as in long runs
        (10**9, 10**7, 50),
        (5_120_000, 512_000, 50),
        (600_000, 60_000, 5),
        (60_000, 6_000, 1),
        (5, 1, 1),
    ],
)
def test_what_counts_as_dead_and_the_rows_are_scaled_to_the_run(
    tokens: int, dead_after: int, log_every: int
) -> None:
    found = SAETraining(tokens=tokens).settings(d_model=8, epoch=10**6, holdout=0.0)
    assert (found.step.dead_after_tokens, found.log_every) == (dead_after, log_every)
    given = SAETraining(tokens=tokens, dead_after="7k").settings(8, 10**6, 0.0, log_every=3)
    assert (given.step.dead_after_tokens, given.log_every) == (7000, 3)
    once = SAETraining(tokens=tokens).settings(
        8, 40_960, 0.0, once=True
    )  # of a run that is cut to an epoch, too
    assert once.tokens == min(tokens, 40_960)
    assert once.step.dead_after_tokens == max(1, once.tokens // 10)


def test_the_plan_is_said_before_the_first_step(shards: list[Path], tmp_path: Path) -> None:
    epoch = round(240 * 0.95) * n_patches()
    done = train(*shards, "--out", tmp_path / "a.h5", *SMALL, "--tokens", "10k", "--batch-size", 100)
    assert f"10,000 tokens in 100 steps: {10_000 / epoch:.3g} epochs of {epoch:,} tokens\n" in done.stderr
    assert done.stderr.index("10,000 tokens in") < done.stderr.index("a.h5: L0")
    more = ["--val", shards[0].parent, "--allow-overlap", "--batch-size", 100]
    done = train(*shards, *more, "--out", tmp_path / "b.h5", *SMALL, "--tokens", "10k")
    assert f"epochs of {240 * n_patches():,} tokens\n" in done.stderr


def test_the_default_is_said_and_recorded_and_found_again(shards: list[Path], tmp_path: Path) -> None:
    """Read from a pipe, where only the header of the first shard is known, as from a folder."""
    listed = "".join(f"{path}\n" for path in shards)
    for name, source in (("pipe.h5", "-"), ("pipe.h5", "-"), ("folder.h5", str(shards[0].parent))):
        out = tmp_path / name
        there = out.exists()
        done = train(source, "--out", out, *SMALL, "--batch-size", 2000, stdin=listed)
        assert done.stdout == f"{out}\n"
        said = "(the default: 20 epochs, at least 1M and at most 100M; --tokens sets another number)\n"
        assert (said in done.stderr) == (not there)
        with h5py.File(out) as file:
            assert json.loads(file.attrs["settings"])["tokens"] == 1_000_000
        metrics = out.with_name(f"{out.stem}.metrics.csv").read_text().splitlines()
        assert metrics[-1].split(",")[:2] == ["500", "1000000"]


def test_a_stopped_run_with_the_default_goes_on(shards: list[Path], tmp_path: Path) -> None:
    command = [
        BIN / "train-sae", *shards, "--out", tmp_path / "sae.h5", *SMALL, "--batch-size", 64, "--checkpoint-every", 50,
    ]  # fmt: skip
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / ".sae.h5.training").exists():
        pass
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    stopped = re.search(r"stopped after step ([\d,]+) of 15,625; the same command goes on there\n", said)
    assert stopped, said
    again = subprocess.Popen([*map(str, command)], stderr=subprocess.PIPE, text=True)
    assert again.stderr is not None
    lines = iter(again.stderr.readline, "")
    resumed = next(line for line in lines if "resumes after step" in line)
    again.kill()
    again.communicate(timeout=60)
    assert resumed.endswith(f"resumes after step {stopped[1].replace(',', '')}\n")


def test_the_duration_is_measured_on_the_first_steps(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without the first step, which compiles, and without what an earlier run has done."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with caplog.at_level("INFO"), progress.Progress("training", 100_000, "tokens", "go on") as shown:
        shown.advance(50_000)  # of the earlier run
        now[0] += 60
        shown.advance(10)  # the first step
        for _ in range(40):
            now[0] += 0.1
            shown.advance(10)
    said = [record.message for record in caplog.records if "takes about" in record.message]
    assert said == ["training takes about 8 min at 100 tokens a second; go on"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (40, "40 s"), (720, "12 min"), (12_600, "3.5 h"), (200_000, "2.3 days")],
)
def test_durations_in_words(seconds: float, said: str) -> None:
    assert progress._duration(seconds) == said
