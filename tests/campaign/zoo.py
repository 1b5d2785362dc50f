"""Small inputs for every tool, made by the tools themselves; and the commands that the campaign disturbs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runs import HERE, Command, Server

ROOT = HERE.parents[1]
WEIGHTS = ROOT / "examples/birds/vit.safetensors"
MODEL = ["--model", "timm/test_vit2", "--weights", str(WEIGHTS), "--layers", "7"]
TRAIN = ["--d-sae", "64", "--k", "4", "--tokens", "4k", "--batch-size", "256"]


@dataclass(frozen=True)
class Job:
    """A command that writes into its own folder; {zoo} in its arguments is the folder of the inputs.

    copies: inputs that it changes or continues, (name in the zoo, name in its folder); before it is run again, those
    that it deleted are recorded again. prints: its stdout is data too. other: further options that make another result
    in the same place. keeps: it writes over nothing, so that a run after a complete one refuses.
    """

    name: str
    argv: tuple[str, ...]
    copies: tuple[tuple[str, str], ...] = ()
    prints: bool = False
    other: tuple[str, ...] = ()
    keeps: bool = False

    def prepare(self, zoo: Path, folder: Path) -> None:
        """Make its folder, or give back the inputs that it has deleted."""
        folder.mkdir(parents=True, exist_ok=True)
        for source, target in self.copies:
            for path in sorted((zoo / source).rglob("*")) or [zoo / source]:
                place = folder / target / path.relative_to(zoo / source)
                if path.is_file() and not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(path, place)

    def command(
        self, zoo: Path, cwd: Path, logs: Path, name: str = "run", more: Sequence[str] = ()
    ) -> Command:
        argv = [part.replace("{zoo}", str(zoo)) for part in (*self.argv, *more)]
        return Command(argv, cwd, logs, name)


def _steps() -> Iterator[tuple[str, ...]]:
    """The commands that make the zoo, in order, in its folder."""
    for split in ("train", "test"):
        dump = ("dump-acts", f"birds/parts-{split}.csv", *MODEL, "--workers", "0", "--images-per-shard", "12")
        yield (*dump, "--out", f"acts/{split}")
    # What does not belong to these: another layer, type, grid; without masks.
    yield (
        "dump-acts",
        "birds/parts-test.csv",
        *MODEL[:4],
        "--layers",
        "3",
        "--workers",
        "0",
        "--out",
        "other/layer",
    )
    yield (
        "dump-acts",
        "birds/parts-test.csv",
        *MODEL,
        "--workers",
        "0",
        "--dtype",
        "int8",
        "--out",
        "other/int8",
    )
    yield ("dump-acts", "birds", "--split", "test", *MODEL, "--workers", "0", "--mean", "0.4,0.4,0.4", "--std",
           "0.3,0.3,0.3", "--out", "other/preprocess")  # fmt: skip
    train = ("train-sae", "acts/train", "--val", "acts/test", *TRAIN)
    yield (*train, "--out", "sae.h5")
    yield (*train, "--seed", "1", "--out", "other/seed.h5")
    yield (*train, "--d-sae", "32", "--out", "other/small.h5")
    yield ("score-traits", "--train", "acts/train", "--test", "acts/test", "--traits", "birds", "--scorer", "const",
           "--scorer", "kmeans:8", "--scorer", "sae.h5", "--cache", "cache", "--save-scorer", "fitted", "--out",
           "ap.csv")  # fmt: skip
    for split in ("train", "test"):
        yield ("encode-acts", f"acts/{split}", "--scorer", "sae.h5", "--out", f"latents/{split}")
    yield ("encode-acts", "acts/test", "--scorer", "other/seed.h5", "--out", "other/latents")
    of = ("--train", "latents/train", "--test", "latents/test")
    yield ("fit-probes", *of, "--threads", "1", "--out", "probes")
    yield ("fit-probes", *of, "--threads", "1", "--classes", "1/2", "--out", "parts")
    yield (
        "audit-latents",
        *of,
        "--labels",
        "target",
        "--bootstrap",
        "10",
        "--null",
        "3",
        "--threads",
        "1",
        "--out",
        "audit",
    )
    heads = ("fit-heads", "--train", "acts/train", "--test", "acts/test", "--l2", "1e-1,1e-2", "--folds", "2")
    yield (*heads, "--labels", "target", "--out", "head.h5")
    yield (*heads, "--labels", "patch", "--out", "head-patches.h5")
    yield ("collect-runs", "ap.csv", "--out", "runs.csv")
    yield ("render-visuals", "page", "latents/test", "--images", "birds", "--out", "page")
    yield (
        "render-visuals",
        "latents",
        "latents/test",
        "--images",
        "birds",
        "--random",
        "3",
        "--out",
        "pictures",
    )
    yield ("convert-sae", "sae.h5", "sae.pt")
    yield ("convert-sae", "sae.h5", "saelens")


def build(zoo: Path, server: Server) -> None:
    """Make all inputs below `zoo`."""
    zoo.mkdir(parents=True)
    birds = [sys.executable, str(ROOT / "examples/birds/make_birds.py"), str(zoo / "birds"), "--count", "2"]
    subprocess.run(birds, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.copy2(WEIGHTS, zoo / "vit.safetensors")
    logs = zoo.parent / "zoo-logs"
    for number, argv in enumerate(_steps()):
        done = server.run(Command(argv, zoo, logs, f"{number:02}"))
        if done.code:
            raise SystemExit(
                f"the inputs cannot be made: {' '.join(argv)}: exit code {done.code}\n{done.stderr}"
            )
    (zoo / "sweep.yml").write_text(SWEEP.replace("ZOO", str(zoo)))
    _save_state(zoo, server)


def _save_state(zoo: Path, server: Server) -> None:
    """A training state as SIGTERM leaves it."""
    argv = ("train-sae", "acts/train", "--val", "acts/test", *TRAIN, "--tokens", "100M", "--checkpoint-every", "5",
            "--out", "stopped.h5")  # fmt: skip
    command = Command(argv, zoo, zoo.parent / "zoo-logs", "stopped")
    running = server.start(command)
    deadline = time.monotonic() + 60
    while not (zoo / ".stopped.h5.training").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGTERM)
    server.finish(running, command)
    if not (zoo / ".stopped.h5.training").exists():
        raise SystemExit("train-sae left no training state")


SWEEP = """\
name: tiny
values: {zoo: "ZOO", ks: [2, 4]}
state: .sweep
slurm: {time: "1:00:00", mem: 1G, cpus-per-task: 1}
steps:
  train:
    grid: {k: "{ks}"}
    inputs: {acts: "{zoo}/acts/train"}
    outputs: {sae: "sae/k={k}.h5"}
    command: train-sae {acts} --d-sae 64 --k {k} --tokens 4k --out {sae}
