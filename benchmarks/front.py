"""Compares SAEs of train-sae with those of other libraries' trainers on real activations; prints Markdown.

    pip install eai-sparsify sae-lens dictionary-learning            # into a separate environment
    python benchmarks/front.py --train acts/train --validation acts/validation --test acts/test --layer 11 \\
        --folder front --peers /path/to/that/bin/python

Every trainer gets the same tokens in the same order (train-sae's), the same batch size, warm-up and linear decay, as
far as possible (details: benchmarks/front_peers.py), and otherwise its own defaults. For every k, three learning rates
a factor of 2 apart are tried; if the best is at an edge, the next one beyond it is tried too. The best has the lowest
NMSE on --validation. Its setting is trained with three seeds (for initialisation and order of tokens). Only these SAEs
are evaluated on --test, by one definition (`saetools.scorers.evaluation`), each as its library would use it. Printed
are NMSE on --validation by learning rate after every round, and the table of the chosen settings at the end.

SAEs that are already in --folder are not trained again. An SAE with D = 192, S = 512 on 250k tokens takes another
library 15 to 30 seconds on one core, so each k takes about eight minutes, plus two for importing the libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saetools.cli.paths import iterate_paths
from saetools.cli.quantities import parse_count
from saetools.compute.matmul import float32_precision
from saetools.scorers.evaluation import SAEEvaluation
from saetools.scorers.file import load_scorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.shards.reader import open_shards
from saetools.shards.token_source import ShardSource, all_blocks
from train_sae.stream import TokenStream

POOL_BYTES = 2_000_000_000  # train-sae's default, so that the order of tokens is its own
WARMUP, SEEDS = 0.05, (0, 1, 2)
OURS, UNTRAINED = "train-sae", "untrained"
TRAINERS = {
    "topk": (OURS, "dictionary-learning", "sae-lens", "eai-sparsify adam", "eai-sparsify signum"),
    "batchtopk": (OURS, "dictionary-learning", "sae-lens"),
}


@dataclass(frozen=True, order=True)
class Run:
    """One SAE to train."""

    kind: str
    batch_size: int
    trainer: str
    k: int
    lr: float
    seed: int

    @property
    def library(self) -> str:
        return OURS if self.trainer == UNTRAINED else self.trainer.split()[0]

    @property
    def name(self) -> str:
        return f"{self.trainer}_{self.kind}_{self.batch_size}_k{self.k}_lr{self.lr:g}_seed{self.seed}"

    def path(self, folder: Path) -> Path:
        if self.library != OURS:
            return folder / "peers" / f"{self.name}.npz"
        rate = "" if self.trainer == UNTRAINED else f"_lr={self.lr:g}"
        return (
            folder / f"{self.trainer}-{self.kind}-{self.batch_size}" / f"k={self.k}{rate}_seed={self.seed}.h5"
        )


class Worker:
    """A process of benchmarks/front_peers.py: the libraries take longer to import than to train a small SAE."""

    def __init__(self, python: str, folder: Path, library: str, precision: str) -> None:
        command = [python, str(Path(__file__).with_name("front_peers.py")), str(folder), precision]
        self.log = folder / f"{library}.log"
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True
        )

    def train(self, config: dict[str, Any]) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(config) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline().strip() != config["name"]:
            sys.exit(f"{config['name']}: {self.log.read_text()[-2000:]}")


class Bench:
    """Trains runs that are not there yet, and evaluates them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder = args, args.folder
        (self.folder / "peers").mkdir(parents=True, exist_ok=True)
        self.n_tokens = parse_count("--tokens", args.tokens)
        self.precision = (
            float32_precision()
        )  # once, before there are threads: measuring it sets it for a moment
        self._workers: dict[str, Worker] = {}

    def train(self, runs: Iterable[Run]) -> None:
        """One process a library, side by side."""
        missing = sorted(run for run in runs if not run.path(self.folder).exists())
        peers = [run for run in missing if run.trainer not in (OURS, UNTRAINED)]
        for run in peers:  # once, before there are threads
            self._stream(run.batch_size, run.seed)
        self.stored("validation")
        queues: dict[str, list[Run]] = defaultdict(list)
        for run in missing:
            queues[run.library].append(run)
        with ThreadPoolExecutor(len(queues) or 1) as pool:
            for each in [pool.submit(self._train_queue, queue) for queue in queues.values()]:
                each.result()

    def evaluate(self, run: Run, part: str) -> dict[str, float]:
        """The metrics on the tokens of --validation or --test, kept in FOLDER/evaluated."""
        kept = self.folder / "evaluated" / part / f"{run.name}.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            path = run.path(self.folder)
            sae = read_ours(path) if run.library == OURS else read_peer(path, self._tokens("validation"))
            kept.write_text(json.dumps(metrics(sae, self._tokens(part))))
        return json.loads(kept.read_text())

    def stored(self, part: str) -> Path:
        """FOLDER/PART.npy: all tokens of --validation or --test."""
        path = self.folder / f"{part}.npy"
        if not path.exists():
            blocks = all_blocks(open_shards([getattr(self.args, part)]).shards, self.args.layer, ())
            np.save(path, np.concatenate([block.read().numpy() for block in blocks]))
        return path

    def _tokens(self, part: str) -> torch.Tensor:
        return torch.from_numpy(np.load(self.stored(part))).float()

    def _stream(self, batch_size: int, seed: int) -> Path:
        """The tokens in the order in which train-sae takes them."""
        path = self.folder / f"tokens-{batch_size}-seed{seed}.npy"
        if not path.exists():
            shards = iterate_paths([self.args.train], "activation shards")
            source = ShardSource(shards, self.args.layer, 0.0, arriving=False)
            n, unfinished = self.n_tokens // batch_size, path.with_suffix(".unfinished")
            shape = (n * batch_size, source.d_model)
            tokens_nd = np.lib.format.open_memmap(unfinished, "w+", source.dtype, shape)
            for i, x_bd in enumerate(islice(TokenStream(source, batch_size, POOL_BYTES, seed), n)):
                tokens_nd[i * batch_size : (i + 1) * batch_size] = x_bd.numpy()
            tokens_nd.flush()
            unfinished.rename(path)
        return path

    def _train_queue(self, runs: list[Run]) -> None:
        """All of one library."""
        library = runs[0].library
        if library == OURS:
            for _, group in groupby(runs, lambda run: (run.trainer, run.kind, run.batch_size)):
                self._train_ours(list(group))
            return
        if library not in self._workers:
            self._workers[library] = Worker(self.args.peers, self.folder / "peers", library, self.precision)
        for run in runs:
            config = {"trainer": run.trainer, "kind": run.kind, "k": run.k, "batch_size": run.batch_size}
            config |= {"lr": run.lr, "seed": run.seed, "name": run.name}
            config |= {"d_sae": self.args.d_sae, "warmup": WARMUP, "check": str(self.stored("validation"))}
            self._workers[library].train(config | {"tokens": str(self._stream(run.batch_size, run.seed))})

    def _train_ours(self, runs: list[Run]) -> None:
        """By one command; runs with one seed share a stream."""
        out = runs[0].path(self.folder).parent
        sweep = out.with_name(f"{out.name}-{os.getpid()}.json")  # which is YAML too
        trained = runs[0].trainer == OURS
        rate = {run: {"lr": f"{run.lr:g}"} if trained else {} for run in runs}
        sweep.write_text(
            json.dumps({"runs": [{"k": run.k} | rate[run] | {"seed": run.seed} for run in runs]})
        )
        command = [
            Path(sys.executable).with_name("train-sae"),
            self.args.train,
            "--val",
            self.args.validation,
        ]
        command += ["--layer", self.args.layer, "--out", out, "--sweep", sweep, "--d-sae", self.args.d_sae]
        command += ["--activation", runs[0].kind, "--batch-size", runs[0].batch_size]
        command += ["--warmup", WARMUP, "--decay", "linear", "--tokens", self.n_tokens if trained else 0]
        subprocess.run(list(map(str, command)), check=True)


