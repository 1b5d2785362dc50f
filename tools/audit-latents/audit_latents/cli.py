"""audit-latents: do the latents that image labels ask for show up in patch labels?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saetools.cli.app import SeedOption, VerboseOption, VersionOption, new_app, parse_numbers, run, write_line
from saetools.cli.quantities import parse_bytes
from saetools.errors import UsageError

app = new_app()


@app.command()
def audit_latents(
    train: Annotated[list[Path], typer.Option(help="Latents to rank on: a folder, or files; repeatable.")],
    test: Annotated[list[Path], typer.Option(help="Latents with patch labels to audit on; repeatable.")],
    labels: Annotated[
        str,
        typer.Option(
            help="K, of images: target (their classes), a CSV path,TRAIT,..., or CUB-200-2011's folder."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tables; made where it is missing.")],
    trait: Annotated[str | None, typer.Option(help="Rank for this label of K alone.")] = None,
    ignore: Annotated[
        str | None, typer.Option(help="Leave out patches with these labels: 0,11.", metavar="LABEL,...")
    ] = None,
    budgets: Annotated[
        str, typer.Option(help="Numbers of proposals to look at.", metavar="B,...")
    ] = "10,25,50,100",
    tau: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="A proposal is found from this AP on. Default: half way between the share of the commonest patch"
            " label, which a constant reaches, and 1.",
        ),
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamples of the images of --test.")] = 1000,
    null: Annotated[
        int, typer.Option(min=0, help="Rankings with K shuffled over the images of --train.")
    ] = 100,
    memory: Annotated[
        str, typer.Option(help="Memory for the latents' values; what does not fit goes to disk, in --out.")
    ] = "4GB",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: as many as there are cores.")] = None,
    seed: SeedOption = 0,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Rank latents by an L1 logistic regression on image labels K, and audit the ranking against patch labels H.

    H is the patch labels of --test, which the ranking never sees. Writes ranking.csv (the proposals, and the patch
    label that each is found in) and yield.csv (Yield(B), its area, intervals and null) to OUT, and prints their
    paths. Docs: docs/formats.md, docs/metrics.md.
    """
    wanted = sorted(set(parse_numbers("--budgets", budgets, int)))
    if wanted[0] < 1:
        raise UsageError(f"--budgets {budgets}: expected numbers of at least 1")
    ignored = parse_numbers("--ignore", ignore, int) if ignore is not None else []
    n_bytes = parse_bytes("--memory", memory)
    if labels == "patch":
        raise UsageError(
            "--labels patch: K are labels of images; patch labels are what the ranking must not see"
        )

    from audit_latents.run import AuditSettings, run_audit
    from saetools.compute.threads import available_threads
    from saetools.latents.reader import open_latents

    settings = AuditSettings(labels, trait, sorted(ignored), wanted, tau, bootstrap, null, seed)
    for path in run_audit(
        open_latents(train), open_latents(test), settings, out, n_bytes, threads or available_threads()
    ):
        write_line(str(path))


def main() -> None:
    run("audit-latents", app)
