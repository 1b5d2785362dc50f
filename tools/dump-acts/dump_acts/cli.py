"""dump-acts: record the patch activations of a frozen vision model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saetools.cli import (
    DeviceOption,
    VerboseOption,
    VersionOption,
    logger,
    new_app,
    parse_numbers,
    run,
    write_line,
)
from saetools.errors import UsageError, UserError

app = new_app()


@app.command()
def dump_acts(
    images: Annotated[
        Path, typer.Argument(help="Folder of the data set: CLASS/NAME.jpg, or CUB-200-2011's layout.")
    ],
    model: Annotated[str, typer.Option(help="timm/NAME or open_clip/NAME/PRETRAINED.")],
    layers: Annotated[
        str, typer.Option(help="Blocks to record: 8,11. 0 is the first, -1 the last.", metavar="L,L,...")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the shards; made where it is missing.")],
    split: Annotated[str | None, typer.Option(help="Only this split: train or test.")] = None,
    layout: Annotated[str, typer.Option(help="auto, folder or cub200.")] = "auto",
    weights: Annotated[
        Path | None, typer.Option(help="Local weights (.safetensors, .pth) in place of the published ones.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Normalise with this mean: R,G,B in 0 to 1.")] = None,
    std: Annotated[
        str | None, typer.Option(help="Normalise with this standard deviation: R,G,B in 0 to 1.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one pass through the model.")] = 32,
    dtype: Annotated[str, typer.Option(help="Stored as float16, bfloat16 or float32.")] = "float16",
    cls: Annotated[bool, typer.Option("--cls/--no-cls", help="Record the class token too.")] = False,
    images_per_shard: Annotated[
        int | None, typer.Option(min=1, help="Default: 256 MiB, at most an eighth of the data set.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode images.")] = 2,
    device: DeviceOption = "auto",
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Record the patch activations of a frozen vision model, one or more layers of it.

    Writes shards (HDF5, see docs/formats.md) and prints the path of each as soon as it is complete.
    Running the same command again records only what is missing.
    """
    from dump_acts.image_sets import LAYOUTS, list_images
    from saetools.precision import STORED_TYPES

    wanted_layers = parse_numbers("--layers", layers, int)
    channels = {
        flag: parse_numbers(flag, text, float, 3) if text is not None else None
        for flag, text in (("--mean", mean), ("--std", std))
    }
    if channels["--std"] is not None and min(channels["--std"]) <= 0:
        raise UsageError("--std: every value must be above 0")
    for flag, value, known in (("--layout", layout, LAYOUTS), ("--dtype", dtype, STORED_TYPES)):
        if value not in known:
            raise UsageError(f"{flag} {value}: expected one of {', '.join(known)}")
    found = list_images(images, layout, split)  # before the slow imports: a typo should not take seconds

    from dump_acts.recording import RecordingSettings, default_images_per_shard, record
    from dump_acts.vision_models import load_model
    from saetools.devices import choose_device

    vision = load_model(
        model,
        weights=weights,
        mean=channels["--mean"],
        std=channels["--std"],
        device=choose_device(device),
    )
    chosen = vision.resolve_layers(wanted_layers)
    if cls and not vision.has_cls:
        raise UserError(f"{model}: it has no class token; leave --cls out")
    per_shard = images_per_shard or default_images_per_shard(len(found), vision, len(chosen), dtype)
    logger.info(
        "%d images, %d x %d patches of width %d, layers %s of %d",
        len(found),
        *vision.grid,
        vision.d_model,
        chosen,
        vision.n_layers,
    )
    settings = RecordingSettings(chosen, dtype, cls, per_shard, batch_size, workers)
    for path in record(vision, found, out, settings):
        write_line(str(path))


def main() -> None:
    run("dump-acts", app)
