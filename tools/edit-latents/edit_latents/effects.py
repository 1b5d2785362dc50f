"""What an edit did to predictions: sums for each image, from which shares, means and intervals are made.

An image has one row of logits (a head of images) or one for each patch. With logits before, z, and after, z':

    target_changed   share of the rows that were predicted as the target and no longer are
    other_changed    the same of all other rows: their prediction is another one
    target_logit     mean of z'_t - z_t over rows, of the target t
    other_logits     mean of z'_c - z_c over rows and all other classes c
    kl               mean over rows of KL(p || p'), in nats
    accuracy_before, accuracy_after     over the rows with a label
    relative_change  mean of |x' - x| / |x| over the patches that are edited

The prediction is the class of the largest logit, and p = softmax(z). For a head with one logit for each trait the
prediction is whether it is above 0, other decisions are those of the other traits, and kl is the sum of Bernoulli ones.

Sums are kept for each image, so that images can be drawn again for intervals.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

SUMS = (
    "rows",
    "target_before",
    "target_changed",
    "other_before",
    "other_changed",
    "target_logit",
    "other_logits",
    "kl",
    "labelled",
    "correct_before",
    "correct_after",
)
FIELDS = (*SUMS, "patches", "relative")
"""Sums of an image: those of its logits, the patches that are edited, and the sum of |x' - x| / |x| over them."""
# name of a measure -> the sums whose ratio it is
RATIOS = {
    "target_changed": ("target_changed", "target_before"),
    "other_changed": ("other_changed", "other_before"),
    "target_logit": ("target_logit", "rows"),
    "other_logits": ("other_logits", "rows"),
    "kl": ("kl", "rows"),
    "accuracy_before": ("correct_before", "labelled"),
    "accuracy_after": ("correct_after", "labelled"),
    "relative_change": ("relative", "patches"),
}
Ratios = dict[str, tuple[str, str]]
LEVEL = 0.95  # of intervals


def effect_sums(
    before_brc: torch.Tensor,
    after_brc: torch.Tensor,
    target_b: torch.Tensor,
    labels: torch.Tensor | None = None,
    softmax: bool = True,
) -> np.ndarray:
    """float64 {b, SUMS} for logits {b, R, C} before and after, of R rows for each image, and its target {b}.

    labels: of classes int64 {b, R}, -1 unknown; without softmax, of traits float {b, R, C}, NaN unknown.
    """
    before, after, target_b = before_brc.double(), after_brc.double(), target_b.to(before_brc.device)
    n_rows, n_classes = before.shape[1:]
    target_b11 = target_b[:, None, None]
    target_br1 = target_b11.expand(-1, n_rows, 1)
    difference = after - before
    target_logit = difference.gather(2, target_br1).sum((1, 2))
    was, now = _predicted(before, softmax), _predicted(after, softmax)
    if softmax:
        of_target, changed = was == target_b[:, None], was != now
        target_before, target_changed = of_target.sum(1), (of_target & changed).sum(1)
        other_before, other_changed = (~of_target).sum(1), (~of_target & changed).sum(1)
        log_p, log_q = before.log_softmax(2), after.log_softmax(2)
        kl_br = (log_p.exp() * (log_p - log_q)).sum(2)
    else:
        target_before = was.gather(2, target_br1).sum((1, 2))
        target_changed = (was & ~now).gather(2, target_br1).sum((1, 2))
        other_before = torch.full_like(target_before, n_rows * (n_classes - 1))
        other_changed = (was != now).sum((1, 2)) - (was != now).gather(2, target_br1).sum((1, 2))
        log_sigmoid = torch.nn.functional.logsigmoid
        kl_br = (
            before.sigmoid() * (log_sigmoid(before) - log_sigmoid(after))
            + (-before).sigmoid() * (log_sigmoid(-before) - log_sigmoid(-after))
        ).sum(2)
    other_logits = (difference.sum((1, 2)) - target_logit) / max(n_classes - 1, 1)
    rows = torch.full_like(target_logit, n_rows)
    sums = [
        *(rows, target_before, target_changed, other_before, other_changed, target_logit, other_logits),
        *(kl_br.sum(1), *_correct(was, now, labels, softmax)),
    ]
    return torch.stack([one.double() for one in sums], 1).cpu().numpy()


