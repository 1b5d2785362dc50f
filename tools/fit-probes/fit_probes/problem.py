"""What the probe solver is given and what it returns: latents in CSC order, labels, fitted probes.

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
class Labels:
    """Labels of N rows for C classes: made by `from_classes` (one class a row) or `from_table`."""

    column: npt.NDArray[np.int32]
    """{N} -1: the row is dropped. One class a row: its column, or C when it is of a class not fitted here."""
    table: npt.NDArray[np.generic] | None
    """{N, C} uint8, float32 or float64 in [0, 1]; None with one class a row."""
    positive_mass: npt.NDArray[np.float64]
    """{C} sum of y over the kept rows"""
    some_positive: npt.NDArray[np.int64]
    """{C} kept rows with y > 0"""
    some_negative: npt.NDArray[np.int64]
    """{C} kept rows with y < 1"""
    n_kept: int

    @classmethod
    def from_classes(
        cls,
        ids: npt.ArrayLike,
        n_classes: int | None = None,
        *,
        ignore: int | None = None,
        classes: npt.ArrayLike | None = None,
    ) -> "Labels":
        """One class id per row. Rows with id `ignore` are dropped; `classes` fits only some of the ids.

        `classes` [C] are ids, in the order of the columns wanted; the other rows stay as negatives, so that parts
        fitted apart are the columns of the whole.
        """
        ids_n = np.asarray(ids)
        if ids_n.ndim != 1 or not np.issubdtype(ids_n.dtype, np.integer):
            raise UserError(
                f"labels: found {ids_n.dtype} {ids_n.shape}, expected one integer class id per row"
            )
        kept_n = np.ones(ids_n.shape, bool) if ignore is None else ids_n != ignore
        top = int(ids_n[kept_n].max()) if kept_n.any() else -1
        if n_classes is None:
            n_classes = top + 1
        if top >= n_classes or (kept_n.any() and int(ids_n[kept_n].min()) < 0):
            raise UserError(
                f"labels: class ids reach from {ids_n[kept_n].min()} to {top}, expected 0 to {n_classes - 1}; "
                "say which id is to be ignored"
            )
        wanted_c = np.arange(n_classes) if classes is None else np.asarray(classes, dtype=np.int64)
        if np.unique(wanted_c).size != wanted_c.size or np.any((wanted_c < 0) | (wanted_c >= n_classes)):
            raise UserError(f"classes: expected different ids from 0 to {n_classes - 1}")
        column_of_id = np.full(n_classes, wanted_c.size, np.int32)
        column_of_id[wanted_c] = np.arange(wanted_c.size)
        column_n = np.full(ids_n.shape, -1, np.int32)
        column_n[kept_n] = column_of_id[ids_n[kept_n]]
        count_c = np.bincount(column_n[kept_n], minlength=wanted_c.size + 1)[: wanted_c.size].astype(np.int64)
        n_kept = int(kept_n.sum())
        return cls(column_n, None, count_c.astype(np.float64), count_c, n_kept - count_c, n_kept)

    @classmethod
    def from_table(cls, table: npt.ArrayLike, keep: npt.ArrayLike | None = None) -> "Labels":
        """A table {N, C}: bool (or 0/1 uint8) for several labels a row, floats in [0, 1] for soft labels.

        keep: {N} bool, the rows to use; all of them by default.
        """
        y_nc = np.asarray(table)
        if y_nc.ndim != 2:
            raise UserError(f"labels: found shape {y_nc.shape}, expected a table of rows by classes")
        if y_nc.dtype == np.bool_:
            y_nc = y_nc.view(np.uint8)
        elif y_nc.dtype not in (np.uint8, np.float32, np.float64):
            raise UserError(f"labels: found {y_nc.dtype}, expected bool, uint8, float32 or float64")
        kept_n = np.ones(len(y_nc), bool) if keep is None else np.asarray(keep, dtype=bool)
        if kept_n.shape != (len(y_nc),):
            raise UserError(f"labels: keep has shape {kept_n.shape}, expected ({len(y_nc)},)")
        mass_c = np.zeros(y_nc.shape[1])
        some_c, rest_c = np.zeros(y_nc.shape[1], np.int64), np.zeros(y_nc.shape[1], np.int64)
        for start in range(0, len(y_nc), 65536):
            part = y_nc[start : start + 65536][kept_n[start : start + 65536]]
            if not np.all((part >= 0) & (part <= 1)):
                raise UserError("labels: found a value outside [0, 1] or NaN in a kept row; expected none")
            mass_c += part.sum(axis=0, dtype=np.float64)
            some_c += (part > 0).sum(axis=0)
            rest_c += (part < 1).sum(axis=0)
        column_n = np.where(kept_n, 0, -1).astype(np.int32)
        return cls(column_n, np.ascontiguousarray(y_nc), mass_c, some_c, rest_c, int(kept_n.sum()))

    @property
    def n_rows(self) -> int:
        return self.column.size

    @property
    def n_classes(self) -> int:
        return self.positive_mass.size

    def prior(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Prevalence p {C} among the kept rows, logit(p), and the loss of the constant p: -p ln p - (1-p) ln(1-p)."""
        p_c = self.positive_mass / self.n_kept
        q_c = (self.n_kept - self.positive_mass) / self.n_kept
        with np.errstate(divide="ignore", invalid="ignore"):
            log_p, log_q = np.log(p_c), np.log(q_c)
            loss_c = -(np.where(p_c > 0, p_c * log_p, 0.0) + np.where(q_c > 0, q_c * log_q, 0.0))
        return p_c, log_p - log_q, np.abs(loss_c)


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
    """{K, C} how often the pair's loss and derivatives were summed over all of the latent's events"""
    prior: npt.NDArray[np.float64]
    """{C} share of positives among the kept rows"""
    prior_loss: npt.NDArray[np.float64]
    """{C} loss of the best constant"""

    def r(self) -> npt.NDArray[np.float64]:
        """R = 1 - loss / prior loss {K, C} on the training rows; 0 where the prior loss is 0."""
        gain_kc = self.prior_loss - self.loss
        return np.divide(gain_kc, self.prior_loss, out=np.zeros_like(gain_kc), where=self.prior_loss > 0)