def read_ours(path: Path) -> SAE:
    sae = load_scorer(path).scorer
    assert isinstance(sae, SAE)
    return sae


def read_peer(path: Path, tokens_nd: torch.Tensor) -> SAE:
    """The SAE as we would use it; its reconstructions of validation tokens are compared with the library's own."""
    arrays = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    w_enc, b_enc, w_dec, b_dec = (
        arrays[name].float().contiguous() for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    )
    k = int(arrays["k"]) if "k" in arrays else None
    threshold = None if k else arrays["threshold"].float().expand(len(b_enc)).clone()
    config = SAEConfig(len(b_dec), len(b_enc), "topk" if k else "jumprelu", k)
    sae = SAE(config, w_enc, b_enc, w_dec, b_dec, threshold)
    theirs_nd = arrays["x_hat"]
    ours_nd = sae.decode(sae.encode(tokens_nd[: len(theirs_nd)]))
    assert (ours_nd - theirs_nd).abs().max() < 1e-4 * theirs_nd.abs().max(), path
    return sae


def metrics(sae: SAE, tokens_nd: torch.Tensor) -> dict[str, float]:
    evaluation = SAEEvaluation(sae.config.d_model, sae.config.d_sae)
    for x_bd in tokens_nd.split(2048):
        evaluation.add(sae, x_bd)
    return evaluation.summary()


Cell = tuple[str, int, str, int]  # kind, batch size, trainer, k


