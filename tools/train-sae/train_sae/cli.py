"""train-sae: train a sparse autoencoder on activation shards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from saetools.cli import (
    DeviceOption,
    SeedOption,
    VerboseOption,
    VersionOption,
    logger,
    new_app,
    run,
    write_line,
)
from saetools.errors import UsageError
from saetools.paths import iterate_paths, reads_stdin
from saetools.quantities import parse_bytes, parse_count

app = new_app()


@app.command()
def train_sae(
    out: Annotated[Path, typer.Option(help="The checkpoint to write (.h5).")],
    acts: Annotated[
        list[Path] | None,
        typer.Argument(help="Activation shards or folders of them; - reads their paths from stdin."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Layer of the shards; needed where they hold several.")
    ] = None,
    d_sae: Annotated[int | None, typer.Option(min=1, help="Number of latents.")] = None,
    expansion: Annotated[
        int, typer.Option(min=1, help="Number of latents, in model widths, where --d-sae is not given.")
    ] = 8,
    activation: Annotated[str, typer.Option(help="topk, batchtopk, relu or jumprelu.")] = "topk",
    objective: Annotated[
        str, typer.Option(help="mse, or matryoshka: the mean MSE over random prefixes of the latents.")
    ] = "mse",
    k: Annotated[int, typer.Option(min=1, help="topk, batchtopk: latents kept per token.")] = 32,
    l1: Annotated[float, typer.Option(min=0, help="relu: weight of the mean L1 norm of the latents.")] = 1e-2,
    l0: Annotated[float, typer.Option(min=0, help="jumprelu: weight of the mean number of latents.")] = 1e-2,
    aux_k: Annotated[
        int, typer.Option(min=0, help="Dead latents that reconstruct what is left (AuxK); 0: none.")
    ] = 0,
    tokens: Annotated[str, typer.Option(help="Tokens to train on: 500k, 100M.")] = "100M",
    batch_size: Annotated[int, typer.Option(min=1, help="Tokens in a batch.")] = 4096,
    lr: Annotated[float, typer.Option(min=0, help="Highest learning rate (Adam).")] = 1e-3,
    warmup: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the steps in which the rate rises.")
    ] = 0.05,
    normalize: Annotated[
        str, typer.Option(help="Of inputs: none; mean: less their mean; sqrt-d: and to a mean square of 1.")
    ] = "sqrt-d",
    blend: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a data point in a latent's first direction.")
    ] = 0.8,
    val: Annotated[
        list[Path] | None, typer.Option(help="Evaluate on these shards in place of held-out images.")
    ] = None,
    holdout: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the images held out where there is no --val.")
    ] = 0.05,
    pool_memory: Annotated[
        str, typer.Option(help="Memory of the pool in which tokens are shuffled.")
    ] = "1GB",
    log_every: Annotated[int, typer.Option(min=1, help="Steps between rows of the metrics table.")] = 50,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Train a sparse autoencoder, and evaluate it on images that it was not trained on.

    Writes OUT (HDF5, see docs/formats.md) and OUT's name with .metrics.csv, and prints OUT's path.
    Shards on stdin are used as they arrive: dump-acts ... | train-sae --layer 11 --out sae.h5 -
    """
    from saetools.devices import choose_device
    from saetools.shard_reader import open_shards
    from train_sae.checkpoint import check_trained, describe, save
    from train_sae.initial import NORMALIZATIONS
    from train_sae.sources import ShardSource, all_blocks
    from train_sae.steps import StepSettings
    from train_sae.steps.settings import ACTIVATIONS, OBJECTIVES
    from train_sae.stream import TokenStream
    from train_sae.training import TrainingSettings, evaluate, train

    for flag, value, known in (
        ("--activation", activation, ACTIVATIONS),
        ("--objective", objective, OBJECTIVES),
        ("--normalize", normalize, NORMALIZATIONS),
    ):
        if value not in known:
            raise UsageError(f"{flag} {value}: expected one of {', '.join(known)}")
    n_tokens, pool_bytes = parse_count("--tokens", tokens), parse_bytes("--pool-memory", pool_memory)
    if not val and not holdout:
        raise UsageError("--holdout 0: nothing is left to evaluate on; give shards with --val")

    validation = open_shards(val) if val else None
    paths = iterate_paths(acts or [], "activation shards")
    source = ShardSource(paths, layer, 0.0 if val else holdout, arriving=reads_stdin(acts or []))
    n_latents = d_sae or expansion * source.d_model
    if k > n_latents or aux_k > n_latents:
        raise UsageError(f"--k {k} --aux-k {aux_k}: there are only {n_latents} latents; raise --d-sae")
    settings = TrainingSettings(
        d_sae=n_latents,
        tokens=n_tokens,
        batch_size=batch_size,
        lr=lr,
        warmup=warmup,
        normalize=normalize,
        blend=blend,
        holdout=source.holdout,
        pool_bytes=pool_bytes,
        seed=seed,
        log_every=log_every,
        step=StepSettings(
            activation=activation,
            objective=objective,
            k=k,
            l1=l1 if activation == "relu" else 0.0,
            l0=l0 if activation == "jumprelu" else 0.0,
            aux_k=aux_k,
        ),
    )
    if out.exists():
        check_trained(out, settings, source, validation)
        logger.info("%s: it is trained already, with these settings on these shards", out)
    else:
        sae, rows = train(TokenStream(source, batch_size, pool_bytes, seed), settings, choose_device(device))
        blocks = all_blocks(validation.shards) if validation else source.held_out_blocks()
        evaluation = evaluate(sae, blocks, source.layer)
        save(out, sae, evaluation, rows, settings, source, validation)
        logger.info("%s: %s", out, describe(evaluation.summary()))
    write_line(str(out))


def main() -> None:
    run("train-sae", app)
