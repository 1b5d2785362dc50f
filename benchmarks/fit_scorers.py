"""Time and memory of fitting k-means and PCA on shards, against scikit-learn in memory; prints Markdown.

    python benchmarks/fit_scorers.py
    python benchmarks/fit_scorers.py --prototypes 32768 --width 1024 --images 334 --passes 1 --ours-alone

Each row runs in its own process, for a separate peak memory. Distortion is the mean squared distance of a patch to its
nearest centroid, on the same patches.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saetools.files.formats import SHARDS
from saetools.files.provenance import Provenance
from saetools.shards.header import Examples, ShardHeader, shard_name
from saetools.shards.reader import ShardSet, open_shards
from saetools.shards.writer import new_shard
from score_traits.fitted_scorers import fit_kmeans, fit_pca, token_blocks

CPU = torch.device("cpu")


def write_patches(folder: Path, args: argparse.Namespace) -> None:
    """Patches around 500 centres, in four shards."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((500, args.width), dtype=np.float32)
    for index, rows in enumerate(np.array_split(np.arange(args.images), 4)):
        header = ShardHeader("timm/none", "0" * 64, [0], "none", {}, args.images, index, 4)
        grid = np.tile([1, args.patches], (len(rows), 1))
        paths = np.array([str(row) for row in rows], object)
        examples = Examples(paths, rows, np.full(len(rows), -1), grid)
        shape = {"n_patches": args.patches, "d_model": args.width, "dtype": "float16"}
        with new_shard(
            folder / shard_name(index), header, Provenance.of(SHARDS, "benchmark", {}), examples, **shape
        ) as writer:
            for _ in rows:
                own = centres[rng.integers(500, size=args.patches)]
                noise = rng.standard_normal(own.shape, dtype=np.float32)
                writer.append({0: (own + 0.7 * noise)[None]})


def patches_in_memory(shards: ShardSet) -> np.ndarray:
    return torch.cat(list(token_blocks(shards, 0))).numpy()


def ours(shards: ShardSet, args: argparse.Namespace) -> np.ndarray:
    fit = fit_kmeans(shards, 0, args.prototypes, 0, CPU, max_passes=args.passes, tolerance=0)
    return fit.scorer.vectors.numpy()


def lloyd(shards: ShardSet, args: argparse.Namespace) -> np.ndarray:
    from sklearn.cluster import KMeans

    fit = KMeans(args.prototypes, init="random", n_init=1, max_iter=args.passes, tol=0, random_state=0)
    return fit.fit(patches_in_memory(shards)).cluster_centers_


def mini_batch(shards: ShardSet, args: argparse.Namespace) -> np.ndarray:
    from sklearn.cluster import MiniBatchKMeans

    fit = MiniBatchKMeans(args.prototypes, init="random", n_init=1, batch_size=4096, random_state=0)
    blocks = max(1, args.prototypes // 4096 + 1)
    for _ in range(args.passes):
        held: list[np.ndarray] = []
        for block_bd in token_blocks(shards, 0):
            held.append(block_bd.numpy())
            if len(held) >= blocks:
                fit.partial_fit(np.concatenate(held))
                held = []
    return fit.cluster_centers_


def pca_ours(shards: ShardSet, args: argparse.Namespace) -> None:
    fit_pca(shards, 0, args.components, CPU)


def pca_incremental(shards: ShardSet, args: argparse.Namespace) -> None:
    from sklearn.decomposition import IncrementalPCA

    fit = IncrementalPCA(args.components)
    for block_bd in token_blocks(shards, 0):
        fit.partial_fit(block_bd.numpy())


def distortion(shards: ShardSet, centroids_kd: np.ndarray) -> float:
    centroids = torch.from_numpy(np.ascontiguousarray(centroids_kd, np.float32))
    total, n = 0.0, 0
    for block_bd in token_blocks(shards, 0):
        for x_bd in block_bd.split(2048):
            total += torch.cdist(x_bd, centroids).amin(1).square().sum().item()
            n += len(x_bd)
    return total / n


def measure(run: Callable[..., Any], folder: Path, args: argparse.Namespace, results: Any) -> None:
    torch.set_num_threads(args.threads)
    shards = open_shards([folder])
    wall, processor = time.perf_counter(), time.process_time()
    found = run(shards, args)
    times = time.perf_counter() - wall, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    quality = distortion(shards, found) if found is not None and not args.ours_alone else float("nan")
    results.put((*times, peak, quality))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=250)
    parser.add_argument("--patches", type=int, default=196)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--prototypes", type=int, default=1024)
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--ours-alone", action="store_true")
    args = parser.parse_args()
    rows: dict[str, Callable[..., Any]] = {"k-means, ours": ours, "PCA, ours": pca_ours}
    if not args.ours_alone:
        rows |= {
            "k-means, scikit-learn KMeans (in memory)": lloyd,
            "k-means, scikit-learn MiniBatchKMeans": mini_batch,
            "PCA, scikit-learn IncrementalPCA": pca_incremental,
        }
    tokens = args.images * args.patches
    sizes = f"{tokens:,} patches of width {args.width}, K = {args.prototypes:,}"
    print(f"{sizes}, {args.passes} passes, {args.threads} threads")
    print("\n| way | seconds | CPU seconds | peak, MB | distortion |\n|---|---|---|---|---|")
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_patches(folder, args)
        for what, run in rows.items():
            results = spawn.Queue()
            process = spawn.Process(target=measure, args=(run, folder, args, results))
            process.start()
            wall, processor, peak, quality = results.get()
            process.join()
            shown = "" if np.isnan(quality) else f"{quality:.2f}"
            print(f"| {what} | {wall:.1f} | {processor:.1f} | {peak:,.0f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