def _predicted(logits_brc: torch.Tensor, softmax: bool) -> torch.Tensor:
    """The class int64 {b, R}; without softmax whether each trait is there, bool {b, R, C}."""
    return logits_brc.argmax(2) if softmax else logits_brc > 0


def _correct(
    was: torch.Tensor, now: torch.Tensor, labels: torch.Tensor | None, softmax: bool
) -> list[torch.Tensor]:
    """Rows (or decisions) {b} with a label, and those that are predicted right before and after."""
    if labels is None:
        return [torch.zeros(len(was), dtype=torch.float64, device=was.device)] * 3
    labels = labels.to(was.device)
    if softmax:
        known = labels >= 0
        right = [(said == labels) & known for said in (was, now)]
        return [known.sum(1), *(one.sum(1) for one in right)]
    known = ~labels.isnan()
    right = [(said == (labels > 0.5)) & known for said in (was, now)]
    return [known.sum((1, 2)), *(one.sum((1, 2)) for one in right)]


def loss_sums(logits_brc: torch.Tensor, labels: torch.Tensor, softmax: bool = True) -> np.ndarray:
    """float64 {b, 3}: rows (or decisions) with a label, those that are right, and the sum of their log-loss in nats."""
    logits, labels = logits_brc.double(), labels.to(logits_brc.device)
    said = _predicted(logits, softmax)
    n_known, n_right, _ = _correct(said, said, labels, softmax)
    if softmax:
        log_p = logits.log_softmax(2).gather(2, labels.clamp(min=0)[..., None])[..., 0]
        loss_b = -torch.where(labels >= 0, log_p, 0).sum(1)
    else:
        y = labels.nan_to_num()
        loss = torch.nn.functional.softplus(logits) - y * logits
        loss_b = torch.where(labels.isnan(), 0, loss).sum((1, 2))
    return torch.stack([n_known.double(), n_right.double(), loss_b], 1).cpu().numpy()


def ratios(
    total_f: np.ndarray, fields: tuple[str, ...] = FIELDS, of: Ratios = RATIOS
) -> dict[str, np.ndarray]:
    """Each measure of summed sums {..., F}; NaN where there is nothing to divide by."""
    column = {name: total_f[..., i] for i, name in enumerate(fields)}
    return {
        name: np.divide(
            column[above], column[below], out=np.full(column[above].shape, np.nan), where=column[below] != 0
        )
        for name, (above, below) in of.items()
    }


class Resamples:
    """Sums of images that are drawn again: of each resample, how often image n is in it is Poisson with mean 1.

    So blocks of images can be added one after another: the n images of block i are drawn by (seed, i). The same seed
    draws the same images for every edit. Source: the Poisson bootstrap (Chamandy et al., 2012).
    """

    def __init__(self, n_resamples: int, seed: int, shape: tuple[int, ...]) -> None:
        """shape: that of the sums of an image."""
        self.n, self.seed = n_resamples, seed
        self.total, self.drawn = np.zeros(shape), np.zeros((n_resamples, *shape))

    def add(self, block: int, sums_nf: np.ndarray) -> None:
        """Add the images {n, *shape} of a block."""
        flat = sums_nf.reshape(len(sums_nf), -1)
        counts_rn = np.random.default_rng([self.seed, block]).poisson(1.0, (self.n, len(flat)))
        self.total += sums_nf.sum(0)
        self.drawn += (counts_rn @ flat).reshape(self.drawn.shape)


def interval(values_r: np.ndarray) -> tuple[float, float]:
    """Percentile interval of a measure's resamples; NaN where fewer than half of them are defined."""
    known = values_r[~np.isnan(values_r)]
    if 2 * len(known) < len(values_r) or not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    return float(low), float(high)


def mean_defined(values: Iterable[float]) -> float:
    """The mean of those that are numbers; NaN without any."""
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")