"""

_SPLITS = ("--train", "{zoo}/acts/train", "--test", "{zoo}/acts/test")
_LATENTS = ("--train", "{zoo}/latents/train", "--test", "{zoo}/latents/test")
_PICTURES = ("{zoo}/latents/test", "--images", "{zoo}/birds")
_SAE = ("train-sae", "{zoo}/acts/train", "--val", "{zoo}/acts/test", *TRAIN)

JOBS = (
    Job("dump-acts", ("dump-acts", "{zoo}/birds/parts-test.csv", *MODEL, "--workers", "0", "--images-per-shard", "8",
                      "--out", "acts"), other=("--dtype", "bfloat16")),
    Job("dump-acts, workers", ("dump-acts", "{zoo}/birds", "--split", "train", *MODEL, "--workers", "2",
                               "--images-per-shard", "8", "--out", "acts"), other=("--dtype", "float32")),
    Job("dump-acts, int8", ("dump-acts", "{zoo}/birds/parts-train.csv", *MODEL, "--workers", "0", "--dtype", "int8",
                            "--out", "acts"), other=("--dtype", "float16")),
    Job("train-sae", (*_SAE, "--checkpoint-every", "4", "--out", "sae.h5"), other=("--seed", "7")),
    Job("train-sae, grid", (*_SAE, "--checkpoint-every", "4", "--grid", "seed=0,1 k=2,4", "--out", "grid"),
        other=("--lr", "1e-3")),
    Job("train-sae, consume", ("train-sae", "acts", "--val", "{zoo}/acts/test", *TRAIN, "--tokens", "2400",
                               "--checkpoint-every", "4", "--consume", "--out", "sae.h5"),
        copies=(("acts/train", "acts"),)),
    Job("encode-acts", ("encode-acts", "{zoo}/acts/train", "--scorer", "{zoo}/sae.h5", "--out", "latents"),
        other=("--top", "2")),
    Job("score-traits", ("score-traits", *_SPLITS, "--traits", "{zoo}/birds", "--scorer", "const", "--scorer",
                         "random:8", "--scorer", "kmeans:8", "--scorer", "{zoo}/sae.h5", "--bootstrap", "10",
                         "--cache", "cache", "--save-scorer", "fitted", "--out", "ap.csv"), other=("--seed", "5")),
    Job("fit-probes", ("fit-probes", *_LATENTS, "--threads", "1", "--out", "probes"), other=("--ridge", "1e-3")),
    Job("fit-probes, part", ("fit-probes", *_LATENTS, "--threads", "1", "--classes", "2/2", "--out", "parts"),
        copies=(("parts", "parts"),), other=("--ridge", "1e-3")),
    Job("fit-heads", ("fit-heads", *_SPLITS, "--labels", "patch", "--folds", "3", "--memory", "100kB", "--out",
                      "head.h5"), other=("--seed", "5")),
    Job("edit-latents", ("edit-latents", "{zoo}/birds", *MODEL[2:4], *_SPLITS, "--scorer", "{zoo}/sae.h5", "--head",
                         "{zoo}/head-patches.h5", "--latents", "1,2", "--targets", "1", "--set", "0,2", "--draws", "2",
                         "--resamples", "10", "--keep", "3", "--out", "edits"), other=("--seed", "5")),
    Job("audit-latents", ("audit-latents", *_LATENTS, "--labels", "target", "--bootstrap", "10", "--null", "3",
                          "--threads", "1", "--out", "audit"), other=("--seed", "5")),
    Job("render-visuals page", ("render-visuals", "page", *_PICTURES, "--scorer", "{zoo}/sae.h5", "--table",
                                "{zoo}/ap.csv", "--workers", "2", "--out", "page"), other=("--top", "3")),
    Job("render-visuals latents", ("render-visuals", "latents", *_PICTURES, "--random", "4", "--workers", "2", "--out",
                                   "pictures"), other=("--seed", "5")),
    Job("render-visuals plot", ("render-visuals", "plot", "map", "{zoo}/ap.csv", "--out", "map.svg")),
    Job("collect-runs", ("collect-runs", "{zoo}/ap.csv", "{zoo}/ap.csv", "--by", "scorer", "--out", "runs.csv"),
        other=("--sort", "-map")),
    Job("convert-sae, saev", ("convert-sae", "{zoo}/sae.h5", "sae.pt"), keeps=True),
    Job("convert-sae, SAELens", ("convert-sae", "{zoo}/sae.h5", "saelens"), keeps=True),
    Job("convert-sae, ours", ("convert-sae", "{zoo}/sae.pt", "sae.h5", "--acts", "{zoo}/acts/train"),
        keeps=True),
    Job("expand-sweep", ("expand-sweep", "{zoo}/sweep.yml", "--make"), prints=True),
    Job("expand-sweep, Slurm", ("expand-sweep", "{zoo}/sweep.yml", "--sbatch", "slurm", "--max-array", "8")),
    Job("check-files", ("check-files", "--deep", "{zoo}/acts", "{zoo}/sae.h5", "{zoo}/latents", "{zoo}/probes"),
        prints=True),
)  # fmt: skip
