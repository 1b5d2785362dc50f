"""Time of the two slowest steps of the trait table, each against a plain implementation; prints Markdown.

    python benchmarks/score.py            # the sizes of CUB-200-2011 and 8,192 prototypes; about two minutes
    python benchmarks/score.py --quick    # seconds: tests that it runs

The plain implementations run on a few prototypes; their time is extrapolated to all K, and the table marks it. Every
time is the minimum of several rounds in which the rows alternate, so that other jobs disturb a round but not the
comparison. Compilation is not counted: numba caches it.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.metrics import average_precision_score

from saetools.compute.matmul import float32_precision
from saetools.metrics.average_precision import average_precision, best_prototypes
from saetools.metrics.bootstrap import average_precision_weighted
from saetools.metrics.pooling import pool_scores
from saetools.scorers.baselines import Linear


def vectorised_ap(scores_nk: np.ndarray, labels_nt: np.ndarray) -> np.ndarray:
    """The usual way: argsort a prototype, cumulate all traits. Wrong where scores tie, as it ignores ties."""
    ranks_n1 = np.arange(1, len(scores_nk) + 1, dtype=np.float32)[:, None]
    labels_nt = labels_nt.astype(np.float32)
    rows = []
    for scores_n in scores_nk.T:
        sorted_nt = labels_nt[np.argsort(-scores_n)]
        precision_nt = np.cumsum(sorted_nt, axis=0) / ranks_n1
        rows.append((precision_nt * sorted_nt).sum(axis=0) / sorted_nt.sum(axis=0))
    return np.array(rows)


def sklearn_ap(scores_nk: np.ndarray, labels_nt: np.ndarray) -> np.ndarray:
    return np.array([[average_precision_score(y_n, s_n) for y_n in labels_nt.T] for s_n in scores_nk.T])


def least_times(rows: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of each row, the least over rounds in which all rows take turns."""
    best = dict.fromkeys(rows, float("inf"))
    for _ in range(rounds):
        for name, run in rows.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def table(title: str, header: list[str], rows: list[list[str]]) -> None:
    print(f"\n### {title}\n")
    for row in [header, ["---"] * len(header), *rows]:
        print("| " + " | ".join(row) + " |")


def bench_average_precision(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.seed)
    n, k, t = args.images, args.prototypes, args.traits
    scores = rng.standard_normal((n, k), dtype=np.float32)
    labels = rng.random((n, t)) < np.clip(rng.exponential(0.1, t), 0.002, 0.9)
    labels[0] = True
    sparse = np.maximum(scores - np.float32(1.6449), 0)  # 95% zeros
    valid = rng.random((n, t)) < 0.9
    few = slice(0, min(args.baseline_prototypes, k))
    one = slice(0, 1)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=args.resamples)
    chosen = best_prototypes(scores[:, : min(k, 256)], labels).prototype_t
    scores_nt = scores[:, chosen]
    for warm in (scores, sparse):
        average_precision(np.ascontiguousarray(warm[:, few]), labels, threads=args.threads)
    average_precision(np.ascontiguousarray(scores[:, few]), labels, valid_nt=valid, threads=args.threads)
    average_precision_weighted(scores_nt, labels, counts[:1], threads=args.threads)

    baseline, sklearn = "argsort and cumsum (NumPy)", "scikit-learn"
    ours = {
        "average_precision": lambda: average_precision(scores, labels, threads=args.threads),
        "average_precision, 95% zeros": lambda: average_precision(sparse, labels, threads=args.threads),
        "average_precision with a mask": lambda: average_precision(
            scores, labels, valid_nt=valid, threads=args.threads
        ),
    }
    seconds = least_times(
        {**ours, baseline: lambda: vectorised_ap(scores[:, few], labels)},
        args.rounds,
    )
    seconds |= least_times({sklearn: lambda: sklearn_ap(scores[:, one], labels)}, 1)
    seconds[baseline] *= k / (few.stop - few.start)
    seconds[sklearn] *= k
    note = {baseline: f"{few.stop} prototypes, extrapolated", sklearn: "1 prototype, extrapolated"}
    table(
        f"AP of {k:,} prototypes x {t} traits x {n:,} images",
        ["way", "seconds", "times as fast as argsort and cumsum", "measured on"],
        [
            [name, f"{s:.2f}", f"{seconds[baseline] / s:.1f}", note.get(name, "all prototypes")]
            for name, s in seconds.items()
        ],
    )

    gaps = {
        name: np.abs(average_precision(x, labels)[0] - sklearn_ap(x, labels)[0]).max()
        for name, x in (("no ties", scores[:, one]), ("95% zeros", sparse[:, one]))
    }
    print(
        "\nLargest difference from scikit-learn: "
        + ", ".join(f"{gap:.1e} ({name})" for name, gap in gaps.items())
    )

    weighted = least_times(
        {"weighted": lambda: average_precision_weighted(scores_nt, labels, counts, threads=args.threads)},
        args.rounds,
    )["weighted"]
    print(f"\n{args.resamples:,} resamples of {n:,} images for {t} traits: {weighted:.2f} s")


def bench_pooling(args: argparse.Namespace) -> None:
    n, p, d, k = args.pooled_images, args.patches, args.width, args.prototypes
    generator = torch.Generator().manual_seed(args.seed)
    acts_npd = torch.randn(n, p, d, generator=generator)
    scorer = Linear(torch.randn(k, d, generator=generator))
    acts_bd, scores_bk = acts_npd.view(-1, d), torch.empty(n * p, k)
    out_nk = torch.empty(n, k)
    product, naive = "matrix product alone", "all patch scores, then max"
    seconds = least_times(
        {
            product: lambda: torch.mm(acts_bd, scorer.vectors.T, out=scores_bk),
            "pool_scores, max": lambda: pool_scores(scorer, acts_npd, "max", out=out_nk),
            "pool_scores, mean": lambda: pool_scores(scorer, acts_npd, "mean", out=out_nk),
            "pool_scores, topk-mean:5": lambda: pool_scores(scorer, acts_npd, "topk-mean:5", out=out_nk),
            naive: lambda: scorer(acts_bd).view(n, p, k).amax(1),
        },
        args.rounds,
    )
    table(
        f"Image scores: {k:,} prototypes, {p} patches an image, width {d}",
        ["way", "ms an image", "times the matrix product"],
        [[name, f"{1e3 * s / n:.2f}", f"{s / seconds[product]:.2f}"] for name, s in seconds.items()],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=11_788)
    parser.add_argument("--prototypes", type=int, default=8192)
    parser.add_argument("--traits", type=int, default=312)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--baseline-prototypes", type=int, default=32, help="how many the NumPy twin runs on")
    parser.add_argument("--pooled-images", type=int, default=32)
    parser.add_argument("--patches", type=int, default=196)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, which take the place of the flags above"
    )
    args = parser.parse_args()
    if args.quick:
        args.images, args.prototypes, args.traits, args.resamples = 1000, 512, 40, 100
        args.baseline_prototypes, args.pooled_images, args.rounds = 8, 4, 2
    torch.set_num_threads(args.threads)
    torch.set_float32_matmul_precision(float32_precision())
    print(
        f"{platform.machine()}, {args.threads} threads, NumPy {np.__version__}, torch {torch.__version__},"
        f" float32 matmul precision {float32_precision()}, least of {args.rounds} rounds"
    )
    bench_average_precision(args)
    bench_pooling(args)


if __name__ == "__main__":
    main()
