"""Speed of reading shuffled tokens from shards, and how well they are mixed; prints Markdown.

    python benchmarks/stream.py              # writes 4 GB of shards into a temporary folder, some minutes
    python benchmarks/stream.py --quick      # 200 MB: tests that it runs

Cold: the shards are first dropped from the page cache (posix_fadvise); plain reading of the same files in blocks of 16
MB alternates with the stream. The speed of disks changes from minute to minute, so the ratio is the median over
neighbouring pairs. Warm: everything was read before; compared with the machine's memory copy (numpy, one large array
into another, bytes copied per second). All other times are minima.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

from saetools.files.formats import SHARDS
from saetools.files.provenance import Provenance
from saetools.shards.header import Examples, ShardHeader, shard_name
from saetools.shards.token_source import ShardSource
from saetools.shards.writer import new_shard
from train_sae.stream import TokenStream
from train_sae.tracking import batch_entropy

BATCH, PATCHES, WIDTH = 4096, 196, 768


def write(folder: Path, n_bytes: int, n_shards: int) -> list[Path]:
    """float16 shards; the first value of a token is its image's number modulo 2,048."""
    n_images = n_bytes // (2 * PATCHES * WIDTH)
    rng = np.random.default_rng(0)
    noise_npd = rng.standard_normal((32, PATCHES, WIDTH), dtype=np.float32)
    paths = []
    for index, rows in enumerate(np.array_split(np.arange(n_images), n_shards)):
        header = ShardHeader("bench", "0" * 64, [0], "bench", {}, n_images, index, n_shards)
        grid = np.tile([14, 14], (len(rows), 1))
        names = np.array([f"{row}.jpg" for row in rows], object)
        examples = Examples(names, rows, np.full(len(rows), -1), grid)
        paths.append(folder / shard_name(index))
        provenance = Provenance.of(SHARDS, "dump-acts", {})
        shape = {"n_patches": PATCHES, "d_model": WIDTH, "dtype": "float16"}
        with new_shard(paths[-1], header, provenance, examples, **shape) as writer:  # type: ignore[arg-type]
            for start in range(0, len(rows), 32):
                here = rows[start : start + 32]
                acts_npd = noise_npd[: len(here)].copy()
                acts_npd[:, :, 0] = (here % 2048)[:, None]
                writer.append({0: acts_npd})
    return paths


def forget(paths: list[Path]) -> None:
    """Give the files' pages back, so that the next read comes from the disk."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def sequential(paths: list[Path]) -> float:
    """Seconds to read all files, one after the other."""
    buffer = memoryview(bytearray(16 << 20))
    start = time.perf_counter()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - start


def shuffled(paths: list[Path], pool_bytes: int, n_batches: int) -> float:
    """Seconds until that many batches have come, from opening the shards on."""
    start = time.perf_counter()
    stream = TokenStream(ShardSource(iter(paths), None, 0.0, arriving=False), BATCH, pool_bytes, 0)
    for _ in islice(stream, n_batches):
        pass
    return time.perf_counter() - start


def copy_rate() -> float:
    """Bytes a second from one array into another."""
    source, target = np.ones(1 << 28, np.uint8), np.zeros(1 << 28, np.uint8)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return source.nbytes / best


def entropy(paths: list[Path], pool_bytes: int, n_images: int) -> float:
    """Mean image entropy of a batch, relative to that of tokens drawn uniformly from all."""
    stream = TokenStream(ShardSource(iter(paths), None, 0.0, arriving=False), BATCH, pool_bytes, 0)
    rng = np.random.default_rng(0)
    ratios = []
    for _ in islice(stream, 40):
        sample = rng.choice(n_images * PATCHES, BATCH, replace=False) // PATCHES
        ratios.append(stream.report()["image_entropy"] / batch_entropy(sample, n_images)["entropy"])
    return float(np.mean(ratios))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200 MB instead of 4 GB")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write the shards, on the disk to be measured")
    args = parser.parse_args()
    n_bytes = 200_000_000 if args.quick else 4_000_000_000
    pool_bytes = n_bytes // 2 if args.quick else 2_000_000_000  # the default of train-sae
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        paths = write(Path(folder), n_bytes, 8)
        stored = sum(path.stat().st_size for path in paths)
        n_images = n_bytes // (2 * PATCHES * WIDTH)
        n_batches = n_images * PATCHES // BATCH
        used = n_batches * BATCH * WIDTH * 2
        read_s, stream_s, warm_s = [], [], float("inf")
        for _ in range(args.rounds):
            forget(paths)
            read_s.append(sequential(paths))
            warm_s = min(warm_s, shuffled(paths, pool_bytes, n_batches))
            forget(paths)
            stream_s.append(shuffled(paths, pool_bytes, n_batches))
        copy, mixed = copy_rate(), entropy(paths, pool_bytes, n_images)
    read, cold, warm = stored / min(read_s), used / min(stream_s), used / warm_s
    share = np.median([(used / s) / (stored / r) for s, r in zip(stream_s, read_s, strict=True)])
    print(
        f"{os.cpu_count()} cores; {stored / 1e9:.2f} GB of float16, width {WIDTH}, batch {BATCH}, pool",
        end=" ",
    )
    print(f"{pool_bytes / 1e9:.1f} GB; {args.rounds} rounds\n")
    print("| | MB/s | tokens/s | of |\n|---|---|---|---|")
    print(f"| plain reading, cold | {read / 1e6:,.0f} | | |")
    print(f"| shuffled, cold | {cold / 1e6:,.0f} | {cold / WIDTH / 2:,.0f} | {share:.0%} of plain reading |")
    print(f"| memory copy | {copy / 1e6:,.0f} | | |")
    print(
        f"| shuffled, warm | {warm / 1e6:,.0f} | {warm / WIDTH / 2:,.0f} | {warm / copy:.0%} of memory copy |"
    )
    print(f"\nImage entropy of a batch: {mixed:.4f} of a uniform sample's ({n_images:,} images).")


if __name__ == "__main__":
    main()
