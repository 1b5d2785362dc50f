"""The AP table: the best prototype of every trait, chosen on training images, tested on others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from saetools.average_precision import average_precision, best_prototypes

COLUMNS = [
    "scorer",
    "n_prototypes",
    "seed",
    "model",
    "layer",
    "n_train",
    "trait",
    "prototype",
    "ap_train",
    "ap",
    "prevalence",
    "n_pos",
    "n_test",
    "checkpoint",
    "d_sae",
    "activation",
    "objective",
    "sparsity",
    "lr",
    "l0",
    "mse",
    "nmse",
]


@dataclass(frozen=True)
class Scored:
    """Image scores {N, K} of a split, and its traits {N, T}."""

    scores_nk: np.ndarray
    labels_nt: np.ndarray
    valid_nt: np.ndarray

    def __getitem__(self, rows: np.ndarray) -> Scored:
        return Scored(self.scores_nk[rows], self.labels_nt[rows], self.valid_nt[rows])


def ap_rows(train: Scored, test: Scored, trait_names: list[str], columns: dict[str, Any]) -> pd.DataFrame:
    """One row per trait: its best prototype by AP on `train`, and the AP of that one on `test`.

    A trait without a positive in `train` has no best prototype: then nothing was learnt, `prototype` and
    `ap_train` are empty, and `ap` is that of a constant scorer, the prevalence. `ap` is empty for a trait
    without a positive in `test`.
    """
    best = best_prototypes(train.scores_nk, train.labels_nt, valid_nt=_or_none(train.valid_nt))
    chosen = best.prototype_t >= 0
    n_test = test.valid_nt.sum(0)
    n_pos = (test.labels_nt & test.valid_nt).sum(0)
    prevalence = np.divide(n_pos, n_test, out=np.full(len(n_pos), np.nan), where=n_test > 0)
    ap = np.where(n_pos > 0, prevalence, np.nan)
    for trait in np.flatnonzero(chosen & (n_pos > 0)):
        column = test.scores_nk[:, best.prototype_t[trait], None]
        valid = test.valid_nt[:, trait]
        ap[trait] = average_precision(column[valid], test.labels_nt[valid, trait, None]).item()
    table = pd.DataFrame(
        {
            **columns,
            "trait": trait_names,
            "prototype": pd.array(np.where(chosen, best.prototype_t, 0), dtype="Int64"),
            "ap_train": best.ap_t,
            "ap": ap,
            "prevalence": prevalence,
            "n_pos": n_pos,
            "n_test": n_test,
        }
    )
    table.loc[~chosen, "prototype"] = pd.NA
    return table.reindex(columns=COLUMNS)


def training_subsets(n_images: int, sizes: list[int | None], seed: int) -> list[np.ndarray]:
    """Rows of the training images for every size (None: all); a smaller subset is part of every larger one."""
    order = np.random.default_rng([seed, 1]).permutation(n_images)
    return [np.sort(order[: n_images if size is None else size]) for size in sizes]


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """mAP, and the 5% and 95% quantiles of AP, over the traits with a positive in test, per scorer and size."""
    by = ["scorer", "n_prototypes", "checkpoint", "layer", "n_train"]
    found = table.dropna(subset=["ap"]).groupby(by, sort=False, dropna=False)["ap"]
    summary = pd.DataFrame({"mAP": found.mean(), "5%": found.quantile(0.05), "95%": found.quantile(0.95)})
    return summary.reset_index()


def render_summary(summary: pd.DataFrame) -> str:
    """The table of the field's notes, in Markdown."""
    head = ["scorer", "prototypes", "train images", "layer", "mAP", "5%", "95%"]
    rows = [
        [
            row.scorer,
            f"{row.n_prototypes:,}",
            f"{row.n_train:,}",
            str(row.layer),
            *(f"{value:.3f}" for value in (row.mAP, row.low, row.high)),
        ]
        for row in summary.rename(columns={"5%": "low", "95%": "high"}).itertuples()
    ]
    widths = [max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [[head[0].ljust(widths[0]), *map(str.rjust, head[1:], widths[1:])], rule]
    lines += [[row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _or_none(valid_nt: np.ndarray) -> np.ndarray | None:
    """None where every image counts for every trait: the fast path."""
    return None if valid_nt.all() else valid_nt
