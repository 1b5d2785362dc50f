"""What Slurm sends before a time limit: dump-acts stops with complete shards, and the same command goes on.

That train-sae goes on to the same weights is tested with its resuming.
"""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from processes import BIN, Tool
from tiny_models import VIT, make_folder, save_timm_weights

from saetools.shards.reader import Shard, ShardSet, open_shards

SHARDS = 12


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("data")
    images = make_folder(folder / "images", {"bee": SHARDS, "ant": SHARDS})
    weights = save_timm_weights(folder / "vit.pth")
    model = ["--model", VIT, "--layers", "1", "--weights", weights, "--device", "cpu"]
    return [images, *model, "--images-per-shard", 2, "--batch-size", 1, "--workers", 0, "--out"]


@pytest.fixture(scope="module")
def whole(arguments: list[object], tmp_path_factory: pytest.TempPathFactory, tool: Tool) -> ShardSet:
    out = tmp_path_factory.mktemp("whole") / "acts"
    tool("dump-acts", *arguments, out)
    return open_shards([out])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_dump_acts_stops_with_whole_shards_and_goes_on(
    tmp_path: Path, tool: Tool, arguments: list[object], whole: ShardSet, number: int
) -> None:
    out = tmp_path / "acts"
    command = [str(BIN / "dump-acts"), *map(str, arguments), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    first = Path(process.stdout.readline().strip())
    process.send_signal(number)
    process.stdout.close()
    assert process.wait(timeout=60) in (128 + number, -number)
    kept = Shard(first).provenance.uid
    names = [path.name for path in out.glob("shard-*.h5")]
    assert 1 <= len(names) < SHARDS
    for name in names:
        Shard(out / name)  # whole, or this raises

    tool("dump-acts", *arguments, out)
    assert Shard(first).provenance.uid == kept
    found = open_shards([out])
    assert found.paths == whole.paths
    for mine, other in zip(found.shards, whole.shards, strict=True):
        np.testing.assert_array_equal(mine.stored(1), other.stored(1))
