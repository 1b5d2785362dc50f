"""The style of figures, made without a display, and writing them."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saetools.errors import UsageError, UserError
from saetools.files.atomic import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, which colour-blind people tell apart; the yellow left out, as it is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
INK, FAINT = "#1c1e21", "#9aa0a6"

STYLE: dict[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.edgecolor": "#b5b9be",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#eceef0",
    "grid.linewidth": 0.8,
    "xtick.color": "#5c6168",
    "ytick.color": "#5c6168",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "saetools",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


def check_target(target: Path) -> None:
    """Raise UsageError unless the name ends in one of SUFFIXES."""
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(f"`out` {target}: expected a name that ends with {', '.join(SUFFIXES)}")


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, drawn without a window system or any setting of the user's."""
    # An unknown backend in the environment would end matplotlib's import; none is needed.
    os.environ["MPLBACKEND"] = "agg"
    # Its cache of fonts goes to a temporary folder where the home folder cannot be written; nobody needs to be told.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            f"matplotlib cannot draw here ({error}); install it again: pip install --force-reinstall matplotlib"
        ) from error
    matplotlib.rcdefaults()
    for name, value in STYLE.items():
        matplotlib.rcParams[name] = value  # type: ignore[index]
    figure = Figure(figsize=(width, height), layout=None)
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, target: Path) -> None:
    """Write PNG, SVG or PDF by the ending; the same figure is the same bytes, so no date is written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    kind = target.suffix.lower().removeprefix(".")
    metadata = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    encoded = io.BytesIO()
    figure.savefig(encoded, format=kind, dpi=160, metadata=metadata, bbox_inches="tight")
    write_bytes(target, encoded.getvalue())


def colour_of(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def legend_above(axes: Axes, columns: int = 3) -> None:
    """The legend above the plot, where it hides nothing."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=columns, borderaxespad=0.4, columnspacing=1.4
    )


def log_limits(axes: Axes, values: list[float]) -> None:
    """A logarithmic x axis with the values themselves as its ticks."""
    axes.set_xscale("log")
    axes.set_xticks(sorted(set(values)), [f"{value:g}" for value in sorted(set(values))])
    axes.minorticks_off()
