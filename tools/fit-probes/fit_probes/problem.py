"""The problem that the probe solver solves, and what it returns.

For latent k with values z_i (zero where it does not fire) and class c with labels y_i in [0, 1],

    ce(w, b) = 1/N sum_i [log(1 + exp(w z_i + b)) - y_i (w z_i + b)]      nats per row
    minimise   ce(w, b) + ridge/2 (w u)^2                                  the bias is not penalised

over the N rows that are kept. `u` is the standard deviation of z over those N rows (so that the optimum
does not depend on the latent's unit), or 1 when `standardise` is off. This equals scikit-learn's
`LogisticRegression(C=1 / (ridge * N))` on `StandardScaler().fit_transform(z)`, or on z itself.
"""

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import numpy.typing as npt

from saetools.errors import UserError
from saetools.labels.rows import RowLabels
from saetools.latents.block import Latents

DEFAULT_RIDGE = 1e-8
"""So small that a probe with a finite optimum keeps its loss to about 1e-11, yet every pair has an optimum."""

SEPARABLE_RIDGE = 1e-10
"""Least ridge for a pair that one threshold separates: without one its weight would run to infinity."""

DECREMENT = 1e-14
"""A pair has converged when its squared Newton decrement g' H^-1 g (nats per row) is at most this."""

REACH = 1e-5
"""... and its last Newton step changed no row's logit by more than this; what remains is of the order of 1e-10."""


class ProbeFlag(IntFlag):
    """Why a pair has no ordinary optimum (bits of `ProbeFit.flags`)."""

    NEVER_FIRES = 1
    """No kept row has a non-zero value: w = 0, b = logit(prior), loss = prior loss."""
    CONSTANT = 2
    """Every kept row has the same non-zero value; answered as above."""
    NO_POSITIVES = 4
    """No kept row belongs to the class: w = 0, b = -inf, loss = prior loss = 0."""
    ALL_POSITIVES = 8
    """Every kept row belongs to the class: w = 0, b = +inf, loss = prior loss = 0."""
    SEPARABLE = 16
    """Some threshold on z has the positives on one side and the negatives on the other (rows on the threshold
    may be either), so that only the ridge makes the weight finite. A rare latent that never meets a rare class
    is the common case."""


NO_PROBE = int(ProbeFlag.NEVER_FIRES | ProbeFlag.CONSTANT | ProbeFlag.NO_POSITIVES | ProbeFlag.ALL_POSITIVES)
"""Flags of pairs that are answered by the class prior alone."""


@dataclass(frozen=True)
class ProbeFit:
    """The probes of K latents and C classes."""

    weight: npt.NDArray[np.float64]
    """{K, C}"""
    bias: npt.NDArray[np.float64]
    """{K, C} ±inf for a class without positives or without negatives"""
    loss: npt.NDArray[np.float64]
    """{K, C} mean cross-entropy in nats over the kept rows, without the penalty"""
    converged: npt.NDArray[np.bool_]
    """{K, C} whether `decrement` <= 1e-14"""
    flags: npt.NDArray[np.uint8]
    """{K, C} bits of `ProbeFlag`"""
    decrement: npt.NDArray[np.float64]
    """{K, C} g' H^-1 g where it was last computed; one more Newton step was taken from there"""
    passes: npt.NDArray[np.int32]
    """{K, C} how often the pair's loss and derivatives were summed over all nonzero values of the latent"""
    prior: npt.NDArray[np.float64]
    """{C} share of positives among the kept rows"""
    prior_loss: npt.NDArray[np.float64]
    """{C} loss of the best constant"""

    def r(self) -> npt.NDArray[np.float64]:
        """R = 1 - loss / prior loss {K, C} on the training rows; 0 where the prior loss is 0."""
        gain_kc = self.prior_loss - self.loss
        return np.divide(gain_kc, self.prior_loss, out=np.zeros_like(gain_kc), where=self.prior_loss > 0)


def check(latents: Latents, labels: RowLabels, ridge: float) -> None:
    """Refuse what no solver can answer."""
    if latents.n_rows != labels.n_rows:
        raise UserError(
            f"labels: found {labels.n_rows} rows, the latents have {latents.n_rows}; "
            "were they made from the same images?"
        )
    if labels.n_kept == 0:
        raise UserError("labels: every row is ignored, expected some rows with a label")
    if not 0.0 <= ridge < np.inf:
        raise UserError(f"ridge: found {ridge}, expected a finite number of at least 0")


def label_arrays(labels: RowLabels) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.generic] | None]:
    """{N}: -1 for a row that is left out, else its class, or 0 with a table; and the table {N, C}, bool as uint8."""
    if labels.ids is not None:
        return labels.ids, None
    assert labels.table is not None
    column_n = np.where(labels.keep, 0, -1).astype(np.int32)
    return column_n, labels.table.view(np.uint8) if labels.table.dtype == np.bool_ else labels.table
