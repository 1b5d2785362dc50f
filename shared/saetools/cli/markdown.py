"""Tables for people, in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def render_markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with aligned columns: text to the left, numbers to the right."""
    cells = [[render_cell(value) for value in row] for row in rows]
    lines = [list(head), *cells]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(head))]
    numeric = [bool(cells) and all(_is_number(line[i]) for line in cells) for i in range(len(head))]

    def joined(texts: Sequence[str]) -> str:
        padded = [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(texts, widths, numeric, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    return "\n".join([joined(head), joined(rule), *map(joined, cells)])


def render_cell(value: object) -> str:
    """Integers with commas, other numbers with three digits after the point (small ones with three significant
    digits), nothing for None and NaN."""
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value).replace("|", "\\|")


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "") or "0")
    except ValueError:
        return False
    return True
