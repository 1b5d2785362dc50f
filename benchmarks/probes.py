"""One-dimensional probes, every (latent, class) pair to its optimum: time and accuracy; prints Markdown.

    python benchmarks/probes.py                    # 200,000 rows x 4,096 latents, 1% dense, 20 classes
    python benchmarks/probes.py --huge             # 5 million rows x 16,384 latents x 150 classes, in column blocks
    python benchmarks/probes.py --huge --latents 256 --rows 1000000     # a part of it, extrapolated

Each row has one of C classes, with frequencies proportional to 1/rank. Latents are active with log-normal frequencies
(sigma 1.5) and gamma-distributed values; each has one class on which it is active more often and more strongly. The
solver's time is the minimum of several fits, after one that compiles. Random pairs are compared with scipy's optimum
of the dense definition. scikit-learn's time is extrapolated from a few pairs to all.
"""

import argparse
import importlib.util
import platform
import resource
import time

import numba
import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse, special
from sklearn.linear_model import LogisticRegression

from fit_probes.problem import DEFAULT_RIDGE, SEPARABLE_RIDGE, ProbeFit, ProbeFlag
from fit_probes.solver import fit_probes
from saetools.labels.rows import RowLabels
from saetools.latents.block import Latents

Ids = npt.NDArray[np.int64]


def draw_classes(rng: np.random.Generator, n_rows: int, n_classes: int) -> Ids:
    share_c = 1.0 / np.arange(1, n_classes + 1)
    return rng.choice(n_classes, n_rows, p=share_c / share_c.sum())


def draw_latents(rng: np.random.Generator, ids_n: Ids, n_latents: int, density: float) -> Latents:
    """Columns made one by one, so that a block needs its own non-zeros only."""
    n_rows, n_classes = ids_n.size, int(ids_n.max()) + 1
    share_k = rng.lognormal(0.0, 1.5, n_latents)
    share_k = np.minimum(share_k * density / np.exp(1.5**2 / 2), 0.5)
    order_n = np.argsort(ids_n, kind="stable")
    starts_c = np.searchsorted(ids_n[order_n], np.arange(n_classes + 1))
    rows, values, indptr = [], [], [0]
    for share in share_k:
        c = int(rng.integers(n_classes))
        own_n = order_n[starts_c[c] : starts_c[c + 1]]
        count = int(rng.binomial(n_rows, share))
        n_own = min(own_n.size, int(count * rng.beta(0.5, 2.0)))
        row = np.unique(np.concatenate([rng.integers(0, n_rows, count - n_own), rng.choice(own_n, n_own)]))
        value = rng.gamma(2.0, rng.lognormal(), row.size) * (1.0 + (ids_n[row] == c))
        rows.append(row.astype(np.int32))
        values.append(value.astype(np.float32))
        indptr.append(indptr[-1] + row.size)
    return Latents(np.array(indptr, np.int64), np.concatenate(rows), np.concatenate(values), n_rows)


def dense_column(latents: Latents, k: int) -> npt.NDArray[np.float64]:
    z_n = np.zeros(latents.n_rows)
    run = slice(latents.indptr[k], latents.indptr[k + 1])
    z_n[latents.rows[run]] = latents.values[run]
    return z_n


