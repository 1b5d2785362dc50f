"""collect-runs: collect the tables of a sweep into one table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from saetools.cli.app import VerboseOption, VersionOption, choice, examples, new_app, run, write_line
from saetools.cli.paths import reads_stdin
from saetools.errors import UsageError, UserError
from saetools.log import logger

app = new_app()
MOST_NAMED = 20


@app.command(
    groups={"Rows and columns": "by columns sort pareto", "Output": "format out strict"},
    epilog=examples(
        "collect-runs ap.csv --columns traits,map,ap_5,ap_95 --sort=-map --format markdown",
        "collect-runs ap.csv --by scorer,group --columns map",
        "collect-runs sae.metrics.csv --columns nmse,l0,dead",
    ),
)
def collect_runs(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="AP tables, training metrics, probe tables, ...; - reads their paths from stdin, one a line."
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="Columns that identify a row; runs that agree in them are averaged. Default: scorer,n_prototypes,"
            "checkpoint,layer,n_train for AP tables, the file for others (of edits also operation,amount,control)."
            " `group`: a trait's name up to ::",
            metavar="COLUMN,...",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            help="Show only these columns, besides those of --by. NAME_sd is the standard deviation between runs.",
            metavar="COLUMN,...",
        ),
    ] = None,
    pareto: Annotated[
        str | None,
        typer.Option(
            help="Mark the Pareto front in these columns, such as nmse,l0. High mAP, F1 and the like are better; low"
            " values of everything else. Each layer, model and data set has its own front.",
            metavar="COLUMN,...",
        ),
    ] = None,
    sort: Annotated[
        str | None, typer.Option(help="Sort by these columns; -COLUMN: descending.", metavar="COLUMN,...")
    ] = None,
    format: Annotated[str, choice("csv", "markdown", "latex", help="Format of the table.")] = "csv",
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if files or runs are missing.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File for the table; default: stdout.")] = None,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Collect tables into one: a row for each run of a sweep, or for each combination of the columns of --by.

    Lists on stderr the files that do not exist, and the runs that the full sweep would have.
    """
    import pandas as pd

    from collect_runs.gathering import check_columns, comparable, default_by, gather, missing_runs
    from collect_runs.runs import HIDDEN, read_runs
    from collect_runs.writing import render, write
    from saetools.metrics.pareto import pareto_front

    by_names, shown, goals, order = (_names(text) for text in (by, columns, pareto, sort))
    paths = _paths(files or [])
    absent = [path for path in paths if not path.is_file()]
    found = [read_runs(path, by_names) for path in paths if path not in absent]
    if not found:
        raise UserError(
            f"{absent[0]}: no such file, nor any other that was named; there is nothing to collect"
        )
    every = pd.concat([runs for runs, _ in found], ignore_index=True)
    runs = every.drop(columns=[name for name in HIDDEN if name in every])
    check_columns("--by", by_names or [], runs)
    told_apart = by_names or default_by(runs)
    sorted_by = [name.removeprefix("-") for name in order or []]
    table = gather(runs, told_apart, [*(shown or []), *sorted_by])
    if goals:
        check_columns("--pareto", goals, table)
        for name in goals:
            if not pd.api.types.is_numeric_dtype(table[name]):
                raise UsageError(
                    f"--pareto {name}: its values are no numbers, such as {str(table[name].iloc[0])[:60]!r}"
                )
        on_front = pareto_front(table, goals, comparable(every, told_apart))
        table["pareto"] = ["*" if best else "" for best in on_front]
    if order:
        check_columns("--sort", sorted_by, table)
        rising = [not name.startswith("-") for name in order]
        table = table.sort_values(sorted_by, ascending=rising, kind="stable", ignore_index=True)
    if shown:
        check_columns("--columns", shown, table)
        table = table[list(dict.fromkeys([*told_apart, *shown, *(["pareto"] if goals else [])]))]

    missing = missing_runs(runs, told_apart)
    for what, names_of_missing in (
        ("files", [str(path) for path in absent]),
        ("runs of a full sweep over these columns", missing),
    ):
        if names_of_missing:
            listed = names_of_missing[:MOST_NAMED]
            more = len(names_of_missing) - len(listed)
            lines = "".join(f"\n  {name}" for name in listed) + (f"\n  and {more:,} more" if more else "")
            logger.info("missing %s: %s%s", what, f"{len(names_of_missing):,}", lines)
    if out is None:
        sys.stdout.write(render(table, format))
    else:
        settings = {"by": told_apart, "columns": shown, "pareto": goals, "sort": order}
        write(out, table, format, settings, [provenance.uid for _, provenance in found])
        write_line(str(out))
    if strict and (absent or missing):
        raise UserError(
            f"{len(absent)} files and {len(missing)} runs are missing, see above; run them and collect again"
        )


def _names(text: str | None) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(f"{text!r}: expected column names with commas between them")
    return names


def _paths(files: list[Path]) -> list[Path]:
    """The paths, also those of files that do not exist (yet): they are reported, not refused."""
    if reads_stdin(files):
        files = [Path(line.rstrip("\n")) for line in sys.stdin if line.strip()]
    if not files:
        raise UsageError("expected tables; name files, or pipe a list of paths in")
    return list(dict.fromkeys(files))


def main() -> None:
    run("collect-runs", app)
