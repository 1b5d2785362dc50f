"""check-files: find broken, missing and mismatched files before a long job does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saetools.cli.app import VerboseOption, VersionOption, examples, new_app, run, write_line
from saetools.cli.paths import iterate_paths

app = new_app()


@app.command(
    epilog=examples("check-files acts/train sae.h5 ap.csv", "check-files --deep acts latents sae.h5")
)
def check_files(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Files and folders; - reads their paths from stdin, one a line."),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte: compare digests and checksums, look for NaN.")
    ] = False,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Check shards, scorers, latents and tables; print one line for each file or folder: "ok", or what is wrong.

    Files that are given together must also be of the same model, weights and preprocessing.

    The exit code is 1 if anything is wrong.
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
