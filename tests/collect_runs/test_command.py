"""collect-runs: tables of ours as one, the Pareto front, what is missing."""

from __future__ import annotations

import io
import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import error_lines
from small_edits import AMOUNTS, effects_table, write_effects, write_small_edits

from saetools.files.formats import AP_TABLE as AP
from saetools.files.formats import COLLECTED_RUNS, Format
from saetools.files.formats import PROBE_SUMMARY as SUMMARY
from saetools.files.formats import PROBE_TABLE as PROBES
from saetools.files.formats import TRAINING_METRICS as TRAINING
from saetools.files.provenance import Provenance
from saetools.files.tables import OWN_DIGEST, SHA256, read_csv, sidecar_path, sidecar_values, write_csv
from saetools.metrics.pareto import is_gain, pareto_front


def write_table(path: Path, table: pd.DataFrame, format: Format, settings: dict | None = None) -> Path:
    write_csv(path, table, Provenance.of(format, format.made_by, settings or {}))
    return path


def ap_rows(ap: dict[str, float | None], **columns: object) -> pd.DataFrame:
    base = {"scorer": "random", "n_prototypes": 8, "seed": 0, "model": "m", "layer": 3, "n_train": 10}
    return pd.DataFrame(
        [
            {**base, "trait": trait, "ap": value, "prevalence": 0.1, "checkpoint": None, **columns}
            for trait, value in ap.items()
        ]
    )


def read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


@pytest.fixture
def sweep(tmp_path) -> list[Path]:
    """const and random, two layers, two sizes, two seeds; random lacks (layer 5, 20 images, seed 1)."""
    found = []
    for layer, n_train, seed in product((3, 5), (10, 20), (0, 1)):
        where = {"layer": layer, "n_train": n_train, "seed": seed}
        tables = [ap_rows({"a::x": 0.1, "a::y": 0.3, "b::z": None}, scorer="const", n_prototypes=1, **where)]
        if (layer, n_train, seed) != (5, 20, 1):
            gain = 0.1 * seed
            tables.append(ap_rows({"a::x": 0.4 + gain, "a::y": 0.6 + gain, "b::z": None}, **where))
        found.append(write_table(tmp_path / f"{layer}-{n_train}-{seed}.csv", pd.concat(tables), AP))
    return found


def test_map_over_traits_then_mean_over_runs(tool, sweep) -> None:
    done = tool("collect-runs", *sweep, "--by", "scorer,n_prototypes,n_train,layer")
    table = read(done.stdout).set_index(["scorer", "layer", "n_train"])
    full = table.loc["random", 3, 10]
    assert (full.runs, full.traits) == (2, 2)
    assert full["map"] == pytest.approx(0.55)
    assert full.map_sd == pytest.approx(np.std([0.5, 0.6], ddof=1))
    assert full.ap_5 == pytest.approx(np.mean([0.41, 0.51]))
    assert full.ap_95 == pytest.approx(np.mean([0.59, 0.69]))
    assert table.loc["random", 5, 20].runs == 1
    assert table.loc["const", 5, 20]["map"] == pytest.approx(0.2)
    assert len(table) == 8


def test_says_which_runs_and_files_are_missing(tool, sweep, tmp_path) -> None:
    done = tool("collect-runs", *sweep, tmp_path / "never.csv")
    assert done.stderr.count("missing") == 2
    assert f"missing files: 1\n  {tmp_path / 'never.csv'}\n" in done.stderr
    assert "missing runs of a full sweep over these columns: 1\n" in done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.strip() == "scorer=random, n_prototypes=8, layer=5, n_train=20, seed=1"
    done = tool("collect-runs", *sweep, "--strict", code=1)
    assert "0 files and 1 runs are missing" in done.stderr
    assert len(read(done.stdout)) == 8
    complete = [path for path in sweep if not path.name.startswith("5-20")]
    assert "missing runs" in tool("collect-runs", *complete).stderr  # layer 5 has no 20 at all
    assert not tool("collect-runs", *[path for path in sweep if path.name.startswith("3")], "--strict").stderr


def test_groups_of_traits(tool, tmp_path) -> None:
    rows = ap_rows({"shape::x": 0.2, "shape::y": 0.4, "colour::z": 0.9, "plain": 0.5})
    done = tool("collect-runs", write_table(tmp_path / "a.csv", rows, AP), "--by", "group")
    found = read(done.stdout).set_index("group")["map"]
    assert found.to_dict() == pytest.approx({"shape": 0.3, "colour": 0.9, "plain": 0.5})


