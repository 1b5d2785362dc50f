"""check-files: say what is broken, missing or mismatched, before a long job finds out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saetools.cli.app import VerboseOption, VersionOption, new_app, run, write_line
from saetools.cli.paths import iterate_paths

app = new_app()


@app.command()
def check_files(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Files and folders; - reads their paths from stdin.")
    ] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte: digests, check sums, NaN.")] = False,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Check shards, scorers, latents, tables: a line for each file or folder, "ok" or what is wrong with it.

    Files that are given together are checked for belonging together too. The exit code is 1 where
    anything is wrong.
    """
    from check_files.checking import check_paths

    n_wrong = 0
    for verdict in check_paths(iterate_paths(paths or [], "files or folders to check"), deep):
        n_wrong += verdict.fault is not None
        write_line(verdict.line())
    if n_wrong:
        raise typer.Exit(1)


def main() -> None:
    run("check-files", app)
