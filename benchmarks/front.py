"""SAEs on real activations, NMSE at equal L0, beside those of other libraries' trainers; prints Markdown.

    pip install eai-sparsify sae-lens dictionary-learning            # into an environment of their own
    python benchmarks/front.py --train acts/train --val acts/test --layer 11 --folder front \
        --peers /path/to/that/bin/python                             # half an hour on 2 cores, most of it theirs

Every library trains on the same tokens, the batches of 4,096 that train-sae draws, or these cut into smaller ones
(how: benchmarks/front_peers.py). All are evaluated by one definition, `saetools.sae_metrics`, on the tokens of
--val, each in the form in which its library would use it. What is in --folder already is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from saetools.matmul import float32_precision
from saetools.paths import iterate_paths
from saetools.quantities import parse_count
from saetools.sae import SAE, SAEConfig
from saetools.sae_metrics import SAEEvaluation
from saetools.scorer_file import load_scorer
from saetools.shard_reader import open_shards
from saetools.token_source import ShardSource, all_blocks
from train_sae.stream import TokenStream

BATCH, KS = 4096, (8, 16, 32, 64)
# Library, kind, inputs, batch size, and learning rates; None is the library's own.
PEERS = [
    ("eai-sparsify", "topk-signum", "raw", 4096, (4.4e-3, None)),
    ("sae-lens", "topk", "raw", 4096, (3e-3,)),
    ("sae-lens", "topk", "raw", 1024, (1.5e-3,)),
    ("sae-lens", "batchtopk", "raw", 4096, (3e-3,)),
    ("dictionary-learning", "topk", "normalised", 4096, (1.7e-3,)),
    ("dictionary-learning", "batchtopk", "normalised", 4096, (1.7e-3,)),
]
OURS = ["--warmup", 0.2, "--decay", "linear", "--grid", "batch_size=512,1024 lr=4e-3 k=8,16,32,64"]


@dataclass(frozen=True)
class Trained:
    """One SAE and how it does on the test tokens."""

    library: str
    name: str
    k: int
    nmse: float
    l0: float
    dead: float

    def at_most(self, other: Trained) -> bool:
        """Whether it needs no more latents per token, to within half a percent."""
        return self.l0 <= 1.005 * other.l0


def store_tokens(args: argparse.Namespace) -> None:
    """FOLDER/train.npy, the tokens in the order in which train-sae takes them, and test.npy."""
    train, test = args.folder / "train.npy", args.folder / "test.npy"
    if not train.exists():
        source = ShardSource(
            iterate_paths([args.train], "activation shards"), args.layer, 0.0, arriving=False
        )
        n = parse_count("--tokens", args.tokens) // BATCH
        tokens_nd = np.lib.format.open_memmap(train, "w+", source.dtype, (n * BATCH, source.d_model))
        for i, x_bd in enumerate(islice(TokenStream(source, BATCH, 2_000_000_000, 0), n)):
            tokens_nd[i * BATCH : (i + 1) * BATCH] = x_bd.numpy()
        tokens_nd.flush()
    if not test.exists():
        blocks = all_blocks(open_shards([args.val]).shards, args.layer, ())
        np.save(test, np.concatenate([block.read().numpy() for block in blocks]))


def train_peers(args: argparse.Namespace) -> None:
    """FOLDER/peers/NAME.npz of each of PEERS; one process a SAE."""
    folder = args.folder / "peers"
    folder.mkdir(exist_ok=True)
    script = Path(__file__).with_name("front_peers.py")
    command = [args.peers, script, args.folder / "train.npy", args.folder / "test.npy", folder]
    command.append(float32_precision())
    for library, kind, inputs, batch_size, rates in PEERS:
        for lr in rates:
            for k in KS:
                name = f"{library}_{kind}_{k}_{batch_size}_{'default' if lr is None else lr}"
                if (folder / f"{name}.npz").exists():
                    continue
                config = {"library": library, "kind": kind, "inputs": inputs, "k": k, "lr": lr, "name": name}
                config |= {"d_sae": args.d_sae, "batch_size": batch_size}
                text = json.dumps([config])
                done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{name}: {done.stderr.strip()[-2000:]}")


def train_ours(args: argparse.Namespace) -> None:
    """FOLDER/ours/*.h5 by one train-sae, and its wall time in ours.json."""
    folder = args.folder / "ours"
    command = ["train-sae", args.train, "--val", args.val, "--layer", args.layer, "--out", folder]
    command += ["--d-sae", args.d_sae, "--tokens", args.tokens, *OURS]
    if folder.exists():
        return
    line = shlex.join(str(word) for word in command)
    start = time.monotonic()
    subprocess.run([Path(sys.executable).with_name("train-sae"), *map(str, command[1:])], check=True)
    (args.folder / "ours.json").write_text(json.dumps({"command": line, "seconds": time.monotonic() - start}))


def evaluate(sae: SAE, test_nd: torch.Tensor) -> dict[str, float]:
    evaluation = SAEEvaluation(sae.config.d_model, sae.config.d_sae)
    for x_bd in test_nd.split(2048):
        evaluation.add(sae, x_bd)
    return evaluation.summary()


def read_peer(path: Path, test_nd: torch.Tensor) -> SAE:
    """The SAE as we would use it; its reconstructions are compared with the library's own."""
    arrays = {name: torch.from_numpy(value) for name, value in np.load(path).items()}
    w_enc, b_enc, w_dec, b_dec = (
        arrays[name].float().contiguous() for name in ("W_enc", "b_enc", "W_dec", "b_dec")
    )
    k = int(arrays["k"]) if "k" in arrays else None
    threshold = None if k else arrays["threshold"].float().expand(len(b_enc)).clone()
    config = SAEConfig(len(b_dec), len(b_enc), "topk" if k else "jumprelu", k)
    sae = SAE(config, w_enc, b_enc, w_dec, b_dec, threshold)
    theirs_nd = arrays["x_hat"]
    ours_nd = sae.decode(sae.encode(test_nd[: len(theirs_nd)]))
    assert (ours_nd - theirs_nd).abs().max() < 1e-4 * theirs_nd.abs().max(), path
    return sae


def trained(folder: Path) -> Iterator[Trained]:
    """All SAEs in the folder, evaluated."""
    test_nd = torch.from_numpy(np.load(folder / "test.npy")).float()
    for path in sorted(folder.glob("ours/*.h5")):
        sae = load_scorer(path).scorer
        assert isinstance(sae, SAE) and sae.config.k is not None
        found = evaluate(sae, test_nd)
        yield Trained("train-sae", path.stem, sae.config.k, found["nmse"], found["l0"], found["dead"])
    for path in sorted(folder.glob("peers/*.npz")):
        library, kind, k, batch_size, _ = path.stem.split("_")
        found = evaluate(read_peer(path, test_nd), test_nd)
        name = f"{kind}, batch {batch_size}, lr {float(np.load(path)['lr']):.2g}"
        yield Trained(library, name, int(k), found["nmse"], found["l0"], found["dead"])


def report(args: argparse.Namespace) -> None:
    everything = list(trained(args.folder))
    ours = [sae for sae in everything if sae.library == "train-sae"]
    theirs = [sae for sae in everything if sae.library != "train-sae"]
    made = json.loads((args.folder / "ours.json").read_text())
    print(f"    {made['command']}\n")
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    print(f"{machine}: {len(ours)} SAEs in {made['seconds'] / 60:.1f} minutes.\n")

    def best_at(l0_of: Trained) -> Trained:
        return min((sae for sae in ours if sae.at_most(l0_of)), key=lambda sae: sae.nmse, default=l0_of)

    print("| k | library | its best SAE | L0 | NMSE | train-sae | L0 | NMSE | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for k in KS:
        for library in dict.fromkeys(sae.library for sae in theirs):
            rivals = [sae for sae in theirs if sae.library == library and sae.k == k]
            best = min(rivals, key=lambda sae: sae.nmse / best_at(sae).nmse)
            mine = best_at(best)
            cells = [f"{k}", library, best.name, f"{best.l0:.1f}", f"{best.nmse:.4f}"]
            cells += [mine.name, f"{mine.l0:.1f}", f"{mine.nmse:.4f}", f"{best.nmse / mine.nmse:.3f}"]
            print("| " + " | ".join(cells) + " |")
    beaten = sum(best_at(sae).nmse < sae.nmse for sae in theirs)
    print(
        f"\nOf the other libraries' {len(theirs)} SAEs, {beaten} have an SAE of the sweep below them: as few active"
    )
    print("latents (to 0.5%) and a smaller NMSE.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--layer", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="what is trained is kept here")
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the other libraries")
    parser.add_argument("--part", choices=["ours", "peers", "table", "all"], default="all")
    parser.add_argument("--tokens", default="1M")
    parser.add_argument("--d-sae", type=int, default=2048)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    store_tokens(args)
    if args.part in ("ours", "all"):
        train_ours(args)
    if args.part in ("peers", "all"):
        train_peers(args)
    if args.part in ("table", "all"):
        report(args)


if __name__ == "__main__":
    main()
