"""Figures of training runs: the Pareto front of a sweep, and metrics over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from render_visuals.plots.style import FAINT, INK, finish, look_of, name_points, new_panels, plain_ticks
from render_visuals.tables import short_names
from saetools.errors import UserError
from saetools.files.ap_tables import name_scorers
from saetools.files.tables import check_columns, sidecar_path, sidecar_values
from saetools.metrics.pareto import APART, measured_on, pareto_front

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ERRORS = {"nmse": "NMSE", "nmse_standardized": "NMSE of standardized dimensions", "mse": "MSE"}
PANELS = {
    "nmse": "NMSE",
    "mse": "MSE, of normalised inputs",
    "l0": "L0: active latents",
    "dead": "share of dead latents",
    "lr": "learning rate",
}
HELD_OUT = ("nmse", "l0")  # measured in the same way on held-out tokens
NAMED_BY = ("run", "name", "file", "checkpoint")  # the first of these columns names an SAE
SETTINGS = ("activation", "objective", "d_sae", "k", "l1", "sparsity", "lr", "tokens", "seed")
TITLES = {"weights": "weights", "hook": "place in the block", "data": "data set"}


def front(tables: Sequence[tuple[Path, pd.DataFrame]], y: str = "nmse") -> Figure:
    """NMSE (or the column `y`) against L0, a point for each SAE; the Pareto front is joined and named.

    Only SAEs of one layer, model and data set are compared: each of these has its own front.
    """
    points = _points(tables, y)
    xy_n2 = points[["l0", y]].to_numpy(float)
    best_n = pareto_front(points, ["l0", y], list(points["front"]))
    figure, (axes,) = new_panels(1, 1, 3.6)
    fronts = list(dict.fromkeys(points["front"]))
    series: list[Artist] = []
    named: list[np.ndarray] = []
    for number, name in enumerate(fronts):
        mine_n = (points["front"] == name).to_numpy()
        look = look_of(number)
        beaten = np.flatnonzero(mine_n & ~best_n)
        colour = FAINT if len(fronts) == 1 else look.color
        axes.scatter(xy_n2[beaten, 0], xy_n2[beaten, 1], s=14, marker=look.marker, facecolor="white",
                     edgecolor=colour, linewidth=0.8, zorder=2)  # fmt: skip
        best = np.flatnonzero(mine_n & best_n)
        best = best[np.lexsort(xy_n2[best].T[::-1])]
        named.append(best)
        label = f"Pareto front{f', {name}' if name else ''}"
        series += axes.plot(*xy_n2[best].T, **look._asdict(), label=label, zorder=3)
    (l0, errors) = xy_n2.T
    if l0.min() > 0 and l0.max() / l0.min() > 3:
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
    if errors.min() > 0 and errors.max() / errors.min() > 3:
        axes.set_yscale("log")
        plain_ticks(axes.yaxis)
    axes.margins(0.1, 0.1)
    axes.set_xlabel("L0: active latents, mean over patches")
    axes.set_ylabel(ERRORS[y])
    n = len(points)
    same = []
    if "layer" in points and points["layer"].nunique() == 1:
        same.append(f"layer {points['layer'].iloc[0]:g}")
    if "model" in points and points["model"].nunique() == 1:
        same.append(str(points["model"].iloc[0]))
    colour = FAINT if len(fronts) == 1 else INK
    series.append(axes.scatter([], [], s=14, marker="o", facecolor="white", edgecolor=colour, linewidth=0.8,
                               label="hollow: another SAE is as good or better in both"))  # fmt: skip
    title = ", ".join([f"{n} SAE{'s' if n > 1 else ''}", *same])
    finish(figure, title, series if best_n.sum() < n else series[:-1])
    best = np.concatenate(named)
    name_points(axes, xy_n2[best], list(points["name"].iloc[best]), xy_n2)
    return figure


def _points(tables: Sequence[tuple[Path, pd.DataFrame]], y: str) -> pd.DataFrame:
    """name, l0, y and front of every SAE, from tables of many, or metrics of one training each (eval_l0, eval_...).

    front: what the SAEs on it have in common and others have not: `layer 7`; nothing where all are comparable.
    """
    import pandas as pd

    found: list[pd.DataFrame] = []
    for path, table in tables:
        if {"eval_l0", f"eval_{y}"} <= set(table.columns):
            rows = table.dropna(subset=["eval_l0", f"eval_{y}"]).tail(1)
            rows = rows[["eval_l0", f"eval_{y}"]].set_axis(["l0", y], axis=1)
            rows = rows.assign(name=path.name.removesuffix(".csv").removesuffix(".metrics"))
        else:
            check_columns(path, table, ["l0", y], "the plot of the front")
            name = next((column for column in NAMED_BY if column in table.columns), None)
            rows = table.dropna(subset=["l0", y])
            own = [column for column in APART if column in rows and column != "n_train"]
            if not len(rows):
                names = []
            elif name == "checkpoint" and "scorer" in rows:
                names = name_scorers(rows)
            elif name == "file":
                names = short_names([Path(str(one)) for one in rows[name]])
            else:
                names = [Path(str(one)).stem for one in rows[name]] if name else _by_settings(path, rows)
            rows = rows[["l0", y, *own]].assign(name=names).drop_duplicates()
        sidecar = sidecar_values(path) if sidecar_path(path).is_file() else {}
        for column, value in measured_on(sidecar).items():
            if column not in rows:
                rows = rows.assign(**{column: value})
        found.append(rows)
    points = pd.concat(found, ignore_index=True)
    if not len(points):
        raise UserError(
            f"{tables[0][0]}: no row has both L0 and {ERRORS[y]}; give metrics of finished trainings, AP tables of"
            " SAEs, or collected runs"
        )
    return points.assign(front=_fronts(points))


def _by_settings(path: Path, rows: pd.DataFrame) -> list[str]:
    """Names of rows by the settings in which they differ, else by their place in the table."""
    differ = [name for name in SETTINGS if name in rows and rows[name].nunique(dropna=False) > 1]
    if not differ:
        return [f"{path.stem} {i}" for i in range(len(rows))]
    values = rows[differ].astype(object).itertuples(index=False)
    return [
        " ".join(
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in zip(differ, row, strict=True)
        )
        for row in values
    ]


def _fronts(points: pd.DataFrame) -> list[str]:
    """For each point, the values in which its front differs from the others, in words."""
    parts: list[list[str]] = [[] for _ in range(len(points))]
    for column in APART:
        if column not in points or points[column].nunique(dropna=False) == 1:
            continue
        values = list(dict.fromkeys(points[column]))
        for part, value in zip(parts, points[column], strict=True):
            known = isinstance(value, str) or not np.isnan(value)
            if column == "layer":
                part.append(f"layer {value:g}" if known else "layer unknown")
            elif column in ("weights", "hook", "data"):  # no words for people: numbered
                part.append(f"{TITLES[column]} {values.index(value) + 1}")
            else:
                part.append(str(value) if known else f"{column} unknown")
    return [", ".join(part) for part in parts]


def training(tables: Sequence[tuple[Path, pd.DataFrame]]) -> Figure:
    """A run's metrics over the tokens that it has seen, from the first logged step on; several runs as several lines.

    A hollow mark at the end is the value on held-out tokens. Dead latents are drawn from `--dead-after` tokens on:
    before, none can be inactive for so long.
    """
    for path, table in tables:
        check_columns(path, table, ["tokens", "loss"], "the plot of a training")
    settings = [_settings(path) for path, _ in tables]
    names = short_names([path for path, _ in tables])
    error = "nmse" if all("nmse" in table and table["nmse"].notna().any() for _, table in tables) else "mse"
    known = [name for name in (error, "l0", "dead", "lr") if any(name in table for _, table in tables)]
    figure, axes_p = new_panels(len(known), 2, 2.0 if len(tables) <= 8 else 2.8)
    longest = max(table["tokens"].max() for _, table in tables)
    series = []
    for axes, name in zip(axes_p, known, strict=True):
        unknown = True
        for number, (table, own) in enumerate(zip((table for _, table in tables), settings, strict=True)):
            look = look_of(number)
            rows = table.dropna(subset=[name]) if name in table else table.iloc[:0]
            if name == "dead":
                rows = rows[rows["tokens"] >= own.get("dead_after_tokens", 0)]
            # Marks: every row of a short run, the first row of a long one; of several runs about eight, not the same.
            few = len(rows) <= 24
            every = 1 if few and len(tables) == 1 else max(1, -(-len(rows) // 8))
            (line,) = axes.plot(
                rows["tokens"], rows.get(name, []), **look._asdict(), label=names[number], clip_on=not len(rows),
                markevery=(number % every, every) if few or len(tables) > 1 else [0],
                markersize=4 if len(tables) > 1 else 3,
            )  # fmt: skip
            held = f"eval_{name}"
            last = (
                table.dropna(subset=[held]).tail(1) if held in table and name in HELD_OUT else rows.iloc[:0]
            )
            if len(last):
                axes.plot(last["tokens"], last[held], linestyle="", color=look.color, marker=look.marker,
                          markersize=6, markerfacecolor="white", clip_on=False, zorder=3)  # fmt: skip
            unknown = unknown and not len(rows)
            if axes is axes_p[0]:
                series.append(line)
        _dress(axes, name, settings)
        axes.set_xlim(0, longest or 1)
        axes.set_xlabel("tokens")
        axes.xaxis.set_major_formatter(_tokens)
        axes.xaxis.set_major_locator(_few_ticks())
        if unknown and name == "dead":
            text = "not known:\nthe run is shorter"
            axes.text(0.5, 0.55, text, transform=axes.transAxes, ha="center", va="center", color="#5c6168")
    evaluated = any("eval_nmse" in table and table["eval_nmse"].notna().any() for _, table in tables)
    note = "hollow marks: on held-out tokens" if evaluated else ""
    if len(tables) > 1:
        return finish(figure, f"{len(tables)} trainings{f'; {note}' if note else ''}", series)
    return finish(figure, "; ".join(part for part in (names[0], _described(settings[0]), note) if part), [])


def _dress(axes: Axes, name: str, settings: Sequence[dict[str, Any]]) -> None:
    """Title and scale of a panel."""
    title = PANELS[name]
    values = [np.asarray(line.get_ydata(), float) for line in axes.get_lines()]
    all_values = np.concatenate(values) if values else np.zeros(0)
    if name == "dead":
        after = {own.get("dead_after_tokens") for own in settings}
        known = after.pop() if len(after) == 1 else None
        title = (
            f"share of latents inactive\nfor {_tokens(known)} tokens" if known else "share of dead latents"
        )
        axes.set_ylim(0, max(0.01, 1.1 * all_values.max(initial=0)))
    elif name in ERRORS and len(all_values) and all_values.min() > 0:
        if all_values.max() / all_values.min() > 3:
            axes.set_yscale("log")
            plain_ticks(axes.yaxis)
    elif name == "l0" and len(all_values):
        axes.set_ylim(0, 1.15 * max(all_values.max(), 1e-9))
    elif name == "lr":
        axes.ticklabel_format(axis="y", scilimits=(-2, 3))
        axes.set_ylim(bottom=0)
    axes.set_title(title, loc="left")


def _settings(path: Path) -> dict[str, Any]:
    """Of the training, as the sidecar of its metrics says; a table of the user's own has none."""
    if not sidecar_path(path).is_file():
        return {}
    found = sidecar_values(path)
    scorer = {"scorer": str(found["scorer"])} if "scorer" in found else {}
    return {**(found.get("trained_on") or {}), **(found.get("settings") or {}), **scorer}


def _described(own: dict[str, Any]) -> str:
    """The SAE of the run, as far as is known: its kind, size, layer, model and uid."""
    parts = []
    if "activation" in own and "d_sae" in own:
        sparsity = {"relu": f"l1 = {own.get('l1')}", "jumprelu": f"l0 = {own.get('l0')}"}
        parts.append(f"{own['activation']}, {sparsity.get(own['activation'], 'k = ' + str(own.get('k')))}")
        parts.append(f"{own['d_sae']:,} latents")
    if "layer" in own and "model" in own:
        parts.append(f"layer {own['layer']} of {own['model']}")
    if "scorer" in own:
        parts.append(f"uid {own['scorer'][:8]}")
    return ", ".join(parts)


def _tokens(value: float, _place: object = None) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:g}"


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)