def test_training_metrics_give_settings_and_the_evaluation(tool, tmp_path) -> None:
    """lr is the one asked for; nmse and l0 are the evaluation's; the front is where nothing beats both."""
    paths = []
    for k, nmse in ((8, 0.5), (16, 0.3), (32, 0.35)):
        log = pd.DataFrame(
            {
                "step": [1, 2],
                "lr": [1e-3, 1e-9],
                "mse": [9.0, 8.0],
                "eval_mse": [None, 1.5],
                "eval_nmse": [None, nmse],
                "eval_l0": [None, float(k)],
            }
        )
        paths.append(write_table(tmp_path / f"{k}.metrics.csv", log, TRAINING, {"lr": 1e-3, "k": k}))
    done = tool("collect-runs", *paths, "--by", "k", "--pareto", "nmse,l0", "--sort", "-k")
    table = read(done.stdout)
    assert table.k.tolist() == [32, 16, 8]
    assert table.pareto.fillna("").tolist() == ["", "*", "*"]
    assert set(table.lr) == {1e-3}
    assert set(table.mse) == {1.5}
    assert table.nmse.tolist() == [0.35, 0.3, 0.5]


def test_any_other_table_gives_its_means(tool, tmp_path) -> None:
    rows = pd.DataFrame({"class": ["a", "b"], "r": [0.2, 0.4], "f1": [0.5, 1.0]})
    done = tool("collect-runs", write_table(tmp_path / "probes.csv", rows, PROBES, {"ridge": 0.1}))
    (row,) = read(done.stdout).itertuples()
    assert (row.r, row.f1, row.rows, row.ridge) == pytest.approx((0.3, 0.75, 2, 0.1))
    assert row.file == str(tmp_path / "probes.csv")


def test_formats(tool, tmp_path) -> None:
    rows = ap_rows({"a": 0.25, "b": 0.75}, scorer="50%_k&n|x")
    path = write_table(tmp_path / "a.csv", rows, AP)
    markdown = tool("collect-runs", path, "--format", "markdown", "--columns", "map,traits").stdout
    assert markdown.splitlines()[2] == r"| 50%_k&n\|x |            8 |     3 |      10 | 0.500 |      2 |"
    latex = tool("collect-runs", path, "--format", "latex", "--columns", "map").stdout
    assert r"50\%\_k\&n|x & 8 & 3 & 10 & 0.500 \\" in latex
    assert latex.startswith("\\begin{tabular}{lrrrr}\n\\toprule\n")
    out = tmp_path / "all.csv"
    done = tool("collect-runs", "-", "--out", out, stdin=f"{path}\n")
    assert done.stdout == f"{out}\n"
    assert read(out.read_text())["map"].tolist() == [0.5]
    provenance, source = read_csv(out, COLLECTED_RUNS)[1], read_csv(path, AP)[1]
    assert list(provenance.parents) == [source.uid]
    by = ["scorer", "n_prototypes", "layer", "n_train"]
    assert provenance.settings == {"by": by, "columns": None, "pareto": None, "sort": None}
    assert f"{out}: ok, saetools-collected-runs, 1 rows" in tool("check-files", tmp_path).stdout
    assert "found 'saetools-collected-runs'" in error_lines(tool("collect-runs", out, code=1))


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--by", "layre"], 2, "did you mean layer"),
        (["--sort", "nothing"], 2, "--sort nothing"),
        (["--pareto", "nmse"], 2, "--pareto nmse"),
        (["--pareto", "map,scorer"], 2, "--pareto scorer: its values are no numbers, such as 'random'"),
        (["--format", "html"], 2, "csv, markdown, latex"),
        (["--by", "layer,,seed"], 2, "column names with commas"),
    ],
)
def test_wrong_usage(tool, tmp_path, arguments, code, words) -> None:
    path = write_table(tmp_path / "a.csv", ap_rows({"a": 0.5}), AP)
    done = tool("collect-runs", path, *arguments, code=code)
    assert done.stdout == ""
    assert words in error_lines(done)


def test_text_in_an_older_table_is_named(tool, tmp_path) -> None:
    """Tables of earlier versions have no SHA-256, so their cells may have been edited."""
    path = write_table(tmp_path / "ap.csv", ap_rows({"a": 0.5, "b": 0.6}), AP)
    values = {name: value for name, value in sidecar_values(path).items() if name not in (SHA256, OWN_DIGEST)}
    sidecar_path(path).write_text(json.dumps(values, indent=1))
    assert read(tool("collect-runs", path).stdout)["map"].tolist() == [pytest.approx(0.55)]
    path.write_text(path.read_text().replace("0.5", "o.5"))
    said = error_lines(tool("collect-runs", path, code=1))
    assert f"{path}: the column 'ap' holds 'o.5', expected finite numbers" in said


