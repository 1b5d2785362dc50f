"""Training speed in tokens per second, against other trainers from PyPI and against a floor; prints Markdown.

    pip install eai-sparsify sae-lens dictionary-learning overcomplete      # into a separate environment
    python benchmarks/train.py --peers /path/to/that/bin/python             # D = 768, S = 6144 and 24576; half an hour
    python benchmarks/train.py --quick                                      # small: tests that it runs

Every row runs in its own process, for a separate peak memory. There, whole training steps (forward, backward,
optimiser, whatever else the library does) alternate with one float32 matrix product, and the minimum time of each is
used. The floor is 2 B D S FLOP for sparse codes and 10 B D S for dense ones, at the speed of that product in the same
process. Batches are random and in memory: stream.py measures the stream. A library without such an SAE has no row.
Matryoshka has 10 prefixes: drawn in each step here, equal groups in other libraries.

ReLU and JumpReLU are measured three times: as train-sae initialises them (32 active latents), with 3% of the latents
active, and with half of them, as with `--start-l0 0`, where the floor is 10 B D S FLOP. The other libraries compute
all latents regardless, so their one measurement is shown three times.
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
from collections.abc import Callable

import torch

K, L1 = 32, 1e-4
# SAE -> products of 2 B D S FLOP in its floor
KINDS = {
    "topk": 1,
    "topk-matryoshka": 1,
    "batchtopk": 1,
    "relu": 1,
    "relu-matryoshka": 1,
    "relu-3%": 1,
    "relu-dense": 5,
    "relu-dense-matryoshka": 5,
    "jumprelu": 1,
    "jumprelu-dense": 5,
}
Step = Callable[[torch.Tensor], object]


def ours(kind: str, batch: int, d: int, s: int) -> Step:
    from saetools.scorers.start import make_start
    from saetools.scorers.start_settings import StartSettings
    from train_sae.steps import StepSettings, make_step
    from train_sae.steps.parameters import SAEParameters

    activation, *rest = kind.split("-")
    settings = StepSettings(
        activation=activation,
        objective="matryoshka" if "matryoshka" in rest else "mse",
        k=K,
        l1=L1 if activation == "relu" else 0.0,
        l0=L1 if activation == "jumprelu" else 0.0,
    )
    start_l0 = (
        0.0 if activation in ("topk", "batchtopk") or "dense" in rest else 0.03 * s if "3%" in rest else 32.0
    )
    generator = torch.Generator().manual_seed(0)
    sample_nd = torch.randn(4096, d, generator=generator)
    start = make_start(StartSettings(s, activation, K, normalize="none", start_l0=start_l0), sample_nd)
    step = make_step(SAEParameters.at_start(start), settings, batch, 0)
    return lambda x_bd: step.step(x_bd, 1e-5)


def dictionary_learning(kind: str, batch: int, d: int, s: int) -> Step:  # noqa: ARG001
    from dictionary_learning.trainers import batch_top_k, jumprelu, matryoshka_batch_top_k, standard, top_k

    common = {
        "steps": 10_000,
        "activation_dim": d,
        "dict_size": s,
        "layer": 0,
        "lm_name": "",
        "device": "cpu",
    }
    sparse = {**common, "k": K}
    groups = {"group_fractions": [0.1] * 10}
    made = {
        "topk": lambda: top_k.TopKTrainer(**sparse),
        "batchtopk": lambda: batch_top_k.BatchTopKTrainer(**sparse),
        "topk-matryoshka": lambda: matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer(**sparse, **groups),
        "relu": lambda: standard.StandardTrainer(**common, warmup_steps=10, sparsity_warmup_steps=10),
        "jumprelu": lambda: jumprelu.JumpReluTrainer(**common, warmup_steps=10, sparsity_warmup_steps=10),
    }
    trainer, count = made[kind](), iter(range(10_000))
    return lambda x_bd: trainer.update(next(count), x_bd)


def sae_lens(kind: str, batch: int, d: int, s: int) -> Step:  # noqa: ARG001
    from sae_lens import saes
    from sae_lens.saes.sae import TrainStepInput

    names = {"topk": "TopK", "batchtopk": "BatchTopK", "relu": "Standard", "jumprelu": "JumpReLU"}
    names["topk-matryoshka"] = "MatryoshkaBatchTopK"
    name = names[kind]
    own = {"k": K} if "TopK" in name else {}
    if "Matryoshka" in name:
        own["matryoshka_widths"] = [s * (i + 1) // 10 for i in range(10)]
    config = getattr(saes, f"{name}TrainingSAEConfig")(d_in=d, d_sae=s, **own)
    sae = getattr(saes, f"{name}TrainingSAE")(config)
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-5)
    coefficients = dict.fromkeys(sae.get_coefficients(), L1)

    def step(x_bd: torch.Tensor) -> None:
        optimiser.zero_grad()
        sae.training_forward_pass(
            TrainStepInput(
                sae_in=x_bd,
                coefficients=coefficients,
                dead_neuron_mask=None,
                n_training_steps=1,
                is_logging_step=False,
            )
        ).loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimiser.step()

    return step


def overcomplete(kind: str, batch: int, d: int, s: int) -> Step:
    import matplotlib.cm

    if not hasattr(matplotlib.cm, "get_cmap"):  # it asks for one of an older matplotlib
        matplotlib.cm.get_cmap = matplotlib.colormaps.get_cmap
    from overcomplete import sae as saes

    made = {
        "topk": lambda: saes.TopKSAE(d, nb_concepts=s, top_k=K, device="cpu"),
        "batchtopk": lambda: saes.BatchTopKSAE(d, nb_concepts=s, top_k=K * batch, device="cpu"),
        "relu": lambda: saes.SAE(d, nb_concepts=s, device="cpu"),
        "jumprelu": lambda: saes.JumpSAE(d, nb_concepts=s, device="cpu"),
    }
    sae = made[kind]()
    optimiser = torch.optim.Adam(sae.parameters(), lr=1e-5)

    def step(x_bd: torch.Tensor) -> None:
        optimiser.zero_grad()
        _, codes, x_hat = sae(x_bd)
        loss = (x_hat - x_bd).square().mean()
        if kind in ("relu", "jumprelu"):
            loss = loss + L1 * codes.abs().sum(1).mean()
        loss.backward()
        optimiser.step()

    return step


def sparsify(kind: str, batch: int, d: int, s: int) -> Step:  # noqa: ARG001
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"  # it needs a GPU
    from sparsify import SparseCoder, SparseCoderConfig

    if kind != "topk":
        raise KeyError(kind)
    coder = SparseCoder(d, SparseCoderConfig(num_latents=s, k=K))
    optimiser = torch.optim.Adam(coder.parameters(), lr=1e-5)

    def step(x_bd: torch.Tensor) -> None:
        coder.set_decoder_norm_to_unit_norm()
        optimiser.zero_grad()
        coder(x_bd).fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimiser.step()

    return step


LIBRARIES = {
    "saetools": ours,
    "eai-sparsify": sparsify,
    "sae-lens": sae_lens,
    "dictionary-learning": dictionary_learning,
    "overcomplete": overcomplete,
}


def measure(library: str, kind: str, batch: int, d: int, s: int, rounds: int) -> dict[str, float]:
    """Seconds of a step and of its floor, and the process's peak memory in bytes."""
    torch.manual_seed(0)
    x_bd = torch.randn(batch, d)
    step = LIBRARIES[library](kind, batch, d, s)
    step(x_bd.clone())  # compiles, allocates
    step(x_bd.clone())
    torch.set_float32_matmul_precision("highest" if library != "saetools" else "medium")
    width = min(s, 2048)
    right_ds, out_bs = torch.randn(d, width), torch.empty(batch, width)
    step_s = product_s = float("inf")
    for _ in range(rounds):
        for _ in range(3):
            start = time.perf_counter()
            torch.mm(x_bd, right_ds, out=out_bs)
            product_s = min(product_s, time.perf_counter() - start)
        start = time.perf_counter()
        step(x_bd.clone())
        step_s = min(step_s, time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    floor_s = KINDS[kind] * s / width * product_s
    return {"step_s": step_s, "floor_s": floor_s, "rate": 2 * batch * d * width / product_s, "peak": peak}


def run_row(python: str, row: list[str]) -> dict[str, float] | None:
    """A row measured in a process; None where the library, or such an SAE in it, is not there."""
    done = subprocess.run([python, __file__, "--row", *row], capture_output=True, text=True, check=False)
    if done.returncode == 3:
        return None
    if done.returncode:
        sys.stderr.write(f"{' '.join(row)}: {done.stderr.strip().splitlines()[-1:]}\n")
        return None
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=sys.executable, help="a Python that has the other libraries")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--widths", default="6144,24576", help="S")
    parser.add_argument("--row", nargs=6, metavar=("LIBRARY", "KIND", "B", "D", "S", "ROUNDS"))
    args = parser.parse_args()
    if args.row:
        library, kind, *sizes = args.row
        try:
            found = measure(library, kind, *(int(size) for size in sizes))
        except (ImportError, KeyError):
            sys.exit(3)
        print(json.dumps(found))
        return
    batch, d, widths = (
        (512, 128, [1024]) if args.quick else (4096, 768, [int(s) for s in args.widths.split(",")])
    )
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; D = {d}, batch {batch}, k = {K}"
    )
    for s in widths:
        print(f"\n### S = {s}\n\n| SAE | library | tokens/s | time / ours | time / floor | peak memory, GB |")
        print("|---|---|---|---|---|---|", flush=True)
        rows: dict[tuple[str, str], dict[str, float] | None] = {}
        for kind in args.kinds.split(","):
            our_s = float("nan")
            for library in LIBRARIES:
                ours_too = library == "saetools"
                made = kind if ours_too else kind.replace("-dense", "").replace("-3%", "")
                if (library, made) not in rows:
                    python = sys.executable if ours_too else args.peers
                    rows[library, made] = run_row(
                        python, [library, made, *map(str, (batch, d, s, args.rounds))]
                    )
                row = rows[library, made]
                if row is None:
                    continue
                floor_s = row["floor_s"] * KINDS[kind] / KINDS[made]
                our_s = row["step_s"] if library == "saetools" else our_s
                cells = [kind, library, f"{batch / row['step_s']:,.0f}", f"{row['step_s'] / our_s:.2f}"]
                cells += [f"{row['step_s'] / floor_s:.2f}", f"{row['peak'] / 1e9:.2f}"]
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
