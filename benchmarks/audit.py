"""How long audit-latents ranks: paths that stop where the labels before have enough latents, beside whole paths.

    python benchmarks/audit.py            # 832 images, 2,048 latents, 50 labels; a minute
    python benchmarks/audit.py --quick

Both rankings are compared: they are the same. A ranking is made once for the labels and once for each of --null (100)
shuffles of them, so the time of the whole program is about --null + 1 times this over the threads. Processor time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy import sparse

from audit_latents.l1_path import Design
from audit_latents.proposals import rank
from saetools.latent_block import Latents


def latents(rng: np.random.Generator, n: int, k: int) -> tuple[Latents, np.ndarray]:
    """The largest value of each latent in each image, a third of them above 0, and the factors behind them {n, 30}."""
    factor_nf = rng.normal(size=(n, 30))
    loading_fk = rng.normal(size=(30, k)) * (rng.random((30, k)) < 0.1)
    z_nk = np.maximum(0, factor_nf @ loading_fk + rng.normal(size=(n, k)) - rng.gamma(2.0, 0.5, k))
    csc = sparse.csc_array(z_nk.astype(np.float32))
    return Latents(csc.indptr.astype(np.int64), csc.indices.astype(np.int32), csc.data, n), factor_nf


def whole_paths(design: Design, y_nc: np.ndarray, most: int) -> list[int]:
    """The plain twin: every label's path to its own end, then the `most` earliest latents."""
    paths = [design.path(np.ascontiguousarray(y_n), most) for y_n in y_nc.T]
    share_ck = np.stack([path.share_k for path in paths])
    size_ck = np.stack([np.abs(path.coefficient_k) for path in paths])
    best_k = np.lexsort((size_ck, share_ck), axis=0)[-1]
    at = best_k, np.arange(design.n_latents)
    order = np.lexsort((np.arange(design.n_latents), -size_ck[at], -share_ck[at]))
    return order[share_ck[at][order] > 0][:most].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    n, k, classes = (200, 300, 10) if args.quick else (832, 2048, 50)
    rng = np.random.default_rng(0)
    given, factor_nf = latents(rng, n, k)
    design = Design(given)
    kind_n = (factor_nf @ rng.normal(size=(30, classes))).argmax(axis=1)  # one class an image, as species are
    y_nc = (kind_n[:, None] == np.unique(kind_n)).astype(float)
    print(
        f"{n} images, {k:,} latents ({len(given.values) / n / k:.0%} dense), {y_nc.shape[1]} labels, 100 proposals\n"
    )
    print("| labels | whole paths | stopped paths | ratio |\n|---|---:|---:|---:|")
    design.path(np.ascontiguousarray(y_nc[:, 0]), 1)  # compiled
    for name, labels_nc in (("true", y_nc), ("shuffled", rng.permutation(y_nc))):
        start = time.process_time()
        expected = whole_paths(design, labels_nc, 100)
        middle = time.process_time()
        found = rank(design, labels_nc, 100).latent.tolist()
        end = time.process_time()
        assert found == expected, "another ranking"
        print(
            f"| {name} | {middle - start:.2f} s | {end - middle:.2f} s | {(middle - start) / (end - middle):.1f} |"
        )


if __name__ == "__main__":
    main()
