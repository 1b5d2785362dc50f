"""Tables for papers."""

from __future__ import annotations

from collections.abc import Sequence

from saetools.cli.markdown import render_cell

SPECIAL = {
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


def render_latex(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A tabular in the style of booktabs, text to the left and numbers to the right."""
    numeric = [
        all(isinstance(row[i], int | float) or row[i] is None for row in rows) for i in range(len(head))
    ]
    lines = [
        rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in numeric)}}}",
        r"\toprule",
        _line(head),
        r"\midrule",
        *(_line([render_cell(cell).replace("\\|", "|") for cell in row]) for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    escaped = ["".join(SPECIAL.get(character, character) for character in cell) for cell in cells]
    return " & ".join(escaped) + r" \\"
