"""probes.csv, latents.csv and summary.csv from the probes and their results on the test rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from fit_probes.evaluation import TOP, Choice, ClassResults, LatentResults
from fit_probes.probe_file import Probes
from fit_probes.problem import ProbeFlag
from saetools.labels.rows import RowLabels

CLASS_COLUMNS = [
    "class",
    "latent",
    "weight",
    "bias",
    "train_loss",
    "test_loss",
    "baseline_loss",
    "r",
    "ap",
    "precision",
    "recall",
    "f1",
    "prevalence",
    "n_pos",
    "n_test",
    "n_pos_train",
    "flags",
]
LATENT_COLUMNS = [
    "latent",
    "frequency",
    "mean_value",
    "class",
    "weight",
    "bias",
    "train_r",
    "ap",
    *(f"purity@{n}" for n in TOP),
    "entropy",
    "flags",
]


def choose(probes: Probes) -> Choice:
    """The pairs to test: each class's best latent and each latent's best class, on the training rows."""
    latent_c = probes.best_latents()
    at = np.maximum(latent_c, 0), np.arange(len(latent_c))
    none_c = latent_c < 0
    weight_c = np.where(none_c, 0.0, probes.weight[at])
    return Choice(latent_c, weight_c, probes.bias[at], probes.prior, probes.best_classes())


def class_table(probes: Probes, choice: Choice, results: ClassResults, test: RowLabels) -> pd.DataFrame:
    """One row per class."""
    at = np.maximum(choice.latent_c, 0), np.arange(len(choice.latent_c))
    none_c = choice.latent_c < 0
    n_test = test.kept_rows
    prevalence = np.divide(test.mass, n_test, out=np.full(len(n_test), np.nan), where=n_test > 0)
    table = pd.DataFrame(
        {
            "class": probes.classes,
            "latent": pd.array(choice.latent_c, dtype="Int64"),
            "weight": choice.weight_c,
            "bias": choice.bias_c,
            "train_loss": np.where(none_c, probes.prior_loss, probes.loss[at]),
            "test_loss": results.loss,
            "baseline_loss": results.baseline,
            "r": results.r,
            "ap": results.ap,
            "precision": results.precision,
            "recall": results.recall,
            "f1": results.f1,
            "prevalence": prevalence,
            "n_pos": test.positives,
            "n_test": n_test,
            "n_pos_train": probes.n_positives,
            "flags": [flag_names(flag) for flag in probes.flags[at]],
        }
    )
    table.loc[none_c, "latent"] = pd.NA
    return table[CLASS_COLUMNS]


def latent_table(probes: Probes, choice: Choice, results: LatentResults) -> pd.DataFrame:
    """One row per latent."""
    class_k = choice.class_k
    at = np.arange(len(class_k)), np.maximum(class_k, 0)
    none_k = class_k < 0
    table = pd.DataFrame(
        {
            "latent": np.arange(len(class_k)),
            "frequency": results.frequency,
            "mean_value": results.mean_value,
            "class": np.where(none_k, "", probes.classes[at[1]]),
            "weight": np.where(none_k, np.nan, probes.weight[at]),
            "bias": np.where(none_k, np.nan, probes.bias[at]),
            "train_r": np.where(none_k, np.nan, probes.r()[at]),
            "ap": results.ap,
            **{f"purity@{n}": results.purity[:, i] for i, n in enumerate(TOP)},
            "entropy": results.entropy,
            "flags": [flag_names(flag) for flag in probes.flags[at]],
        }
    )
    return table[LATENT_COLUMNS]


def summary_table(
    what: dict[str, object], classes: pd.DataFrame, latents: pd.DataFrame, probes: Probes, tau: float
) -> pd.DataFrame:
    """One row: means over the classes with a positive in test, of their best latents; `what` was probed.

    NAME_n: the number of latents or classes that the mean NAME is of, where it is not n_tested.
    """
    tested = classes[classes["n_pos"] > 0]
    told_apart = tested[tested["n_pos"] < tested["n_test"]]
    best = latents.set_index("latent").reindex(tested["latent"].dropna().astype(int))
    row: dict[str, object] = {
        **what,
        "n_latents": len(latents),
        "n_classes": len(classes),
        "n_tested": len(tested),
        "absent_in_train": int((classes["n_pos_train"] == 0).sum()),
        "r": tested["r"].mean(),
        "map": tested["ap"].mean(),
        "f1": tested["f1"].mean(),
        **_means({f"purity@{n}": best[f"purity@{n}"] for n in TOP}),
        **_means({f"purity@{n}_all": latents[f"purity@{n}"] for n in TOP}),
        **_means({f"coverage@{tau:g}": (told_apart["ap"] >= tau).astype(float)}),
        "dead": (latents["frequency"] == 0).mean(),
        "converged": probes.converged.mean(),
    }
    return pd.DataFrame([row])


def _means(columns: dict[str, pd.Series]) -> dict[str, object]:
    """NAME: the mean where there is a value, NAME_n: of how many."""
    return {
        key: value
        for name, column in columns.items()
        for key, value in ((name, column.mean()), (f"{name}_n", int(column.notna().sum())))
    }


def render_summary(summary: pd.DataFrame) -> str:
    """One line for people."""
    row = summary.iloc[0]
    figures = [f"{said} {row[name]:.3f}" for name, said in (("r", "R"), ("map", "mAP"), ("f1", "F1"))]
    for name in row.index:
        if "@" in str(name) and not str(name).endswith("_n"):
            n = row.get(f"{name}_n")  # absent in version 1 of the table
            value = "undefined" if np.isnan(row[name]) else f"{row[name]:.3f}"
            figures.append(f"{name} {value}" + ("" if n is None else f" (of {int(n)})"))
    what = f"{int(row['n_tested'])} classes, {int(row['n_latents'])} latents"
    return f"{what}, on test, means of the classes unless said: {', '.join(figures)}"


def render_classes(classes: pd.DataFrame, tau: float) -> str:
    """The last line for people: what the classes' best latents reach on test, and the best and worst class."""
    tested = classes[classes["n_pos"] > 0]
    if not len(tested):
        return "no class has a positive test row, so nothing was tested"
    ap = tested["ap"]
    ends = {"best": tested.loc[ap.idxmax()]}
    if ap.max() > ap.min():
        ends["worst"] = tested.loc[ap.idxmin()]
    said = [
        f"{what} {row['class']} (AP {row['ap']:.2f}"
        + ("" if pd.isna(row["latent"]) else f", latent {int(row['latent'])}")
        + ")"
        for what, row in ends.items()
    ]
    return (
        f"the best latent of each class has an AP of {ap.mean():.2f} in the mean of {len(tested)} classes (by chance"
        f" {tested['prevalence'].mean():.2f}); {int((ap >= tau).sum())} reach {tau:g}; {', '.join(said)}"
    )


def flag_names(flags: int) -> str:
    """never-fires, ... joined by spaces."""
    return " ".join(
        flag.name.lower().replace("_", "-") for flag in ProbeFlag if flag & int(flags) and flag.name
    )