def search(bench: Bench, cells: list[Cell]) -> dict[Cell, dict[float, float]]:
    """Validation NMSE by rate, for every cell: three rates, and more until the best of them is not at an edge."""
    found: dict[Cell, dict[float, float]] = {cell: {} for cell in cells}
    wanted = {cell: set(map(float, bench.args.rates.split(","))) for cell in cells}
    while any(wanted.values()):
        bench.train(Run(*cell, lr, 0) for cell, rates in wanted.items() for lr in rates)
        for cell, rates in wanted.items():
            for lr in rates:
                found[cell][lr] = bench.evaluate(Run(*cell, lr, 0), "validation")["nmse"]
        print_grid(found)
        wanted = {cell: beyond(nmse_of) for cell, nmse_of in found.items()}
    return found


def print_grid(found: dict[Cell, dict[float, float]]) -> None:
    """After every round: NMSE on --validation by rate, seed 0."""
    rates = sorted({lr for nmse_of in found.values() for lr in nmse_of})
    print("| SAE | batch | k | trainer | " + " | ".join(f"{lr:g}" for lr in rates) + " |")
    print("|---|---:|---:|---|" + "---:|" * len(rates))
    for (kind, batch_size, trainer, k), nmse_of in found.items():
        cells = [kind, f"{batch_size}", f"{k}", trainer]
        cells += [f"{nmse_of[lr]:.4f}" if lr in nmse_of else "" for lr in rates]
        print("| " + " | ".join(cells) + " |")
    print(flush=True)


def beyond(nmse_of: dict[float, float]) -> set[float]:
    """The next rate where the best is the first or the last."""
    best = min(nmse_of, key=nmse_of.__getitem__)
    return {float(f"{best * factor:g}") for end, factor in ((min, 0.5), (max, 2.0)) if best == end(nmse_of)}


def report(bench: Bench, found: dict[Cell, dict[float, float]]) -> None:
    best = {cell: min(nmse_of, key=nmse_of.__getitem__) for cell, nmse_of in found.items()}
    starts = {(kind, batch_size, UNTRAINED, k): 0.0 for kind, batch_size, _, k in found}
    bench.train(Run(*cell, lr, seed) for cell, lr in (best | starts).items() for seed in SEEDS)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    print(f"{machine}; S = {bench.args.d_sae}, {bench.n_tokens:,} tokens, seeds {SEEDS}\n")
    print(
        "| SAE | batch | k | trainer | rates (**chosen**) | validation NMSE | NMSE | standardized | L0 | dead |"
    )
    print("|---|---:|---:|---|---|---:|---:|---:|---:|---:|")
    rows = sorted((best | starts).items(), key=lambda row: (row[0][0], row[0][1], row[0][3], row[0][2]))
    for cell, lr in rows:
        kind, batch_size, trainer, k = cell
        runs = [Run(*cell, lr, seed) for seed in SEEDS]
        validation = [bench.evaluate(run, "validation") for run in runs]
        test = [bench.evaluate(run, "test") for run in runs]
        rates = [f"**{rate:g}**" if rate == lr else f"{rate:g}" for rate in sorted(found.get(cell, ()))]
        cells = [kind, f"{batch_size}", f"{k}", trainer, " ".join(rates), spread(validation, "nmse", ".4f")]
        cells += [spread(test, name, ".4f") for name in ("nmse", "nmse_standardized")]
        cells += [spread(test, "l0", ".1f"), spread(test, "dead", ".1%")]
        print("| " + " | ".join(cells) + " |")


def spread(found: list[dict[str, float]], name: str, style: str) -> str:
    """Mean and standard deviation."""
    values = [each[name] for each in found]
    mean, sd = f"{np.mean(values):{style}}", f"{np.std(values, ddof=1):{style}}"
    return mean if len(set(values)) == 1 else f"{mean} ± {sd}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for part in ("train", "validation", "test"):
        parser.add_argument(f"--{part}", type=Path, required=True)
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="what is trained is kept here")
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the other libraries")
    parser.add_argument("--kinds", default="topk", help="topk,batchtopk")
    parser.add_argument("--batch-sizes", default="1024")
    parser.add_argument("--ks", default="16,32")
    parser.add_argument("--rates", default="2e-3,4e-3,8e-3", help="a factor of 2 apart")
    parser.add_argument("--tokens", default="250k")
    parser.add_argument("--trainers", default=",".join(TRAINERS["topk"]))
    parser.add_argument("--d-sae", type=int, default=512)
    args = parser.parse_args()
    bench = Bench(args)
    cells = [
        (kind, int(batch_size), trainer, int(k))
        for kind in args.kinds.split(",")
        for batch_size in args.batch_sizes.split(",")
        for k in args.ks.split(",")
        for trainer in TRAINERS[kind]
        if trainer in args.trainers.split(",")
    ]
    report(bench, search(bench, cells))


if __name__ == "__main__":
    main()
