"""Trains SAEs on a stream of tokens, several on the same one, and evaluates them on tokens that they never saw."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch

from saetools.cli.progress import Progress
from saetools.compute.matmul import float32_matmul
from saetools.log import logger
from saetools.scorers.evaluation import SAEEvaluation
from saetools.scorers.sae import SAE
from saetools.scorers.start import read_sample
from saetools.shards.reader import IncompleteShards
from saetools.shards.token_source import Block, ShardSource
from train_sae.memory import peak_bytes
from train_sae.ranks import Ranks
from train_sae.resuming import Stopped, StopSignals, check_shards, leave, load_state, save_state
from train_sae.stream import TokenStream
from train_sae.tracking import Trackers
from train_sae.trainer import Run, Trainer


@dataclass(frozen=True)
class RunContext:
    """What a training run needs beside its settings, and what does not change its result.

    checkpoint_every: steps between saved states; 0: none are saved, and a signal ends the run at once.
    """

    source: ShardSource
    device: torch.device
    ranks: Ranks
    checkpoint_every: int
    trackers: Trackers


def groups(runs: Sequence[Run], memory: int, d_model: int) -> Iterator[list[Run]]:
    """Runs that share a stream, in groups whose estimated memory is at most `memory` bytes (or that are one run)."""
    by_stream: dict[object, list[Run]] = {}
    for run in runs:
        by_stream.setdefault(run.settings.stream, []).append(run)
    for sharing in by_stream.values():
        group: list[Run] = []
        used = 0
        for run in sharing:
            needed = peak_bytes(run.settings, d_model)
            if group and used + needed > memory:
                yield group
                group, used = [], 0
            group, used = [*group, run], used + needed
        yield group


def train(runs: Sequence[Run], around: RunContext) -> list[Trainer]:
    """Train SAEs on one stream, which they must agree in; each as it would be trained alone.

    Goes on from saved states, and saves them. Raises SystemExit or KeyboardInterrupt after a signal.
    """
    shared = runs[0].settings
    source = around.source.view(shared.holdout, shared.exclude_labels)
    trainers = [Trainer(run, around.ranks, around.device) for run in runs]
    if not shared.n_steps:
        sample_nd = read_sample(source, shared.start(**source.order))
        for trainer in trainers:
            trainer.begin(sample_nd.clone())
        source.all_shards()  # the others may still have to arrive
        return trainers
    states = {trainer: load_state(trainer.run.out, _identity(trainer, source)) for trainer in trainers}
    skip = min(state[0].n_steps if state else 0 for state in states.values())
    stream = TokenStream(
        source,
        shared.batch_size // around.ranks.world,
        shared.pool_bytes,
        shared.seed,
        skip,
        around.ranks.rank,
    )
    for trainer, found in states.items():
        if found is None:
            trainer.begin(stream.sample(shared.seed))
        else:
            _check_shards(trainer, found[1], source)
            trainer.resume(found[0])
            logger.info("%s: goes on after step %d", trainer.run.out, trainer.n_done)
    try:
        _run(trainers, stream, source, around, skip)
        source.all_shards()
        for trainer, found in states.items():
            if found is not None:  # those that had not arrived again when it went on
                _check_shards(trainer, found[1], source)
    except IncompleteShards:  # what has been learnt is what an unbroken pipe would have given up to here
        if around.checkpoint_every:
            _save(trainers, source, around.ranks)
        raise
    return trainers


def evaluate(
    saes: Sequence[SAE], blocks: Iterable[Block], device: torch.device | None = None
) -> list[SAEEvaluation]:
    """Each SAE's metrics on the tokens of these blocks of images, which are read once."""
    place = device or torch.device("cpu")
    saes = [sae.to(place) for sae in saes]
    evaluations = [SAEEvaluation(sae.config.d_model, sae.config.d_sae) for sae in saes]
    with float32_matmul():
        for block in blocks:
            for batch_bd in block.read().float().to(place).split(1024):
                for sae, evaluation in zip(saes, evaluations, strict=True):
                    evaluation.add(sae, batch_bd)
    return evaluations


def _run(
    trainers: Sequence[Trainer], stream: TokenStream, source: ShardSource, around: RunContext, n_done: int
) -> None:
    """Steps until every SAE has had all of its own; n_done: batches that were drawn before."""
    n_steps = max(trainer.settings.n_steps for trainer in trainers)
    batch_size = trainers[0].settings.batch_size
    batches = iter(stream)
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals(around.checkpoint_every > 0))
        progress = stack.enter_context(Progress("training", n_steps * batch_size, "tokens"))
        progress.advance(n_done * batch_size)
        for number in range(n_done, n_steps):
            x_bd = _next_batch(batches, stop, around.ranks)
            if x_bd is None and not stop.number:
                logger.warning(
                    "the shards ended after %s tokens, before the learning rate had come down",
                    f"{number * batch_size:,}",
                )
                break
            if stop_number := around.ranks.largest(stop.number):
                _save(trainers, source, around.ranks)
                leave(stop_number)
            assert x_bd is not None
            # Those that were saved later than others wait; those with fewer tokens have finished.
            active = [trainer for trainer in trainers if trainer.n_done == number and not trainer.finished]
            notes: dict[str, str] = {}
            mixed: dict[str, float] = {}
            for trainer in active:
                row = trainer.step(x_bd if trainer is active[-1] else x_bd.clone())
                if row is not None:
                    mixed = mixed or stream.report()
                    trainer.rows.append({**row, **mixed})
                    around.trackers.log(trainer.run.out.stem, trainer.rows[-1])
                    notes = {name: f"{row[name]:.4g}" for name in ("loss", "l0", "dead")}
            progress.advance(batch_size, **notes)
            if around.checkpoint_every and (number + 1) % around.checkpoint_every == 0:
                _save(trainers, source, around.ranks)


def _next_batch(batches: Iterator[torch.Tensor], stop: StopSignals, ranks: Ranks) -> torch.Tensor | None:
    """None at the end of the stream, or where a signal came while it was waited for."""
    if ranks.world > 1:  # the others wait for this process's gradients, so it must not leave alone
        return next(batches, None)
    try:
        with stop.interruptible():
            return next(batches, None)
    except Stopped:
        return None


def _save(trainers: Sequence[Trainer], source: ShardSource, ranks: Ranks) -> None:
    if ranks.rank == 0:
        for trainer in trainers:
            save_state(trainer.run.out, trainer.state(), _identity(trainer, source), source.identities())


def _check_shards(trainer: Trainer, before: Sequence[str], source: ShardSource) -> None:
    check_shards(trainer.run.out, before, source.identities(), all_arrived=source.all_arrived)


def _identity(trainer: Trainer, source: ShardSource) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    return {**trainer.settings.to_json(), **source.order}
