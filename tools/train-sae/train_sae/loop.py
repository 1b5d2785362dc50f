"""The training loop: SAEs on one stream of tokens, and their evaluation on tokens they were not trained on."""

from __future__ import annotations

import threading
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
from train_sae.planned import FORETOLD, say_plan
from train_sae.ranks import Ranks
from train_sae.resuming import (
    Stopped,
    StopSignals,
    TrainingState,
    check_shards,
    leave,
    load_state,
    save_state,
)
from train_sae.stream import TokenStream
from train_sae.tracking import Trackers
from train_sae.trainer import Run, Trainer


@dataclass(frozen=True)
class RunContext:
    """What training needs besides its settings; none of it changes the result.

    checkpoint_every: steps between saved states; 0: none are saved, and a signal ends the run at once.
    """

    source: ShardSource
    device: torch.device
    ranks: Ranks
    checkpoint_every: int
    trackers: Trackers


def train(runs: Sequence[Run], context: RunContext) -> list[Trainer]:
    """Train SAEs on one stream (their `settings.stream` must be equal); each as it would be trained alone.

    Resumes from saved states, and saves states. Raises SystemExit or KeyboardInterrupt after a signal.
    """
    shared = runs[0].settings
    source = context.source.view(shared.holdout, shared.exclude_labels)
    trainers = [Trainer(run, context.ranks, context.device) for run in runs]
    if not shared.n_steps:
        sample_nd = read_sample(source, shared.start(**source.order))
        for trainer in trainers:
            trainer.begin(sample_nd.clone())
        source.all_shards()  # wait for those that have not arrived
        return trainers
    states = {trainer: _load(trainer, source) for trainer in trainers}
    skip = min(state[0].n_steps if state else 0 for state in states.values())
    stream = TokenStream(
        source,
        shared.options.batch_size // context.ranks.world,
        shared.pool_bytes,
        shared.options.seed,
        skip,
        context.ranks.rank,
    )
    for trainer, found in states.items():
        if found is None:
            trainer.begin(stream.sample(shared.options.seed))
        else:
            _check_shards(trainer, found[1], source)
            trainer.resume(found[0])
            logger.info("%s: resumes after step %d", trainer.run.out, trainer.n_done)
    longest = max((trainer.settings for trainer in trainers), key=lambda settings: settings.n_steps)
    say_plan(longest.n_steps, shared.options.batch_size, longest.options.tokens is None, source)
    try:
        run_steps(trainers, stream, source, context, skip)
        source.finish()
        for trainer, found in states.items():
            if found is not None:  # those that had not arrived yet at the resume
                _check_shards(trainer, found[1], source)
    except IncompleteShards:  # up to here, the steps are those of an unbroken pipe
        if context.checkpoint_every:
            _save(trainers, source, context.ranks)
        raise
    return trainers


def evaluate(
    saes: Sequence[SAE], blocks: Iterable[Block], device: torch.device | None = None
) -> list[SAEEvaluation]:
    """Each SAE's metrics on the tokens of these blocks of images; the blocks are read once for all SAEs."""
    place = device or torch.device("cpu")
    saes = [sae.to(place) for sae in saes]
    evaluations = [SAEEvaluation(sae.config.d_model, sae.config.d_sae) for sae in saes]
    with float32_matmul():
        for block in blocks:
            for batch_bd in block.read().float().to(place).split(1024):
                for sae, evaluation in zip(saes, evaluations, strict=True):
                    evaluation.add(sae, batch_bd)
    return evaluations


def run_steps(
    trainers: Sequence[Trainer], stream: TokenStream, source: ShardSource, context: RunContext, n_done: int
) -> None:
    """Take steps until every SAE has made all of its own; n_done: batches drawn before."""
    n_steps = max(trainer.settings.n_steps for trainer in trainers)
    batch_size = trainers[0].settings.options.batch_size
    batches = iter(stream)
    with ExitStack() as stack:
        stop = stack.enter_context(StopSignals(_handles_signals(trainers, context)))
        foretold = FORETOLD if stop.active else ""
        progress = stack.enter_context(Progress("training", n_steps * batch_size, "tokens", foretold))
        progress.advance(n_done * batch_size)
        for number in range(n_done, n_steps):
            x_bd = next_batch(batches, stop, context.ranks)
            if x_bd is None and not stop.number:
                logger.warning(
                    "the shards ended after %s tokens, before the end of the learning-rate schedule",
                    f"{number * batch_size:,}",
                )
                break
            if stop_number := context.ranks.largest(stop.number):
                _save(trainers, source, context.ranks)
                leave(stop_number, f"stopped after step {number:,} of {n_steps:,}")
            assert x_bd is not None
            # SAEs whose saved state is ahead of the others wait; those with fewer tokens have finished.
            active = [trainer for trainer in trainers if trainer.n_done == number and not trainer.finished]
            notes: dict[str, str] = {}
            mixed: dict[str, float] = {}
            for trainer in active:
                row = trainer.step(x_bd if trainer is active[-1] else x_bd.clone())
                if row is not None:
                    mixed = mixed or stream.report()
                    trainer.rows.append({**row, **mixed})
                    context.trackers.log(trainer.run.name, trainer.rows[-1])
                    notes = {name: f"{row[name]:.4g}" for name in ("loss", "l0", "dead")}
            progress.advance(batch_size, **notes)
            if context.checkpoint_every and (number + 1) % context.checkpoint_every == 0:
                _save(trainers, source, context.ranks)


def next_batch(batches: Iterator[torch.Tensor], stop: StopSignals, ranks: Ranks) -> torch.Tensor | None:
    """None at the end of the stream, or if a signal came while waiting for it."""
    if ranks.world > 1:  # the others wait for this process's gradients, so it must not leave alone
        return next(batches, None)
    try:
        with stop.interruptible():
            return next(batches, None)
    except Stopped:
        return None


def _handles_signals(trainers: Sequence[Trainer], context: RunContext) -> bool:
    """Whether signals save a state; Python accepts signal handlers in its main thread only."""
    written = any(trainer.run.out is not None for trainer in trainers)
    return written and context.checkpoint_every > 0 and threading.current_thread() is threading.main_thread()


def _save(trainers: Sequence[Trainer], source: ShardSource, ranks: Ranks) -> None:
    for trainer in trainers:
        if ranks.rank == 0 and trainer.run.out is not None:
            save_state(trainer.run.out, trainer.state(), _identity(trainer, source), source.identities())


def _load(trainer: Trainer, source: ShardSource) -> tuple[TrainingState, list[str]] | None:
    return None if trainer.run.out is None else load_state(trainer.run.out, _identity(trainer, source))


def _check_shards(trainer: Trainer, before: Sequence[str], source: ShardSource) -> None:
    assert trainer.run.out is not None
    check_shards(trainer.run.out, before, source.identities(), all_arrived=source.all_arrived)


def _identity(trainer: Trainer, source: ShardSource) -> dict[str, Any]:
    """What must be the same for a run to be resumed."""
    return {**trainer.settings.to_json(), **source.order}
