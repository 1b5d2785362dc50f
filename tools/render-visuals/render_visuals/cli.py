"""render-visuals: pictures, a page and plots that show what latents stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saetools.cli.app import (
    SeedOption,
    VerboseOption,
    VersionOption,
    completing,
    examples,
    new_app,
    parse_numbers,
    run,
    write_line,
)
from saetools.errors import UsageError

app = new_app()

LatentsArgument = Annotated[
    list[Path],
    typer.Argument(help="Latents of encode-acts: files, or folders of them.", metavar="LATENTS"),
]
ImagesOption = Annotated[
    Path,
    typer.Option(help="The images, as they were given to dump-acts: their root, or a CSV (path,...) in it."),
]
NumbersOption = Annotated[
    str | None, typer.Option("--latents", help="Latents by number, such as 3,17.", metavar="N,...")
]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", help="Latents of a table: latents.csv, probes.csv, index.csv or an AP table."),
]
RandomOption = Annotated[
    int | None, typer.Option("--random", min=1, help="This many latents, drawn at random.")
]
LogFrequencyOption = Annotated[
    str | None,
    typer.Option(
        "--log-freq", help="Draw --random latents from this range of log10 frequency.", metavar="MIN,MAX"
    ),
]
LogValueOption = Annotated[
    str | None,
    typer.Option(
        "--log-value",
        help="Draw --random latents from this range of log10 mean activation.",
        metavar="MIN,MAX",
    ),
]
TopOption = Annotated[int, typer.Option(min=1, max=256, help="Number of top images of each latent.")]
NamesOption = Annotated[
    Path | None, typer.Option(help="File with the names of the patch labels, one a line, label 0 first.")
]
ByOption = Annotated[
    str, typer.Option(help="Sort images by class (their folder), species, genus, or a column of a table.")
]
ByTableOption = Annotated[
    Path | None, typer.Option(help="CSV with a column path and the column of --by.", metavar="CSV")
]
WorkersOption = Annotated[int, typer.Option(min=1, help="Number of processes that draw.")]


@app.callback(
    no_args_is_help=False,
    epilog=examples(
        "render-visuals page latents/test --images data/birds --scorer sae.h5 --out page",
        "render-visuals latents latents/test --images data/birds --random 8 --out pictures",
    ),
)
def render_visuals(version: VersionOption = False) -> None:
    """Show what latents stand for: pictures, a static page, plots."""


@app.command(
    "latents",
    groups={
        "Which latents": "numbers table random log_freq log_value seed",
        "Pictures": "images out top spread tables class_names workers",
    },
    epilog=examples(
        "render-visuals latents latents/test --images data/birds --random 8 --spread --out pictures",
        "render-visuals latents latents/test --images data/birds --latents 3,17 --table ap.csv --out two-pictures",
    ),
)
def latents_command(
    latents: LatentsArgument,
    images: ImagesOption,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")],
    numbers: NumbersOption = None,
    table: FromOption = None,
    random: RandomOption = None,
    log_freq: LogFrequencyOption = None,
    log_value: LogValueOption = None,
    top: TopOption = 20,
    spread: Annotated[
        bool, typer.Option("--spread", help="Also examples at lower activations, and near misses.")
    ] = False,
    tables: Annotated[
        list[Path] | None,
        typer.Option(
            "--table",
            help="AP table, probes.csv or CSV of yours with a column latent: pictures say what it says of their"
            " latent; so with --from. Repeatable.",
        ),
    ] = None,
    class_names: NamesOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 2,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Draw one PNG per latent: its top images with a heat map of its activations, maximum and path under each.

    Above them: the SAE, the traits of its tables, and the scale of the heat.

    Writes OUT/latent-NNNNNN.png and OUT/index.csv, and prints the path of the latter.

    When it is run again, only pictures that have changed are drawn.
    """
    if sum(one is not None for one in (numbers, table, random)) != 1:
        raise UsageError("expected one of --latents N,..., --from TABLE.csv or --random N")
    if random is None and (log_freq or log_value):
        raise UsageError("--log-freq and --log-value limit what --random draws from; give --random too")
    ranges = [_range("--log-freq", log_freq), _range("--log-value", log_value)]
    chosen = parse_numbers("--latents", numbers, int) if numbers is not None else None

    from render_visuals.pictures.write import LatentSelection, PictureSettings, draw_latents
    from render_visuals.tables import latents_of_table
    from saetools.latents.reader import open_latents
    from saetools.vision.model_input import images_root

    opened = open_latents(latents)
    if table is not None:
        chosen = latents_of_table(table, opened.header, quiet=True)  # said when its traits are read
    selection = LatentSelection(chosen, table, random, ranges[0], ranges[1], seed)
    settings = PictureSettings(
        images_root(images), out, selection, top, spread, _names(class_names), workers, tables or []
    )
    write_line(str(draw_latents(opened, settings)))