def scipy_optimum(z_n: npt.NDArray[np.float64], y_n: npt.NDArray[np.bool_], ridge: float) -> float:
    """Least penalised loss of the dense definition. Equal rows are merged first, which changes no sum."""
    value_u, inverse_n = np.unique(z_n, return_inverse=True)
    count_u = np.bincount(inverse_n) / z_n.size
    positive_u = np.bincount(inverse_n, weights=y_n) / z_n.size
    x_u = (value_u - z_n.mean()) / z_n.std()

    def loss(p: npt.NDArray[np.float64]) -> float:
        t_u = p[0] * x_u + p[1]
        ce = -(positive_u @ special.log_expit(t_u) + (count_u - positive_u) @ special.log_expit(-t_u))
        return float(ce + 0.5 * ridge * p[0] ** 2)

    def gradient(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        g_u = count_u * special.expit(p[0] * x_u + p[1]) - positive_u
        return np.array([g_u @ x_u + ridge * p[0], g_u.sum()])

    def hessian(p: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        t_u = p[0] * x_u + p[1]
        v_u = count_u * special.expit(t_u) * special.expit(-t_u)
        return np.array([[v_u @ x_u**2 + ridge, v_u @ x_u], [v_u @ x_u, v_u.sum()]])

    start = np.array([0.0, special.logit(y_n.mean())])
    options = {"gtol": 1e-13, "maxiter": 1000}
    return float(
        optimize.minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options=options).fun
    )


def compare(latents: Latents, ids_n: Ids, fit: ProbeFit, n_pairs: int) -> tuple[float, int]:
    """Largest difference of penalised loss from scipy's over random pairs that have an optimum."""
    rng = np.random.default_rng(1)
    pairs = np.argwhere((fit.flags & ~np.uint8(ProbeFlag.SEPARABLE)) == 0)
    worst = 0.0
    chosen = pairs[rng.choice(len(pairs), min(n_pairs, len(pairs)), replace=False)]
    for k, c in chosen:
        z_n = dense_column(latents, k)
        ridge = max(DEFAULT_RIDGE, SEPARABLE_RIDGE)
        ours = fit.loss[k, c] + 0.5 * ridge * (fit.weight[k, c] * z_n.std()) ** 2
        worst = max(worst, abs(ours - scipy_optimum(z_n, ids_n == c, ridge)))
    return worst, len(chosen)


def scikit_learn_seconds(latents: Latents, ids_n: Ids, n_pairs: int) -> float:
    """Per pair, sparse input, scikit-learn's tolerance left as it is."""
    rng = np.random.default_rng(2)
    spent = 0.0
    shape = (latents.n_rows, latents.n_latents)
    all_nk = sparse.csc_matrix((latents.values, latents.rows, latents.indptr), shape=shape)
    for k in rng.integers(latents.n_latents, size=n_pairs):
        column_n1 = all_nk[:, [k]].tocsr()
        y_n = ids_n == rng.integers(int(ids_n.max()) + 1)
        begin = time.perf_counter()
        LogisticRegression(C=1 / (DEFAULT_RIDGE * latents.n_rows)).fit(column_n1, y_n)
        spent += time.perf_counter() - begin
    return spent / n_pairs


def saev_seconds(latents: Latents, ids_n: Ids, n_classes: int) -> float | None:
    """Time of saev's Sparse1DProbe, where a user has installed its `tdiscovery` package."""
    if importlib.util.find_spec("tdiscovery") is None:
        return None
    import torch

    shape = (latents.n_rows, latents.n_latents)
    csr = sparse.csc_matrix((latents.values, latents.rows, latents.indptr), shape=shape).tocsr()
    parts = (
        torch.from_numpy(csr.indptr).long(),
        torch.from_numpy(csr.indices).long(),
        torch.from_numpy(csr.data),
    )
    x = torch.sparse_csr_tensor(*parts, size=shape)
    y = torch.from_numpy(np.eye(n_classes, dtype=bool)[ids_n])
    peer = importlib.import_module("tdiscovery.probe1d")
    probe = peer.Sparse1DProbe(n_latents=latents.n_latents, n_classes=n_classes, device="cpu")
    begin = time.perf_counter()
    probe.fit(x, y)
    return time.perf_counter() - begin


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def head(threads: int) -> None:
    print(f"{platform.machine()}, {threads} threads, numba {numba.__version__}, numpy {np.__version__}\n")


def standard(args: argparse.Namespace) -> None:
    rng = np.random.default_rng(args.seed)
    ids_n = draw_classes(rng, args.rows, args.classes)
    latents = draw_latents(rng, ids_n, args.latents, args.density)
    labels = RowLabels.from_classes(ids_n, args.classes)
    begin = time.perf_counter()
    fit = fit_probes(latents, labels, threads=args.threads)
    first = time.perf_counter() - begin
    times, cpu = [], []
    for _ in range(args.rounds):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        fit = fit_probes(latents, labels, threads=args.threads)
        times.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - begin_cpu)
    best, n_pairs = min(times), fit.loss.size
    share_k = np.diff(latents.indptr) / args.rows
    worst, compared = compare(latents, ids_n, fit, args.compare)
    print(
        f"{args.rows:,} rows x {args.latents:,} latents x {args.classes} classes, {latents.values.size:,} non-zeros"
    )
    print(
        f"({share_k.mean():.2%} dense; median latent {np.median(share_k):.3%}, largest {share_k.max():.1%})\n"
    )
    print("| what | figure |\n|---|---|")
    print(f"| all {n_pairs:,} pairs | {best:.2f} s (first call, compiling or loading: {first:.1f} s) |")
    print(f"| the same in processor time, all threads | {min(cpu):.2f} s |")
    print(f"| converged to a squared Newton decrement of 1e-14 | {fit.converged.sum():,} of {n_pairs:,} |")
    print(f"| largest decrement before the last step | {fit.decrement.max():.1e} |")
    print(
        f"| passes over the nonzero values per pair | mean {fit.passes.mean():.1f}, max {fit.passes.max()} |"
    )
    print(f"| separable pairs | {(fit.flags & ProbeFlag.SEPARABLE > 0).mean():.1%} |")
    print(f"| loss against scipy's optimum, {compared} random pairs | within {worst:.1e} |")
    print(f"| best R of a class | {np.sort(fit.r().max(axis=0))[[0, -1]].round(4).tolist()} (min, max) |")
    if args.sklearn:
        each = scikit_learn_seconds(latents, ids_n, args.sklearn)
        total, name = each * n_pairs, f"scikit-learn, {args.sklearn} pairs measured, extrapolated"
        print(f"| {name} | {total / 3600:.1f} h, {total / best:,.0f} x |")
    peer = saev_seconds(latents, ids_n, args.classes)
    if peer is None:
        print("| saev's Sparse1DProbe | not installed (package `tdiscovery`) |")
    else:
        print(f"| saev's Sparse1DProbe | {peer:.1f} s, {peer / best:.0f} x |")
    print(f"| peak memory of this process | {peak_gib():.1f} GiB |")


