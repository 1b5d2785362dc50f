"""render-visuals plot: each kind draws what its tables say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import runner
from PIL import Image
from processes import BIN, error_lines
from small_edits import AMOUNTS, effects_table, write_effects
from small_tables import write_table

from render_visuals.cli import app
from render_visuals.plots.kinds import KINDS, draw_kind
from saetools.files.formats import AP_TABLE, COLLECTED_RUNS, LATENT_TABLE, TRAINING_METRICS
from saetools.files.provenance import Provenance
from saetools.files.tables import sidecar_path, write_csv

render = runner("render-visuals", app)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    rows = []
    for layer in (5, 8):
        for scorer, k in (("const", 1), ("random", 64), ("sae", 512)):
            for n_train in (16, 64, 500):
                for t in range(20):
                    prevalence = 0.02 + t / 25
                    ap = prevalence if scorer == "const" else min(1.0, prevalence + rng.random() * 0.4)
                    trait = f"has_{'bill_shape' if t % 2 else 'wing_color'}::v{t}"
                    rows.append([scorer, k, layer, n_train, trait, t, ap, prevalence, f"sae-layer{layer}.h5"])
    names = [
        "scorer",
        "n_prototypes",
        "layer",
        "n_train",
        "trait",
        "prototype",
        "ap",
        "prevalence",
        "checkpoint",
    ]
    ap = pd.DataFrame(rows, columns=names)
    ap.loc[0, "ap"] = np.nan
    write_table(folder / "ap.csv", ap, AP_TABLE)
    runs = []
    for number, (l0, nmse) in enumerate([(16, 0.5), (32, 0.3), (32, 0.4), (64, 0.35)]):
        steps = np.arange(1, 6)
        metrics = pd.DataFrame({"step": steps, "tokens": steps * 1000, "loss": 1 / steps, "mse": 1 / steps})
        metrics["l0"], metrics["dead"], metrics["lr"] = l0, 0.0, 1e-3
        metrics["eval_l0"], metrics["eval_nmse"] = np.nan, np.nan
        metrics.loc[4, ["eval_l0", "eval_nmse"]] = l0, nmse
        runs.append(write_table(folder / f"run{number}.metrics.csv", metrics, TRAINING_METRICS))
    frequency = 10 ** rng.normal(-3, 1, 300)
    latents = pd.DataFrame(
        {"latent": range(300), "frequency": frequency, "mean_value": rng.lognormal(size=300)}
    )
    latents.loc[:9, ["frequency", "mean_value"]] = 0, np.nan
    write_table(folder / "latents.csv", latents, LATENT_TABLE)
    ap_kinds = {kind: [folder / "ap.csv"] for kind in ("map", "layers", "traits", "prevalence")}
    edits = [write_effects(folder / "effects.csv", effects_table([(3, "car"), (17, "tree"), (5, "sky")]))]
    histogram = [folder / "latents.csv"]
    return {**ap_kinds, "front": runs, "training": runs[:2], "histogram": histogram, "edits": edits}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_and_format(kind: str, tables: dict[str, list[Path]], tmp_path: Path) -> None:
    done = render("plot", kind, *tables[kind], "--out", tmp_path / "sub" / "a.png")
    assert done.stdout == f"{tmp_path / 'sub' / 'a.png'}\n"
    with Image.open(tmp_path / "sub" / "a.png") as image:
        assert min(image.size) > 300
        assert len(image.convert("RGB").getcolors(1 << 20) or []) > 5
    for name in ("a.svg", "b.svg", "a.pdf"):
        render("plot", kind, *tables[kind], "--out", tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    # The same figure is the same bytes.
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_front_joins_those_that_nothing_beats(tables: dict[str, list[Path]]) -> None:
    axes = draw_kind("front", tables["front"]).axes[0]
    (line,) = axes.get_lines()
    assert line.get_xydata().tolist() == [[16, 0.5], [32, 0.3]]  # type: ignore[union-attr]
    assert [text.get_text() for text in axes.texts] == ["run0", "run1"]
    assert axes.collections[0].get_offsets().tolist() == [[32, 0.4], [64, 0.35]]  # type: ignore[union-attr]


def test_a_front_for_each_layer_and_model(tmp_path: Path) -> None:
    """Of metrics by what they say of their training, of AP tables by their columns; --y standardized errors."""
    paths = []
    for number, (layer, l0, nmse) in enumerate(
        [(3, 16, 0.5), (3, 32, 0.6), (7, 16, 0.7), (7, 32, 0.8), (7, 8, 0.9)]
    ):
        row = {
            "tokens": [9],
            "loss": [0.0],
            "eval_l0": [l0],
            "eval_nmse": [nmse],
            "eval_nmse_standardized": [1 - nmse],
        }
        paths.append(tmp_path / f"run{number}.metrics.csv")
        known = Provenance.of(TRAINING_METRICS, "train-sae", {})
        write_csv(paths[-1], pd.DataFrame(row), known, {"trained_on": {"model": "m", "layer": layer}})
    axes = draw_kind("front", paths).axes[0]
    fronts = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axes.get_lines()}
    assert fronts == {
        "Pareto front, layer 3": [[16, 0.5]],
        "Pareto front, layer 7": [[8, 0.9], [16, 0.7]],
    }
    assert [text.get_text() for text in axes.texts] == ["run0", "run4", "run2"]
    axes = draw_kind("front", paths, y="nmse_standardized").axes[0]
    assert axes.get_ylabel() == "NMSE of standardized dimensions"
    line = axes.get_lines()[0]
    np.testing.assert_allclose(line.get_xydata(), [[16, 0.5], [32, 0.4]])  # type: ignore[arg-type]

    rows = [
        {
            "scorer": "sae",
            "n_prototypes": 4,
            "checkpoint": f"k{k}.h5",
            "model": model,
            "layer": 3,
            "n_train": n,
        }
        | {"trait": "t", "ap": 0.5, "prevalence": 0.1, "l0": k, "nmse": nmse}
        for model, k, nmse in (("m", 8, 0.5), ("m", 16, 0.6), ("other", 32, 0.7))
        for n in (10, 20)
    ]
    axes = draw_kind("front", [write_table(tmp_path / "ap.csv", pd.DataFrame(rows), AP_TABLE)]).axes[0]
    assert axes.figure.get_suptitle() == "3 SAEs, layer 3"  # type: ignore[union-attr]
    assert [str(line.get_label()) for line in axes.get_lines()] == ["Pareto front, m", "Pareto front, other"]
    assert [text.get_text() for text in axes.texts] == ["sae k8", "sae k32"]


def test_the_column_of_the_front(tables: dict[str, list[Path]], tmp_path: Path) -> None:
    out = ["--out", tmp_path / "a.png"]
    said = error_lines(render("plot", "front", *tables["front"], "--y", "nmse_standardised", *out, code=2))
    assert "did you mean nmse_standardized?" in said
    error_lines(render("plot", "map", *tables["map"], "--y", "nmse", *out, code=2))
    said = error_lines(render("plot", "front", *tables["front"], "--y", "nmse_standardized", *out, code=1))
    assert "nmse_standardized" in said
    axes = draw_kind("front", tables["front"]).axes[0]
    assert axes.get_ylabel() == "NMSE"


def test_scorers_of_a_kind_are_told_apart_by_their_files(tmp_path: Path) -> None:
    rows = [
        {"scorer": scorer, "n_prototypes": 4, "checkpoint": file, "layer": 3, "n_train": 10}
        | {"trait": "t", "ap": 0.5, "prevalence": 0.1}
        for scorer, file in (("sae", "x/k8-seed{seed}.h5"), ("sae", "x/k16.h5"), ("pca", None))
    ]
    path = write_table(tmp_path / "ap.csv", pd.DataFrame(rows), AP_TABLE)
    lines = [str(line.get_label()) for line in draw_kind("map", [path]).axes[0].get_lines()]
    assert lines == ["sae k8, 4", "sae k16, 4", "pca, 4"]


def test_map_is_the_mean_over_traits(tables: dict[str, list[Path]]) -> None:
    figure = draw_kind("map", tables["map"])
    assert len(figure.axes) == 2  # a panel for each layer
    rows = pd.read_csv(tables["map"][0])
    axes = figure.axes[1]
    assert axes.get_title(loc="right") == "layer 8"
    for line in axes.get_lines():
        if line.get_label() in ("const, 1", "const", "random, 64", "sae, 512"):
            scorer = str(line.get_label()).split(",")[0]
            mine = rows[(rows["layer"] == 8) & (rows["scorer"] == scorer)]
            expected = [mine[mine["n_train"] == n]["ap"].mean() for n in (16, 64, 500)]
            np.testing.assert_allclose(np.asarray(line.get_ydata(), float), expected)
    low, high = rows[(rows["layer"] == 8) & (rows["scorer"] == "sae") & (rows["n_train"] == 64)][
        "ap"
    ].quantile([0.05, 0.95])
    whiskers = axes.collections[2].get_segments()  # type: ignore[attr-defined]
    np.testing.assert_allclose(whiskers[1][:, 1], [low, high])
    # Beside each other, so that none covers another: in the order of the scorers, around the number of images.
    at_64 = [one.get_segments()[1][0, 0] for one in axes.collections]  # type: ignore[attr-defined]
    assert at_64 == sorted(at_64)
    assert np.sqrt(at_64[0] * at_64[-1]) == pytest.approx(64)


def test_layers_use_the_most_training_images(tables: dict[str, list[Path]]) -> None:
    axes = draw_kind("layers", tables["layers"]).axes[0]
    rows = pd.read_csv(tables["layers"][0])
    line = next(line for line in axes.get_lines() if line.get_label() == "sae, 512")
    most = rows[(rows["scorer"] == "sae") & (rows["n_train"] == 500)]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), most.groupby("layer")["ap"].mean())


def test_traits_are_grouped_by_attribute(tables: dict[str, list[Path]]) -> None:
    axes = draw_kind("traits", tables["traits"]).axes[0]
    assert {text.get_text() for text in axes.get_yticklabels()} == {"bill shape", "wing color"}


def test_edits_have_a_panel_for_each_latent_and_one_for_the_mean(tables: dict[str, list[Path]]) -> None:
    figure = draw_kind("edits", tables["edits"])
    table = pd.read_csv(tables["edits"][0])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0] == "mean of 3 latents and targets"
    assert sorted(titles[1:]) == ["latent 17: tree", "latent 3: car", "latent 5: sky"]
    assert {axes.get_xlabel() for axes in figure.axes} == {"", "scale: factor of the latent's value"}
    said = " ".join(figure.get_suptitle().split())
    assert said.startswith(
        "Edits (scale) of 3 latents, SAE 01234567, layer 8 of timm/test, head model, patches where"
    )
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("the latent", "random-direction", "random-latent", "diff-means", "probe", "reconstruction"),
        *("solid: of predictions as the target", "dashed: of predictions that were not the target"),
    ]
    axes = figure.axes[titles.index("latent 3: car")]
    mine = table[(table["latent"] == 3) & (table["control"] == "none")]
    lines = {str(line.get_label()): line for line in axes.get_lines() if line.get_marker() != "None"}
    np.testing.assert_allclose(np.asarray(lines["the latent"].get_ydata(), float), mine["target_changed"])
    dashed = [
        np.asarray(line.get_ydata(), float) for line in axes.get_lines() if line.get_linestyle() == "--"
    ]
    assert any(np.allclose(one, mine["other_changed"]) for one in dashed)
    whiskers = [one.get_segments() for one in axes.collections]  # type: ignore[attr-defined]
    ends = mine[["target_changed_low", "target_changed_high"]].to_numpy()
    assert any(np.allclose([one[:, 1] for one in found], ends) for found in whiskers)
    ranges = table[(table["latent"] == 3) & (table["control"] == "random-latent")]
    ends = ranges[["target_changed_draw_min", "target_changed_draw_max"]].to_numpy()
    assert any(np.allclose([one[:, 1] for one in found], ends) for found in whiskers)
    # Set apart sideways, the latent among its controls, all of them nearer to their amount than to another.
    at = np.array(
        [np.asarray(line.get_xdata(), float) for line in lines.values() if len(line.get_xdata()) == 4]
    )  # type: ignore[arg-type]
    assert len(at) == 6 and len(np.unique(at[:, 0])) == 6
    assert (np.abs(at - np.array(AMOUNTS)) < 0.5).all()
    means = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
    by_amount = table[table["control"] == "none"].groupby("amount")["target_changed"]
    np.testing.assert_allclose(np.asarray(means["the latent"].get_ydata(), float), by_amount.mean())
    half = 4.302653 * by_amount.std() / np.sqrt(3)  # Student's, of three
    found = [one.get_segments() for one in figure.axes[0].collections]  # type: ignore[attr-defined]
    ends = np.stack([by_amount.mean() - half, by_amount.mean() + half], 1).clip(0, 1)
    assert any(np.allclose([one[:, 1] for one in whisker], ends, atol=1e-6) for whisker in found)


def test_the_measure_of_edits(tables: dict[str, list[Path]], tmp_path: Path) -> None:
    axes = draw_kind("edits", tables["edits"], y="kl").axes[0]
    assert axes.get_ylabel() == "KL, nats" and not [
        one for one in axes.get_lines() if one.get_linestyle() == "--"
    ]
    assert draw_kind("edits", tables["edits"], y="target_logit").axes[0].get_ylabel() == "change of logit"
    out = ["--out", tmp_path / "a.png"]
    render("plot", "edits", *tables["edits"], "--y", "accuracy_after", *out)
    said = error_lines(render("plot", "edits", *tables["edits"], "--y", "nmse", *out, code=2))
    assert "--y nmse: edits can draw target_changed, other_changed" in said
    said = error_lines(render("plot", "front", *tables["front"], "--y", "kl", *out, code=2))
    assert "--y kl: front can draw nmse, nmse_standardized, mse" in said


def test_edits_that_tell_most_come_first(tmp_path: Path) -> None:
    """Those furthest from the nearest control of the same size; what is left out is said."""
    table = effects_table([(latent, f"class {latent}") for latent in range(40)])
    own = table["control"] == "none"
    for latent in range(40):
        mine = table["latent"] == latent
        table.loc[mine, "target_changed"] = 0.1
        table.loc[mine & own & (table["amount"] == 2), "target_changed"] = 0.1 + latent / 50
    table.loc[table["control"] == "reconstruction", "target_changed"] = 0.9
    table.loc[table["latent"] == 39, "target_changed"] = np.nan
    figure = draw_kind("edits", [write_effects(tmp_path / "effects.csv", table)])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == [
        "mean of 40 latents and targets",
        *(f"latent {k}: class {k}" for k in range(38, 27, -1)),
    ]
    assert "the 11 of 40 latents and targets furthest from their controls" in " ".join(
        figure.get_suptitle().split()
    )
    lines = {str(line.get_label()): line for line in figure.axes[0].get_lines()}
    assert np.asarray(lines["the latent"].get_ydata(), float)[-1] == pytest.approx(0.1 + 19 / 50)  # of 39


def test_odd_edits(tmp_path: Path) -> None:
    names = [
        "$x_1$ & <b>",
        "_hidden",
        "a name that is much longer than a panel of this figure is wide",
        "3",
        "NA",
    ]
    table = effects_table(list(enumerate(names)), (2.0,), ("none", "my-own"), "times-max")
    undefined = [name for name in table if str(name).startswith("target_changed")]
    table.loc[table["latent"] == 3, undefined] = np.nan
    path = write_effects(tmp_path / "effects.csv", table, {})
    figure = draw_kind("edits", [path])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert {"latent 0: $x_1$ & <b>", "latent 1: _hidden", "latent 4: NA"} <= set(titles)
    assert titles[-1] == "latent 3: 3"
    assert [text.get_text() for text in figure.axes[-1].texts] == [
        "not defined: nothing\nwas predicted as the target"
    ]
    hollow = [line for line in figure.axes[1].get_lines() if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 2
    table = effects_table([(3, "car")], (0, 1, 2, 1000), ("none",), "set")
    axes = draw_kind("edits", [write_effects(path, table)]).axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "1", "2", "1000"]
    assert axes.get_xticks().tolist() == [0, 1, 2, 3]
    assert "amounts at equal distances" in " ".join(axes.figure.get_suptitle().split())  # type: ignore[union-attr]
    for change, says in (
        (lambda t: t.drop(columns="kl_low"), "no column 'kl_low', which the plot of edits needs"),
        (lambda t: t.assign(amount=np.nan), "a row has no latent or no amount"),
    ):
        write_effects(path, change(table), {})
        done = render("plot", "edits", path, "--y", "kl", "--out", tmp_path / "a.png", code=1)
        assert says in error_lines(done)
    sidecar_path(path).unlink()
    assert "effects.csv.json is missing" in error_lines(
        render("plot", "edits", path, "--out", tmp_path / "a.png", code=1)
    )


def test_edits_of_two_tables(tables: dict[str, list[Path]], tmp_path: Path) -> None:
    other = write_effects(tmp_path / "other.csv", effects_table([(1, "car"), (2, "car")], operation="add"))
    figure = draw_kind("edits", [*tables["edits"], other])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[1] == "mean of 2 latents (other)" and "latent 3: car (effects)" in titles
    assert {axes.get_xlabel() for axes in figure.axes} == {
        "scale: factor of the latent's value",
        "add: added to the latent's value",
    }


def test_no_window_system_and_no_known_backend(tables: dict[str, list[Path]], tmp_path: Path) -> None:
    environment = {**os.environ, "DISPLAY": ":99"}
    for backend in ("TkAgg", "nonsense"):
        done = subprocess.run(
            [BIN / "render-visuals", "plot", "front", *tables["front"], "--out", tmp_path / "a.png"],
            env={**environment, "MPLBACKEND": backend},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr


def test_matplotlib_that_cannot_be_imported(
    tables: dict[str, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    said = error_lines(render("plot", "front", *tables["front"], "--out", tmp_path / "a.png", code=1))
    assert "matplotlib cannot draw here" in said


@pytest.mark.parametrize(
    ("kind", "table", "code", "said"),
    [
        ("fronts", "front", 2, "did you mean front?"),
        ("map", "histogram", 1, "found 'saetools-latent-table', expected format 'saetools-ap-table'"),
        ("histogram", "map", 1, "expected one of saetools-latent-table, saetools-latent-pictures"),
        ("front", "histogram", 1, "expected one of saetools-training-metrics, saetools-ap-table"),
    ],
)
def test_wrong_kinds_and_tables(
    tables: dict[str, list[Path]], tmp_path: Path, kind: str, table: str, code: int, said: str
) -> None:
    done = render("plot", kind, *tables[table], "--out", tmp_path / "a.png", code=code)
    assert said in error_lines(done)
    assert not list(tmp_path.iterdir())


def test_peoples_own_tables_have_no_sidecar(tmp_path: Path) -> None:
    """As collected runs that went to stdout, or results of other programs; those that are plainly ours must have it."""
    own = tmp_path / "own.csv"
    arguments = ["plot", "front", own, "--out", tmp_path / "a.png"]
    own.write_text("run,l0,nmse\na,16,0.5\nb,32,0.3")  # without an end of the last line, too
    render(*arguments)
    drawn = (tmp_path / "a.png").read_bytes()
    write_table(own, pd.DataFrame({"run": ["a", "b"], "l0": [16, 32], "nmse": [0.5, 0.3]}), COLLECTED_RUNS)
    render(*arguments)
    assert (tmp_path / "a.png").read_bytes() == drawn
    sidecar_path(own).unlink()
    own.write_text("run,l0,nmse\na,16,0.5\nb,32\n")
    assert f"{own}: line 3 has 2 fields, the header 3" in error_lines(render(*arguments, code=1))
    own.write_text("run,l0,nmses\na,16,0.5\n")
    said = error_lines(render(*arguments, code=1))
    assert "no column 'nmse', which the plot of the front needs; did you mean nmses?" in said
    own.write_text("tokens,loss,eval_l0,eval_nmse\n1000,0.5,16,0.5\n")
    assert "own.csv.json is missing" in error_lines(render(*arguments, code=1))


def test_wrong_files(tmp_path: Path) -> None:
    binary = tmp_path / "b.csv"
    binary.write_bytes(bytes(range(256)) * 4)
    said = error_lines(render("plot", "front", binary, "--out", tmp_path / "a.png", code=1))
    assert str(binary) in said
    assert "no such file" in error_lines(
        render("plot", "front", tmp_path / "c.csv", "--out", tmp_path / "a.png", code=1)
    )
    render("plot", "front", binary, "--out", tmp_path / "a.gif", code=2)
