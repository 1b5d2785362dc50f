"""Summaries of the AP table: mAP per scorer and number of training images, and per group of traits; AP per trait."""

from __future__ import annotations

import pandas as pd

from saetools.cli.markdown import render_markdown
from saetools.files.ap_tables import mean_ap, name_scorers, spread

RUN = ["scorer", "n_prototypes", "checkpoint", "layer", "n_train"]
GROUP_MARK = "::"


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """mAP and the 5% and 95% quantiles of AP over the traits with a positive in test, per RUN.

    With several seeds these are means over the seeds, `seeds` is their number, and `sd` the standard deviation of mAP
    between them, empty where all seeds gave the same. The bounds of the interval and the mAP of the null are averaged
    too, if the table has them.
    """
    found = table.dropna(subset=["ap"])
    by = [*RUN, "seed"]
    per_seed = found.groupby(by, sort=False, dropna=False)
    seeds = mean_ap(found, by).drop(columns="traits")
    seeds = seeds.rename(columns={"map": "mAP", "ap_5": "5%", "ap_95": "95%"})
    for name in ("map_low", "map_high", "null_map", "null_map_95"):
        if name in found:
            seeds[name] = per_seed[name].first()
    runs = seeds.groupby(level=RUN, sort=False, dropna=False)
    summary = runs.mean()
    n_seeds = runs.size()
    if (n_seeds > 1).any():
        summary.insert(1, "sd", spread(runs["mAP"]))
        summary.insert(0, "seeds", n_seeds)
    return summary.reset_index()


def summarise_groups(table: pd.DataFrame) -> pd.DataFrame:
    """mAP per group of traits, the part of a trait's name before `::`, at the largest number of training images.

    Per layer and scorer, the best group first.
    """
    found = _at_most_images(table)
    found["group"] = found["trait"].str.partition(GROUP_MARK)[0]
    by = [*RUN, "group"]
    per_trait = found.groupby([*by, "trait"], sort=False, dropna=False)[["ap", "prevalence"]].mean()
    groups = per_trait.groupby(level=by, sort=False, dropna=False)
    result = groups.mean().rename(columns={"ap": "mAP"})
    result.insert(0, "traits", groups.size())
    result = result.reset_index()
    return result.sort_values("mAP", ascending=False, kind="stable").sort_values(
        ["layer", "scorer", "n_prototypes"], kind="stable"
    )


def _at_most_images(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with an AP, at each scorer's largest number of training images."""
    found = table.dropna(subset=["ap"])
    largest = found.groupby(RUN[:-1], dropna=False)["n_train"].transform("max")
    return found[found["n_train"] == largest].copy()


def render_traits(table: pd.DataFrame) -> str:
    """AP of each trait as a Markdown table: highest first per layer, scorer and seed, shown where there are several.

    The latent (prototype) is the one chosen on the largest number of training images; n is the number of test images.
    """
    found = _at_most_images(table)
    names = pd.Series(name_scorers(found), index=found.index, dtype=object)
    latents = found["scorer"].isin(("sae", "untrained")).all()
    runs = {"layer": found["layer"], "scorer": names, "seed": found["seed"]}
    shown = pd.DataFrame({name: each for name, each in runs.items() if each.nunique(dropna=False) > 1})
    columns = list(shown)
    shown["trait"] = found["trait"]
    shown["latent" if latents else "prototype"] = [
        "" if pd.isna(each) else str(int(each)) for each in found["prototype"]
    ]
    shown["AP"] = found["ap"]
    if "ap_low" in found:
        shown["95% from"], shown["to"] = found["ap_low"], found["ap_high"]
    shown["prevalence"], shown["with it"], shown["n"] = found["prevalence"], found["n_pos"], found["n_test"]
    order = found["ap"].rank(method="first", ascending=False)
    run_of = [runs[name].map({each: i for i, each in enumerate(runs[name].unique())}) for name in columns]
    place = pd.concat([*run_of, order], axis=1, keys=range(len(run_of) + 1))
    shown = shown.loc[place.sort_values(list(place)).index]
    text = render_markdown(list(shown.columns), shown.itertuples(index=False))
    n_without = table["trait"].nunique() - found["trait"].nunique()
    return text + (
        f"\nwithout a positive test image, and so without an AP: {n_without} traits" if n_without else ""
    )


def render_summary(summary: pd.DataFrame) -> str:
    """The summary as a Markdown table."""
    shown = summary.rename(
        columns={
            "n_prototypes": "prototypes",
            "n_train": "train images",
            "map_low": "from",
            "map_high": "to",
            "null_map": "null mAP",
            "null_map_95": "null 95%",
        }
    )
    if "sd" in shown:  # as many digits as the mean that it stands beside
        shown["sd"] = shown["sd"].round(3)
    return _render(shown)


def render_groups(groups: pd.DataFrame) -> str:
    """The result of `summarise_groups` as a Markdown table."""
    shown = groups.rename(columns={"n_prototypes": "prototypes", "n_train": "train images"})
    return _render(shown)


def _render(table: pd.DataFrame) -> str:
    """As Markdown, each scorer under the name that `name_scorers` gives it."""
    shown = table.assign(scorer=name_scorers(table)).drop(columns="checkpoint")
    return render_markdown(list(shown.columns), shown.itertuples(index=False))
