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
    examples,
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


@app.command(
    groups={
        "Data": "train test out labels class_names missing_rows ignore",
        "Probes": "ridge tau",
        "Running": "classes memory threads",
    },
    epilog=examples(
        "fit-probes --train latents/train --test latents/test --out probes",
        "fit-probes --train latents/train --test latents/test --ignore 0 --out probes-parts",
        "fit-probes --train latents/train --test latents/test --classes 1/2 --out probes-slices",
    ),
)
def fit_probes(
    train: Annotated[
        list[Path], typer.Option(help="Latents to fit the probes on: a folder, or files; repeatable.")
    ],
    test: Annotated[
        list[Path], typer.Option(help="Latents to test the probes on: a folder, or files; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tables; created if it does not exist.")],
    labels: Annotated[
        str,
        typer.Option(
            help="patch: the patch labels; target: the classes of the images; or a table: a CSV path,TRAIT,... of"
            " yes and no, or numbers from 0 to 1, or CUB-200-2011's folder. With all but patch, a row is an image, with"
            " the maximum of each latent over its patches."
        ),
    ] = "patch",
    ignore: Annotated[
        str | None, typer.Option(help="Leave out rows with these labels: 0,11.", metavar="LABEL,...")
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(
            help="File with the names of the labels 0, 1, ..., one a line, for --labels patch and target."
        ),
    ] = None,
    missing_rows: Annotated[
        str | None,
        typer.Option(
            help="Images without a row in a table of labels: unknown (left out), no (they have no trait), or fail (the"
            " default).",
            metavar="unknown|no|fail",
        ),
    ] = None,
    ridge: Annotated[
        float,
        typer.Option(
            min=0,
            help="L2 penalty: ridge/2 (w sd)^2 is added to the mean loss, with sd the latent's standard deviation.",
        ),
    ] = 1e-8,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Fit only part I of N of the classes, for job arrays; run it without --classes to merge the parts.",
            metavar="I/N",
        ),
    ] = None,
    tau: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="coverage@TAU is the share of classes whose AP is at least TAU. Default: half way between 1 and the"
            " share of the most common class, which is the AP of a constant score.",
        ),
    ] = None,
    memory: Annotated[
        str,
        typer.Option(help="Memory for the latents' values: 500MB, 4GB; the rest goes to a file in --out."),
    ] = "4GB",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: one per core.")] = None,
    device: DeviceOption = "cpu",
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Fit a logistic probe sigma(w z + b) for every latent z and every class, and test the best ones.

    Writes to OUT, and prints the paths of: probes.npz (all probes), probes.csv (for each class, the latent with the
    smallest training loss, with its R, AP and F1 on the test latents), latents.csv (for each latent, its best class and
    its purity) and summary.csv (means). Docs: docs/formats.md, docs/metrics.md, docs/probes.md.
    """
    ignored = parse_numbers("--ignore", ignore, int) if ignore is not None else []
    part = parse_slice("--classes", classes) if classes is not None else None
    n_bytes = parse_bytes("--memory", memory)
    if not math.isfinite(ridge):
        raise UsageError(f"--ridge {ridge}: expected a finite number")

    from fit_probes.run import ProbeRun, ProbeSettings
    from saetools.compute.threads import available_threads
    from saetools.labels.splits import read_class_names
    from saetools.latents.reader import open_latents

    if device != "cpu":  # torch takes seconds and half a gigabyte to import
        from saetools.compute.devices import choose_device

        device = str(choose_device(device))
    probe_run = ProbeRun(
        open_latents(train),
        open_latents(test),
        ProbeSettings(labels, ignored, ridge, tau, missing_rows, read_class_names(class_names)),
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
