"""The cases worked out by hand in docs/metrics.md, read from there and computed by the tools."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from saetools.metrics.average_precision import average_precision
from saetools.metrics.bootstrap import debiased_average_precision, logit_interval
from saetools.metrics.pooling import pool_scores
from saetools.scorers.baselines import Units
from saetools.scorers.evaluation import SAEEvaluation
from saetools.scorers.sae import SAE, SAEConfig
from score_traits.summary import summarise

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def table_in_page(name: str) -> list[list[str]]:
    """The cells of the table after `<!-- table: name -->`, without its header."""
    lines = PAGE.read_text(encoding="utf-8").split(f"<!-- table: {name} -->\n")[1].splitlines()
    rows = [line for line in lines[: lines.index("") if "" in lines else None] if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def results(name: str) -> dict[str, float]:
    return {what: float(value) for what, _, value in table_in_page(name)}


def check(found: dict[str, float], expected: dict[str, float]) -> None:
    assert set(found) == set(expected)
    for what, value in expected.items():
        assert found[what] == pytest.approx(value, abs=6e-7), what


def test_the_table(new_shards, score_traits, tmp_path) -> None:
    rows = table_in_page("images")
    acts = np.array([[[float(v) for v in cell.split()] for cell in row[2:4]] for row in rows])
    is_train = np.array([row[0] == "train" for row in rows])
    paths = [row[1] for row in rows]
    red = np.array([row[4] == "1" for row in rows])
    folders = {
        split: new_shards(
            tmp_path / split,
            {0: acts[here]},
            [path for path, h in zip(paths, here, strict=True) if h],
            target=red[here].astype(int),
        )
        for split, here in (("train", is_train), ("test", ~is_train))
    }
    csv = tmp_path / "traits.csv"
    lines = [f"{row[1]},{row[4]},{row[5].replace('?', '')}" for row in rows]
    csv.write_text("\n".join(["path,red,hooked", *lines]) + "\n")
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("red,other\n")

    shards = ["--train", folders["train"], "--test", folders["test"]]
    done = score_traits(*shards, "--traits", csv, "--scorer", "units", "--scorer", "const", "--bootstrap", 20)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(io.StringIO(done.stdout))
    units = table[table.scorer == "units"].set_index("trait")
    summary = summarise(table).set_index("scorer")
    pair = pd.read_csv(io.StringIO(score_traits(*shards, "--pairs", pairs, "--scorer", "units").stdout))
    assert pair.ap[0] == units.ap["red"]

    tensor = torch.tensor(acts, dtype=torch.float32)
    pooled = {pool: pool_scores(Units(2), tensor, pool) for pool in ("max", "mean", "topk-mean:2")}
    scores_nk = pooled["max"].numpy()
    found = {
        "score of e, unit 0, max": float(scores_nk[paths.index("red/e"), 0]),
        "score of e, unit 0, mean": float(pooled["mean"][paths.index("red/e"), 0]),
        "score of g, unit 1, topk-mean:2": float(pooled["topk-mean:2"][paths.index("red/g"), 1]),
        "mAP": summary["mAP"]["units"],
        "5%": summary["5%"]["units"],
        "95%": summary["95%"]["units"],
        "mAP of const": summary["mAP"]["const"],
    }
    for column, trait in ((4, "red"), (5, "hooked")):
        labels = np.array([row[column] == "1" for row in rows])
        ap_k1 = average_precision(scores_nk[is_train], labels[is_train, None])
        found |= {f"{trait}, train AP of unit {k}": ap_k1[k, 0] for k in range(2)}
        row = units.loc[trait]
        assert row.ap_train == ap_k1.max()
        found |= {f"{trait}, prototype": row.prototype, f"{trait}, test AP": row.ap}
        found[f"{trait}, prevalence"] = row.prevalence
    once = np.ones((1, int((~is_train).sum())), int)
    found["red, AP°"] = debiased_average_precision(
        scores_nk[~is_train, :1], red[~is_train, None], once
    ).item()
    is_hooked = np.array([row[5] for row in rows])[~is_train, None]
    found["hooked, AP°"] = debiased_average_precision(
        scores_nk[~is_train, 1:], is_hooked == "1", once, valid_nt=is_hooked != "?"
    ).item()
    for trait, row in units.iterrows():
        found |= {f"{trait}, lower end": row.ap_low, f"{trait}, upper end": row.ap_high}
    lower, upper = logit_interval(np.ones(1), np.ones(1))[:, 0]
    found |= {
        "one positive above all others, lower end": lower,
        "one positive above all others, upper end": upper,
    }
    for name in ("threshold", "precision", "recall", "f1"):
        found[f"red against other, {name if name != 'f1' else 'F1'}"] = pair[name][0]
    check(found, results("results"))


def test_the_sae() -> None:
    rows = table_in_page("tokens")
    x, f, x_hat = (torch.tensor([[float(v) for v in row[i].split()] for row in rows]) for i in range(3))
    sae = SAE(
        SAEConfig(2, 3, "relu"),
        W_enc=torch.tensor([[1.0, 0, -1], [0, 1, 0]]),
        b_enc=torch.tensor([0.0, 0, -10]),
        W_dec=torch.tensor([[1.0, 0], [0, 1], [-1, 0]]),
        b_dec=torch.zeros(2),
    )
    assert torch.equal(sae.encode(x), f)
    assert torch.equal(sae.decode(f), x_hat)
    evaluation = SAEEvaluation(2, 3)
    evaluation.add(sae, x)
    summary = evaluation.summary()
    assert summary.pop("n_tokens") == len(rows)
    check(summary, results("sae results"))
