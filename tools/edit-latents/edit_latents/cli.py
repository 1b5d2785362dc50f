"""edit-latents: change latents inside a network, and measure what becomes of its predictions."""

from __future__ import annotations

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
from saetools.cli.slices import WHOLE, parse_slice
from saetools.errors import UsageError
from saetools.log import logger

app = new_app()
BIRDS = (  # of the examples
    "edit-latents data/birds --weights examples/birds/vit.safetensors --test parts/test --scorer sae.h5"
    " --head parts.h5"
)


@app.command(
    groups={
        "What is edited": "test scorer latents targets set scale add times_max where",
        "What is measured": "head labels class_names missing_rows ignore keep resamples",
        "Controls": "train probe controls draws seed",
        "Running": "out weights part memory precision device",
    },
    epilog=examples(
        f"{BIRDS} --latents 5 --targets 1 --set 0 --out edits",
        f"{BIRDS} --latents 5 --targets 1 --add 2 --out added",
    ),
)
def edit_latents(
    images: Annotated[
        Path, typer.Argument(help="The images of --test: the folder or CSV that dump-acts was given.")
    ],
    test: Annotated[list[Path], typer.Option(help="Activation shards of these images; repeatable.")],
    scorer: Annotated[Path, typer.Option(help="File of the SAE (.h5).")],
    head: Annotated[
        str,
        typer.Option(
            help="What predicts: a file of fit-heads, the network's own classifier, or open_clip's text tower with a"
            " class name a line.",
            metavar="FILE|model|zero-shot:NAMES.txt",
        ),
    ],
    latents: Annotated[
        str,
        typer.Option(
            help="Latents to edit: 3,17, or from:FILE, those that fit-probes (probes.csv) or score-traits chose on"
            " train for each class, which is then the target.",
            metavar="N,...|from:FILE",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the tables; made where it is missing.")],
    targets: Annotated[
        str | None,
        typer.Option(
            help="The class that each latent is to change: one for each or one for all. With from:FILE, those to"
            " take.",
            metavar="CLASS,...",
        ),
    ] = None,
    set: Annotated[
        str | None, typer.Option(help="Set the latent's value to V: f' = V.", metavar="V,...")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="Multiply it: f' = A f. As --scale=-1,0,2.", metavar="A,...")
    ] = None,
    add: Annotated[str | None, typer.Option(help="Add to it: f' = f + V.", metavar="V,...")] = None,
    times_max: Annotated[
        str | None,
        typer.Option(help="Set it to A times its largest training value; needs --train.", metavar="A,..."),
    ] = None,
    where: Annotated[
        str,
        typer.Option(
            help="Patches to edit: in which the latent fires, all, those with a patch label (labels:3,4), or those of a"
            " CSV path,patch.",
            metavar="firing|all|labels:N|FILE.csv",
        ),
    ] = "firing",
    train: Annotated[
        list[Path] | None,
        typer.Option(
            help="Activation shards of other images, from which controls are made: means of classes, of all patches."
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="What is right, for accuracy and diff-means: as in fit-heads. Default: what the head was fitted on.",
            metavar="target|patch|TABLE",
        ),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(
            help="File with the names of the labels 0, 1, ..., one a line; with --head model those of its classes."
        ),
    ] = None,
    missing_rows: Annotated[
        str | None,
        typer.Option(
            help="Images without a row in a table of labels: unknown, no, or fail. Default: as in the head.",
            metavar="unknown|no|fail",
        ),
    ] = None,
    ignore: Annotated[
        str | None,
        typer.Option(help="Labels that are left out: 0,11. Default: as in the head.", metavar="LABEL,..."),
    ] = None,
    probe: Annotated[
        Path | None,
        typer.Option(
            help="A head of fit-heads on the SAE's layer, --tokens patches or mean: the direction of the control probe."
        ),
    ] = None,
    controls: Annotated[
        str,
        typer.Option(
            help="Changes of the same size in every patch to make beside the latent's; or none.",
            metavar="NAME,...|none",
        ),
    ] = "random-direction,random-latent,diff-means,probe,reconstruction",
    draws: Annotated[
        int, typer.Option(min=1, help="Random directions and random latents for each latent.")
    ] = 3,
    keep: Annotated[
        int,
        typer.Option(
            min=0, help="Keep the predictions of N images, spread evenly, for render-visuals page --edits."
        ),
    ] = 0,
    resamples: Annotated[
        int, typer.Option(min=1, help="How often images are drawn again for the 95% intervals.")
    ] = 1000,
    weights: Annotated[
        Path | None, typer.Option(help="The model's local weights, where dump-acts was given some.")
    ] = None,
    part: Annotated[
        str | None,
        typer.Option(
            "--slice",
            help="Edit part I of N of the images, for job arrays; run it without --slice to make the tables.",
            metavar="I/N",
        ),
    ] = None,
    memory: Annotated[
        str, typer.Option(help="Memory for what goes through the network at a time: 500MB, 4GB.")
    ] = "1GB",
    precision: Annotated[
        str, choice("float32", "float16", "bfloat16", help="What the network computes in.")
    ] = "float32",
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Change latents of an SAE inside a network, patch by patch, and measure what becomes of its predictions.

    x' = x + (f' - f) W_dec on the patches of the SAE's layer; what the SAE does not reconstruct stays. Then the blocks
    after it run again, and the head. Writes to OUT, and prints the paths of: effects.csv (what was predicted otherwise,
    for each latent, amount and control, with 95% intervals), fidelity.csv (the head on reconstructions), and the
    predictions that --keep asks for. Docs: docs/edits.md, docs/formats.md, docs/metrics.md.
    """
    operation, text = _operation({"set": set, "scale": scale, "add": add, "times-max": times_max})
    amounts = parse_numbers(f"--{operation}", text, float)
    slice_ = parse_slice("--slice", part) if part is not None else WHOLE

    from edit_latents.api import edit_latents as edit
    from edit_latents.tables import render_effects, render_fidelity
    from saetools.labels.splits import read_class_names

    found = edit(
        images,
        test,
        scorer,
        head,
        latents,
        operation=operation,
        amounts=amounts,
        targets=targets.split(",") if targets else (),
        where=where,
        train=train or None,
        labels=labels,
        class_names=read_class_names(class_names),
        missing_rows=missing_rows,
        ignore=parse_numbers("--ignore", ignore, int) if ignore is not None else (),
        probe=probe,
        controls=[] if controls == "none" else controls.split(","),
        draws=draws,
        keep=keep,
        weights=weights,
        resamples=resamples,
        seed=seed,
        memory=memory,
        precision=precision,
        device=device,
        part=slice_,
        out=out,
    )
    if slice_ == WHOLE:
        n = len(found.effects.groupby(["latent", "target"]))
        logger.info(
            "shares of predictions that changed, mean of %d latents\n%s", n, render_effects(found.effects)
        )
        if found.fidelity is not None:
            logger.info("the head on other patches\n%s", render_fidelity(found.fidelity))
    for path in found.paths:
        write_line(str(path))


def _operation(given: dict[str, str | None]) -> tuple[str, str]:
    """The one operation that is given, and its amounts; raises UsageError."""
    found = [(name, text) for name, text in given.items() if text is not None]
    if len(found) != 1:
        what = " and ".join(f"--{name}" for name, _ in found) or "none"
        raise UsageError(f"found {what}, expected one of --set, --scale, --add and --times-max")
    return found[0]


def main() -> None:
    run("edit-latents", app)
