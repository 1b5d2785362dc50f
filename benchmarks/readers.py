"""How fast two checkouts read the same shards, latents and SAE: python benchmarks/readers.py BEFORE AFTER

Each checkout writes its own files, with the same contents, in a process of its own, and reads them in turns with the
other, so that both see the same load of the machine. The ratio is that of the
shortest times of the processor. Both use this Python.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = {"n": 800, "p": 196, "d": 768, "s": 16384, "active": 32}


def serve(folder: Path) -> None:
    """Write the files, then read what is named on each line of stdin; answer with seconds."""
    import numpy as np
    import torch
    from small_shards import write_shards

    from saetools.files.formats import LATENTS, SCORERS
    from saetools.files.provenance import Provenance
    from saetools.latents.header import LatentsHeader
    from saetools.latents.reader import open_latents
    from saetools.latents.writer import new_latents
    from saetools.scorers.file import load_scorer
    from saetools.scorers.record import TrainedScorer, save_scorer
    from saetools.scorers.sae import SAE, SAEConfig
    from saetools.shards.reader import Shard, open_shards

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    n, p, d, s, active = SIZES.values()
    acts = rng.integers(-9, 9, (n, p, d), np.int8).astype(np.float16)
    (path,) = write_shards(folder / "acts", acts, n_shards=1, dtype="float16")
    examples = Shard(path).examples
    header = LatentsHeader("uid", "sae", s, p, 3, {"model": "m"}, None, None, n, 0, 1)
    (folder / "latents").mkdir()
    target = folder / "latents" / "latents-000000.npz"
    with new_latents(target, header, Provenance.of(LATENTS, "encode-acts", {}), examples) as writer:
        for _ in range(n):
            latents = np.sort(
                rng.integers(0, s // active, (p, active)) + np.arange(active) * (s // active), axis=1
            )
            writer.append(np.full(p, active), latents.ravel(), rng.random(p * active, np.float32))
    weights = torch.randn(d, s), torch.zeros(s), torch.randn(s, d), torch.zeros(d)
    sae = SAE(SAEConfig(d, s, "topk", 32), *weights)
    save_scorer(folder / "sae.h5", TrainedScorer("sae", sae, Provenance.of(SCORERS, "train-sae", {}), {}))
    buffer = np.empty(16 * p * d * 2, np.uint8)

    def read_shards() -> None:
        for shard in open_shards(folder / "acts").shards:
            for start in range(0, n, 16):
                shard.read_acts(3, np.arange(start, start + 16), buffer)

    def read_blocks() -> None:
        for file in open_latents(target).files:
            for start, stop in file.blocks(1 << 20):
                for array in file.images(start, stop):
                    array.max()

    jobs = {
        "shards": read_shards,
        "open a shard": lambda: Shard(path),
        "latents in blocks": read_blocks,
        "largest latents of images": lambda: open_latents(target).image_max(),
        "open latents": lambda: open_latents(target),
        "SAE": lambda: load_scorer(folder / "sae.h5"),
    }
    sizes = {
        "shards": path,
        "latents in blocks": target,
        "largest latents of images": target,
        "SAE": folder / "sae.h5",
    }
    print(json.dumps({name: sizes[name].stat().st_size if name in sizes else 0 for name in jobs}), flush=True)
    for line in sys.stdin:
        forget()
        start_time = time.process_time()
        jobs[line.strip()]()
        print(time.process_time() - start_time, flush=True)


def forget() -> None:
    """Files that were compared before in this process are compared again."""
    from saetools.files import hdf5

    getattr(hdf5, "_compared", {}).clear()


class Checkout:
    def __init__(self, root: Path, folder: Path) -> None:
        folder.mkdir()
        path = [root / "shared", root / "tests" / "support"]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": ":".join(map(str, path))},
        )
        assert self.process.stdout is not None
        self.sizes = json.loads(self.process.stdout.readline())

    def seconds(self, job: str) -> float:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(job + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", nargs="*", type=Path)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--serve", type=Path)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    with tempfile.TemporaryDirectory() as folder:
        sides = [Checkout(root, Path(folder) / str(i)) for i, root in enumerate(args.checkouts)]
        print("| reading | MB | before, ms | after, ms | after / before |\n|---|---|---|---|---|")
        for job, size in sides[1].sizes.items():
            times: list[list[float]] = [[], []]
            for turn in range(2 * args.repeats):
                which = (turn + turn // 2) % 2  # before, after, after, before, ...
                times[which].append(sides[which].seconds(job))
            before, after = (1000 * min(one) for one in times)
            print(
                f"| {job} | {size / 1e6:.0f} | {before:.1f} | {after:.1f} | {after / before:.3f} |",
                flush=True,
            )
        for side in sides:
            side.process.kill()


if __name__ == "__main__":
    main()
