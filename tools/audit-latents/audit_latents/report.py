"""ranking.csv and yield.csv."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from audit_latents.audit import Audited, yields
from audit_latents.ranking import Ranking
from saetools.errors import some_of

RANKING_COLUMNS = ["rank", "latent", "asked_by", "share", "coefficient", "found_in", "ap", "found"]
YIELD_COLUMNS = [
    "measure",
    "budget",
    "value",
    "low",
    "high",
    "null_mean",
    "null_high",
    "p",
    "chance",
    "labels_found",
    "n_proposals",
    "n_null",
    "n_latents",
]


@dataclass(frozen=True)
class YieldInput:
    """found {R} of the proposals; resampled {B, R}; null {Q, R'} of the rankings with K shuffled; chance: of a latent
    drawn at random, of n_latents."""

    found: npt.NDArray[np.bool_]
    resampled: npt.NDArray[np.bool_]
    null: npt.NDArray[np.bool_]
    chance: float
    n_latents: int


def ranking_table(
    ranking: Ranking, audited: Audited, asked: list[str], found_in: list[str], tau: float
) -> pd.DataFrame:
    """One row per proposal, best first."""
    ap_rc = np.where(np.isnan(audited.ap_kc[ranking.latent]), -1.0, audited.ap_kc[ranking.latent])
    best = ap_rc.argmax(axis=1)
    ap = np.maximum(ap_rc[np.arange(len(best)), best], 0.0)
    return pd.DataFrame(
        {
            "rank": np.arange(1, len(ranking.latent) + 1),
            "latent": ranking.latent,
            "asked_by": [asked[c] for c in ranking.label],
            "share": ranking.share,
            "coefficient": ranking.coefficient,
            "found_in": [found_in[c] for c in best],
            "ap": ap,
            "found": ap >= tau,
        }
    )[RANKING_COLUMNS]


def yield_table(given: YieldInput, ranking: pd.DataFrame, budgets: list[int]) -> pd.DataFrame:
    """Yield at every budget, and its area; intervals hold 95% of the resamples, p is that of the null."""
    n_proposals = max(budgets)
    curve, resampled, null = (
        yields(each, n_proposals) for each in (given.found, given.resampled, given.null)
    )
    rows = []
    for budget in [*budgets, None]:
        value, drawn, by_chance = (
            each.mean(axis=-1) if budget is None else each[..., budget - 1]
            for each in (curve, resampled, null)
        )
        first = ranking.head(budget or n_proposals)
        rows.append(
            {
                "measure": "area" if budget is None else "yield",
                "budget": budget or n_proposals,
                "value": value,
                "low": np.quantile(drawn, 0.025) if len(drawn) else np.nan,
                "high": np.quantile(drawn, 0.975) if len(drawn) else np.nan,
                "null_mean": by_chance.mean() if len(by_chance) else np.nan,
                "null_high": np.quantile(by_chance, 0.95) if len(by_chance) else np.nan,
                "p": (1 + (by_chance >= value - 1e-12).sum()) / (1 + len(by_chance))
                if len(by_chance)
                else np.nan,
                "chance": given.chance,
                "labels_found": first["found_in"][first["found"]].nunique(),
                "n_proposals": len(first),
                "n_null": len(by_chance),
                "n_latents": given.n_latents,
            }
        )
    return pd.DataFrame(rows)[YIELD_COLUMNS]


def render_found(yields: pd.DataFrame, ranking: pd.DataFrame, tau: float) -> str:
    """The last line for people: how many proposals show in patch labels, against chance, and the best of them."""
    row = yields[yields["measure"] == "yield"].iloc[-1]
    first = ranking.head(int(row["budget"]))
    found = first[first["found"]]
    asked = some_of(list(dict.fromkeys(map(str, first["asked_by"]))), 3)
    text = (
        f"{len(found)} of the first {len(first)} latents for {asked} show in a patch label (AP of at least {tau:g});"
        f" of {len(first)} latents drawn at random {row['chance'] * len(first):.1f} would"
    )
    if not np.isnan(row["null_mean"]):
        text += (
            f", of a ranking by shuffled labels {row['null_mean'] * row['budget']:.1f} (p = {row['p']:.3f})"
        )
    if len(found):
        best = found.loc[found["ap"].idxmax()]
        text += f"; best: latent {best['latent']} in label {best['found_in']} (AP {best['ap']:.2f})"
    return text


def render(table: pd.DataFrame, tau: float) -> str:
    """Lines for people."""
    lines = [f"share of the first B proposals with an AP of at least {tau:g} for a patch label"]
    for row in table.itertuples():
        n_proposals = getattr(row, "n_proposals", None)  # absent in version 1 of the table
        name = f"area to {row.budget}" if row.measure == "area" else f"Yield({row.budget})"
        lines.append(
            f"{name:>12}  {row.value:.3f}  [{row.low:.3f}, {row.high:.3f}]  null {row.null_mean:.3f}, p = {row.p:.3f}"
            + ("" if n_proposals is None else f" (of {n_proposals} proposals, {row.n_null} nulls)")
        )
    return "\n".join(lines)