def test_tables_that_are_not_ours(tool, tmp_path) -> None:
    path = tmp_path / "alien.csv"
    path.write_text("a,b\n1,2\n")
    assert "alien.csv.json is missing" in error_lines(tool("collect-runs", path, code=1))
    assert "nothing to collect" in error_lines(tool("collect-runs", tmp_path / "none.csv", code=1))
    broken = write_table(tmp_path / "b.csv", pd.DataFrame({"scorer": ["x"], "ap": [1.0]}), AP)
    assert "no column 'n_prototypes', which the mAP of a run needs" in error_lines(
        tool("collect-runs", broken, code=1)
    )
    later = write_table(tmp_path / "d.csv", pd.DataFrame({"x": [1]}), Format("saetools-later", 1, "a-tool"))
    assert "found 'saetools-later', expected one of saetools-ap-table, " in error_lines(
        tool("collect-runs", later, code=1)
    )
    empty = write_table(tmp_path / "c.csv", pd.DataFrame({"step": []}), TRAINING)
    assert "no rows" in error_lines(tool("collect-runs", empty, code=1))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 2)), max_size=12))
@settings(max_examples=100, deadline=None)
def test_the_front_is_what_nothing_dominates(rows) -> None:
    """`map` is to be large, the others small; NaN is never on the front."""
    table = pd.DataFrame(rows, columns=["nmse", "l0", "map"]).astype(float)
    table.loc[table["nmse"] == 4, "nmse"] = np.nan
    costs = [(a, b, -c) for a, b, c in table.itertuples(index=False)]
    expected = [
        not np.isnan(mine[0])
        and not any(
            all(o <= m for o, m in zip(other, mine, strict=True)) and other != mine
            for other in costs
            if not np.isnan(other[0])
        )
        for mine in costs
    ]
    assert pareto_front(table, ["nmse", "l0", "map"]).tolist() == expected


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 2, st.sampled_from("ab")), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_each_group_has_its_own_front(rows) -> None:
    table = pd.DataFrame(rows, columns=["nmse", "l0", "layer"])
    found = pareto_front(table, ["nmse", "l0"], list(table["layer"]))
    for layer, mine in table.groupby("layer"):
        alone = pareto_front(mine, ["nmse", "l0"])
        assert found[mine.index].tolist() == alone.tolist(), layer


def test_a_front_for_each_layer_model_and_data_set(tool, tmp_path) -> None:
    """A row that another layer, model or data set would beat is on the front of its own."""
    paths = []
    for number, (model, layer, val, nmse) in enumerate(
        [("m", 3, "a", 0.5), ("m", 3, "a", 0.4), ("m", 7, "a", 0.6), ("n", 3, "a", 0.7), ("m", 3, "b", 0.8)]
    ):
        log = pd.DataFrame({"step": [1], "eval_nmse": [nmse], "eval_l0": [8.0]})
        path, known = (
            tmp_path / f"{number}.metrics.csv",
            Provenance.of(TRAINING, "t", {"val": [val], "lr": nmse}),
        )
        write_csv(path, log, known, {"trained_on": {"model": model, "weights": model * 8, "layer": layer}})
        paths.append(path)
    table = read(tool("collect-runs", *paths, "--pareto", "nmse,l0").stdout)
    assert table.pareto.fillna("").tolist() == ["", "*", "*", "*", "*"]
    assert table.layer.tolist() == [3, 3, 7, 3, 3]
    assert not {"weights", "hook", "data"} & set(table.columns)
    rows = [
        ap_rows({"a": ap}, layer=layer, n_train=n, scorer=f"s{i}")
        for i, (layer, n, ap) in enumerate([(3, 10, 0.9), (3, 10, 0.5), (7, 10, 0.4), (3, 20, 0.3)])
    ]
    ap = write_table(tmp_path / "ap.csv", pd.concat(rows), AP)
    table = read(tool("collect-runs", ap, "--pareto", "map").stdout)
    assert table.pareto.fillna("").tolist() == ["*", "", "*", "*"]


def test_the_deviation_is_empty_where_nothing_varied_and_counts_are_said(tool, tmp_path) -> None:
    rows = [ap_rows({"a": 0.3, "b": 0.1}, scorer="const", n_prototypes=1, seed=s) for s in range(3)]
    rows += [ap_rows({"a": 0.3 + 0.1 * s}, scorer="sae", seed=s, nmse=[0.1, 0.3, None][s]) for s in range(3)]
    path = write_table(tmp_path / "a.csv", pd.concat(rows), AP)
    done = tool("collect-runs", path, "--columns", "runs,map,map_sd,nmse,nmse_sd")
    table = read(done.stdout).set_index("scorer")
    assert table.runs.tolist() == [3, 3]
    assert np.isnan(table.map_sd["const"])
    assert table.map_sd["sae"] == pytest.approx(np.std([0.3, 0.4, 0.5], ddof=1))
    assert table.nmse["sae"] == pytest.approx(0.2)
    assert table.nmse_sd["sae"] == pytest.approx(np.std([0.1, 0.3], ddof=1))
    assert (
        "nmse: the mean of 1 rows is over fewer runs than in the column `runs` (first: 2 of 3)" in done.stderr
    )
    assert "map_sd" in error_lines(tool("collect-runs", path, "--columns", "mpa_sd", code=2))


