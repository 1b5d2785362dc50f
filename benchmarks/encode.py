"""Time of encoding, against the encoder's matrix product and against a dense implementation; prints Markdown.

    python benchmarks/encode.py            # widths of ViT-Ti and ViT-B; about two minutes
    python benchmarks/encode.py --quick    # seconds: tests that it runs

Times are per token: the minimum over several rounds in which the rows alternate. The product is x @ W alone, at the
same precision and in blocks of the same size. The dense implementation is SAE.encode of all tokens, then scipy's CSR
of it. With --processor-time one thread does everything and its processor time is measured, which other jobs disturb
less.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from encode_acts.encoder import Encoder
from encode_acts.triangle import Triangle
from saetools.compute.matmul import float32_matmul
from saetools.files.formats import LATENTS
from saetools.files.provenance import Provenance
from saetools.latents.header import LatentsHeader
from saetools.latents.writer import new_latents
from saetools.scorers.sae import SAE, SAEConfig
from saetools.shards.header import Examples

CPU = torch.device("cpu")
CASES = [  # activation, D, S, k
    ("topk", 192, 2048, 16),
    ("topk", 768, 6144, 32),
    ("topk", 768, 24576, 32),
    ("jumprelu", 768, 24576, 32),
    ("kmeans", 192, 2048, 0),  # the triangle code: about half of the latents are kept
    ("kmeans", 768, 6144, 0),
]


def make_sae(activation: str, d: int, s: int, k: int) -> SAE:
    """Random directions; a threshold at which about k latents of a token are active."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(s, d, generator=g)
    w /= w.norm(dim=1, keepdim=True)
    threshold = torch.full((s,), float(torch.distributions.Normal(0, 1).icdf(torch.tensor(1 - k / s))))
    config = SAEConfig(d, s, activation, k if activation == "topk" else None)
    return SAE(
        config,
        w.T.contiguous(),
        torch.zeros(s),
        w,
        torch.zeros(d),
        threshold if activation == "jumprelu" else None,
    )


def blocks(x_bd: torch.Tensor, size: int) -> list[torch.Tensor]:
    return [x_bd[start : start + size] for start in range(0, len(x_bd), size)]


def product(sae: SAE, x_bd: torch.Tensor, size: int) -> None:
    out = torch.empty(size, sae.n_prototypes)
    with float32_matmul():
        for block in blocks(x_bd, size):
            torch.mm(block, sae.W_enc, out=out[: len(block)])


def encode(encoder: Encoder, x_bd: torch.Tensor) -> int:
    return sum(len(encoder(block).value_e) for block in blocks(x_bd, encoder.tokens))


def write(encoder: Encoder, x_bd: torch.Tensor, folder: Path) -> None:
    """As encode-acts does: one file, complete on disk."""
    n = len(x_bd)
    header = LatentsHeader("uid", "sae", encoder.n_latents, 1, 0, {}, 0.0, None, n, 0, 1)
    examples = Examples(np.arange(n).astype(str), np.arange(n), np.full(n, -1), np.ones((n, 2)))
    with new_latents(folder / "x.npz", header, Provenance.of(LATENTS, "benchmark", {}), examples) as writer:
        for block in blocks(x_bd, encoder.tokens):
            found = encoder(block)
            writer.append(found.count_b, found.latent_e, found.value_e)


def dense(sae: SAE, x_bd: torch.Tensor) -> int:
    with float32_matmul():
        return sparse.csr_matrix(sae.encode(x_bd).numpy()).nnz


def least_times(
    rows: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    best = dict.fromkeys(rows, float("inf"))
    for _ in range(rounds):
        for name, run in rows.items():
            start = clock()
            run()
            best[name] = min(best[name], clock() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--tokens", type=int, default=6272, help="tokens in a round: 32 images of 196 patches"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processor-time", action="store_true")
    args = parser.parse_args()
    clock = time.process_time if args.processor_time else time.perf_counter
    if args.processor_time:
        torch.set_num_threads(1)
    n, rounds = (784, 2) if args.quick else (args.tokens, args.rounds)
    threads = torch.get_num_threads()
    print(f"{platform.machine()}, {threads} threads, torch {torch.__version__}; {n:,} tokens\n")
    print("| SAE | D | S | active per token | product | encoder | encoder and file | dense, then scipy |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for activation, d, s, k in CASES[:2] if args.quick else CASES:
        sae = make_sae(activation if k else "relu", d, s, k or s // 2)
        x_bd = torch.randn(n, d, generator=torch.Generator().manual_seed(1))
        encoder = Encoder(sae if k else Triangle(sae.W_dec), 0.0, None, CPU)
        with tempfile.TemporaryDirectory() as folder:
            rows: dict[str, Callable[[], object]] = {
                "product": lambda sae=sae, x=x_bd, e=encoder: product(sae, x, e.tokens),
                "encoder": lambda x=x_bd, e=encoder: encode(e, x),
                "file": lambda x=x_bd, e=encoder, f=folder: write(e, x, Path(f)),
                "dense": lambda sae=sae, x=x_bd[:784]: dense(sae, x),
            }
            seconds = least_times(rows, rounds, clock)
        events = encode(encoder, x_bd) / n
        each = {name: value / (784 if name == "dense" else n) * 1e6 for name, value in seconds.items()}
        cells = [
            f"{each[name]:.1f} µs ({each[name] / each['product']:.2f})"
            for name in ("encoder", "file", "dense")
        ]
        print(
            f"| {activation} | {d} | {s:,} | {events:.1f} | {each['product']:.1f} µs | {' | '.join(cells)} |"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"\nIn brackets: over the product. Peak memory of this process: {peak:.1f} GiB, the dense way's included."
    )


if __name__ == "__main__":
    main()
