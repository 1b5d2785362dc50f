"""Which rows nothing beats in every respect, and which rows can be compared at all."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from saetools.files.provenance import canonical_json

if TYPE_CHECKING:
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


# Errors, L0 and AP are compared within one of each of these: other activations, images or traits are other problems.
APART = ("model", "weights", "hook", "layer", "n_train", "data")


def pareto_front(
    table: pd.DataFrame, names: Sequence[str], groups: Sequence[Hashable] | None = None
) -> np.ndarray:
    """bool {rows}: no other row of its group is at least as good in all columns `names` and better in one.

    Small is good, but for HIGHER_IS_BETTER (or what begins like one of them and an underscore or `@`). A row with an
    empty cell there is not on the front. Equal rows are on it together.
    groups: one for each row, such as its layer (see APART); each has its own front. None: all rows are one group.
    """
    cost_rc = table[list(names)].to_numpy(np.float64) * [-1 if is_gain(name) else 1 for name in names]
    on_front = np.zeros(len(table), bool)
    rows_of: dict[Hashable, list[int]] = {}
    for row in np.lexsort(cost_rc.T[::-1]):  # a row is only ever beaten by one before it
        if not np.isnan(cost_rc[row]).any():
            rows_of.setdefault(None if groups is None else groups[row], []).append(row)
    for rows in rows_of.values():
        kept: list[np.ndarray] = []
        for row in rows:
            mine = cost_rc[row]
            if not any((other <= mine).all() and (other < mine).any() for other in kept):
                kept.append(mine)
                on_front[row] = True
    return on_front


def measured_on(sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """Of a table's sidecar: those of APART that hold for all of its rows and are not columns of it.

    `data` is a digest of what results were measured on: the validation shards of training metrics, or their training
    shards where a part of them was held out; the shards and traits of an AP table; what any other table is made of.
    """
    settings = sidecar.get("settings") or {}
    trained_on = sidecar.get("trained_on") or {}
    shards = settings.get("val") or [settings.get("holdout"), *sidecar.get("parents", [])]
    data = [shards, settings.get("traits"), settings.get("pool"), settings.get("labels")]
    found = {name: trained_on[name] for name in APART if trained_on.get(name) is not None}
    return {**found, "data": hashlib.sha256(canonical_json(data).encode()).hexdigest()[:16]}


def is_gain(name: str) -> bool:
    """Whether a large value of the column is good."""
    stem = name.partition("@")[0]
    return stem in HIGHER_IS_BETTER or any(
        stem.startswith(f"{known}_") for known in ("map", "purity", "coverage")
    )
