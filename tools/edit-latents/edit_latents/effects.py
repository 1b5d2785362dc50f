"""What an edit did to predictions: sums for each image, from which shares, means and intervals are made.

An image has one row of logits (a head of images) or one for each patch. With logits before, z, and after, z':

    target_changed   share of the rows that were predicted as the target and no longer are
    other_changed    the same of all other rows: their prediction is another one
    target_logit     mean of z'_t - z_t over rows, of the target t
    other_logits     mean of z'_c - z_c over rows and all other classes c
    kl               mean over rows of KL(p || p'), in nats
    accuracy_before, accuracy_after     over the rows with a label

The prediction is the class of the largest logit, and p = softmax(z); for a head with one logit for each trait the
prediction is whether it is above 0, other decisions are those of the other traits, and kl is the sum of Bernoulli ones.

Sums are kept for each image so that parts of a job can be put together in any order, and images be drawn again for
intervals.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

FIELDS = (
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
# name of a measure -> the sums whose ratio it is
RATIOS = {
    "target_changed": ("target_changed", "target_before"),
    "other_changed": ("other_changed", "other_before"),
    "target_logit": ("target_logit", "rows"),
    "other_logits": ("other_logits", "rows"),
    "kl": ("kl", "rows"),
    "accuracy_before": ("correct_before", "labelled"),
    "accuracy_after": ("correct_after", "labelled"),
}


@dataclass(frozen=True)
class Labels:
    """What is right. Of classes int64 {b, R}, -1 unknown; of traits (not multi_class) float {b, R, C}, NaN unknown."""

    value: torch.Tensor
    multi_class: bool = True


def effect_sums(
    before_brc: torch.Tensor, after_brc: torch.Tensor, target: int, labels: Labels | None = None,
    multi_class: bool = True,
) -> np.ndarray:  # fmt: skip
    """float64 {b, FIELDS} for logits {b, R, C} before and after, of R rows for each image."""
    before, after = before_brc.double(), after_brc.double()
    n_classes = before.shape[2]
    is_other = torch.arange(n_classes, device=before.device) != target
    difference = after - before
    if multi_class:
        was, now = before.argmax(2), after.argmax(2)
        of_target, changed = was == target, was != now
        target_before, target_changed = of_target.sum(1), (of_target & changed).sum(1)
        other_before, other_changed = (~of_target).sum(1), (~of_target & changed).sum(1)
        log_p, log_q = before.log_softmax(2), after.log_softmax(2)
        kl_br = (log_p.exp() * (log_p - log_q)).sum(2)
    else:
        said, says = before > 0, after > 0
        target_before = said[:, :, target].sum(1)
        target_changed = (said & ~says)[:, :, target].sum(1)
        other_before = torch.full_like(target_before, before.shape[1] * (n_classes - 1))
        other_changed = (said != says)[:, :, is_other].sum((1, 2))
        log_sigmoid = torch.nn.functional.logsigmoid
        kl_br = (
            before.sigmoid() * (log_sigmoid(before) - log_sigmoid(after))
            + (-before).sigmoid() * (log_sigmoid(-before) - log_sigmoid(-after))
        ).sum(2)
    rows = torch.full((len(before),), before.shape[1], dtype=torch.float64, device=before.device)
    other_logits = difference[:, :, is_other].sum((1, 2)) / max(n_classes - 1, 1)
    sums = [rows, target_before, target_changed, other_before, other_changed,
            difference[:, :, target].sum(1), other_logits, kl_br.sum(1),
            *_correct(before, after, labels, multi_class)]  # fmt: skip
    return torch.stack([one.double() for one in sums], 1).cpu().numpy()


def _correct(
    before: torch.Tensor, after: torch.Tensor, labels: Labels | None, multi_class: bool
) -> list[torch.Tensor]:
    """Rows (or decisions) {b} with a label, and those that are right before and after."""
    if labels is None:
        return [torch.zeros(len(before), dtype=torch.float64, device=before.device)] * 3
    value = labels.value.to(before.device)
    if multi_class:
        known = value >= 0
        right = [(logits.argmax(2) == value) & known for logits in (before, after)]
        return [known.sum(1), *(one.sum(1) for one in right)]
    known = ~value.isnan()
    right = [((logits > 0) == (value > 0.5)) & known for logits in (before, after)]
    return [known.sum((1, 2)), *(one.sum((1, 2)) for one in right)]


def ratios(sums_nf: np.ndarray) -> dict[str, float]:
    """Each measure over all images {n, FIELDS}; NaN where there is nothing to divide by."""
    total = dict(zip(FIELDS, sums_nf.sum(0), strict=True))
    return {name: _ratio(total[above], total[below]) for name, (above, below) in RATIOS.items()}


def intervals(
    sums_nf: np.ndarray, resamples: int, seed: int, level: float = 0.95
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of each measure, with images drawn again with replacement; NaN where none is defined.

    The same seed draws the same images for every edit, so that edits can be compared within a draw.
    """
    n = len(sums_nf)
    draw = np.random.default_rng(seed)
    found = np.empty((resamples, len(FIELDS)))
    for r in range(resamples):
        found[r] = np.bincount(draw.integers(n, size=n), minlength=n) @ sums_nf
    column = {name: found[:, i] for i, name in enumerate(FIELDS)}
    tails = [100 * (1 - level) / 2, 100 * (1 + level) / 2]
    out = {}
    for name, (above, below) in RATIOS.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            values = column[above] / column[below]
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, tails) if len(values) else (np.nan, np.nan)
        out[name] = (float(low), float(high))
    return out


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")
