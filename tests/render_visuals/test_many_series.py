"""Figures with many series: each is told apart, nothing covers anything, and nothing that was logged is lost."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import matplotlib.collections
import numpy as np
import pandas as pd
import pytest
from in_process import runner
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from processes import Tool, run_all
from small_edits import effects_table, write_effects
from small_shards import clustered_acts, write_shards
from small_tables import write_table

from render_visuals.plots.kinds import KINDS, draw_kind
from render_visuals.plots.style import COLOURS, look_of
from saetools.files.formats import AP_TABLE, LATENT_TABLE, TRAINING_METRICS
from saetools.files.provenance import Provenance
from saetools.files.tables import write_csv
from train_sae.cli import app as train_app

train = runner("train-sae", train_app)
N = 24
POINTS_AT_8_CM = 5.0  # the least that journals accept
LONG = "a-name-of-a-run-that-somebody-made-longer-than-any-figure-is-wide-and-then-some-more"


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Tables of 24 SAEs on three layers: an AP table, training metrics, tables of latents."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    rows = [
        {
            "scorer": "sae",
            "n_prototypes": 64,
            "checkpoint": f"{LONG if k == 3 else 'saes'}/layer{layer}/k{k}.h5",
        }
        | {
            "model": "m",
            "layer": layer,
            "n_train": n,
            "trait": f"has_{trait % 3}::v{trait}",
            "prototype": trait,
        }
        | {"ap": rng.random(), "prevalence": 0.1 + trait / 20, "l0": k, "nmse": 1 / (k + 1)}
        for k in range(N)
        for layer in (1, 2, 3)
        for n in (16, 500)
        for trait in range(9)
    ]
    runs, latents = [], []
    for k in range(N):
        tokens = np.arange(1, 31) * 1000
        table = pd.DataFrame(
            {"step": tokens // 1000, "tokens": tokens, "loss": 1.0, "nmse": 1 / (k + tokens)}
        )
        table["l0"], table["dead"], table["lr"] = k, k / 100, 1e-3
        table["eval_nmse"], table["eval_l0"] = np.nan, np.nan
        table.loc[29, ["eval_nmse", "eval_l0"]] = 0.5, k
        settings = {"dead_after_tokens": 3000, "activation": "topk", "k": k, "d_sae": 64}
        runs.append(folder / f"layer{k % 3}" / f"{LONG if k == 3 else f'run{k // 3}'}.metrics.csv")
        runs[-1].parent.mkdir(exist_ok=True)
        known = Provenance.of(TRAINING_METRICS, "train-sae", settings)
        of = {"trained_on": {"model": "m", "layer": k % 3}, "scorer": "0123456789abcdef" * 2}
        write_csv(runs[-1], table, known, of)
        frequencies = pd.DataFrame({"latent": range(50), "frequency": 10 ** rng.normal(-3, 1, 50)})
        frequencies["mean_value"] = rng.lognormal(size=50)
        latents.append(write_table(folder / f"latents{k}.csv", frequencies, LATENT_TABLE))
    ap = [write_table(folder / "ap.csv", pd.DataFrame(rows), AP_TABLE)]
    of_ap = dict.fromkeys(("map", "layers", "traits", "prevalence", "front"), ap)
    pairs = [(number, LONG if number == 3 else f"class {number}") for number in range(40)]
    edits = [write_effects(folder / "effects.csv", effects_table(pairs, (-2, -1, 0, 1, 2)))]
    return {**of_ap, "training": runs, "histogram": latents, "edits": edits}


def series(figure: Figure) -> set[tuple[str, str]]:
    """(colour, marker) of each line with a name, and of each cloud of hollow points in panels of their own."""
    found = set()
    for axes in figure.axes:
        for line in axes.get_lines():
            if not str(line.get_label()).startswith("_") and line.get_marker() != "None":
                found.add((to_hex(line.get_color()), str(line.get_marker())))
    return found


def texts(figure: Figure) -> Iterator[tuple[Text, Bbox]]:
    """Every text that is seen, with where it is."""
    figure.draw_without_rendering()
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        axes = text.axes
        if text.get_text().strip() and text.get_visible():
            box = text.get_window_extent()
            # Ticks beyond the limits are kept, unseen.
            if axes is None or axes.get_tightbbox() is None or box.overlaps(axes.get_tightbbox()):
                yield text, box


def meet(a: Bbox, b: Bbox) -> bool:
    """Whether two boxes share more than an edge."""
    return bool(min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5)


def test_looks_differ() -> None:
    looks = [look_of(number) for number in range(56)]
    assert len({(look.color, look.marker) for look in looks}) == 56
    for one, other in itertools.pairwise(looks):
        assert one.color != other.color and one.marker != other.marker
    assert len({look.linestyle for look in looks if look.color == COLOURS[0]}) == 4


@pytest.mark.parametrize("kind", ["map", "layers", "traits", "training", "histogram"])
def test_twenty_four_series_are_told_apart(kind: str, many: dict[str, list[Path]]) -> None:
    figure = draw_kind(kind, many[kind])
    assert len(series(figure)) == N
    (legend,) = figure.legends
    assert len({text.get_text() for text in legend.get_texts()}) == N
    # The legend shows what the panels show, by name.
    looks = {
        str(line.get_label()): (to_hex(line.get_color()), line.get_marker())
        for axes in figure.axes
        for line in axes.get_lines()
    }
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        assert isinstance(handle, Line2D)
        named = [look for name, look in looks.items() if name == text.get_text() or LONG[:20] in name]
        assert (to_hex(handle.get_color()), handle.get_marker()) in named


def test_prevalence_has_a_panel_for_each_of_many_scorers(many: dict[str, list[Path]]) -> None:
    figure = draw_kind("prevalence", many["prevalence"])
    assert len(figure.axes) == N
    assert len({axes.get_title(loc="left") for axes in figure.axes}) == N
    table = pd.read_csv(many["prevalence"][0])
    mine = table[(table["checkpoint"].str.endswith("/k5.h5")) & (table["n_train"] == 500)]
    clouds = figure.axes[5].collections
    found = np.asarray(clouds[1].get_offsets())
    np.testing.assert_allclose(np.sort(found[:, 1]), np.sort(mine["ap"]))
    assert len(np.asarray(clouds[0].get_offsets())) == N * 27  # all others, in grey


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_covers_anything(kind: str, many: dict[str, list[Path]]) -> None:
    figure = draw_kind(kind, many[kind])
    figure.draw_without_rendering()
    panels = [axes.get_window_extent() for axes in figure.axes]
    decorated = [axes.get_tightbbox() for axes in figure.axes]
    head = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert not any(meet(box, panel) for panel in panels)
        assert not any(meet(box, one) for one in decorated if one is not None)
        assert not meet(box, head)
    assert not any(meet(head, one) for one in decorated if one is not None)
    assert not any(meet(one, other) for i, one in enumerate(panels) for other in panels[:i])
    titles = [axes.title.get_window_extent() for axes in figure.axes] + [
        text.get_window_extent()
        for axes in figure.axes
        for text in (axes._left_title, axes._right_title)  # type: ignore[attr-defined]
    ]
    titles = [box for box in titles if box.width > 1]
    assert not any(meet(one, other) for i, one in enumerate(titles) for other in titles[:i])
    # No bands: where several are over each other they are brown.
    for axes in figure.axes:
        assert not [one for one in axes.collections if type(one) is matplotlib.collections.PolyCollection]
        assert not [one for one in axes.collections if "FillBetween" in type(one).__name__]


@pytest.mark.parametrize("kind", KINDS)
def test_figures_are_legible_in_a_column_of_8_cm(kind: str, many: dict[str, list[Path]]) -> None:
    figure = draw_kind(kind, many[kind])
    figure.draw_without_rendering()
    width = figure.get_tightbbox().width  # inches, as it is saved: with all that sticks out
    assert width <= figure.get_figwidth() + 0.05  # nothing sticks out
    for text, _ in texts(figure):
        assert text.get_fontsize() * (8 / 2.54) / width >= POINTS_AT_8_CM, text.get_text()


def test_the_first_logged_step_is_drawn(many: dict[str, list[Path]]) -> None:
    figure = draw_kind("training", many["training"])
    by_title = {axes.get_title(loc="left"): axes for axes in figure.axes}
    for title in ("NMSE", "L0: active latents", "learning rate"):
        axes = by_title[title]
        lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
        assert len(lines) == N
        for line in lines:
            assert np.asarray(line.get_xdata())[0] == 1000
            assert len(np.asarray(line.get_xdata())) == 30  # and every other one
        low, high = axes.get_xlim()
        assert low <= 0 and high == 30000
        assert axes.get_xscale() == "linear"
        low, high = axes.get_ylim()
        assert all(low <= value <= high for line in lines for value in np.asarray(line.get_ydata()))
    held = [line for line in by_title["NMSE"].get_lines() if line.get_markerfacecolor() == "white"]
    assert [np.asarray(line.get_xydata()).tolist() for line in held] == [[[30000, 0.5]]] * N


def test_dead_latents_are_drawn_from_where_they_can_be_known(
    many: dict[str, list[Path]], tmp_path: Path
) -> None:
    axes = draw_kind("training", many["training"][4:5]).axes[2]
    assert axes.get_title(loc="left") == "share of latents inactive\nfor 3k tokens"
    (line,) = axes.get_lines()
    assert np.asarray(line.get_xdata())[0] == 3000  # before, a value of 0 says nothing
    assert set(np.asarray(line.get_ydata())) == {4 / 100}
    short = tmp_path / "short.metrics.csv"
    table = pd.read_csv(many["training"][4])
    settings = {"dead_after_tokens": 10_000_000}
    write_csv(short, table, Provenance.of(TRAINING_METRICS, "train-sae", settings))
    axes = draw_kind("training", [short]).axes[2]
    assert [text.get_text() for text in axes.texts] == ["not known:\nthe run is shorter"]
    assert axes.get_title(loc="left") == "share of latents inactive\nfor 10M tokens"


def test_a_run_says_which_sae_it_is(many: dict[str, list[Path]]) -> None:
    title = draw_kind("training", many["training"][4:5]).get_suptitle()
    assert " ".join(title.split()) == (
        "run1; topk, k = 4, 64 latents, layer 1 of m, uid 01234567; hollow marks: on held-out tokens"
    )


def test_a_short_training_shows_its_steps(tmp_path: Path, tool: Tool) -> None:
    """Of real processes: with the defaults, 12 steps have 12 rows, and latents can be dead."""
    write_shards(tmp_path / "acts", clustered_acts(100))
    trained = ["train-sae", tmp_path / "acts", "--layer", 3, "--d-sae", 64, "--k", 1, "--batch-size", 128]
    tool(*trained, "--tokens", 12 * 128, "--out", tmp_path / "sae.h5")
    metrics = tmp_path / "sae.metrics.csv"
    table = pd.read_csv(metrics)
    assert table["step"].tolist() == list(range(1, 13))
    assert table["dead"].iloc[-1] > 0
    tool("render-visuals", "plot", "training", metrics, "--out", tmp_path / "a.svg")
    drawn = re.sub(r"\s+", " ", (tmp_path / "a.svg").read_text())
    axes = draw_kind("training", [metrics]).axes[0]
    np.testing.assert_allclose(axes.get_lines()[0].get_xydata(), table[["tokens", "nmse"]])  # type: ignore[arg-type]
    from saetools.scorers.file import load_scorer

    assert f"uid {load_scorer(tmp_path / 'sae.h5').provenance.uid[:8]}" in drawn
    assert "for 153 tokens" in drawn


@pytest.mark.parametrize("seed", range(5))
def test_a_front_for_each_layer_by_the_definition(tmp_path: Path, seed: int) -> None:
    """No other SAE of its layer is at least as good in both and better in one; by a loop over all pairs."""
    rng = np.random.default_rng(seed)
    points = [
        (int(rng.integers(1, 4)), float(rng.integers(1, 9)), float(rng.integers(1, 9)) / 10)
        for _ in range(40)
    ]
    points = list(dict.fromkeys(points))
    rows = [
        {
            "scorer": "sae",
            "n_prototypes": 4,
            "checkpoint": f"{i}.h5",
            "model": "m",
            "layer": layer,
            "n_train": n,
        }
        | {"trait": "t", "ap": 0.5, "prevalence": 0.1, "l0": l0, "nmse": nmse}
        for i, (layer, l0, nmse) in enumerate(points)
        for n in (10, 20)
    ]
    axes = draw_kind("front", [write_table(tmp_path / "ap.csv", pd.DataFrame(rows), AP_TABLE)]).axes[0]
    expected = {
        f"Pareto front, layer {layer}": sorted(
            [l0, nmse]
            for mine, l0, nmse in points
            if mine == layer
            and not any(
                other == layer and a <= l0 and b <= nmse and (a, b) != (l0, nmse) for other, a, b in points
            )
        )
        for layer in {one for one, _, _ in points}
    }
    found = {str(line.get_label()): np.asarray(line.get_xydata()).tolist() for line in axes.get_lines()}
    assert found == expected
    hollow = np.concatenate([np.asarray(one.get_offsets()) for one in axes.collections])
    assert len(hollow) == len(points) - sum(map(len, expected.values()))


def test_names_of_points_cover_nothing(many: dict[str, list[Path]]) -> None:
    figure = draw_kind("front", many["front"])
    axes = figure.axes[0]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) >= 10
    assert not any(meet(one, other) for i, one in enumerate(boxes) for other in boxes[:i])
    places = _points_of(axes)
    assert len(places) == 3 * N
    assert not any(box.contains(*place) for box in boxes for place in places)


def _points_of(axes: Axes) -> np.ndarray:
    lines = [np.asarray(line.get_xydata()) for line in axes.get_lines()]
    hollow = [np.asarray(one.get_offsets()) for one in axes.collections]
    return np.asarray(
        axes.transData.transform(np.concatenate([*lines, *[one for one in hollow if len(one)]]))
    )


def test_sae_files_in_folders_of_layers_are_one_series(many: dict[str, list[Path]]) -> None:
    axes = draw_kind("layers", many["layers"]).axes[0]
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    assert len(lines) == N
    assert all(len(np.asarray(line.get_xdata())) == 3 for line in lines)


def test_the_table_of_one_file_names_its_sae(tmp_path: Path, many: dict[str, list[Path]]) -> None:
    table = pd.read_csv(many["map"][0])
    table = table[(table["layer"] == 1) & table["checkpoint"].str.endswith("/k5.h5")]
    entry = {"spec": "saes/layer1/k5.h5", "kind": "sae", "n_prototypes": 64, "layer": 1, "seed": None}
    path = tmp_path / "ap.csv"
    known = Provenance.of(AP_TABLE, "score-traits", {})
    write_csv(path, table, known, {"scorer_files": [entry | {"uid": "feedbeef" * 4}]})
    figure = draw_kind("map", [path])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sae, 64 (feedbeef)"]
    assert figure.get_suptitle() == "mAP against training images: 9 traits, layer 1, m"


def test_latents_of_several_tables_are_named_by_their_scorer(many: dict[str, list[Path]]) -> None:
    figure = draw_kind("histogram", many["histogram"][:2])
    first = pd.read_csv(many["histogram"][0])
    line = next(line for line in figure.axes[2].get_lines() if str(line.get_label()).startswith("latents0"))
    expected = np.log10(first[["frequency", "mean_value"]]).median()
    np.testing.assert_allclose(np.asarray(line.get_xydata())[0], expected)
    assert str(line.get_label()) == "latents0: 50 active, 0 not"


def test_odd_names_and_values_are_drawn(tmp_path: Path) -> None:
    """Dollar signs, underscores at the beginning, letters that the font lacks; one point, zeros, no values."""
    rows = [
        {"scorer": "sae", "n_prototypes": 4, "checkpoint": f"{name}$x^{{$.h5", "layer": 3, "n_train": 9}
        | {"trait": "$bad_{", "ap": ap, "prevalence": 0.1}
        for name, ap in (("a", 0.5), ("V\u00f6gel_\u9ce5", 0.6))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "ap.csv", index=False)
    runs = pd.DataFrame({"run": ["_a$", "b$_{"], "l0": [0, 5], "nmse": [0, 0.3]})
    runs.to_csv(tmp_path / "runs.csv", index=False)
    values = {"tokens": [1, 2, 3], "loss": 1, "mse": [1, 0, -1], "lr": 0, "l0": np.nan, "dead": np.nan}
    for name in ("_a$", "_b$"):
        pd.DataFrame(values).to_csv(tmp_path / f"{name}.csv", index=False)
    write_shards(tmp_path / "acts", clustered_acts(60))
    untrained = [tmp_path / "acts", "--layer", 3, "--d-sae", 32, "--k", 4, "--tokens", 0]
    train(*untrained, "--batch-size", 64, "--out", tmp_path / "zero.h5")
    tables = {
        **{kind: ["ap.csv"] for kind in ("map", "layers", "traits", "prevalence")},
        "front": ["runs.csv"],
        "training": ["_a$.csv", "_b$.csv", "zero.metrics.csv"],
    }
    files_of = {kind: [tmp_path / name for name in names] for kind, names in tables.items()}
    commands = [["plot", kind, *files, "--out", tmp_path / f"{kind}.svg"] for kind, files in files_of.items()]
    assert run_all("render-visuals", *commands).stderr == ""
    for kind, files in files_of.items():
        assert (tmp_path / f"{kind}.svg").is_file()
        figure = draw_kind(kind, files)
        figure.draw_without_rendering()
        for axes in figure.axes:  # the panels fill the figure
            assert axes.get_window_extent().width > 0.3 * figure.bbox.width
        if kind == "training":
            legend = figure.legends[0]
            assert [text.get_text().strip() for text in legend.get_texts()] == ["_a$", "_b$", "zero"]
