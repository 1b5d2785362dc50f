"""The collected table as CSV, Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from saetools.cli.markdown import render_cell, render_markdown
from saetools.files.ap_tables import name_scorers
from saetools.files.atomic import write_text
from saetools.files.formats import COLLECTED_RUNS
from saetools.files.provenance import Provenance
from saetools.files.reuse import writing
from saetools.files.tables import write_csv

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def render(table: pd.DataFrame, format: str) -> str:
    """The table as text in this format.

    CSV keeps all digits. In the others, a scorer has one name instead of kind and path.
    """
    if format == "csv":
        return table.to_csv(index=False)
    if {"scorer", "checkpoint"} <= set(table.columns):
        table = table.assign(scorer=name_scorers(table)).drop(columns="checkpoint")
    names = [str(name) for name in table.columns]
    rows = [[_plain(cell) for cell in row] for row in table.itertuples(index=False)]
    return (render_markdown if format == "markdown" else _render_latex)(names, rows) + "\n"


def write(
    target: Path, table: pd.DataFrame, format: str, settings: Mapping[str, object], parents: Sequence[str]
) -> None:
    """Write the table; a CSV with its sidecar: the settings, and the uids of the tables it was made from."""
    with writing(target, {**settings, "format": format}, parents):
        if format == "csv":
            write_csv(target, table, Provenance.of(COLLECTED_RUNS, "collect-runs", settings, parents))
        else:
            write_text(target, render(table, format))


def _plain(cell: object) -> object:
    """A whole number as an integer: a column with empty cells holds floats only because of these."""
    if hasattr(cell, "item"):
        cell = cell.item()
    if cell is None or cell is pd.NA or cell != cell:
        return None
    return int(cell) if isinstance(cell, float) and cell.is_integer() and abs(cell) >= 2 else cell


def _render_latex(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A tabular in the style of booktabs, text to the left and numbers to the right."""
    numeric = [
        all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(head))
    ]
    lines = [
        rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in numeric)}}}",
        r"\toprule",
        _latex_line(head),
        r"\midrule",
        *(_latex_line([render_cell(cell).replace("\\|", "|") for cell in row]) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def _latex_line(cells: Sequence[str]) -> str:
    escaped = ["".join(LATEX_SPECIAL.get(character, character) for character in cell) for cell in cells]
    return " & ".join(escaped) + r" \\"
