"""dump-acts: record the patch activations of a frozen vision model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from dump_acts.options import GROUPS, parse_channels, parse_grid, parse_mask_values
from saetools.cli.app import (
    DeviceOption,
    VerboseOption,
    VersionOption,
    choice,
    examples,
    new_app,
    parse_numbers,
    run,
    write_line,
)
from saetools.cli.quantities import parse_bytes
from saetools.cli.slices import parse_slice
from saetools.errors import UsageError, UserError
from saetools.log import logger

app = new_app()
BIRDS_MODEL = "--model timm/test_vit2 --weights examples/birds/vit.safetensors"  # of the examples


@app.command(
    groups=GROUPS,
    epilog=examples(
        f"dump-acts data/birds --split train {BIRDS_MODEL} --layers 7 --out acts/train",
        f"dump-acts data/birds --split test {BIRDS_MODEL} --layers 7 --out acts/test",
        f"dump-acts data/birds/parts-train.csv {BIRDS_MODEL} --layers 7 --out parts/train",
        f"dump-acts data/birds/parts-test.csv {BIRDS_MODEL} --layers 7 --out parts/test",
    ),
)
def dump_acts(
    images: Annotated[
        Path,
        typer.Argument(
            help="The images: a folder of CLASS/NAME.jpg, CUB-200-2011, images/ with masks in annotations/,"
            " or a CSV with a column path."
        ),
    ],
    model: Annotated[str, typer.Option(help="timm/NAME or open_clip/NAME/PRETRAINED.")],
    layers: Annotated[
        str,
        typer.Option(
            help="Layers to record: 8,11, or all. Layer 0 is the first block (or stage), -1 the last.",
            metavar="L,L,...",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the shards; made where it is missing.")],
    split: Annotated[
        str | None, typer.Option(help="Record this split only: train, test, a folder's name.")
    ] = None,
    split_validation: Annotated[
        float | None,
        typer.Option(
            help="Share of the training images, such as 0.2, that --split validation records and --split train omits.",
            metavar="SHARE",
        ),
    ] = None,
    layout: Annotated[
        str, choice("auto", "folder", "cub200", "masks", "csv", help="Layout of the data set.")
    ] = "auto",
    weights: Annotated[
        Path | None, typer.Option(help="Local weights (.safetensors, .pth) instead of the published ones.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean of R,G,B for normalisation, 0 to 1. Default: the model's.")
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(help="Standard deviation of R,G,B for normalisation. Default: the model's."),
    ] = None,
    grid: Annotated[
        str,
        typer.Option(
            help="Patch grid: model (the model's own), or native:640 (640 patches, close to the image's aspect ratio)."
        ),
    ] = "model",
    dtype: Annotated[
        str, choice("float16", "bfloat16", "float32", "int8", help="Type of the stored values.")
    ] = "float16",
    cls: Annotated[bool, typer.Option("--cls/--no-cls", help="Record the class token too.")] = False,
    patch_label: Annotated[
        str | None,
        choice("majority", "prefer-foreground", help="Label of a patch with masks.  [default: majority]"),
    ] = None,
    background: Annotated[
        str | None,
        typer.Option(help="prefer-foreground: mask values of the background. Default: 0.", metavar="V,V,..."),
    ] = None,
    ignore: Annotated[
        str | None,
        typer.Option(help="Mask values to ignore; such patches get the label 65535.", metavar="V,V,..."),
    ] = None,
    images_per_shard: Annotated[
        int | None,
        typer.Option(min=1, help="Default: 256 MiB of images, at most an eighth of the data set."),
    ] = None,
    part: Annotated[
        str,
        typer.Option(
            "--slice", help="Record part I of N of the shards, for job arrays: 3/16.", metavar="I/N"
        ),
    ] = "1/1",
    on_bad_image: Annotated[
        str, choice("fail", "skip", help="Images that cannot be decoded: the shard lists skipped ones.")
    ] = "fail",
    max_disk: Annotated[
        str | None,
        typer.Option(help="Pause when the folder would exceed this size: 50GB. See train-sae --consume."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan without loading weights or recording.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 32,
    workers: Annotated[int, typer.Option(min=0, help="Worker processes that decode images.")] = 2,
    precision: Annotated[
        str,
        choice(
            "auto", "float32", "float16", "bfloat16", help="Precision of the model; auto: float16 on a GPU."
        ),
    ] = "auto",
    device: DeviceOption = "auto",
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Record the patch activations of one or more layers of a frozen vision model.

    Writes activation shards (HDF5, see docs/formats.md) and prints the path of each when it is complete. Run the same
    command again to record the shards that are missing.
    """
    from dump_acts.found import LabelCount, check_layout, listed
    from dump_acts.patch_labels import LabelSettings
    from saetools.vision.image_sets import list_divided, list_images

    wanted_layers = None if layers == "all" else parse_numbers("--layers", layers, int)
    new_mean, new_std = parse_channels("--mean", mean), parse_channels("--std", std)
    native = parse_grid(grid)
    chosen_part = parse_slice("--slice", part)
    disk_bytes = parse_bytes("--max-disk", max_disk) if max_disk is not None else None
    ignored = parse_mask_values("--ignore", ignore, [])
    behind = parse_mask_values("--background", background, [0])
    # Before the slow imports: a typo should not take seconds
    if split_validation is None:
        found = list_images(images, layout, split)
    else:
        found = list_divided(images, layout, split, split_validation)
    check_layout(images, layout, found)
    labels = None
    if found.mask is not None:
        if background is not None and patch_label != "prefer-foreground":
            raise UsageError(
                f"--background {background}: it is for --patch-label prefer-foreground; add that, or leave it out"
            )
        labels = LabelSettings(patch_label or "majority", behind, ignored)
    else:
        for flag, given in (
            ("--patch-label", patch_label),
            ("--background", background),
            ("--ignore", ignore),
        ):
            if given is not None:
                raise UsageError(
                    f"{flag} {given}: {images} has no masks to make patch labels from; leave {flag} out"
                )

    from dump_acts.plan import Contents, Plan, default_images_per_shard
    from dump_acts.recording import RunSettings, record
    from saetools.compute.devices import choose_device
    from saetools.files.reuse import check_place
    from saetools.vision.models import load_model, outline_model
    from saetools.vision.pictures import DEEP_GREY, holds_deep_grey

    check_place(out, folder=True)
    on_device = choose_device(device)
    outline = outline_model(
        model, weights=weights, mean=new_mean, std=new_std, native=native, layers=wanted_layers or [-1]
    )
    if holds_deep_grey(found.root, found.path):
        outline = replace(outline, preprocess=replace(outline.preprocess, deep_grey=DEEP_GREY))
    chosen = list(outline.shapes) if wanted_layers is None else outline.resolve_layers(wanted_layers)
    if cls and not outline.has_cls:
        raise UserError(f"{model}: it has no class token; leave --cls out")
    if weights is not None and not weights.is_file():
        raise UserError(f"{weights}: no such file; expected the weights of {model}")
    contents = Contents({layer: outline.shapes[layer] for layer in chosen}, dtype, cls, labels is not None)
    per_shard = images_per_shard or default_images_per_shard(len(found), contents.image_bytes)
    plan = Plan(found, out, contents, per_shard, chosen_part)
    if dry_run:
        for line in plan.lines(outline):
            write_line(line)
    plan.check_space(disk_bytes)
    if dry_run:
        return
    logger.info("found %s", listed(found))
    for line in plan.lines(outline):
        if line.startswith(("images", "layers", "this run")):
            logger.info("%s", line)
    if precision == "auto":
        precision = "float16" if on_device.type == "cuda" else "float32"
    vision = load_model(outline, weights=weights, device=on_device, precision=precision)
    settings = RunSettings(labels, batch_size, workers, on_bad_image == "skip", disk_bytes)
    count = LabelCount()
    for path in record(vision, plan, settings):
        count.add(path)  # before its path is read, and the shard deleted
        write_line(str(path))
    count.say()


def main() -> None:
    run("dump-acts", app)