@app.command(
    "page",
    groups={
        "Data": "images scorer table edits class_names",
        "Views": "by by_table top per_patch heatmap_latents seed",
        "Output": "out title workers",
    },
    epilog=examples(
        "render-visuals page latents/test --images data/birds --scorer sae.h5 --out page",
        "render-visuals page latents/test --images data/birds --table ap.csv --by species --out page-of-traits",
    ),
)
def page_command(
    latents: LatentsArgument,
    images: ImagesOption,
    out: Annotated[Path, typer.Option(help="Folder of the page.")],
    scorer: Annotated[
        Path | None,
        typer.Option(help="SAE that made the latents; its decoder gives the nearest latents of each."),
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(
            help="latents.csv, probes.csv or an AP table, whose columns are added to the page. Repeatable."
        ),
    ] = None,
    edits: Annotated[
        Path | None,
        typer.Option(help="Folder of edit-latents: what editing latents does to predictions.", metavar="DIR"),
    ] = None,
    top: TopOption = 20,
    per_patch: Annotated[
        int,
        typer.Option(min=1, help="Number of latents per patch, the most active, in the view of an image."),
    ] = 64,
    by: ByOption = "class",
    by_table: ByTableOption = None,
    heatmap_latents: Annotated[
        int, typer.Option(min=3, max=2000, help="Number of latents in the heat map.")
    ] = 256,
    class_names: NamesOption = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 2,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Write a static page of all latents. It opens from disk: no server, no network.

    Prints the path of its index.html. When it is run again, only images that have changed are drawn.
    """
    from render_visuals.page.write import PageSettings, write_page
    from saetools.latents.reader import open_latents
    from saetools.vision.model_input import images_root

    settings = PageSettings(
        images_root(images), out, scorer, table or [], top, per_patch, by, by_table, heatmap_latents,
        _names(class_names), title, seed, workers, edits,
    )  # fmt: skip
    write_line(str(write_page(open_latents(latents), settings)))


@app.command(
    "heatmap",
    groups={"Which latents": "numbers from_table n_latents", "Images": "by by_table images", "Output": "out"},
    epilog=examples(
        "render-visuals heatmap latents/test --out heatmap.png",
        "render-visuals heatmap latents/test --by genus --images data/birds --out heatmap-of-genera.svg",
    ),
)
def heatmap_command(
    latents: LatentsArgument,
    out: Annotated[Path, typer.Option(help="File of the figure: .png, .svg or .pdf.")],
    by: ByOption = "class",
    images: Annotated[
        Path | None,
        typer.Option(help="The images, as in page: by class_scientific_names.csv, species and genera."),
    ] = None,
    by_table: ByTableOption = None,
    numbers: NumbersOption = None,
    from_table: FromOption = None,
    n_latents: Annotated[
        int,
        typer.Option(
            min=3,
            max=2000,
            help="Without --latents and --from: this many latents, those that best separate the groups.",
        ),
    ] = 256,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Draw a heat map of latents x images: images sorted by group, latents by co-occurrence. Prints its path."""
    from render_visuals.plots.style import check_target

    check_target(out)
    if numbers is not None and from_table is not None:
        raise UsageError("expected one of --latents N,... and --from TABLE.csv")
    chosen = parse_numbers("--latents", numbers, int) if numbers is not None else None

    from render_visuals.analysis.heat_matrix import group_images, heat_matrix, image_classes
    from render_visuals.plots.heatmap import draw_heatmap
    from render_visuals.tables import check_latent_numbers, latents_of_table
    from saetools.files.provenance import command_line
    from saetools.files.reuse import writing
    from saetools.latents.reader import open_latents
    from saetools.vision.model_input import images_root

    found = open_latents(latents)
    if from_table is not None:
        chosen = latents_of_table(from_table, found.header)
    if chosen is not None:
        chosen = check_latent_numbers(chosen, found.n_latents, str(from_table or "--latents"))
    with writing(out, {"command": command_line()}):
        root = images_root(images) if images else None
        groups = group_images(by, found.paths, root, by_table, image_classes(found))
        draw_heatmap(heat_matrix(found, groups, chosen, n_latents), groups, found.header, out)
    write_line(str(out))


@app.command(
    "plot",
    epilog=examples(
        "render-visuals plot training sae.metrics.csv --out training.png",
        "render-visuals plot front saes/*.metrics.csv --out front.png",
        "render-visuals plot map ap.csv --out map.svg",
        "render-visuals plot edits edits/effects.csv --out edits.png",
    ),
)
def plot_command(
    kind: Annotated[
        str,
        typer.Argument(
            help="front, training, map, layers, traits, prevalence, histogram or edits.",
            metavar="KIND",
            autocompletion=completing(
                "front", "training", "map", "layers", "traits", "prevalence", "histogram", "edits"
            ),
        ),
    ],
    files: Annotated[list[Path], typer.Argument(help="CSV tables of these tools.", metavar="FILES...")],
    out: Annotated[Path, typer.Option(help="File of the figure: .png, .svg or .pdf.")],
    y: Annotated[
        str | None,
        typer.Option(
            help="For front, the error against L0: nmse (default), nmse_standardized or mse. For edits, the effect:"
            " target_changed (default), other_changed, target_logit, other_logits, kl or accuracy_after.",
            metavar="MEASURE",
            autocompletion=completing(
                *("nmse", "nmse_standardized", "mse", "target_changed", "other_changed", "target_logit"),
                *("other_logits", "kl", "accuracy_after"),
            ),
        ),
    ] = None,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Draw a figure from CSV tables, and print its path.

    front: NMSE against L0 of many SAEs, with a Pareto front for each layer, model and data set

    training: metrics of training runs, from sae.metrics.csv

    map, layers: mAP of each scorer against the number of training images, or the layer, from AP tables

    traits, prevalence: AP by group of attributes, or against the trait's prevalence, from AP tables

    histogram: how often and how strongly latents are active, from latents.csv or index.csv

    edits: what edits of latents change, over their amounts, beside the controls, from effects.csv
    """
    from render_visuals.plots.style import check_target, save_figure

    check_target(out)
    from render_visuals.plots.kinds import check_kind, draw_kind
    from saetools.files.provenance import command_line
    from saetools.files.reuse import writing

    check_kind(kind, y)
    with writing(out, {"command": command_line()}):
        save_figure(draw_kind(kind, files, **({"y": y} if y is not None else {})), out)
    write_line(str(out))


def _range(option: str, text: str | None) -> tuple[float, float]:
    if text is None:
        return float("-inf"), float("inf")
    low, high = parse_numbers(option, text, float, 2)
    if not low <= high:
        raise UsageError(f"{option} {text}: expected MIN,MAX with MIN <= MAX")
    return low, high


def _names(path: Path | None) -> list[str] | None:
    from saetools.labels.splits import read_class_names

    return read_class_names(path) or None


def main() -> None:
    run("render-visuals", app)
