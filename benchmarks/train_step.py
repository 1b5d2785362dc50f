"""Time of one training step, against the matrix products that every step needs; prints Markdown.

    python benchmarks/train_step.py            # D = 768, S = 6144 and 24576, batch 4096; about four minutes
    python benchmarks/train_step.py --quick    # seconds: tests that it runs

The floor is the time of these products at the speed of one float32 product in the same rounds: 2 B D S FLOP for sparse
codes (the encoder), 10 B D S for dense ones (five products of that size; x needs no gradient). TopK is below its floor
if the CPU multiplies bfloat16 faster, since it does not need all of z in float32. Each row runs in its own process,
for a separate peak memory; steps and the product alternate, and the minimum time of each is used. Compilation is not
counted: numba caches it.

On a busy machine, use --threads 1: it measures the thread's CPU time, which other jobs hardly change.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from saetools.compute.matmul import float32_matmul
from train_sae.steps import StepSettings, make_step
from train_sae.steps.parameters import SAEParameters
from train_sae.steps.torch_step import TorchStep

MATRYOSHKA = {"objective": "matryoshka", "n_prefixes": 10}
# name -> (settings, products of 2 B D S FLOP in the floor, bias of the encoder: how dense the codes are)
ROWS: dict[str, tuple[dict[str, object], int, float]] = {
    "TopK": ({"activation": "topk"}, 1, 0.0),
    "TopK, float32 products": ({"activation": "topk", "prescreen": False}, 1, 0.0),
    "TopK, 10 prefixes": ({"activation": "topk", **MATRYOSHKA}, 1, 0.0),
    "BatchTopK": ({"activation": "batchtopk"}, 1, 0.0),
    "BatchTopK, 10 prefixes": ({"activation": "batchtopk", **MATRYOSHKA}, 1, 0.0),
    "ReLU": ({"activation": "relu", "l1": 1e-6}, 5, 0.0),
    "ReLU, 10 prefixes": ({"activation": "relu", "l1": 1e-6, **MATRYOSHKA}, 5, 0.0),
    "ReLU, L0 below 3% of S": ({"activation": "relu", "l1": 1e-6}, 1, -2.5),
    "JumpReLU": ({"activation": "jumprelu", "l0": 1e-6}, 5, 0.0),
    "JumpReLU, L0 below 3% of S": ({"activation": "jumprelu", "l0": 1e-6}, 1, -2.5),
    "TopK, autograd and torch's Adam": ({"activation": "topk"}, 1, 0.0),
    "ReLU, autograd and torch's Adam": ({"activation": "relu", "l1": 1e-6}, 5, 0.0),
}


def measure(name: str, sizes: tuple[int, int, int], rounds: int) -> dict[str, float]:
    """Seconds of a step and of its floor, L0, and the process's peak memory in bytes; `sizes`: B, D, S."""
    batch, d, s = sizes
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    given, products, bias = ROWS[name]
    rng = np.random.default_rng(0)
    decoder = rng.standard_normal((s, d), dtype=np.float32)
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    threshold = np.full(s, 0.02, np.float32) if given["activation"] == "jumprelu" else None
    parameters = SAEParameters.from_arrays(decoder, np.full(s, bias), decoder, np.zeros(d), threshold)
    del decoder
    make = TorchStep if "autograd" in name else make_step
    step = make(parameters, StepSettings(**given), batch, 0)  # type: ignore[arg-type]
    x_bd = torch.from_numpy(rng.standard_normal((batch, d), dtype=np.float32))
    for _ in range(2):  # the first compiles, the second has chosen between dense and sparse
        report = step.step(x_bd, 1e-5)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    block = min(s, 2048)
    left_sd, out_bs = parameters.enc_sd.detach()[:block], torch.empty(batch, block)
    step_s, product_s = float("inf"), float("inf")
    with float32_matmul():
        for _ in range(rounds):
            for _ in range(3):
                start = clock()
                torch.mm(x_bd, left_sd.T, out=out_bs)
                product_s = min(product_s, clock() - start)
            start = clock()
            report = step.step(x_bd, 1e-5)
            step_s = min(step_s, clock() - start)
    rate = 2 * batch * d * block / product_s
    floor_s = products * 2 * batch * d * s / rate
    return {"step_s": step_s, "floor_s": floor_s, "rate": rate, "l0": report["l0"], "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="rows whose name starts with this")
    parser.add_argument(
        "--row", nargs=4, metavar=("NAME", "B", "D", "S"), help="measure one row and print JSON"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.row:
        name, batch, d, s = args.row
        print(json.dumps(measure(name, (int(batch), int(d), int(s)), args.rounds)))
        return
    batch, d, widths = (512, 256, [4096]) if args.quick else (4096, 768, [6144, 24576])
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()}, ",
        end="",
    )
    print(f"torch {torch.__version__}; D = {d}, batch {batch}, k = 32, float32; {args.rounds} rounds")
    for s in widths:
        print(
            f"\n### S = {s}\n\n| step | L0 | tokens/s | seconds | floor | times the floor | product, GF/s | peak, GB |"
        )
        print("|---|---|---|---|---|---|---|---|", flush=True)
        for name in ROWS:
            if not name.startswith(args.only):
                continue
            row = ["--row", name, str(batch), str(d), str(s), "--rounds", str(args.rounds)]
            row += ["--threads", str(args.threads)]
            done = subprocess.run(
                [sys.executable, __file__, *row], check=True, capture_output=True, text=True
            )
            found = json.loads(done.stdout)
            cells = [name, f"{found['l0']:.0f}", f"{batch / found['step_s']:,.0f}", f"{found['step_s']:.3f}"]
            cells += [f"{found['floor_s']:.3f}", f"{found['step_s'] / found['floor_s']:.2f}"]
            cells += [f"{found['rate'] / 1e9:.0f}", f"{found['peak'] / 1e9:.2f}"]
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
