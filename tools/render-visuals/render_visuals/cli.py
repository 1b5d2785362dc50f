"""render-visuals: see what a latent means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saetools.cli.app import SeedOption, VerboseOption, VersionOption, new_app, parse_numbers, run, write_line
from saetools.errors import UsageError, UserError

app = new_app()

LatentsArgument = Annotated[
    list[Path],
    typer.Argument(help="CSR latents of encode-acts: files, or folders of them.", metavar="LATENTS..."),
]
ImagesOption = Annotated[Path, typer.Option(help="Root of the images, as dump-acts was given it.")]
NumbersOption = Annotated[
    str | None, typer.Option("--latents", help="These latents, by number: 3,17.", metavar="N,...")
]
FromOption = Annotated[
    Path | None,
    typer.Option("--from", help="The latents that a table names: latents.csv, probes.csv, an AP table."),
]
RandomOption = Annotated[int | None, typer.Option("--random", min=1, help="So many, drawn at random.")]
LogFrequencyOption = Annotated[
    str | None,
    typer.Option("--log-freq", help="--random among these log10 frequencies.", metavar="LEAST,MOST"),
]
LogValueOption = Annotated[
    str | None,
    typer.Option("--log-value", help="--random among these log10 mean values.", metavar="LEAST,MOST"),
]
TopOption = Annotated[int, typer.Option(min=1, max=256, help="Images of each latent.")]
NamesOption = Annotated[
    Path | None, typer.Option(help="Names of the patch labels, one a line, label 0 first.", exists=False)
]
ByOption = Annotated[
    str, typer.Option(help="Images sorted by class (their folder), species, genus, or a column of a table.")
]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes that draw.")]


@app.callback(no_args_is_help=False)
def render_visuals(version: VersionOption = False) -> None:
    """See what latents fire on: pictures, one static page, plots."""


@app.command("latents")
def latents_command(
    latents: LatentsArgument,
    images: ImagesOption,
    out: Annotated[Path, typer.Option(help="Folder for the pictures; made where it is missing.")],
    numbers: NumbersOption = None,
    table: FromOption = None,
    random: RandomOption = None,
    log_freq: LogFrequencyOption = None,
    log_value: LogValueOption = None,
    top: TopOption = 20,
    spread: Annotated[
        bool, typer.Option("--spread", help="Also images down the range of its values, and near misses.")
    ] = False,
    label_names: NamesOption = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 2,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Draw one PNG per latent: its top images with heat on the patches, value and path under each.

    Writes OUT/latent-NNNNNN.png and OUT/index.csv, and prints the index's path. Running it again draws only
    what has changed.
    """
    if sum(one is not None for one in (numbers, table, random)) != 1:
        raise UsageError("expected one of --latents N,..., --from TABLE.csv or --random N")
    if random is None and (log_freq or log_value):
        raise UsageError("--log-freq and --log-value narrow the choice of --random; give that too")
    ranges = [_range("--log-freq", log_freq), _range("--log-value", log_value)]
    chosen = parse_numbers("--latents", numbers, int) if numbers is not None else None

    from render_visuals.pictures.write import LatentSelection, PictureSettings, draw_latents
    from render_visuals.tables import latents_of_table
    from saetools.latents.reader import open_latents

    opened = open_latents(latents)
    if table is not None:
        chosen = latents_of_table(table, opened.header)
    selection = LatentSelection(chosen, table, random, ranges[0], ranges[1], seed)
    settings = PictureSettings(images, out, selection, top, spread, _names(label_names), workers)
    write_line(str(draw_latents(opened, settings)))


