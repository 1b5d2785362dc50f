"""The style of figures, made without a display: looks of series, titles, legends, names of points; and writing them."""

from __future__ import annotations

import io
import itertools
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from saetools.errors import UsageError, UserError
from saetools.files.atomic import write_bytes

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe and Ito's colours, which colour-blind people tell apart; the yellow left out, as it is faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# 8 and 7 have no common divisor: 56 pairs with COLOURS, and neighbours differ in both.
MARKERS = "os^DvPX*"
DASHES = ("-", "--", "-.", ":")
INK, FAINT, STRIPE = "#1c1e21", "#9aa0a6", "#f4f5f6"
# Inches. The smallest text is 8.5 points: 5 points, the least that journals accept, in a column of 8 cm.
WIDTH = 5.2
# Points right and up of a point at which its name is tried, in this order.
BESIDE = (
    (5, 4),
    (5, -4),
    (-5, 4),
    (-5, -4),
    (0, 6),
    (0, -6),
    (7, 0),
    (-7, 0),
    (5, 12),
    (-5, -12),
    (-5, 12),
    (5, -12),
)
LONGEST_NAME = 64  # characters of a series or a point, before its middle is left out

STYLE: dict[str, Any] = {
    "font.size": 9,
    "figure.titlesize": 9.5,
    "axes.titlesize": 9,
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
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
    "text.parse_math": False,  # names may have dollar signs
    "svg.hashsalt": "saetools",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


class Look(NamedTuple):
    """How a series is drawn; the first 56 differ in colour or marker, neighbours in both."""

    color: str
    marker: str
    linestyle: str


def look_of(number: int) -> Look:
    n = len(COLOURS)
    return Look(COLOURS[number % n], MARKERS[number % len(MARKERS)], DASHES[number // n % len(DASHES)])


def check_target(target: Path) -> None:
    """Raise UsageError unless the name ends in one of SUFFIXES."""
    if target.suffix.lower() not in SUFFIXES:
        raise UsageError(f"`out` {target}: expected a name that ends with {', '.join(SUFFIXES)}")


def new_figure(width: float, height: float, layout: str | None = None) -> Figure:
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
    # Names may have letters that the font lacks; boxes stand for them.
    warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
    matplotlib.rcdefaults()
    for name, value in STYLE.items():
        matplotlib.rcParams[name] = value  # type: ignore[index]
    figure = Figure(figsize=(width, height), layout=layout)  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def new_panels(n: int, columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """A figure of WIDTH with n panels, so many beside each other, each of this height in inches; see `finish`."""
    columns = min(columns, n)
    rows = -(-n // columns)
    figure = new_figure(WIDTH, rows * height, "constrained")
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(n)]


def finish(figure: Figure, title: str, series: Sequence[Artist]) -> Figure:
    """Add the title, folded to the figure's width, and below the panels a legend of the series, which covers nothing.

    The figure becomes higher by both. series: artists with labels, in the order of the legend.
    """
    head = figure.suptitle(title, x=0.01, ha="left", color=INK)
    head.set_text(_folded(head.get_text(), figure.bbox.width * 0.98, lambda text: _width(head, text)))
    added = head.get_window_extent().height
    if series:
        added += _legend_below(figure, series)
    figure.set_figheight(figure.get_figheight() + added / figure.dpi)
    return figure


def save_figure(figure: Figure, target: Path) -> None:
    """Write PNG, SVG or PDF by the ending; the same figure is the same bytes, so no date is written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    kind = target.suffix.lower().removeprefix(".")
    metadata = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    encoded = io.BytesIO()
    figure.savefig(encoded, format=kind, dpi=200, metadata=metadata, bbox_inches="tight", pad_inches=0.06)
    write_bytes(target, encoded.getvalue())


def shortened(name: str, longest: int = LONGEST_NAME) -> str:
    """The name; without its middle where it is longer, as both ends tell series apart."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half:]}"


def name_points(axes: Axes, xy_n2: np.ndarray, names: Sequence[str], among_n2: np.ndarray) -> None:
    """Write names beside points, where they cover no other name and no point of `among_n2`; others are left out.

    A place that covers no line is taken first. Call it last: the places depend on the layout.
    """
    import numpy as np
    from matplotlib.transforms import Bbox

    to_pixels = axes.transData.transform
    radius = 3 / 72 * _laid_out(axes).dpi
    taken: list[Bbox] = [Bbox([point - radius, point + radius]) for point in to_pixels(among_n2)]
    lines: list[Bbox] = []
    for line in axes.get_lines():
        corners = to_pixels(np.asarray(line.get_xydata(), float))
        for start, end in itertools.pairwise(corners):
            steps = np.linspace(0, 1, max(2, int(np.hypot(*(end - start)) / radius)))
            lines += [Bbox([point - 1, point + 1]) for point in start + steps[:, None] * (end - start)]
    room = axes.bbox
    for (x, y), name in zip(xy_n2, names, strict=True):
        places: list[tuple[bool, int]] = []
        for number, (dx, dy) in enumerate(BESIDE):
            text = axes.annotate(
                shortened(name, 32), (x, y), (dx, dy), textcoords="offset points", fontsize=8.5, color=INK,
                bbox={"facecolor": "white", "alpha": 0.7, "pad": 0.5, "linewidth": 0},
                ha=("right", "center", "left")[(dx > 0) - (dx < 0) + 1],
                va=("top", "center", "bottom")[(dy > 0) - (dy < 0) + 1],
            )  # fmt: skip
            box = text.get_window_extent()
            text.set_visible(False)
            inside = room.x0 <= box.x0 and box.x1 <= room.x1 and room.y0 <= box.y0 and box.y1 <= room.y1
            if inside and not any(_meet(box, other) for other in taken):
                places.append((any(_meet(box, other) for other in lines), number))
        texts = axes.texts[-len(BESIDE) :]
        for number, tried in enumerate(texts):
            if places and number == min(places)[1]:
                tried.set_visible(True)
                taken.append(tried.get_window_extent())
            else:
                tried.remove()


def ticks_at(axes: Axes, values: Sequence[float], names: Sequence[str] | None = None) -> None:
    """The values themselves as the ticks of the x axis, without those that would run into each other.

    names: what stands at each of the values, which then ascend.
    """
    places = sorted(set(values))
    axes.set_xticks(places, [f"{value:g}" for value in places] if names is None else names)
    axes.minorticks_off()
    _laid_out(axes)
    end = -1e9
    for label in axes.get_xticklabels():
        box = label.get_window_extent()
        label.set_visible(box.x0 > end + 2)
        end = box.x1 if label.get_visible() else end


def plain_ticks(axis: Any) -> None:
    """Numbers such as 0.2 and 30 on a logarithmic axis, as few lie between powers of ten: also 2 and 5 of each decade
    where it has few decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def _legend_below(figure: Figure, series: Sequence[Artist]) -> float:
    """Add the legend, in as many columns as fit; returns its height in pixels.

    Many long names lose their middles, so that there are two columns, as long as they still differ.
    """
    names = [str(artist.get_label()) for artist in series]
    for longest, fewest in ((LONGEST_NAME, 2), (28, 2), (LONGEST_NAME, 1), (10**6, 1)):
        # matplotlib leaves out names that begin with an underscore
        labels = [shortened(f" {name}" if name.startswith("_") else name, longest) for name in names]
        if len(set(labels)) < len(set(names)):
            continue
        for columns in range(min(len(series), 4), (fewest if len(series) > 6 else 1) - 1, -1):
            legend = figure.legend(
                list(series), labels, loc="outside lower left", ncols=columns,
                alignment="left", columnspacing=1.4, handlelength=2.4, numpoints=1,
            )  # fmt: skip
            extent = legend.get_window_extent()
            if extent.width <= figure.bbox.width * 0.97 or columns == 1:
                return float(extent.height)
            legend.remove()
    raise AssertionError("one column always fits")


def _laid_out(axes: Axes) -> Figure:
    """The figure, with everything in its place, so that texts can be measured."""
    from matplotlib.figure import Figure

    assert isinstance(axes.figure, Figure)
    axes.figure.draw_without_rendering()
    return axes.figure


def _folded(text: str, room: float, width: Any) -> str:
    """The text in lines that fit the room, broken between words."""
    lines: list[str] = []
    for line in text.split("\n"):
        words = line.split(" ")
        lines.append(words[0])
        for word in words[1:]:
            if width(f"{lines[-1]} {word}") <= room:
                lines[-1] += f" {word}"
            else:
                lines.append(word)
    return "\n".join(lines)


def _width(artist: Any, text: str) -> float:
    artist.set_text(text)
    return float(artist.get_window_extent().width)


def _meet(a: Bbox, b: Bbox) -> bool:
    return bool(a.x0 < b.x1 and b.x0 < a.x1 and a.y0 < b.y1 and b.y0 < a.y1)
