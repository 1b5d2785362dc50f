"""fit-probes: how well does each latent alone tell each class?"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from saetools.cli.app import (
    DeviceOption,
    VerboseOption,
    VersionOption,
    new_app,
    parse_numbers,
    run,
    write_line,
)
from saetools.cli.quantities import parse_bytes
from saetools.cli.slices import parse_slice
from saetools.errors import UsageError
from saetools.log import logger

app = new_app()


@app.command()
def fit_probes(
    train: Annotated[list[Path], typer.Option(help="Latents to fit on: a folder, or files; repeatable.")],
    test: Annotated[list[Path], typer.Option(help="Latents to test on: a folder, or files; repeatable.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables; made where it is missing.")],
    labels: Annotated[
        str,
        typer.Option(
            help="patch: the patches' labels; target: the images' classes; or a table of traits: a CSV"
            " path,TRAIT,... of numbers from 0 to 1, or CUB-200-2011's folder. All but patch take the"
            " largest value of each image."
        ),
    ] = "patch",
    ignore: Annotated[
        str | None, typer.Option(help="Leave out rows with these labels: 0,11.", metavar="LABEL,...")
    ] = None,
    ridge: Annotated[
        float,
        typer.Option(min=0, help="Weight of the penalty ridge/2 (w u)^2, u the latent's standard deviation."),
    ] = 1e-8,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Fit only part I of N of the classes, for arrays of jobs; the command without it merges the parts.",
            metavar="I/N",
        ),
    ] = None,
    tau: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="coverage@TAU: share of classes with such an AP. Default: half way between the share of the"
            " commonest class, which a constant reaches, and 1.",
        ),
    ] = None,
    memory: Annotated[
        str, typer.Option(help="Memory for the latents' values; what does not fit goes to disk, in --out.")
    ] = "4GB",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: as many as there are cores.")] = None,
    device: DeviceOption = "cpu",
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Fit sigma(w z + b) for every latent z and class, each to its own optimum, and test the best ones.

    Writes to OUT, and prints the paths of: probes.npz (all probes), probes.csv (the best latent of each class,
    chosen on the training latents, with its R, AP and F1 on the test latents), latents.csv (what each latent is
    about) and summary.csv (means). Docs: docs/formats.md, docs/metrics.md, docs/probes.md.
    """
    ignored = parse_numbers("--ignore", ignore, int) if ignore is not None else []
    part = parse_slice("--classes", classes) if classes is not None else None
    n_bytes = parse_bytes("--memory", memory)
    if not math.isfinite(ridge):
        raise UsageError(f"--ridge {ridge}: expected a finite number")

    from fit_probes.run import ProbeRun, ProbeSettings
    from saetools.compute.threads import available_threads
    from saetools.latents.reader import open_latents

    if device != "cpu":  # torch takes seconds and half a gigabyte to import
        from saetools.compute.devices import choose_device

        device = str(choose_device(device))
    probe_run = ProbeRun(
        open_latents(train),
        open_latents(test),
        ProbeSettings(labels, ignored, ridge, tau),
        out,
        n_bytes,
        device,
        threads or available_threads(),
    )
    paths = probe_run.run_all() if part is None else probe_run.run_part(part)
    for path in paths:
        write_line(str(path))
    logger.debug("done")


def main() -> None:
    run("fit-probes", app)
