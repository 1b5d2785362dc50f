"""encode-acts: apply a scorer to every patch and keep the active latents."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from saetools.cli.app import (
    DeviceOption,
    VerboseOption,
    VersionOption,
    choice,
    examples,
    new_app,
    run,
    write_line,
)
from saetools.cli.paths import iterate_paths, reads_stdin
from saetools.cli.slices import parse_slice
from saetools.errors import UsageError
from saetools.log import logger

app = new_app()


@app.command(
    groups={"What is kept": "scorer layer threshold top dtype", "Running": "out slice"},
    epilog=examples(
        "encode-acts parts/train --scorer sae.h5 --out latents/train",
        "encode-acts parts/test --scorer sae.h5 --out latents/test",
        "encode-acts parts/test --scorer units --top 8 --out units/test",
    ),
)
def encode_acts(
    scorer: Annotated[
        str,
        typer.Option(
            help="Scorer file (an SAE, or one saved by score-traits), or units: the model's neurons."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the latents; made where it is missing.")],
    acts: Annotated[
        list[Path] | None,
        typer.Argument(help="Activation shards, or folders of them; - reads paths from stdin."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Layer to encode; required where the shards hold several.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Keep values above this; -inf keeps all.")] = 0.0,
    top: Annotated[
        int | None, typer.Option(min=1, help="Keep at most this number of latents per patch, the largest.")
    ] = None,
    dtype: Annotated[str, choice("float32", "float16", help="Storage type of the values.")] = "float32",
    slice: Annotated[
        str, typer.Option(help="Encode part I of N of the shards, for job arrays: 3/16.", metavar="I/N")
    ] = "1/1",
    device: DeviceOption = "auto",
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Apply a scorer to every patch of activation shards and keep the active latents.

    Writes one file of CSR latents per shard (scipy.sparse.load_npz reads it, see docs/formats.md) and prints its path
    when it is complete. Run the same command again to encode the shards that are missing.
    """
    if math.isnan(threshold) or threshold == math.inf:
        raise UsageError(f"--threshold {threshold}: expected a number, or -inf to keep everything")
    part = parse_slice("--slice", slice)

    from encode_acts.encoding import EncodingSettings, encode_shards
    from encode_acts.scorer_choice import choose_scorer
    from saetools.compute.devices import choose_device
    from saetools.shards.reader import GivenShards, Shard, iterate_shards

    found = choose_scorer(scorer)
    found.check_what_is_kept(threshold, top)
    settings = EncodingSettings(layer, threshold if threshold > -math.inf else None, top, dtype)
    given = GivenShards()

    def arriving() -> Iterator[Shard]:
        for shard in iterate_shards(iterate_paths(acts or [], "activation shards")):
            given.add(shard)
            if part.takes(shard.header.shard_index):
                yield shard

    n_files = 0
    for path in encode_shards(arriving(), found, out, settings, choose_device(device)):
        write_line(str(path))
        n_files += 1
    if reads_stdin(acts or []):  # the command that writes the paths may have failed
        given.check_complete("run the same command again to encode the rest")
    if not n_files:
        logger.info("--slice %s: there are fewer shards than slices; this slice has nothing to do", part)


def main() -> None:
    run("encode-acts", app)
