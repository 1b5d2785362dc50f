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
    new_app,
    parse_numbers,
    run,
    write_line,
)
from saetools.cli.quantities import parse_bytes
from saetools.errors import UsageError
from saetools.log import logger

app = new_app()


@app.command()
def score_traits(
    train: Annotated[
        list[Path], typer.Option(help="Shards, or a folder of them, on which prototypes are chosen.")
    ],
    test: Annotated[
        list[Path], typer.Option(help="Shards, or a folder of them, on which the choice is tested.")
    ],
    scorer: Annotated[
        list[str],
        typer.Option(
            help="const, units, units-both, linear, random:K, random-centred:K, kmeans:K, pca:K, pca-both:K,"
            " untrained:K:k, untrained:FILE or a scorer file, whose path may hold {seed}; repeatable.",
            metavar="SPEC",
        ),
    ],
    traits: Annotated[
        str | None,
        typer.Option(
            help="CUB-200-2011's folder, a CSV path,TRAIT,... of 0, 1 and empty, or `target`: each class"
            " against the rest.",
            metavar="FOLDER|CSV|target",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="In place of traits: a CSV of two classes a line, to tell the first from the second."
        ),
    ] = None,
    patch_traits: Annotated[
        bool,
        typer.Option(
            "--patch-traits", help="In place of traits: the patch labels in the shards, patch by patch."
        ),
    ] = False,
    certainty: Annotated[
        str, typer.Option(help="CUB-200-2011: certainties that count, of 1 to 4.", metavar="C,...")
    ] = "3,4",
    drop_not_visible: Annotated[
        bool,
        typer.Option(
            "--drop-not-visible",
            help="CUB-200-2011: leave images out for traits that are not visible in them.",
        ),
    ] = False,
    layer: Annotated[
        str | None,
        typer.Option(help="Layers of the shards; needed where they hold several.", metavar="L,..."),
    ] = None,
    n_train: Annotated[
        str, typer.Option(help="Numbers of training images to choose with: 16,64,all.", metavar="N,...")
    ] = "all",
    repeats: Annotated[
        int, typer.Option(min=1, help="Repeat with this many seeds: --seed, --seed + 1, ...")
    ] = 1,
    pool: Annotated[
        str, typer.Option(help="Image score from patch scores: max, mean or topk-mean:M.")
    ] = "max",
    bootstrap: Annotated[
        int, typer.Option(min=0, help="95% intervals from this many resamples of the test images.")
    ] = 0,
    bootstrap_by: Annotated[
        str,
        typer.Option(
            help="What --bootstrap draws: each image by itself, or all images of a class together, for traits that"
            " a class has as a whole.",
            metavar="image|class",
        ),
    ] = "image",
    null: Annotated[int, typer.Option(min=0, help="mAP with training labels shuffled this many times.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The AP table; default: CSV on stdout.")] = None,
    summary: Annotated[bool, typer.Option("--summary", help="Print mAP per scorer to stderr.")] = False,
    per_group: Annotated[
        bool,
        typer.Option("--per-group", help="Print mAP per group of traits (before `::`) to stderr."),
    ] = False,
    save_scorer: Annotated[
        Path | None, typer.Option(help="Folder for the scorers that are fitted here.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps image scores, so that the next run need not make them again."),
    ] = None,
    memory: Annotated[
        str, typer.Option(help="What scores and scorers may take of memory at a time: 500MB, 2GB.")
    ] = "2GB",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Choose the best prototype of every trait on training images, and report its AP on test images.

    Writes the AP table of docs/formats.md: one row per layer, scorer, seed, number of training images and trait.
    """
    if sum([traits is not None, pairs is not None, patch_traits]) != 1:
        raise UsageError("expected one of --traits, --pairs and --patch-traits")
    sizes = _parse_sizes(n_train)
    certainties = parse_numbers("--certainty", certainty, int)
    if not set(certainties) <= {1, 2, 3, 4}:
        raise UsageError(f"--certainty {certainty}: CUB-200-2011's certainties are 1 to 4")
    if (drop_not_visible or certainty != "3,4") and not (traits is not None and Path(traits).is_dir()):
        raise UsageError("--certainty and --drop-not-visible are for CUB-200-2011's folder as --traits")
    if patch_traits and pool != "max":
        raise UsageError(f"--pool {pool}: --patch-traits scores patches, which are not pooled")
    if bootstrap_by not in ("image", "class"):
        raise UsageError(f"--bootstrap-by {bootstrap_by}: expected image or class")
    if bootstrap_by == "class" and not bootstrap:
        raise UsageError("--bootstrap-by class: it needs --bootstrap R too, the number of resamples")
    if bootstrap_by == "class" and (pairs is not None or traits == "target"):
        raise UsageError(
            "--bootstrap-by class: each of these traits is one class, which resampled classes hold or lack as a whole;"
            " use --bootstrap-by image"
        )
    layers: list[int | None] = [None]
    if layer is not None:
        layers = [*parse_numbers("--layer", layer, int)]
    memory_bytes = parse_bytes("--memory", memory)

    from saetools.compute.devices import choose_device
    from saetools.files.ap_tables import SCORER_FILES, list_scorer_files
    from saetools.files.formats import AP_TABLE
    from saetools.files.reuse import read_reusable
    from saetools.files.tables import write_csv
    from saetools.metrics.pooling import parse_pool
    from saetools.shards.reader import choose_layer, open_shards
    from score_traits.making import TableMaker
    from score_traits.score_folder import score_folder
    from score_traits.scorer_specs import parse_spec
    from score_traits.settings import ScoringSettings
    from score_traits.summary import render_groups, render_summary, summarise, summarise_groups
    from score_traits.trait_sources import TraitSettings

    specs = [parse_spec(text) for text in scorer]
    parse_pool(pool)
    chosen_device = choose_device(device)
    train_set, test_set = open_shards(train), open_shards(test)
    first = train_set.shards[0]
    settings = ScoringSettings(
        layers=tuple(dict.fromkeys(choose_layer(first, one) for one in layers)),
        n_train=tuple(sizes),
        pool=pool,
        seeds=tuple(range(seed, seed + repeats)),
        bootstrap=bootstrap,
        bootstrap_by=bootstrap_by,
        null=null,
        memory=memory_bytes,
    )
    trait_settings = TraitSettings(traits, pairs, patch_traits, certainties, drop_not_visible)
    maker = TableMaker(train_set, test_set, trait_settings, specs, settings)
    provenance = maker.provenance()
    table = read_reusable(out, AP_TABLE, provenance) if out is not None else None
    if table is None:
        with score_folder(cache) as folder:
            table = maker.make(folder, chosen_device, save_scorer)
        if out is not None:
            write_csv(out, table, provenance, {SCORER_FILES: maker.scorer_files})
    elif out is not None:
        list_scorer_files(out, maker.scorer_files)
    if summary:
        logger.info("the mean over traits with a positive in test\n%s", render_summary(summarise(table)))
    if per_group:
        logger.info("mAP per group of traits\n%s", render_groups(summarise_groups(table)))
    if out is None:
        table.to_csv(sys.stdout, index=False)
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
