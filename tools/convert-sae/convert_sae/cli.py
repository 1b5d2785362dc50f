"""convert-sae: convert an SAE between our scorer files, saev checkpoints and SAELens folders."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saetools.cli.app import VerboseOption, VersionOption, examples, new_app, run, write_line
from saetools.errors import UsageError, UserError, why_unreadable
from saetools.log import logger

if TYPE_CHECKING:
    from saetools.scorers.record import TrainedScorer

app = new_app()


@app.command(
    groups={"Its activations": "acts layer", "Checkpoints of saev": "centred threshold as_topk"},
    epilog=examples(
        "convert-sae sae.h5 sae.pt",
        "convert-sae sae.h5 sae-saelens",
        "convert-sae sae.pt converted.h5 --acts acts/train --layer 7",
    ),
)
def convert_sae(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="Our scorer file (.h5), a saev checkpoint (.pt) or a SAELens folder."
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="NAME.h5: our format; NAME.pt: saev's newest schema; any other name: a SAELens folder.",
        ),
    ],
    acts: Annotated[
        list[Path] | None,
        typer.Option(
            help="Shards of the model and layer that it was trained on; recorded in OUT (.h5), so that the SAE is"
            " refused on activations of another model or layer."
        ),
    ] = None,
    layer: Annotated[int | None, typer.Option(help="Layer of --acts, if they hold several.")] = None,
    centred: Annotated[
        bool | None,
        typer.Option(
            "--centred/--not-centred",
            help="saev: whether the encoder gets x - b_dec. Default: by the checkpoint's schema.",
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="saev: threshold of a BatchTopK SAE that was saved without one.")
    ] = None,
    as_topk: Annotated[bool, typer.Option("--as-topk", help="saev: read a BatchTopK SAE as TopK.")] = False,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Convert a sparse autoencoder between file formats; its latents and reconstructions stay the same.

    Prints OUT. Written for saev or SAELens, the input normalisation is folded into the weights.
    """
    from saetools.files.reuse import writing
    from saetools.scorers.file import load_scorer
    from saetools.scorers.record import save_scorer
    from saetools.scorers.sae import SAE
    from saetools.scorers.saelens import metadata_of, write_saelens
    from saetools.scorers.saev import read_saev, write_saev

    if layer is not None and not acts:
        raise UsageError("--layer: it is the layer of --acts; give that too")
    if threshold is not None and not math.isfinite(threshold):
        raise UsageError(f"--threshold {threshold}: expected a number")
    if threshold is not None and as_topk:
        raise UsageError("--threshold and --as-topk: give only one of them")
    if acts and out.suffix != ".h5":
        raise UsageError(f"--acts: only .h5 files record the model and layer; {out} is none")
    if not source.is_dir() and (why := why_unreadable(source)):
        raise UserError(f"{source}: {why}; expected an SAE, as a file or a folder")
    given = {"source": str(source.absolute()), "acts": [str(path) for path in acts or []], "layer": layer}
    how = {"centred": centred, "threshold": threshold, "as_topk": as_topk}
    with writing(out, {**given, **how}, folder=out.is_dir()):
        if out.exists():
            raise UserError(f"{out}: it exists already; remove it, or choose another name")
        if source.suffix == ".pt" and not source.is_dir():
            found = read_saev(source, centred=centred, threshold=threshold, as_topk=as_topk)
        elif centred is not None or threshold is not None or as_topk:
            raise UsageError("--centred, --threshold and --as-topk: they are for saev checkpoints (.pt)")
        else:
            found = load_scorer(source)
        if not isinstance(found.scorer, SAE):
            raise UserError(f"{source}: a scorer of kind {found.kind}; only SAEs can be converted")
        if out.suffix == ".h5":
            save_scorer(out, _as_ours(source, found, acts or [], layer))
        elif out.suffix == ".pt":
            write_saev(out, found.scorer)
        else:
            write_saelens(out, found.scorer, metadata_of(found))
    config = found.scorer.config
    logger.info("%s: %s, %d latents of width %d", out, config.activation, config.d_sae, config.d_model)
    write_line(str(out))


def _as_ours(source: Path, found: TrainedScorer, acts: list[Path], layer: int | None) -> TrainedScorer:
    """With our provenance, and the model and layer of the shards as what it was trained on."""
    from dataclasses import replace

    from saetools.files.formats import SCORERS
    from saetools.files.provenance import Provenance
    from saetools.scorers.compatibility import check_scorer_fits
    from saetools.shards.reader import choose_layer, open_shards

    settings: dict[str, Any] = dict(found.provenance.settings)
    provenance = Provenance.of(SCORERS, "convert-sae", settings, [found.provenance.uid])
    trained_on = dict(found.trained_on)
    if acts:
        shard = open_shards(acts).shards[0]
        chosen = choose_layer(shard, layer)
        check_scorer_fits(found, source, shard, chosen)
        trained_on = {"tokens": None, **trained_on, **shard.header.source(), "layer": chosen}
    return replace(found, provenance=provenance, trained_on=trained_on)


def main() -> None:
    run("convert-sae", app)
