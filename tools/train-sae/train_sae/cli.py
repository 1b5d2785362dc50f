"""train-sae: train sparse autoencoders on activation shards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saetools.cli.app import DeviceOption, SeedOption, VerboseOption, VersionOption, new_app, run, write_line
from saetools.cli.paths import iterate_paths, reads_stdin
from saetools.cli.quantities import parse_bytes, parse_count
from saetools.errors import UsageError
from saetools.log import logger
from saetools.scorers.start_settings import POOL_MEMORY, StartSettings
from train_sae import options as given
from train_sae.options import Flags

if TYPE_CHECKING:
    from saetools.shards.reader import ShardSet
    from train_sae.loop import RunContext
    from train_sae.trainer import Run

app = new_app()


@app.command()
def train_sae(
    context: typer.Context,
    out: Annotated[
        Path, typer.Option(help="The checkpoint to write (.h5); a folder with --grid or --sweep.")
    ],
    acts: Annotated[
        list[Path] | None,
        typer.Argument(help="Activation shards or folders of them; - reads their paths from stdin."),
    ] = None,
    layer: Annotated[
        int | None, typer.Option(help="Layer of the shards; needed where they hold several.")
    ] = None,
    d_sae: given.DSaeOption = None,
    expansion: given.ExpansionOption = 8,
    activation: given.ActivationOption = StartSettings.activation,
    objective: given.ObjectiveOption = "mse",
    k: given.KOption = None,
    l1: given.L1Option = None,
    l0: given.L0Option = None,
    bandwidth: given.BandwidthOption = None,
    threshold_decay: given.ThresholdDecayOption = None,
    n_prefixes: given.NPrefixesOption = None,
    prefix_min: given.PrefixMinOption = None,
    prefix_power: given.PrefixPowerOption = None,
    aux_k: given.AuxKOption = 0,
    aux_weight: given.AuxWeightOption = None,
    dead_after: given.DeadAfterOption = "10M",
    tokens: given.TokensOption = "100M",
    batch_size: given.BatchSizeOption = StartSettings.batch_size,
    optimizer: given.OptimizerOption = "adam",
    lr: given.LrOption = 1e-3,
    warmup: given.WarmupOption = 0.05,
    decay: given.DecayOption = "cosine",
    sparsity_warmup: given.SparsityWarmupOption = 0.0,
    grad_clip: given.GradClipOption = None,
    normalize: given.NormalizeOption = StartSettings.normalize,
    blend: given.BlendOption = StartSettings.blend,
    b_dec: given.BDecOption = StartSettings.b_dec,
    start_l0: given.StartL0Option = None,
    exclude_labels: given.ExcludeLabelsOption = None,
    val: Annotated[
        list[Path] | None, typer.Option(help="Evaluate on these shards in place of held-out images.")
    ] = None,
    holdout: given.HoldoutOption = StartSettings.holdout,
    pool_memory: given.PoolMemoryOption = POOL_MEMORY,
    grid: Annotated[
        str | None, typer.Option(help="Train every combination on one stream: 'lr=1e-4,3e-4 k=16,32'.")
    ] = None,
    sweep: Annotated[Path | None, typer.Option(help="The same from a YAML file: grid, zip, runs.")] = None,
    sae_memory: Annotated[
        str | None, typer.Option(help="Memory for SAEs trained at a time. [default: half of what is free]")
    ] = None,
    consume: Annotated[
        bool, typer.Option("--consume", help="Delete each shard after its last use; one epoch, needs --val.")
    ] = False,
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Accept a part of the shards; the file says how many.")
    ] = False,
    allow_overlap: Annotated[
        bool, typer.Option("--allow-overlap", help="Accept training images in --val; the file counts them.")
    ] = False,
    checkpoint_every: Annotated[
        int, typer.Option(min=0, help="Steps between saved states, for running it again to go on; 0: none.")
    ] = 1000,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between rows of the metrics table.")] = 50,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Also log to TensorBoard, into this folder.")
    ] = None,
    wandb: Annotated[str | None, typer.Option(help="Also log to this project of Weights & Biases.")] = None,
    seed: SeedOption = StartSettings.seed,
    device: DeviceOption = "auto",
    autocast: given.AutocastOption = False,
    verbose: VerboseOption = False,
    version: VersionOption = False,
) -> None:
    """Train sparse autoencoders, and evaluate them on images that they were not trained on.

    Writes OUT (HDF5, see docs/formats.md) and OUT's name with .metrics.csv, and prints OUT's path.
    Shards on stdin are used as they arrive: dump-acts ... | train-sae --layer 11 --out sae.h5 -

    Stopped by Ctrl-C, SIGTERM, SIGUSR1 or a power cut, the same command again goes on.
    """
    from saetools.compute.devices import choose_device
    from saetools.shards.reader import Shard, check_complete, choose_layer, open_shards
    from saetools.shards.token_source import ShardSource
    from train_sae.checkpoint import check_validation
    from train_sae.grids import combine, parse_grid, read_sweep
    from train_sae.loop import RunContext
    from train_sae.memory import available_bytes
    from train_sae.ranks import Ranks
    from train_sae.tracking import Trackers
    from train_sae.trainer import Run

    flags = Flags.of(context.params)
    if grid is not None and sweep is not None:
        raise UsageError("--grid and --sweep: give one of them")
    many = parse_grid(grid) if grid is not None else read_sweep(sweep) if sweep is not None else None
    if many is None and out.suffix not in (".h5", ".hdf5"):
        raise UsageError(
            f"--out {out}: a scorer file is HDF5, which other tools know by its name; write {out.with_suffix('.h5')}"
        )
    if allow_overlap and not val:
        raise UsageError("--allow-overlap: it does nothing without --val; leave it out")
    named = combine(flags, many) if many is not None else {"": flags}
    for each in named.values():
        each.check()
        if not val and not each.holdout:
            raise UsageError("--holdout 0: nothing is left to evaluate on; give shards with --val")
    memory = parse_bytes("--sae-memory", sae_memory) if sae_memory else available_bytes() // 2
    arriving = reads_stdin(acts or [])
    if consume and not val:
        raise UsageError(
            "--consume: held-out images would be gone before the evaluation; give shards with --val"
        )
    if consume and any(parse_count("--tokens", each.tokens, least=0) == 0 for each in named.values()):
        raise UsageError("--consume: --tokens 0 uses no shard to its end; leave it out")
    ranks = Ranks.join()
    if ranks.world > 1 and (arriving or consume):
        raise UsageError("with several processes the shards must be there: no stdin, no --consume")
    place = ranks.device(choose_device(device))
    if place.type == "cpu" and any(each.autocast for each in named.values()):
        raise UsageError("--autocast: on a CPU it does nothing; leave it out")

    validation = open_shards(val, allow_incomplete=allow_incomplete) if val else None
    if validation and not allow_incomplete:
        check_complete(
            validation.shards, "give the others to --val too, or accept a part with --allow-incomplete"
        )

    def check_against_validation(shard: Shard) -> None:
        if validation is not None:
            check_validation(validation, shard, choose_layer(shard, layer), allow_overlap)

    source = ShardSource(
        iterate_paths(acts or [], "activation shards"),
        layer,
        0.0 if val else holdout,
        arriving=arriving,
        consume=consume,
        allow_incomplete=allow_incomplete,
        check=check_against_validation,
        rank=ranks.rank,
        world=ranks.world,
    )
    runs = []
    for name, each in named.items():
        ranks.check_batch(each.batch_size)
        settings = each.settings(source.d_model, 0.0 if val else each.holdout, log_every)
        if consume:
            settings = settings.within_one_epoch(source.header.n_examples_total * source.n_patches)
        runs.append(Run(out / f"{name}.h5" if many is not None else out, settings))
    if many is not None:
        out.mkdir(parents=True, exist_ok=True)
    around = RunContext(source, place, ranks, checkpoint_every, Trackers.open(tensorboard, wandb))
    try:
        _train_all(runs, around, validation, memory)
    finally:
        around.trackers.close()
        ranks.leave()


def _train_all(runs: list[Run], around: RunContext, validation: ShardSet | None, memory: int) -> None:
    """Train what is not there yet; print each path once its file is complete."""
    from saetools.shards.token_source import all_blocks
    from train_sae.checkpoint import check_trained, describe, save
    from train_sae.loop import evaluate, groups, train

    source, missing = around.source, []
    for wanted in runs:
        if wanted.out.exists():
            check_trained(wanted.out, wanted.settings, source, validation)
            logger.info("%s: it is trained already, with these settings on these shards", wanted.out)
            _print(wanted.out, around)
        else:
            missing.append(wanted)
    cut = list(groups(missing, memory, source.d_model))
    if source.consume and len(cut) > 1:
        raise UsageError(
            f"--consume: the sweep needs {len(cut)} passes over the shards, which are there for one;"
            " raise --sae-memory, or sweep only what leaves the batches alone"
        )
    for group in cut:
        trainers = train(group, around)
        if around.ranks.rank == 0:
            saes = [trainer.sae() for trainer in trainers]
            viewed = source.view(group[0].settings.holdout, group[0].settings.exclude_labels)
            blocks = (
                all_blocks(validation.shards, source.layer, viewed.excluded)
                if validation
                else viewed.held_out_blocks()
            )
            for trainer, sae, evaluation in zip(
                trainers, saes, evaluate(saes, blocks, around.device), strict=True
            ):
                target, settings = trainer.run.out, trainer.settings
                save(target, sae, evaluation, trainer.rows, settings, source, validation)
                logger.info("%s: %s", target, describe(evaluation.summary()))
                _print(target, around)


def _print(out: Path, around: RunContext) -> None:
    if around.ranks.rank == 0:
        write_line(str(out))


def main() -> None:
    run("train-sae", app)
