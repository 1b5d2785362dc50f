"""How well the effect of an edit agrees with that of redrawing: formulas, with images resampled.

e, d {n, C}: for n pairs of an attribute t, by how much each of C logits changes through the edit of the picture as it
is, and through redrawing it. Both are in units of the logit's standard deviation over training images.

    r_images      correlation over pairs of e_it and d_it: does the edit do more where the drawing does more?
    r_attributes  correlation over the other attributes c of mean_i e_ic and mean_i d_ic: do the same others move?
                  Pairs in which redrawing changes c by intention (of a swap) are left out of both means.
    direction     share of pairs in which e_it and d_it have the same sign
    ratio         mean_i e_it / mean_i d_it

An edit that changes nothing agrees with nothing: its correlations are 0, and its direction is wrong. A measure is NaN
where redrawing itself moves nothing, or there is one pair.
"""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
MEASURES = ("r_images", "r_attributes", "direction", "ratio")
NOTHING = 1e-5  # standard deviations of a logit: rounding of float32, and no change


def agreement(
    edit_nc: Floats, redrawn_nc: Floats, intended_nc: NDArray[np.bool_], target: int, weights_rn: Floats
) -> dict[str, Floats]:
    """Each measure {R} for R weightings of the pairs; a row of ones gives the pairs as they are.

    intended_nc: whether redrawing pair i is meant to change attribute c; target: the column of t.
    """
    e_n, d_n = edit_nc[:, target], redrawn_nc[:, target]
    others = np.arange(edit_nc.shape[1]) != target
    counted_nc = ~intended_nc[:, others]
    with np.errstate(invalid="ignore", divide="ignore"):
        n_rc = weights_rn @ counted_nc
        e_rc = weights_rn @ (edit_nc[:, others] * counted_nc) / n_rc
        d_rc = weights_rn @ (redrawn_nc[:, others] * counted_nc) / n_rc
        n_r = weights_rn.sum(1)
        same_n = (np.abs(e_n) > NOTHING) & (e_n * d_n > 0)
        return {
            "r_images": correlation(np.broadcast_to(e_n, weights_rn.shape), d_n, weights_rn),
            "r_attributes": correlation(e_rc, d_rc, (n_rc > 0).astype(float)),
            "direction": weights_rn @ same_n / n_r,
            "ratio": (weights_rn @ e_n) / (weights_rn @ d_n),
        }


def correlation(x_rn: Floats, y_rn: Floats, weights_rn: Floats) -> Floats:
    """Pearson's, of each row with weights; 0 where x does not vary, NaN where y does not."""
    n_r = weights_rn.sum(1, keepdims=True)
    w_rn = weights_rn / np.where(n_r > 0, n_r, np.nan)
    x_rn, y_rn = (np.where(weights_rn > 0, one, 0) for one in (x_rn, np.broadcast_to(y_rn, weights_rn.shape)))
    x_rn = x_rn - (w_rn * x_rn).sum(1, keepdims=True)
    y_rn = y_rn - (w_rn * y_rn).sum(1, keepdims=True)
    x_r, y_r = (np.sqrt((w_rn * one**2).sum(1)) for one in (x_rn, y_rn))
    with np.errstate(invalid="ignore", divide="ignore"):
        r_r = (w_rn * x_rn * y_rn).sum(1) / (x_r * y_r)
    return np.where(y_r <= NOTHING, np.nan, np.where(x_r <= NOTHING, 0.0, r_r))


def resampled(n_images: int, resamples: int, seed: int) -> Floats:
    """How often each image counts {1 + R, n}: first each once, then R draws of them with replacement."""
    rng = np.random.default_rng(seed)
    counts_rn = rng.multinomial(n_images, np.full(n_images, 1 / n_images), size=resamples)
    return np.concatenate([np.ones((1, n_images)), counts_rn])


def interval(values_r: Floats, level: float = 0.95) -> tuple[float, float, float]:
    """The value of all pairs, and its interval from the resamples behind it: bias-corrected percentiles.

    Efron, Nonparametric standard errors and confidence intervals, 1981. Plain percentiles lie too low here, since
    resampling adds noise to both sides of a correlation. NaN where no resample has a value.
    """
    drawn_r = values_r[1:][np.isfinite(values_r[1:])]
    if not len(drawn_r) or not np.isfinite(values_r[0]):
        return float(values_r[0]), np.nan, np.nan
    normal, n = NormalDist(), len(drawn_r)
    below = ((drawn_r < values_r[0]).sum() + 0.5 * (drawn_r == values_r[0]).sum()) / n
    shift = normal.inv_cdf(float(np.clip(below, 1 / (n + 1), n / (n + 1))))
    reach = normal.inv_cdf((1 + level) / 2)
    low, high = (100 * normal.cdf(2 * shift + side) for side in (-reach, reach))
    return float(values_r[0]), float(np.percentile(drawn_r, low)), float(np.percentile(drawn_r, high))
