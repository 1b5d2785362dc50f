"""What each operation of saetools.compute.kernels.llvm_intrinsics gains over its plain twin.

    python benchmarks/intrinsics.py

Processor seconds, the minimum of seven: TopK with k = 32 of 512 x 16,384 float32 (`top_k_rows`), and 8,192 rows of 768
gathered at random from 16,384 (`prefetch`). Each in a process of its own: all operations as LLVM instructions, all
plain (SAETOOLS_PLAIN_KERNELS=1), and one of them plain.

Seen on 2 cores (AVX-512): top_k_rows 5.2 ms, all plain 25.3 ms, raise_maxima plain 17.1 ms, bits_at_least plain
11.5 ms.
The gathering varies by more than prefetch gains (4.9 to 6.4 ms).
"""

import hashlib
import os
import subprocess
import sys
import time

import numpy as np

NAMES = ["raise_maxima", "bits_at_least", "prefetch"]


def main() -> None:
    for plain in ["", "all", *NAMES]:
        environment = {**os.environ, "SAETOOLS_PLAIN_KERNELS": "1"}
        done = subprocess.run(
            [sys.executable, __file__, plain or "none"],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
        print(f"{f'plain: {plain}' if plain else 'all LLVM':22} {done.stdout.strip()}", flush=True)


def measure(plain: str) -> None:
    from saetools.compute.kernels import intrinsics, llvm_intrinsics

    for name in NAMES:
        if plain not in ("all", name):
            setattr(intrinsics, name, getattr(llvm_intrinsics, name))
    from numba import njit

    from saetools.compute.kernels.flags import FAST
    from saetools.compute.kernels.selection import top_k_rows
    from saetools.compute.selection import set_depth

    prefetch = intrinsics.prefetch

    @njit(**FAST)
    def gather(table_sd, chosen, sum_d):
        for i in range(len(chosen)):
            prefetch(table_sd, np.uint64(chosen[min(i + 4, len(chosen) - 1)]))
            for d in range(table_sd.shape[1]):
                sum_d[d] += table_sd[chosen[i], d]

    rng = np.random.default_rng(0)
    z_bs, bias_s = (rng.standard_normal(shape).astype(np.float32) for shape in ((512, 16384), 16384))
    latent_bk, value_bk = np.empty((512, 32), np.int32), np.empty((512, 32), np.float32)
    floor, depth = np.float32(-np.inf), set_depth(16384, 32)
    table_sd = rng.standard_normal((16384, 768)).astype(np.float32)
    chosen, sum_d = rng.integers(0, 16384, 8192), np.zeros(768, np.float32)
    top_k = least(lambda: top_k_rows(0, 0, 512, z_bs, bias_s, 32, depth, floor, latent_bk, value_bk))
    digest = hashlib.sha256(latent_bk.tobytes() + value_bk.tobytes()).hexdigest()[:8]
    gathered = least(lambda: gather(table_sd, chosen, sum_d))
    print(f"top_k_rows {1e3 * top_k:6.2f} ms ({digest})   gather {1e3 * gathered:6.2f} ms")


def least(run) -> float:
    run()
    seconds = []
    for _ in range(7):
        started = time.process_time()
        run()
        seconds.append(time.process_time() - started)
    return min(seconds)


if __name__ == "__main__":
    measure(sys.argv[1]) if len(sys.argv) > 1 else main()
