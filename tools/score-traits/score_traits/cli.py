"""score-traits: how well do single prototypes detect the traits of images?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saetools.cli import (
    DeviceOption,
    SeedOption,
    VerboseOption,
    VersionOption,
    logger,
    new_app,
    run,
    write_data,
    write_line,
)
from saetools.errors import UsageError

app = new_app()


@app.command()
def score_traits(
    train: Annotated[
        list[Path], typer.Option(help="Shards, or a folder of them, on which prototypes are chosen.")
    ],
    test: Annotated[
        list[Path], typer.Option(help="Shards, or a folder of them, on which the choice is tested.")
    ],
    traits: Annotated[Path, typer.Option(help="CUB-200-2011's folder, or a CSV path,TRAIT,... of 0 and 1.")],
    scorer: Annotated[list[str], typer.Option(help="const, random:K or a scorer file; repeatable.")],
    layer: Annotated[
        int | None, typer.Option(help="Layer of the shards; needed where they hold several.")
    ] = None,
    n_train: Annotated[
        str, typer.Option(help="Numbers of training images to choose with: 16,64,all.", metavar="N,...")
    ] = "all",
    pool: Annotated[
        str, typer.Option(help="Image score from patch scores: max, mean or topk-mean:M.")
    ] = "max",
    out: Annotated[Path | None, typer.Option(help="The AP table; default: CSV on stdout.")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Print mAP per scorer to stderr.")] = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Choose the best prototype of every trait on training images, and report its AP on test images.

    Writes the AP table of docs/formats.md: one row per scorer, number of training images and trait.
    """
    sizes = _parse_sizes(n_train)

    from saetools.csv_files import write_csv
    from saetools.devices import choose_device
    from saetools.shard_reader import open_shards
    from score_traits.ap_table import render_summary, summarise
    from score_traits.scoring import ScoringSettings, read_table, score, table_provenance

    train_set, test_set = open_shards(train), open_shards(test)
    settings = ScoringSettings(layer, sizes, pool, seed)
    provenance = table_provenance(train_set, test_set, traits, scorer, settings)
    table = read_table(out, provenance) if out is not None else None
    if table is None:
        table = score(train_set, test_set, traits, scorer, settings, choose_device(device))
        if out is not None:
            write_csv(out, table, provenance)
    if summary:
        logger.info("the mean over traits with a positive in test\n%s", render_summary(summarise(table)))
    if out is None:
        write_data(table.to_csv(index=False))
    else:
        write_line(str(out))


def _parse_sizes(text: str) -> list[int | None]:
    """16,64,all -> [16, 64, None]"""
    parts = [part.strip() for part in text.split(",")]
    if not all(part == "all" or (part.isdigit() and int(part) > 0) for part in parts):
        raise UsageError(f"--n-train {text!r}: expected numbers of images, or all: 16,64,all")
    return [None if part == "all" else int(part) for part in parts]


def main() -> None:
    run("score-traits", app)
