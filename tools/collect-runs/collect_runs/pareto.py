"""Which rows nothing beats in every respect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

HIGHER_IS_BETTER = {
    "map",
    "ap",
    "ap_5",
    "ap_95",
    "f1",
    "precision",
    "recall",
    "r",
    "explained_variance",
    "coverage",
    "purity",
    "tokens_per_second",
}


def pareto_front(table: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
    """bool {rows}: no other row is at least as good in all columns `names` and better in one.

    Small is good, but for HIGHER_IS_BETTER (or what begins like one of them and an underscore or `@`). A row with an
    empty cell there is not on the front. Equal rows are on it together.
    """
    cost_rc = table[list(names)].to_numpy(np.float64) * [-1 if is_gain(name) else 1 for name in names]
    front = ~np.isnan(cost_rc).any(1)
    known = cost_rc[front]
    order = np.lexsort(known.T[::-1])  # a row is only ever beaten by one before it
    kept: list[np.ndarray] = []
    on_front = np.zeros(len(known), bool)
    for row in order:
        beaten = any((other <= known[row]).all() and (other < known[row]).any() for other in kept)
        if not beaten:
            kept.append(known[row])
            on_front[row] = True
    front[front] = on_front
    return front


def is_gain(name: str) -> bool:
    """Whether a large value of the column is good."""
    stem = name.partition("@")[0]
    return stem in HIGHER_IS_BETTER or any(
        stem.startswith(f"{known}_") for known in ("map", "purity", "coverage")
    )
