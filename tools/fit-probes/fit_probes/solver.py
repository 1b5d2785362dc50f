"""Fit `sigma(w z + b)` for every (latent, class) pair, each to its own optimum; the problem is in `problem.py`.

Newton's method on two numbers per pair, in float64 (`kernels/newton.py`):

* Zeros of a latent are one closed-form term, so a pass costs the latent's nonzero values only. The labels enter the
  gradient through two sums per pair, the mass of positives and their values, taken once.
* A latent with many nonzero values is first solved on their histogram, then finished on the values themselves.
* A step that raises the loss is shortened. A pair stops when its squared Newton decrement g' H^-1 g is at most
  1e-14 and its step moves no row's logit by more than 1e-5; that step is still taken, so that what remains is of
  the order of 1e-10 in the logit and 1e-20 in the loss.

Each pair is solved by one thread: results do not depend on the number of threads, on the other latents or on the
other classes. The order of a latent's values changes the rounding of sums only.
"""

import numpy as np

from fit_probes.kernels.columns import fit_columns
from fit_probes.problem import (
    DECREMENT,
    DEFAULT_RIDGE,
    REACH,
    SEPARABLE_RIDGE,
    ProbeFit,
    ProbeFlag,
    check,
    label_arrays,
)
from saetools.compute.threads import available_threads, share_out
from saetools.labels.rows import RowLabels
from saetools.latents.block import Latents


def fit_probes(
    latents: Latents,
    labels: RowLabels,
    *,
    ridge: float = DEFAULT_RIDGE,
    standardise: bool = True,
    threads: int | None = None,
    device: str = "cpu",
) -> ProbeFit:
    """Fit all pairs of a block of latents {K} and the labels' classes {C}; see `problem.py` for the equation.

    ridge: weight of the penalty ridge/2 (w u)^2 on the mean loss, u the latent's standard deviation over the kept
        rows, or 1 without `standardise`. scikit-learn's C is 1 / (ridge * N). Pairs that a threshold separates are
        solved with at least `SEPARABLE_RIDGE` and flagged.
    threads: at most this many; by default one per core. Memory per thread is 12 to 16 bytes per non-zero value of the
        largest latent, besides the 41 bytes per pair that are returned.
    device: "cpu" runs the compiled kernels; "cuda" (or "cuda:1") the same algorithm in torch. "mps" has no float64
        and is answered by the CPU.
    Raises UserError for a negative ridge, no row with a label, or labels of another length than the latents.
    """
    check(latents, labels, ridge)
    if device.split(":")[0] not in ("cpu", "mps"):
        from fit_probes.torch_newton import fit_probes_torch

        return fit_probes_torch(latents, labels, ridge=ridge, standardise=standardise, device=device)

    n_latents, n_classes = latents.n_latents, labels.n_classes
    values = latents.values.astype(np.float32) if latents.values.dtype == np.float16 else latents.values
    prior_c, logit_c, prior_loss_c = labels.prior()
    total = np.stack([labels.mass, labels.some_positive, labels.some_negative, logit_c], axis=1)
    settings = np.array([ridge, SEPARABLE_RIDGE, float(standardise), DECREMENT, REACH])
    codes = np.array([int(flag) for flag in ProbeFlag], np.int64)
    out = np.zeros((5, n_latents, n_classes))
    flags = np.zeros((n_latents, n_classes), np.uint8)
    column, table = label_arrays(labels)
    table = np.zeros((0, n_classes), np.uint8) if table is None else table
    # Latents by falling size, dealt out in turn, give every thread nearly the same work.
    order = np.argsort(-np.diff(latents.indptr), kind="stable")
    n_threads = threads or available_threads()

    def run(piece: int, _end: int) -> None:
        fit_columns(
            latents.indptr,
            latents.rows,
            values,
            order[piece::n_threads],
            column,
            table,
            total,
            prior_loss_c,
            labels.n_kept,
            settings,
            codes,
            out,
            flags,
        )

    share_out(n_threads, 1, n_threads, run)
    weight, bias, loss, decrement, passes = out
    return ProbeFit(
        weight,
        bias,
        loss,
        decrement <= DECREMENT,
        flags,
        decrement,
        passes.astype(np.int32),
        prior_c,
        prior_loss_c,
    )
