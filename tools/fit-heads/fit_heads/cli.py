"""fit-heads: a linear head on the tokens of a layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saetools.cli.app import (
    DeviceOption,
    SeedOption,
    VerboseOption,
    VersionOption,
    choice,
    examples,
    new_app,
    parse_numbers,
    run,
    write_line,
)
from saetools.log import logger

if TYPE_CHECKING:
    from saetools.scorers.head import Head

app = new_app()


@app.command(
    groups={
        "Data": "train test layer out",
        "Labels": "labels tokens class_names missing_rows ignore",
        "Choice of L2": "l2 folds seed",
        "Running": "memory",
    },
    epilog=examples(
        "fit-heads --train acts/train --test acts/test --labels target --tokens mean --out head.h5",
        "fit-heads --train parts/train --test parts/test --labels patch --out parts.h5",
        "fit-heads --train acts/train --test acts/test --labels data/birds --l2 0.1 --out head-attributes.h5",
    ),
)
def fit_heads(
    train: Annotated[
        list[Path], typer.Option(help="Activation shards to fit on: a folder, or files; repeatable.")
    ],
    test: Annotated[
        list[Path],
        typer.Option(help="Activation shards of other images to test on: a folder, or files; repeatable."),
    ],
    labels: Annotated[
        str,
        typer.Option(
            help="target: the classes of the images (softmax); patch: the patch labels (softmax); or a table of yes"
            " and no, a logit each: a CSV path,TRAIT,... or CUB-200-2011's folder.",
            metavar="target|patch|TABLE",
        ),
    ],
    out: Annotated[Path, typer.Option(help="File for the head (.h5).")],
    tokens: Annotated[
        str | None,
        choice(
            "cls",
            "mean",
            "patches",
            help="What the head sees: the class token, the mean of the patches, or each patch. Default: patches with"
            " --labels patch, else mean.",
        ),
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Layer; default: the last that was recorded.")] = None,
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
    ignore: Annotated[
        str | None, typer.Option(help="Leave out rows with these labels: 0,11.", metavar="LABEL,...")
    ] = None,
    l2: Annotated[
        str | None,
        typer.Option(
            "--l2",
            help="L2 strengths to choose from by cross-validation, for features of unit variance and the mean loss; a"
            " single one is taken as it is. Default: 1 to 1e-6 in half decades.",
            metavar="L2,...",
        ),
    ] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the cross-validation; an image is in one.")] = 5,
    memory: Annotated[
        str,
        typer.Option(
            help="Memory for the training rows: 500MB, 4GB; rows that take more go to a file beside --out."
        ),
    ] = "4GB",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Fit a linear head on the tokens of a layer (logistic regression), and test it on other images.

    The L2 strength is chosen by cross-validation over training images. Writes OUT and prints its path; accuracy, mean
    class accuracy, log-loss and mean IoU (of patches) on test images go to stderr, beside those of a head of shuffled
    labels and of the class shares alone. Docs: docs/formats.md, docs/metrics.md.
    """
    ignored = parse_numbers("--ignore", ignore, int) if ignore is not None else []
    strengths = parse_numbers("--l2", l2, float) if l2 is not None else None

    from fit_heads.api import fit_heads as fit
    from fit_heads.choice import GRID
    from saetools.labels.splits import read_class_names

    head = fit(
        train,
        test,
        labels,
        tokens=tokens,
        layer=layer,
        ignore=ignored,
        class_names=read_class_names(class_names),
        missing_rows=missing_rows,
        l2=GRID if strengths is None else strengths,
        folds=folds,
        seed=seed,
        memory=memory,
        device=device,
        out=out,
    )
    logger.info("%s", render_head(head))
    write_line(str(out))


ROWS = {"head": "head", "shuffled": "shuffled labels", "prior": "class shares"}
SCORES = {
    "accuracy": "accuracy",
    "mean_class_accuracy": "mean class accuracy",
    "mean_iou": "mean IoU",
    "log_loss": "log-loss",
}


def render_head(head: Head) -> str:
    """What the head is, and a table of its scores on test beside those of the controls."""
    from saetools.cli.markdown import render_markdown

    scores = [name for name in SCORES if name in head.evaluation["head"]]
    table = render_markdown(
        ["on test", *(SCORES[name] for name in scores)],
        ([ROWS[name], *(found[score] for score in scores)] for name, found in head.evaluation.items()),
    )
    what = "patches" if head.tokens == "patches" else "images"
    classes = "classes" if head.link == "softmax" else "traits"
    n_rows, n_classes = (int(head.evaluation["head"][name]) for name in ("n_rows", "n_classes"))
    return (
        f"{len(head.names)} {classes} from {head.tokens} of layer {head.layer}, L2 {head.l2:.3g};"
        f" {n_rows:,} test {what} of {n_classes} {classes}\n{table}"
    )


def main() -> None:
    run("fit-heads", app)
