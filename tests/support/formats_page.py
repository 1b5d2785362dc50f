"""docs/formats.md and the tables in it."""

from __future__ import annotations

from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()


def table(name: str) -> list[list[str]]:
    """The rows of the table after `<!-- table: name -->`, cells without back quotes."""
    body = PAGE.split(f"<!-- table: {name} -->\n")[1]
    lines = body.split("\n\n")[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def names(table_name: str) -> set[str]:
    return {row[0] for row in table(table_name)}