def test_scorers_have_names_not_uids(tool, tmp_path) -> None:
    """Of probes, the kind; of AP tables in Markdown, the file too where there are several of a kind."""
    uids = ["1" * 32, "2" * 32]
    paths = []
    for number, uid in enumerate(uids):
        rows = pd.DataFrame(
            {"scorer": ["sae"], "model": ["m"], "layer": [3], "n_latents": [8], "map": [0.5 + number]}
        )
        settings = {"scorer": uid, "kind": "sae"}
        paths.append(write_table(tmp_path / f"{number}" / "summary.csv", rows, SUMMARY, settings))
        classes = pd.DataFrame({"class": ["a", "b"], "ap": [0.5, 0.7]})
        paths.append(write_table(tmp_path / f"{number}" / "probes.csv", classes, PROBES, settings))
    done = tool(
        "collect-runs", *paths[::2], "--by", "scorer,n_latents", "--columns", "map", "--format", "markdown"
    )
    assert done.stdout.splitlines()[2].split() == ["|", "sae", "|", "8", "|", "1.000", "|"]
    done = tool("collect-runs", *paths)
    assert not any(uid in done.stdout for uid in uids)
    table = read(done.stdout)
    assert table.file.tolist() == list(map(str, paths))
    assert set(table.scorer) == {"sae"}
    saes = [("k16.h5", 0.5), ("k32.h5", 0.7), (None, 0.1)]
    rows = [ap_rows({"a": ap}, scorer="sae" if file else "pca", checkpoint=file) for file, ap in saes]
    path = write_table(tmp_path / "ap.csv", pd.concat(rows), AP)
    lines = tool("collect-runs", path, "--format", "markdown", "--columns", "map").stdout.splitlines()
    assert [line.split("|")[1].strip() for line in lines] == [
        "scorer",
        "-------",
        "sae k16",
        "sae k32",
        "pca",
    ]
    assert "k16" in tool("collect-runs", path).stdout and "checkpoint" not in lines[0]


def test_what_is_better_when_large() -> None:
    assert all(map(is_gain, ["map", "map_low", "purity@16", "coverage@0.3", "explained_variance", "f1"]))
    assert not any(map(is_gain, ["nmse", "l0", "mse", "dead", "loss"]))


def test_edits_are_means_over_latents_and_targets(tool, tmp_path) -> None:
    """Of each file, operation, amount and control; ends of intervals have no mean, and latents none either."""
    table = effects_table([(3, "car"), (17, "tree"), (4, "sky")])
    table.loc[table["target"] == "sky", "target_changed"] = np.nan
    path = write_effects(
        tmp_path / "effects.csv", table, {"scorer": "1" * 32, "layer": 8, "operation": "scale"}
    )
    done = tool("collect-runs", path)
    found = read(done.stdout)
    assert len(found) == len(AMOUNTS) * 6 and set(found["runs"]) == {3}
    assert "target_changed: the mean of 24 rows is over fewer runs" in done.stderr
    assert "missing" not in done.stderr
    row = found[(found["amount"] == -2) & (found["control"] == "none")].iloc[0]
    mine = table[(table["amount"] == -2) & (table["control"] == "none")]
    assert row["target_changed"] == pytest.approx(mine["target_changed"].mean())
    assert row["kl"] == pytest.approx(mine["kl"].mean()) and row["layer"] == 8
    assert not [name for name in found if name.endswith(("_low", "_high", "_min", "_max"))]
    assert "latent" not in found and "scorer" not in found
    by = tool("collect-runs", path, "--by", "latent,target,control", "--columns", "other_changed", "--strict")
    pairs = read(by.stdout)
    assert len(pairs) == 18 and pairs["latent"].tolist()[::6] == [3, 17, 4]
    assert pairs["other_changed"].iloc[0] == pytest.approx(
        table[(table["latent"] == 3) & (table["control"] == "none")]["other_changed"].mean()
    )
    fidelity = write_small_edits(tmp_path / "edits") / "fidelity.csv"
    found = read(tool("collect-runs", fidelity).stdout)
    assert found["input"].tolist() == ["x", "reconstruction", "mean", "zero"]
    assert found["ce_recovered"].tolist()[1] == pytest.approx(0.7) and found["ce_recovered"].count() == 1
    assert read(tool("collect-runs", fidelity, path).stdout)["file"].nunique() == 2
