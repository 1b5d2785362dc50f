"""score-traits: how well do single prototypes detect the traits of images?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

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

app = new_app()
GROUPS = {
    "Data": "train test layer",
    "Traits": "traits missing_rows pairs patch_traits class_names certainty drop_not_visible",
    "Scorers": "scorers pool n_train repeats seed save_scorer",
    "Intervals": "bootstrap bootstrap_by null",
    "Output": "out summary per_group per_trait",
    "Running": "cache memory",
}


@app.command(
    groups=GROUPS,
    epilog=examples(
        "score-traits --train acts/train --test acts/test --traits data/birds --scorer const --scorer sae.h5"
        " --out ap.csv",
        "score-traits --train acts/train --test acts/test --traits data/birds --scorer random:256 --scorer linear"
        " --summary --out baselines.csv",
        "score-traits --train acts/train --test acts/test --traits target --scorer sae.h5 --bootstrap 200"
        " --out classes.csv",
    ),
)
def score_traits(
    train: Annotated[
        list[Path],
        typer.Option(
            help="Activation shards, or a folder of them, on which prototypes are chosen; repeatable."
        ),
    ],
    test: Annotated[
        list[Path],
        typer.Option(help="Activation shards, or a folder of them, on which AP is measured; repeatable."),
    ],
    scorers: Annotated[
        list[str],
        typer.Option(
            "--scorer",
            help="const, units, units-both, linear, random:K, random-centred:K, kmeans:K, pca:K, pca-both:K,"
            " untrained:K:k, untrained:FILE, or a scorer file, whose path may contain {seed}; repeatable.",
            metavar="SPEC",
        ),
    ],
    traits: Annotated[
        str | None,
        typer.Option(
            help="Labels of images: CUB-200-2011's folder, a CSV path,TRAIT,... of 1, 0 (or yes, no) and empty, or"
            " target (each class against the rest).",
            metavar="FOLDER|CSV|target",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Instead of --traits: a CSV of two class names a line; the first is to be told from the second."
        ),
    ] = None,
    patch_traits: Annotated[
        bool,
        typer.Option(
            "--patch-traits",
            help="Instead of --traits: the patch labels in the shards, scored patch by patch.",
        ),
    ] = False,
    certainty: Annotated[
        str,
        typer.Option(
            help="CUB-200-2011: an attribute is present at these certainties (1 to 4).", metavar="C,..."
        ),
    ] = "3,4",
    drop_not_visible: Annotated[
        bool,
        typer.Option(
            "--drop-not-visible",
            help="CUB-200-2011: leave an image out for attributes that are not visible in it.",
        ),
    ] = False,
    class_names: Annotated[
        Path | None,
        typer.Option(
            help="File with the names of the labels 0, 1, ..., one a line, for --patch-traits, --pairs and classes."
        ),
    ] = None,
    missing_rows: Annotated[
        str | None,
        typer.Option(
            help="Images without a row in --traits: unknown (left out), no (they have no trait), fail (the default).",
            metavar="unknown|no|fail",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Layers to score; needed if the shards hold several.", metavar="L,..."),
    ] = None,
    n_train: Annotated[
        str,
        typer.Option(
            help="Numbers of training images to choose prototypes with: 16,64,all.", metavar="N,..."
        ),
    ] = "all",
    repeats: Annotated[
        int, typer.Option(min=1, help="Number of repeats, with the seeds --seed, --seed + 1, ...")
    ] = 1,
    pool: Annotated[
        str, typer.Option(help="How patch scores become an image score: max, mean or topk-mean:M.")
    ] = "max",
    bootstrap: Annotated[
        int, typer.Option(min=0, help="95% intervals from this many bootstrap resamples of the test images.")
    ] = 0,
    bootstrap_by: Annotated[
        str,
        choice(
            "image",
            "class",
            help="Unit of the bootstrap: single images, or all images of a class together, for labels that were"
            " given to whole classes.",
        ),
    ] = "image",
    null: Annotated[
        int,
        typer.Option(min=0, help="Null distribution of mAP: shuffle the training labels this many times."),
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="File for the AP table; default: CSV on stdout.")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Print mAP per scorer to stderr.")] = False,
    per_group: Annotated[
        bool,
        typer.Option(
            "--per-group", help="Print mAP per group of traits (the part of the name before ::) to stderr."
        ),
    ] = False,
    per_trait: Annotated[
        bool,
        typer.Option(
            "--per-trait", help="Print each trait's latent, AP and prevalence to stderr, best first."
        ),
    ] = False,
    save_scorer: Annotated[
        Path | None, typer.Option(help="Folder to save the scorers that are fitted here.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder to keep image scores and fitted scorers in, for later runs.")
    ] = None,
    memory: Annotated[
        str, typer.Option(help="Memory for scores and scorers: 500MB, 2GB; the rest stays on disk.")
    ] = "2GB",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """For each trait, choose the best prototype on training images and measure its AP on test images.

    Writes the AP table: one row per layer, scorer, seed, number of training images and trait. Columns:
    docs/formats.md; definitions: docs/metrics.md.
    """
    certainties = parse_numbers("--certainty", certainty, int)
    layers = None if layer is None else parse_numbers("--layer", layer, int)

    from saetools.labels.splits import read_class_names
    from score_traits.api import score_traits as score
    from score_traits.summary import render_groups, render_summary, render_traits, summarise, summarise_groups

    table = score(
        train,
        test,
        traits,
        scorers=scorers,
        layer=layers,
        n_train=n_train.split(","),
        repeats=repeats,
        seed=seed,
        pool=pool,
        pairs=pairs,
        patch_traits=patch_traits,
        certainty=certainties,
        drop_not_visible=drop_not_visible,
        missing_rows=missing_rows,
        class_names=read_class_names(class_names),
        bootstrap=bootstrap,
        bootstrap_by=bootstrap_by,
        null=null,
        save_scorer=save_scorer,
        cache=cache,
        memory=memory,
        device=device,
        out=out,
    )
    if summary:
        logger.info("mean over the traits with a positive test image\n%s", render_summary(summarise(table)))
    if per_group:
        logger.info("mAP per group of traits\n%s", render_groups(summarise_groups(table)))
    if per_trait:
        logger.info("AP on test of each trait\n%s", render_traits(table))
    if out is None:
        table.to_csv(sys.stdout, index=False)
    else:
        write_line(str(out))


def main() -> None:
    run("score-traits", app)
