"""Writes what was trained, the scorer file with its metrics beside it, and recognises it again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from saetools.errors import UserError
from saetools.files.formats import SCORERS, TRAINING_METRICS
from saetools.files.provenance import Provenance, first_difference
from saetools.files.tables import write_csv
from saetools.log import logger
from saetools.scorers.evaluation import SAEEvaluation
from saetools.scorers.file import TrainedScorer, load_scorer, save_scorer
from saetools.scorers.sae import SAE
from saetools.shards.header import Examples, check_same_source
from saetools.shards.reader import Shard, ShardSet, choose_layer, count_shards
from saetools.shards.splits import check_no_overlap, count_overlap
from saetools.shards.token_source import ShardSource
from train_sae.resuming import state_path
from train_sae.settings import TrainingSettings


def metrics_path(out: Path) -> Path:
    return out.with_name(out.stem + ".metrics.csv")


def check_trained(
    out: Path, settings: TrainingSettings, source: ShardSource, validation: ShardSet | None
) -> None:
    """Raise UserError unless `out` was trained with these settings on these shards.

    Of shards that were consumed there is nothing left to compare with.
    """
    found = load_scorer(out)
    n_shards = len(found.provenance.parents)
    if n_shards < source.header.n_shards and not source.allow_incomplete:
        raise UserError(
            f"{out}: it was trained on {n_shards} of {source.header.n_shards} shards; remove it to train on all,"
            " or accept a part with --allow-incomplete"
        )
    # The same shards may have come through a pipe, or to several processes.
    found_settings = {**found.provenance.settings, **source.order}
    settings_now = {**_to_json(settings, validation), **source.order}
    if not source.consume:
        found_settings["shards"], settings_now["shards"] = list(found.provenance.parents), _parents(source)
    if difference := first_difference(found_settings, settings_now):
        raise UserError(
            f"{out}: it was trained with other settings: {difference};"
            " choose another --out, or remove the old checkpoint"
        )


def save(
    out: Path,
    sae: SAE,
    evaluation: SAEEvaluation,
    rows: Sequence[Mapping[str, Any]],
    settings: TrainingSettings,
    source: ShardSource,
    validation: ShardSet | None,
) -> None:
    """Write the metrics table and then the scorer file: where that is, its metrics are too.

    What was saved to go on after an interruption is removed.
    """
    summary = evaluation.summary()
    last = {**rows[-1], **{f"eval_{name}": value for name, value in summary.items()}}
    csv, parents = metrics_path(out), _parents(source)
    plain = {**_to_json(settings, validation), **source.order}
    trained_on = {**source.header.source(), "layer": source.layer, "tokens": rows[-1]["tokens"]}
    n_given, n_whole = count_shards(source.all_shards())
    if n_given < n_whole:
        trained_on["shards"] = f"{n_given} of {n_whole} shards"
        logger.warning("%s: it was trained on %s", out, trained_on["shards"])
    if validation and (n_shared := count_overlap(_examples(source.all_shards()), validation.examples)):
        trained_on["val_overlap"] = n_shared
        logger.warning(
            "%s: %d of the %d images of --val were trained on", *(out, n_shared, validation.n_images)
        )
    source_of = Provenance.of(TRAINING_METRICS, "train-sae", plain, parents)
    write_csv(csv, pd.DataFrame([*rows[:-1], last]), source_of, {"trained_on": trained_on})
    provenance = Provenance.of(SCORERS, "train-sae", plain, parents)
    save_scorer(
        out,
        TrainedScorer(
            "sae",
            sae,
            provenance,
            trained_on,
            summary,
            evaluation.frequency_s.float(),
            evaluation.mean_value_s.float(),
        ),
    )
    state_path(out).unlink(missing_ok=True)


def describe(summary: Mapping[str, float]) -> str:
    """The evaluation in one line."""
    return (
        f"L0 {summary['l0']:.1f}, NMSE {summary['nmse']:.4f}, standardized {summary['nmse_standardized']:.4f},"
        f" dead {summary['dead']:.1%}, dense {summary['dense']:.1%} on {summary['n_tokens']:,} tokens"
    )


def _to_json(settings: TrainingSettings, validation: ShardSet | None) -> dict[str, Any]:
    return {**settings.to_json(), "val": validation.uids if validation else None}


def check_validation(validation: ShardSet, source_shard: Shard, layer: int, allow_overlap: bool) -> None:
    """Raise UserError unless the shards of --val are such as this one to train on, of other images."""
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
            raise UserError(f"{error}, or accept it with --allow-overlap") from error


def _examples(shards: Iterable[Shard]) -> list[Examples]:
    return [shard.examples for shard in shards]


def _parents(source: ShardSource) -> list[str]:
    return [shard.provenance.uid for shard in source.all_shards()]