def huge(args: argparse.Namespace) -> None:
    """Column blocks as fit-probes uses them: made, fitted, dropped; only the probes stay."""
    rng = np.random.default_rng(args.seed)
    ids_n = draw_classes(rng, args.rows, args.classes)
    labels = RowLabels.from_classes(ids_n, args.classes)
    warm_n = ids_n[: min(args.rows, 10_000)]
    warm = draw_latents(rng, warm_n, 2, 0.1)
    fit_probes(warm, RowLabels.from_classes(warm_n, args.classes), threads=args.threads)
    spent, cpu, nnz, pairs, converged, events = 0.0, 0.0, 0, 0, 0, 0.0
    for start in range(0, args.latents, args.block):
        latents = draw_latents(rng, ids_n, min(args.block, args.latents - start), args.density)
        begin, begin_cpu = time.perf_counter(), time.process_time()
        fit = fit_probes(latents, labels, threads=args.threads)
        spent += time.perf_counter() - begin
        cpu += time.process_time() - begin_cpu
        nnz += latents.values.size
        pairs += fit.loss.size
        converged += int(fit.converged.sum())
        events += float((fit.passes.sum(axis=1) * np.diff(latents.indptr)).sum())
    work = nnz * args.classes
    print(f"{args.rows:,} rows x {args.latents:,} latents x {args.classes} classes, {nnz:,} non-zeros,")
    print(f"column blocks of {args.block}\n")
    print("| what | figure |\n|---|---|")
    print(f"| solver, all blocks | {spent:.1f} s |")
    print(f"| the same in processor time, all threads | {cpu:.1f} s |")
    print(f"| converged | {converged:,} of {pairs:,} |")
    print(f"| passes per nonzero value and class | {events / work:.2f} |")
    print(
        f"| per nonzero value and class | {spent / work * 1e9:.2f} ns, {cpu / work * 1e9:.2f} ns of one processor |"
    )
    print(f"| peak memory of this process | {peak_gib():.1f} GiB |")
    full = 5_000_000 * 16_384 * args.density * 150
    print(
        f"| the same rate at 5 million rows x 16,384 latents x 150 classes | {spent / work * full / 60:.1f} min |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--huge", action="store_true", help="5 million rows x 16,384 latents x 150 classes")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--latents", type=int)
    parser.add_argument("--classes", type=int)
    parser.add_argument("--density", type=float, default=0.01)
    parser.add_argument("--block", type=int, default=256, help="latents at a time with --huge")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compare", type=int, default=500, help="pairs compared with scipy")
    parser.add_argument("--sklearn", type=int, default=6, help="pairs fitted by scikit-learn; 0: none")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows, latents, classes = (5_000_000, 16_384, 150) if args.huge else (200_000, 4_096, 20)
    args.rows, args.latents, args.classes = (
        args.rows or rows,
        args.latents or latents,
        args.classes or classes,
    )
    head(args.threads)
    (huge if args.huge else standard)(args)


if __name__ == "__main__":
    main()
