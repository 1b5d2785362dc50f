"""train-sae: train sparse autoencoders on activation shards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from saetools.cli.app import (
    DeviceOption,
    VerboseOption,
    VersionOption,
    examples,
    new_app,
    run,
    write_line,
)
from saetools.cli.paths import iterate_paths, reads_stdin
from saetools.cli.quantities import parse_bytes
from saetools.errors import UsageError
from train_sae.config import SAETraining
from train_sae.options import GROUPS, with_options_of
from train_sae.planned import LOG_EVERY_HELP

app = new_app()


@app.command(
    groups=GROUPS,
    epilog=examples(
        "train-sae acts/train --val acts/test --d-sae 1024 --k 16 --tokens 500k --out sae.h5",
        "train-sae acts/train --val acts/test --d-sae 512 --tokens 200k --grid 'k=8,16 lr=1e-3,3e-3' --out saes",
        "train-sae acts/train --val acts/test --d-sae 1024 --k 16 --tokens 0 --out untrained.h5",
    ),
)
@with_options_of(SAETraining, after="layer")
def train_sae(
    out: Annotated[
        Path, typer.Option(help="Scorer file to write (.h5); with --grid or --sweep, a folder of them.")
    ],
    acts: Annotated[
        list[Path] | None,
        typer.Argument(help="Activation shards, or folders of them; - reads their paths from stdin."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Layer to train on; needed if the shards hold several.")
    ] = None,
    val: Annotated[
        list[Path] | None, typer.Option(help="Evaluate on these shards instead of held-out images.")
    ] = None,
    grid: Annotated[
        str | None, typer.Option(help="Train every combination on one stream: 'lr=1e-4,3e-4 k=16,32'.")
    ] = None,
    sweep: Annotated[Path | None, typer.Option(help="The same from a YAML file: grid, zip, runs.")] = None,
    sae_memory: Annotated[
        str | None,
        typer.Option(help="Memory for SAEs trained at the same time. [default: half of the free memory]"),
    ] = None,
    consume: Annotated[
        bool, typer.Option("--consume", help="Delete each shard after its last use; one epoch, needs --val.")
    ] = False,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Accept a part of the shards; the file says how many.")
    ] = False,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Accept training images in --val; the file says how many.")
    ] = False,
    checkpoint_every: Annotated[
        int, typer.Option(min=0, help="Steps between saved states for resuming; 0: none are saved.")
    ] = 1000,
    log_every: Annotated[int | None, typer.Option(min=1, help=LOG_EVERY_HELP)] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="Log to TensorBoard too, in this folder.")] = None,
    wandb: Annotated[str | None, typer.Option(help="Log to this Weights & Biases project too.")] = None,
    device: DeviceOption = "auto",
    verbose: VerboseOption = False,
    version: VersionOption = False,
    **options: Any,
) -> None:
    """Train sparse autoencoders on activation shards, and evaluate them on images they were not trained on.

    Writes OUT (HDF5, see docs/formats.md) and a metrics table (OUT's name with .metrics.csv), and prints OUT's path.
    Shards on stdin are used as they arrive: dump-acts ... | train-sae --layer 11 --out sae.h5 -

    After Ctrl-C, SIGTERM, SIGHUP, SIGUSR1 or a crash, run the same command again: it resumes from its last saved state.
    """
    from train_sae.api import train_all
    from train_sae.grids import combine, parse_grid, read_sweep

    one = SAETraining(**options)
    if grid is not None and sweep is not None:
        raise UsageError("--grid and --sweep: give one of them")
    many = parse_grid(grid) if grid is not None else read_sweep(sweep) if sweep is not None else None
    configs: Mapping[Path | None, SAETraining] = {out: one}
    if many is not None:
        configs = {out / f"{name}.h5": config for name, config in combine(one, many).items()}
    paths = acts or []
    for trained in train_all(
        iterate_paths(paths, "activation shards"),
        configs,
        layer=layer,
        val=val or (),
        arriving=reads_stdin(paths),
        consume=consume,
        allow_incomplete=allow_incomplete,
        allow_overlap=allow_overlap,
        sae_memory=parse_bytes("--sae-memory", sae_memory) if sae_memory else None,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        tensorboard=tensorboard,
        wandb=wandb,
        device=device,
    ):
        write_line(str(trained.path))


def main() -> None:
    run("train-sae", app)
