"""Time of the ranking of audit-latents, against a plain implementation, for labels and 100 shuffles of them.

    python benchmarks/audit.py            # 832 images, 2,048 and 4,096 latents, 1 and 10 labels; some minutes
    python benchmarks/audit.py --quick

| latents | labels | a ranking before | a ranking now | ratio | right before | right now | labels + shuffles now |
|---:|---:|---:|---:|---:|---:|---:|---:|
| 2,048 | 1 | 51 ms | 17 ms | 3.1 | 15 of 21 | 21 of 21 | 1.5 s |
| 2,048 | 10 | 249 ms | 78 ms | 3.2 | 19 of 21 | 21 of 21 | 7.0 s |
| 4,096 | 1 | 63 ms | 19 ms | 3.3 | 19 of 21 | 21 of 21 | 1.8 s |
| 4,096 | 10 | 459 ms | 123 ms | 3.7 | 19 of 21 | 20 of 21 | 11.0 s |

"Before" is the plain path (plain_l1_path.py), "now" that of audit-latents. Processor time of one thread of a 2-core
AMD EPYC; the shuffles of a run are spread over --threads. Both rank the labels and the first 20 shuffles. "Right"
counts the rankings equal to those of the plain path at a tolerance of 1e-16. It is also checked that whole paths,
which do not stop once the labels before them have enough latents, give the same ranking of the labels.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from plain_l1_path import l1_path as plain_path
from scipy import sparse

from audit_latents.ranking import MIN_SHARE, STEPS, Design, L1Path, rank
from saetools.latents.block import Latents


def latents(rng: np.random.Generator, n: int, k: int) -> tuple[Latents, np.ndarray]:
    """The largest value of each latent in each image, a third of them above 0, and the factors behind them {n, 30}."""
    factor_nf = rng.normal(size=(n, 30))
    loading_fk = rng.normal(size=(30, k)) * (rng.random((30, k)) < 0.1)
    z_nk = np.maximum(0, factor_nf @ loading_fk + rng.normal(size=(n, k)) - rng.gamma(2.0, 0.5, k))
    csc = sparse.csc_array(z_nk.astype(np.float32))
    return Latents(csc.indptr.astype(np.int64), csc.indices.astype(np.int32), csc.data, n), factor_nf


class PlainDesign(Design):
    """The same paths by the plain kernel, with the tolerance that it had unless told."""

    def __init__(self, given: Latents, tolerance: float = 1e-10) -> None:
        super().__init__(given)
        self.rows32 = given.rows
        self.x = given.values.astype(np.float64) * np.repeat(self.scale_k, np.diff(given.indptr))
        self.column = np.repeat(np.arange(self.n_latents), np.diff(given.indptr))
        self.tolerance = tolerance

    def path(
        self, y_n: np.ndarray, n_proposals: int, min_share: float = MIN_SHARE, steps: int = STEPS
    ) -> L1Path:
        pull_k = np.bincount(self.column, self.x * (y_n - y_n.mean())[self.rows32], self.n_latents)
        first = np.abs(pull_k).max() / self.n_rows * (1 + 1e-9)
        entry_k, coefficient_k = np.full(self.n_latents, -1), np.zeros(self.n_latents)
        beta_k = np.zeros(self.n_latents)
        shares = np.geomspace(1.0, min_share, STEPS)
        done, intercept = plain_path(
            *(self.indptr, self.rows32, self.x, y_n, first * shares[:steps], n_proposals, self.tolerance),
            *(entry_k, coefficient_k, beta_k),
        )
        share_k = np.where(entry_k >= 0, shares[np.maximum(entry_k, 0)], 0.0)
        return L1Path(share_k, coefficient_k, beta_k, intercept, first * shares[done - 1])


def whole_paths(design: Design, y_nc: np.ndarray, n_proposals: int) -> list[int]:
    """The plain twin: every label's path to its own end, then the `n_proposals` earliest latents."""
    paths = [design.path(np.ascontiguousarray(y_n), n_proposals) for y_n in y_nc.T]
    share_ck = np.stack([path.share_k for path in paths])
    size_ck = np.stack([np.abs(path.coefficient_k) for path in paths])
    best_k = np.lexsort((size_ck, share_ck), axis=0)[-1]
    at = best_k, np.arange(design.n_latents)
    order = np.lexsort((np.arange(design.n_latents), -size_ck[at], -share_ck[at]))
    return order[share_ck[at][order] > 0][:n_proposals].tolist()


def timed(design: Design, y_nc: np.ndarray, orders: list[np.ndarray]) -> tuple[float, list[list[int]]]:
    """Seconds of processor time, and the proposals for the labels in each order."""
    design.path(np.ascontiguousarray(y_nc[:, 0]), 1)  # compiled
    start = time.process_time()
    found = [rank(design, y_nc[order], 100).latent.tolist() for order in orders]
    return time.process_time() - start, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    n, sizes, shuffles = (200, (300,), 5) if args.quick else (832, (2048, 4096), 100)
    print(
        "| latents | labels | a ranking before | a ranking now | ratio | right before | right now |", end=""
    )
    print(" labels + shuffles now |")
    print("|---:|---:|---:|---:|---:|---:|---:|---:|")
    for k in sizes:
        rng = np.random.default_rng(0)
        given, factor_nf = latents(rng, n, k)
        design, plain, exact = Design(given), PlainDesign(given), PlainDesign(given, 1e-16)
        kind_n = (factor_nf @ rng.normal(size=(30, 10))).argmax(axis=1)  # one class an image, as species are
        ten_nc = (kind_n[:, None] == np.unique(kind_n)).astype(float)
        one_nc = (factor_nf @ rng.normal(size=(30, 1)) > 0).astype(float)
        orders = [np.arange(n), *(rng.permutation(n) for _ in range(shuffles))]
        for y_nc in (one_nc, ten_nc):
            before, expected = timed(plain, y_nc, orders[:21])
            now, found = timed(design, y_nc, orders)
            same, _ = timed(design, y_nc, orders[:21])
            _, right = timed(exact, y_nc, orders[:21])
            assert found[0] == whole_paths(design, y_nc, 100), "another ranking than whole paths"
            old, new = before / len(expected), same / len(expected)
            counts = [sum(a == b for a, b in zip(right, each, strict=False)) for each in (expected, found)]
            print(
                f"| {k:,} | {y_nc.shape[1]} | {1e3 * old:.0f} ms | {1e3 * new:.0f} ms | {old / new:.1f} | "
                f"{counts[0]} of {len(right)} | {counts[1]} of {len(right)} | {now:.1f} s |",
                flush=True,
            )


if __name__ == "__main__":
    main()
