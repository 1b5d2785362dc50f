"""How well the tokens of a batch are mixed."""

from __future__ import annotations

import math

import numpy as np


def batch_entropy(origins_b: np.ndarray, n_possible: int) -> dict[str, float]:
    """Of the images (or of the patches of an image) that a batch's B tokens are from, {B} of N possible integers:

    entropy              H = -sum_i p_i ln p_i, with p_i the share of the batch's tokens that are from i (nats)
    entropy_normalized   H / ln(min(B, N)): 1 where the tokens are spread as evenly as they can be
    coverage             how many different ones there are, divided by min(B, N)
    """
    _, counts = np.unique(origins_b, return_counts=True)
    most = min(len(origins_b), n_possible)
    share = counts / len(origins_b)
    entropy = float(-(share * np.log(share)).sum()) + 0.0
    return {
        "entropy": entropy,
        "entropy_normalized": entropy / math.log(most) if most > 1 else 1.0,
        "coverage": len(counts) / most,
    }
