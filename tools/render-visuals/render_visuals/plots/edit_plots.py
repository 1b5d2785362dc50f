"""The figure of effects of edits: dose and response of latents, beside their controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from render_visuals.plots.style import (
    FAINT,
    INK,
    WIDTH,
    Look,
    finish,
    look_of,
    new_panels,
    shortened,
    ticks_at,
)
from render_visuals.tables import short_names
from saetools.errors import UserError
from saetools.files.edit_tables import (
    CONTROLS,
    DRAWN,
    NONE,
    RECONSTRUCTION,
    SHARES,
    draw_range,
    with_interval,
)
from saetools.files.tables import check_columns, sidecar_path, sidecar_values

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# measure -> (label of the axis; the measure drawn dashed beside it, and its name in the legend)
MEASURES: Mapping[str, tuple[str, tuple[str, str] | None]] = {
    "target_changed": (
        "changed, share",
        ("other_changed", "dashed: of predictions that were not the target"),
    ),
    "other_changed": ("others changed, share", None),
    "target_logit": ("change of logit", ("other_logits", "dashed: of the other logits")),
    "other_logits": ("change of other logits", None),
    "kl": ("KL, nats", None),
    "accuracy_after": ("accuracy", ("accuracy_before", "dashed: before the edit")),
}
SOLID = {"target_changed": "solid: of predictions as the target", "target_logit": "solid: of the target's logit",
         "accuracy_after": "solid: after the edit"}  # fmt: skip
DOSES = {
    "set": "set: new value of the latent",
    "scale": "scale: factor of the latent's value",
    "add": "add: added to the latent's value",
    "times-max": "times-max: new value / largest in training",
}
WHERE = {"firing": "patches where it fires", "all": "all patches"}
NEEDED = ["latent", "target", "operation", "amount", "control"]
PAIR = ["table", "operation", "latent", "target"]
MOST_PANELS = 12
COLUMNS = 2
LEAST_OF_INTERVAL = 3  # values: of two it would be far wider than they are apart
DASHED = (0, (3, 2))
UNEVEN = 8  # widest gap between amounts over the narrowest, beyond which they are drawn at equal distances
POINTS_APART = 2.2  # between two whiskers: nearer ones would be a band


def edits(tables: Sequence[tuple[Path, pd.DataFrame]], y: str = "target_changed") -> Figure:
    """A measure against the amount of an edit, a line for each control, a panel for each latent and target.

    Of several, the first panel is their mean; the others begin with the latent that is furthest from its controls.
    """
    label, beside = MEASURES[y]
    drawn = [y] if beside is None else [y, beside[0]]
    rows = _rows(tables, drawn)
    order = [name for name in CONTROLS if name in set(rows["control"])]
    order += [name for name in dict.fromkeys(rows["control"]) if name not in CONTROLS]
    pairs = sorted(rows.groupby(PAIR, sort=False), key=lambda item: -_telling(item[1], y))
    one_table, one_operation = rows["table"].nunique() == 1, rows["operation"].nunique() == 1

    def named(title: str, table: str) -> str:
        return title if one_table else f"{title} ({table})"

    panels = [
        (named(_mean_of(mine), table), operation, _mean(mine, drawn))
        for (table, operation), mine in rows.groupby(["table", "operation"], sort=False)
        if mine.groupby(PAIR).ngroups > 1
    ]
    shown = pairs[: max(MOST_PANELS - len(panels), 1)]
    n_means = len(panels)
    panels += [
        (named(f"latent {latent}: {target}", table), operation, panel)
        for (table, operation, latent, target), panel in shown
    ]
    columns = min(len(panels), COLUMNS)
    figure, axes_p = new_panels(len(panels), columns, 3.0 if columns == 1 else 1.75)
    series: dict[str, Artist] = {}
    limits = _limits([panel for _, _, panel in panels], drawn)
    roomy = True
    for number, (axes, (title, operation, panel)) in enumerate(zip(axes_p, panels, strict=True)):
        axes.set_ylim(*limits)
        axes.axhline(0, color=FAINT, linewidth=0.6, zorder=1)
        roomy &= _lines(axes, panel, drawn, order, series)
        is_mean = number < n_means
        longest = 72 if columns == 1 else 32 if is_mean else 34
        axes.set_title(shortened(title, longest), loc="left", fontsize=8.5, color=INK,
                       fontweight="bold" if is_mean else "normal")  # fmt: skip
        if number % columns == 0:
            axes.set_ylabel(label)
        if number + columns >= len(panels) or not one_operation:
            axes.set_xlabel(DOSES.get(operation, operation))
    legend = [series[name] for name in order if name in series]
    notes = [_what(tables, rows)]
    if len(shown) < len(pairs):
        notes.append(f"the {len(shown)} of {len(pairs)} latents and targets furthest from their controls")
    of_means = ", of means over latents and targets" if n_means else ""
    notes.append(f"whiskers{'' if roomy else ' (the latent alone)'}: 95% intervals over images{of_means}")
    if not all(_even(np.sort(panel["amount"].unique())) for _, _, panel in panels):
        notes.append("amounts at equal distances")
    if y in DRAWN and (rows["draws"] > 1).any():
        notes.append("pale bars: range over draws")
    return finish(figure, "; ".join(notes), [*legend, *_dashes(y, rows["amount"].nunique() == 1)])


def _dashes(y: str, one_amount: bool) -> list[Artist]:
    """For the legend: what is solid and what dashed, or hollow where there are no lines."""
    from matplotlib.lines import Line2D

    _, beside = MEASURES[y]
    if beside is None:
        return []
    if one_amount:
        return [
            Line2D([], [], color=INK, marker="o", linestyle="", label=SOLID[y].replace("solid", "filled")),
            Line2D([], [], color=INK, marker="o", linestyle="", markersize=3, markerfacecolor="white",
                   label=beside[1].replace("dashed", "hollow")),
        ]  # fmt: skip
    return [
        Line2D([], [], color=INK, linewidth=1.4, label=SOLID[y]),
        Line2D([], [], color=INK, linewidth=1.0, linestyle=DASHED, label=beside[1]),
    ]


def _lines(
    axes: Axes, panel: pd.DataFrame, drawn: Sequence[str], order: Sequence[str], series: dict[str, Artist]
) -> bool:
    """A line for each control, set apart sideways so that no whisker covers another; returns whether there was room
    for those of the controls."""
    amounts = np.array(sorted(panel["amount"].unique()), float)
    is_even = _even(amounts)
    place = {amount: amount if is_even else float(rank) for rank, amount in enumerate(amounts)}
    gap = min(np.diff(list(place.values())), default=1.0)
    here = [name for name in order if panel.loc[panel["control"] == name, drawn[0]].notna().any()]
    apart = 0.66 * gap / max(len(order), 1)
    span = place[amounts[-1]] - place[amounts[0]] + gap
    width = float(axes.get_position().width * WIDTH * 72 * 0.85)
    roomy = len(order) == 1 or apart / span * width >= POINTS_APART
    middle = (len(order) - 1) // 2  # where the latent is, with its controls on either side
    controls = [name for name in order if name != NONE]
    beside = [*controls[:middle], NONE, *controls[middle:]] if NONE in order else controls
    for name in here:
        mine = panel[panel["control"] == name].sort_values("amount")
        look, own = _look(order, name), name == NONE
        at = np.array([place[amount] for amount in mine["amount"]])
        at = at + (beside.index(name) - (len(order) - 1) / 2) * apart if roomy else at
        for measure in drawn[1:]:
            axes.plot(at, mine[measure], color=look.color, linestyle=DASHED, linewidth=1.4 if own else 0.7,
                      alpha=1 if own else 0.75, zorder=3 if own else 2, markersize=3, markerfacecolor="white",
                      marker=look.marker if len(amounts) == 1 else "None")  # fmt: skip
        measure = drawn[0]
        (line,) = axes.plot(
            at, mine[measure], color=look.color, marker=look.marker, linestyle="-", zorder=5 if own else 3,
            linewidth=2.2 if own else 1.1, markersize=5.5 if own else 3.8, label="the latent" if own else name,
        )  # fmt: skip
        series.setdefault(name, line)
        if measure in DRAWN and (mine["draws"] > 1).any():
            axes.vlines(at, *(mine[column] for column in draw_range(measure)), color=look.color, alpha=0.3,
                        linewidth=3, zorder=2)  # fmt: skip
        if own or roomy:
            _, low, high = (mine[column].to_numpy(float) for column in with_interval(measure))
            axes.vlines(
                at, low, high, color=look.color, linewidth=1.2 if own else 0.7, zorder=4 if own else 3
            )
    if not here:
        axes.text(0.5, 0.5, "not defined: nothing\nwas predicted as the target", transform=axes.transAxes, ha="center",
                  va="center", color="#5c6168", fontsize=8.5)  # fmt: skip
    ends = place[amounts[0]] - 0.55 * gap, place[amounts[-1]] + 0.55 * gap
    axes.set_xlim(*ends)
    ticks_at(axes, [place[amount] for amount in amounts], [f"{amount:g}" for amount in amounts])
    axes.grid(axis="x", visible=False)
    return roomy


def _even(amounts: np.ndarray) -> bool:
    """Whether amounts, ascending, can be drawn to scale."""
    gaps = np.diff(amounts)
    return len(amounts) < 3 or bool(gaps.max() <= UNEVEN * gaps.min())


def _look(order: Sequence[str], name: str) -> Look:
    """A control looks the same in every figure, whichever others there are."""
    known = [*CONTROLS, *(one for one in order if one not in CONTROLS)]
    return look_of(known.index(name))


def _telling(panel: pd.DataFrame, y: str) -> float:
    """How far the latent is from its nearest control of the same size, at the amount where that is furthest; -1 where
    nothing is known."""
    by_amount = panel.pivot_table(index="amount", columns="control", values=y, aggfunc="first")
    if NONE not in by_amount:
        return -1.0
    controls = by_amount.drop(columns=[NONE, RECONSTRUCTION], errors="ignore")
    far = controls.sub(by_amount[NONE], axis=0).abs().min(axis=1) if controls.size else by_amount[NONE].abs()
    return float(np.nan_to_num(far.max(), nan=-1.0))


def _mean_of(rows: pd.DataFrame) -> str:
    latents, targets, n = rows["latent"].nunique(), rows["target"].nunique(), rows.groupby(PAIR).ngroups
    return (
        f"mean of {n} {'targets' if latents == 1 else 'latents' if targets == 1 else 'latents and targets'}"
    )


def _mean(rows: pd.DataFrame, drawn: Sequence[str]) -> pd.DataFrame:
    """The mean over latents and targets for each amount and control.

    Its interval is Student's over them, cut at the ends of a share, from LEAST_OF_INTERVAL on; no range of draws.
    """
    import pandas as pd
    from scipy.special import stdtrit

    groups = rows.groupby(["amount", "control"], sort=False)
    columns: dict[str, Any] = {"draws": groups.size() * 0 + 1}
    for name in drawn:
        mean, n = groups[name].mean(), groups[name].count()
        half = groups[name].std() / np.sqrt(n) * stdtrit(np.maximum(n - 1, 1), 0.975)
        half = half.where(n >= LEAST_OF_INTERVAL)
        ends = mean - half, mean + half
        low, high = (end.clip(0, 1) for end in ends) if name in SHARES else ends
        columns |= dict(zip(with_interval(name), (mean, low, high), strict=True))
    return pd.DataFrame(columns).reset_index()


def _limits(panels: Sequence[pd.DataFrame], drawn: Sequence[str]) -> tuple[float, float]:
    """Of the vertical axis, which all panels share."""
    names = [*with_interval(drawn[0]), *drawn[1:], *(draw_range(drawn[0]) if drawn[0] in DRAWN else ())]
    values = np.concatenate(
        [panel[name].to_numpy(float) for panel in panels for name in names if name in panel]
    )
    values = values[np.isfinite(values)]
    low, high = min(values.min(initial=0), 0), max(values.max(initial=0), 0.02)
    room = 0.05 * (high - low)
    return low - room, high + room


def _rows(tables: Sequence[tuple[Path, pd.DataFrame]], drawn: Sequence[str]) -> pd.DataFrame:
    """The rows of all tables with the name of their table; raises UserError where a column or every row is missing."""
    import pandas as pd

    found = []
    for (path, table), name in zip(tables, short_names([path for path, _ in tables]), strict=True):
        wanted = [*NEEDED, "draws", *(column for one in drawn for column in with_interval(one))]
        wanted += draw_range(drawn[0]) if drawn[0] in DRAWN else []
        check_columns(path, table, wanted, "the plot of edits")
        if table[["amount", "latent"]].isna().any(axis=None):
            raise UserError(f"{path}: a row has no latent or no amount")
        found.append(table[wanted].assign(table=name, target=table["target"].astype(str)))
    return pd.concat(found, ignore_index=True)


def _what(tables: Sequence[tuple[Path, pd.DataFrame]], rows: pd.DataFrame) -> str:
    """Of what the figure is, as far as the tables say: SAE, layer, model, head, patches."""
    known = [
        sidecar_values(path).get("settings", {}) if sidecar_path(path).is_file() else {} for path, _ in tables
    ]

    def same(name: str) -> Any:
        values = {str(own.get(name)): own.get(name) for own in known}
        return next(iter(values.values())) if len(values) == 1 else None

    n_latents, operations = rows["latent"].nunique(), ", ".join(dict.fromkeys(rows["operation"]))
    latents = f"{n_latents} latents" if n_latents > 1 else f"latent {rows['latent'].iloc[0]}"
    parts = [f"Edits ({operations}) of {latents}"]
    if same("scorer"):
        parts.append(f"SAE {str(same('scorer'))[:8]}")
    if same("layer") is not None and same("model"):
        parts.append(f"layer {same('layer')} of {same('model')}")
    if same("head"):
        head = str(same("head"))
        parts.append(f"head {head[:8] if len(head) == 32 else head}")
    if same("where"):
        parts.append(WHERE.get(same("where"), f"where {same('where')}"))
    return ", ".join(parts)
