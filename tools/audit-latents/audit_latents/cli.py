"""audit-latents: do the latents that image labels ask for show up in patch labels?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saetools.cli.app import (
    SeedOption,
    VerboseOption,
    VersionOption,
    examples,
    new_app,
    parse_numbers,
    run,
    write_line,
)
from saetools.cli.quantities import parse_bytes
from saetools.errors import UsageError

app = new_app()


@app.command(
    groups={
        "Data": "train test out labels class_names missing_rows trait ignore",
        "Ranking and test": "budgets tau bootstrap null seed",
        "Running": "memory threads",
    },
    epilog=examples(
        "audit-latents --train latents/train --test latents/test --labels target --budgets 5,10 --null 20 --out audit",
        "audit-latents --train latents/train --test latents/test --labels target --ignore 0 --budgets 10 --null 0"
        " --out audit-parts",
    ),
)
def audit_latents(
    train: Annotated[list[Path], typer.Option(help="Latents to rank on: a folder, or files; repeatable.")],
    test: Annotated[
        list[Path], typer.Option(help="Latents with patch labels to test the ranking on; repeatable.")
    ],
    labels: Annotated[
        str,
        typer.Option(
            help="Image labels K: target (the classes of the images), a CSV path,TRAIT,..., or CUB-200-2011's folder."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tables; created if it does not exist.")],
    trait: Annotated[str | None, typer.Option(help="Rank for this one label of K.")] = None,
    ignore: Annotated[
        str | None, typer.Option(help="Leave out patches with these labels: 0,11.", metavar="LABEL,...")
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(help="File with the names of the labels 0, 1, ..., one a line, for the patch labels."),
    ] = None,
    missing_rows: Annotated[
        str | None,
        typer.Option(
            help="Images without a row in a table of labels: unknown (left out), no (they have no trait), or fail (the"
            " default).",
            metavar="unknown|no|fail",
        ),
    ] = None,
    budgets: Annotated[
        str, typer.Option(help="Numbers of proposals B at which to report Yield(B).", metavar="B,...")
    ] = "10,25,50,100",
    tau: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="A proposal is found if its AP for some patch label is at least TAU. Default: half way between 1 and"
            " the share of the most common patch label, which is the AP of a constant score.",
        ),
    ] = None,
    bootstrap: Annotated[
        int, typer.Option(min=0, help="Bootstrap resamples of the test images, for 95% intervals.")
    ] = 1000,
    null: Annotated[
        int, typer.Option(min=0, help="Null distribution: rankings with K shuffled over the training images.")
    ] = 100,
    memory: Annotated[
        str,
        typer.Option(help="Memory for the latents' values: 500MB, 4GB; the rest goes to a file in --out."),
    ] = "4GB",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; default: one per core.")] = None,
    seed: SeedOption = 0,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Rank latents by an L1 logistic regression on image labels K, and test the ranking on patch labels H.

    H is the patch labels of --test, which the ranking never uses. Writes ranking.csv (the proposals, each with the
    patch label for which its AP is highest) and yield.csv (Yield(B), its area, intervals and null) to OUT, and prints
    their paths. Docs: docs/formats.md, docs/metrics.md.
    """
    wanted = sorted(set(parse_numbers("--budgets", budgets, int)))
    if wanted[0] < 1:
        raise UsageError(f"--budgets {budgets}: expected numbers of at least 1")
    ignored = parse_numbers("--ignore", ignore, int) if ignore is not None else []
    n_bytes = parse_bytes("--memory", memory)
    if labels == "patch":
        raise UsageError(
            "--labels patch: K must be labels of images; the patch labels are kept for testing the ranking"
        )

    from audit_latents.run import AuditSettings, run_audit
    from saetools.compute.threads import available_threads
    from saetools.labels.splits import read_class_names
    from saetools.latents.reader import open_latents

    names = read_class_names(class_names)
    settings = AuditSettings(
        labels, trait, sorted(ignored), wanted, tau, bootstrap, null, seed, missing_rows, names
    )
    for path in run_audit(
        open_latents(train), open_latents(test), settings, out, n_bytes, threads or available_threads()
    ):
        write_line(str(path))


def main() -> None:
    run("audit-latents", app)
