"""Peak memory of score-traits when the scores do not fit: 50,000 images x 32,768 prototypes, 6.6 GB of scores.

    python benchmarks/score_memory.py                # some minutes, 9 GB of disk in $TMPDIR
    python benchmarks/score_memory.py --images 2000 --prototypes 2000

The shards have few patches and a small width, so that the scores dominate. Prints the peak resident memory of the
process minus that of a process which only starts.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from saetools.files.formats import SHARDS
from saetools.files.provenance import Provenance
from saetools.shards.header import Examples, ShardHeader, shard_name
from saetools.shards.writer import new_shard

PATCHES, WIDTH, TRAITS = 2, 16, 20
SCORE_TRAITS = Path(sys.executable).with_name("score-traits")


def write_split(folder: Path, n_images: int, n_shards: int, rng: np.random.Generator) -> list[str]:
    folder.mkdir()
    paths = [f"{folder.name}/{i}" for i in range(n_images)]
    for index, rows in enumerate(np.array_split(np.arange(n_images), n_shards)):
        header = ShardHeader("timm/none", "0" * 64, [0], "none", {}, n_images, index, n_shards)
        grid = np.tile([1, PATCHES], (len(rows), 1))
        examples = Examples(np.array(paths, object)[rows], rows, np.full(len(rows), -1), grid)
        shape = {"n_patches": PATCHES, "d_model": WIDTH, "dtype": "float32"}
        with new_shard(
            folder / shard_name(index), header, Provenance.of(SHARDS, "benchmark", {}), examples, **shape
        ) as writer:
            writer.append({0: rng.standard_normal((len(rows), PATCHES, WIDTH), dtype=np.float32)})
    return paths


def peak_of(command: list[object]) -> tuple[int, float]:
    """Peak resident bytes and seconds of a process."""
    start = time.perf_counter()
    # A fresh interpreter starts the command, as the peak of all children so far cannot be set back.
    watch = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", watch, *map(str, command)], stdout=subprocess.PIPE, text=True, check=True
    )
    scale = 1 if sys.platform == "darwin" else 1024
    return int(done.stdout) * scale, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--prototypes", type=int, default=32_768)
    parser.add_argument("--memory", default="200MB,1GB", help="one run with each")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    print(
        f"{args.images:,} images x {args.prototypes:,} prototypes: {4e-9 * args.images * args.prototypes:.1f} GB"
    )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        paths = write_split(root / "train", args.images, 10, rng)
        paths += write_split(root / "test", max(100, args.images // 10), 2, rng)
        labels = (rng.random((len(paths), TRAITS)) < 0.1).astype(int)
        lines = [",".join([path, *map(str, row)]) for path, row in zip(paths, labels, strict=True)]
        header = ",".join(["path", *(f"trait {t}" for t in range(TRAITS))])
        (root / "traits.csv").write_text("\n".join([header, *lines]) + "\n")
        shards = ["--train", root / "train", "--test", root / "test", "--traits", root / "traits.csv"]
        base, _ = peak_of([SCORE_TRAITS, *shards, "--scorer", "const"])
        print("\n| --memory | peak, MB | above a run of const alone, MB | seconds |\n|---|---|---|---|")
        for memory in args.memory.split(","):
            spec = ["--scorer", f"random:{args.prototypes}", "--n-train", "1000,all", "--memory", memory]
            peak, seconds = peak_of([SCORE_TRAITS, *shards, *spec])
            print(
                f"| {memory} | {peak / 1e6:,.0f} | {(peak - base) / 1e6:,.0f} | {seconds:,.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
