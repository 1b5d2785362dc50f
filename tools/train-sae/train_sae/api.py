"""Training as a call: `train_sae` for Python programs, and `train_all`, which it and the command line use."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from saetools.cli.paths import iterate_paths
from saetools.compute import devices
from saetools.errors import UsageError, UserError, near_names
from saetools.files.reuse import writing
from saetools.log import logger
from saetools.scorers.file import with_origin
from saetools.scorers.sae import SAE
from saetools.shards.header import as_paths, check_same_source
from saetools.shards.held_out import check_no_overlap
from saetools.shards.reader import Shard, Shards, ShardSet, check_complete, choose_layer, open_shards
from saetools.shards.token_source import ShardSource, all_blocks
from train_sae.checkpoint import Trained, describe, identity, load_trained, result, save
from train_sae.config import SAETraining
from train_sae.loop import RunContext, evaluate, train
from train_sae.memory import available_bytes, groups
from train_sae.ranks import Ranks
from train_sae.tracking import Trackers
from train_sae.trainer import Run


class TrainedSAE(SAE):
    """An `SAE` just trained, with its `evaluation` (L0, NMSE, ...) and its training metrics.

    metrics: the metrics table, one row every `log_every` steps (docs/formats.md); path: its file, None without `out`.
    """

    metrics: pd.DataFrame
    path: Path | None

    @staticmethod
    def of(trained: Trained) -> TrainedSAE:
        old = trained.record.scorer
        assert isinstance(old, SAE)
        sae = TrainedSAE(
            *(old.config, old.W_enc, old.b_enc, old.W_dec, old.b_dec, old.threshold, old.mean, old.scale)
        )
        sae.metrics, sae.path = trained.metrics, trained.path
        with_origin(replace(trained.record, scorer=sae))
        return sae


def train_sae(
    acts: Shards,
    *,
    layer: int | None = None,
    out: str | Path | None = None,
    val: Shards | None = None,
    config: SAETraining | None = None,
    log_every: int | None = None,
    checkpoint_every: int = 1000,
    allow_incomplete: bool = False,
    allow_overlap: bool = False,
    device: str = "auto",
    **settings: Any,
) -> TrainedSAE:
    """Train one SAE on activation shards and evaluate it on images that it was not trained on.

    acts: shards, folders of them, or an opened set; layer: needed if the shards hold several
    out: the scorer file to write (.h5), with its metrics table beside it, as the command `train-sae` does; a run that
    was stopped goes on, and a finished file is read. None: nothing is written
    val: shards to evaluate on; None: a fraction `holdout` of the images of `acts` is held out
    config, settings: the fields of `SAETraining`, the latter by name: d_sae=1024, k=16, tokens="500k"
    log_every: steps between rows of the metrics table; checkpoint_every: steps between saved states (0: none)
    allow_incomplete: accept a part of the shards; allow_overlap: accept training images in `val`

    Raises UserError (UsageError for arguments) as the command does.

    >>> sae = train_sae("acts/train", layer=7, d_sae=1024, k=16, tokens="500k")
    >>> sae.evaluation["nmse"], sae.metrics["loss"]
    """
    known = [each.name for each in fields(SAETraining)]
    for name in settings:
        if name not in known:
            raise UsageError(f"{name}: train_sae has no such setting{near_names(name, known)}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("train_sae: it trains in one process; start the command train-sae with torchrun")
    plain = {name: value.item() if hasattr(value, "item") else value for name, value in settings.items()}
    target = None if out is None else Path(out)
    (trained,) = train_all(
        iterate_paths(_paths("acts", acts), "activation shards"),
        {target: replace(config or SAETraining(), **plain)},
        layer=layer,
        val=() if val is None else _paths("val", val),
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        allow_incomplete=allow_incomplete,
        allow_overlap=allow_overlap,
        device=device,
    )
    return TrainedSAE.of(trained)


def train_all(
    acts: Iterator[Path],
    configs: Mapping[Path | None, SAETraining],
    *,
    layer: int | None = None,
    val: Sequence[Path] = (),
    arriving: bool = False,
    consume: bool = False,
    allow_incomplete: bool = False,
    allow_overlap: bool = False,
    sae_memory: int | None = None,
    checkpoint_every: int = 1000,
    log_every: int | None = None,
    tensorboard: Path | None = None,
    wandb: str | None = None,
    device: str = "auto",
) -> Iterator[Trained]:
    """Train an SAE for each of `configs`, by the file to write (None: no file), and yield each once it is complete.

    SAEs whose settings agree on the batches are trained together on one stream. Of several processes (torchrun), the
    first one yields. arriving, consume, allow_incomplete: as for `ShardSource`; sae_memory: bytes for SAEs trained
    together, by default half of what is free.
    """
    _check(configs, val, consume, allow_overlap)
    ranks = Ranks.join()
    if ranks.world > 1 and (arriving or consume):
        raise UsageError("with several processes the shards must be there: no stdin, no `consume`")
    place = ranks.device(devices.choose_device(device))
    if place.type == "cpu" and any(config.autocast for config in configs.values()):
        raise UsageError("`autocast`: on a CPU it does nothing; leave it out")
    validation = open_shards(val, allow_incomplete=allow_incomplete) if val else None
    if validation and not allow_incomplete:
        check_complete(
            validation.shards, "give the others to `val` too, or accept a part with `allow_incomplete`"
        )

    def check_against_validation(shard: Shard) -> None:
        if validation is not None:
            _check_validation(validation, shard, choose_layer(shard, layer), allow_overlap)

    source = ShardSource(
        acts,
        layer,
        0.0,  # each SAE views the source with its own
        arriving=arriving,
        consume=consume,
        allow_incomplete=allow_incomplete,
        check=check_against_validation,
        rank=ranks.rank,
        world=ranks.world,
    )
    runs = []
    for out, config in configs.items():
        ranks.check_batch(config.batch_size)
        holdout = 0.0 if val else config.holdout
        epoch = source.tokens(holdout)
        runs.append(Run(out, config.settings(source.d_model, epoch, holdout, log_every, once=consume)))
    context = RunContext(source, place, ranks, checkpoint_every, Trackers.open(tensorboard, wandb))
    memory = available_bytes() // 2 if sae_memory is None else sae_memory
    try:
        with ExitStack() as claims:
            for run in runs:
                claims.enter_context(writing(run.out, *identity(run.settings, source, validation)))
            for trained in _train_missing(runs, context, validation, memory):
                if ranks.rank == 0:
                    yield trained
    finally:
        context.trackers.close()
        ranks.leave()


def _train_missing(
    runs: Sequence[Run], context: RunContext, validation: ShardSet | None, memory: int
) -> Iterator[Trained]:
    """First what an earlier run has written, then the rest, one stream of activations after another."""
    source, missing = context.source, []
    for run in runs:
        if run.out is not None and run.out.exists():
            yield load_trained(run.out, run.settings, source, validation)
        else:
            missing.append(run)
    cut = list(groups(missing, memory, source.d_model))
    if source.consume and len(cut) > 1:
        raise UsageError(
            f"`consume`: the sweep needs {len(cut)} passes over the shards, which can be read once;"
            " raise `sae_memory`, or sweep only options that leave the batches as they are"
        )
    for group in cut:
        trainers = train(group, context)
        if context.ranks.rank != 0:
            continue
        saes = [trainer.sae() for trainer in trainers]
        viewed = source.view(group[0].settings.holdout, group[0].settings.exclude_labels)
        blocks = (
            all_blocks(validation.shards, source.layer, viewed.excluded)
            if validation
            else viewed.held_out_blocks()
        )
        for trainer, sae, found in zip(trainers, saes, evaluate(saes, blocks, context.device), strict=True):
            trained = result(
                trainer.run.out, sae.cpu(), found, trainer.rows, trainer.settings, source, validation
            )
            if trained.path is not None:
                save(trained)
            logger.info("%s: %s", trainer.run.out or "trained", describe(trained.record.evaluation))
            yield trained


def _check(
    configs: Mapping[Path | None, SAETraining], val: Sequence[Path], consume: bool, allow_overlap: bool
) -> None:
    """Raise UsageError where arguments do not fit together."""
    for out in configs:
        if out is not None and out.suffix not in (".h5", ".hdf5"):
            raise UsageError(
                f"`out` {out}: a scorer file is HDF5, which other tools recognise by its name;"
                f" write {out.with_suffix('.h5')}"
            )
    if allow_overlap and not val:
        raise UsageError("`allow_overlap`: it does nothing without `val`; leave it out")
    for config in configs.values():
        config.check()
        if not val and not config.holdout:
            raise UsageError("`holdout` 0: nothing is left to evaluate on; give shards with `val`")
    if consume and not val:
        raise UsageError(
            "`consume`: held-out images would be deleted before the evaluation; give shards with `val`"
        )
    if consume and any(config.n_tokens(0) == 0 for config in configs.values()):
        raise UsageError("`consume`: `tokens` 0 uses no shard to its end; leave it out")


def _check_validation(validation: ShardSet, source_shard: Shard, layer: int, allow_overlap: bool) -> None:
    """Raise UserError unless the validation shards were recorded as this training shard, from other images."""
    first = validation.shards[0]
    check_same_source(source_shard.header.source(), source_shard.path, first.header.source(), first.path)
    choose_layer(first, layer)
    mine, others = source_shard.shape(layer)[1], first.shape(layer)[1]
    if mine != others:
        raise UserError(
            f"{first.path}: layer {layer} has width {others}, but {mine} in {source_shard.path}; evaluate on shards of"
            " the same model"
        )
    if not allow_overlap:
        try:
            check_no_overlap(
                [source_shard.examples], validation.examples, first.path, ("the training shards", "`val`")
            )
        except UserError as error:
            raise UserError(f"{error}, or accept it with `allow_overlap`") from error


def _paths(name: str, given: Shards) -> list[Path]:
    paths = [shard.path for shard in given.shards] if isinstance(given, ShardSet) else list(as_paths(given))
    if not paths:
        raise UsageError(f"`{name}`: it is empty; give shards, or folders of them")
    return paths