@app.command("page")
def page_command(
    latents: LatentsArgument,
    images: ImagesOption,
    out: Annotated[Path, typer.Option(help="Folder of the page; made where it is missing.")],
    scorer: Annotated[
        Path | None, typer.Option(help="The scorer of the latents: its decoder says which latents are near.")
    ] = None,
    table: Annotated[
        list[Path] | None,
        typer.Option(help="latents.csv, probes.csv or an AP table; its columns join the page's. Repeatable."),
    ] = None,
    top: TopOption = 20,
    per_patch: Annotated[
        int, typer.Option(min=1, help="Latents of a patch that an image's view knows, the largest.")
    ] = 64,
    by: ByOption = "class",
    by_table: Annotated[
        Path | None, typer.Option(help="CSV with the columns path and the one that --by names.")
    ] = None,
    heatmap_latents: Annotated[int, typer.Option(min=3, max=2000, help="Latents of the heat map.")] = 256,
    label_names: NamesOption = None,
    title: Annotated[str | None, typer.Option(help="Title of the page.")] = None,
    seed: SeedOption = 0,
    workers: WorkersOption = 2,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Write one static page of all latents, which opens from disk: no server, no network.

    Prints the path of its index.html. Running it again draws only images that have changed.
    """
    from render_visuals.page.write import PageSettings, write_page
    from saetools.latents.reader import open_latents

    settings = PageSettings(
        images, out, scorer, table or [], top, per_patch, by, by_table, heatmap_latents, _names(label_names), title,
        seed, workers,
    )  # fmt: skip
    write_line(str(write_page(open_latents(latents), settings)))


@app.command("heatmap")
def heatmap_command(
    latents: LatentsArgument,
    out: Annotated[Path, typer.Option(help="The picture: .png, .svg or .pdf.")],
    by: ByOption = "class",
    images: Annotated[
        Path | None,
        typer.Option(help="Root of the images; its class_scientific_names.csv has species and genera."),
    ] = None,
    table: Annotated[
        Path | None, typer.Option(help="CSV with the columns path and the one that --by names.")
    ] = None,
    numbers: NumbersOption = None,
    from_table: FromOption = None,
    n_latents: Annotated[
        int, typer.Option(min=3, max=2000, help="Otherwise so many, those that tell groups apart best.")
    ] = 256,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Draw latents x images: images sorted by group, latents by co-occurrence. Prints the picture's path."""
    from render_visuals.plots.style import check_target

    check_target(out)
    if numbers is not None and from_table is not None:
        raise UsageError("expected one of --latents N,... and --from TABLE.csv")
    chosen = parse_numbers("--latents", numbers, int) if numbers is not None else None

    from render_visuals.analysis.heat_matrix import group_images, heat_matrix
    from render_visuals.plots.heatmap import draw_heatmap
    from render_visuals.tables import check_latent_numbers, latents_of_table
    from saetools.latents.reader import open_latents

    found = open_latents(latents)
    if from_table is not None:
        chosen = latents_of_table(from_table, found.header)
    if chosen is not None:
        chosen = check_latent_numbers(chosen, found.n_latents, str(from_table or "--latents"))
    groups = group_images(by, found.paths, images, table)
    draw_heatmap(heat_matrix(found, groups, chosen, n_latents), groups, out)
    write_line(str(out))


@app.command("plot")
def plot_command(
    kind: Annotated[
        str,
        typer.Argument(help="front, training, map, layers, traits, prevalence or histogram.", metavar="KIND"),
    ],
    files: Annotated[list[Path], typer.Argument(help="CSV tables of our tools.", metavar="FILES...")],
    out: Annotated[Path, typer.Option(help="The figure: .png, .svg or .pdf.")],
    y: Annotated[
        str | None,
        typer.Option(
            help="Of front: what stands against L0, nmse (the default), nmse_standardized or mse.",
            metavar="COLUMN",
        ),
    ] = None,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Draw a figure from CSV tables, and print its path.

    front: NMSE against L0 of many SAEs, a front for each layer, model and data set. training: a run's metrics. map: mAP
    against training images. layers: mAP against layer. traits: AP by group of attributes. prevalence: AP against
    prevalence. histogram: frequency and value of latents.
    """
    from render_visuals.plots.style import check_target, save_figure

    check_target(out)
    from render_visuals.plots.kinds import KINDS, draw_kind
    from render_visuals.plots.sweep_plots import ERRORS
    from saetools.errors import near_names

    if kind not in KINDS:
        raise UsageError(
            f"{kind}: no such kind of plot; known are {', '.join(KINDS)}{near_names(kind, list(KINDS))}"
        )
    if y is not None and (kind != "front" or y not in ERRORS):
        raise UsageError(
            f"--y {y}: it is for front, and one of {', '.join(ERRORS)}{near_names(y, list(ERRORS))}"
        )
    save_figure(draw_kind(kind, files, **({"y": y} if y is not None else {})), out)
    write_line(str(out))


def _range(option: str, text: str | None) -> tuple[float, float]:
    if text is None:
        return float("-inf"), float("inf")
    least, most = parse_numbers(option, text, float, 2)
    if not least <= most:
        raise UsageError(f"{option} {text}: expected LEAST,MOST with LEAST <= MOST")
    return least, most


def _names(path: Path | None) -> list[str] | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: it cannot be read ({error}); expected a name of a patch label a line"
        ) from error


def main() -> None:
    run("render-visuals", app)
