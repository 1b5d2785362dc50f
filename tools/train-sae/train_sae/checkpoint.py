"""The result of a training run: the record of the trained SAE, its metrics table, and the two files that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from saetools.errors import UserError
from saetools.files.formats import SCORERS, TRAINING_METRICS
from saetools.files.provenance import Provenance, first_difference
from saetools.files.tables import read_csv, write_csv
from saetools.log import logger
from saetools.scorers.evaluation import SAEEvaluation
from saetools.scorers.file import load_scorer
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import SAE
from saetools.shards.held_out import count_overlap
from saetools.shards.reader import ShardSet, count_shards
from saetools.shards.token_source import ShardSource
from train_sae.config import TrainingSettings
from train_sae.resuming import state_path


@dataclass(frozen=True)
class Trained:
    """One SAE that was trained: the record that a scorer file holds, its metrics table, and the file (None: none)."""

    record: TrainedScorer
    metrics: pd.DataFrame
    path: Path | None


def metrics_path(out: Path) -> Path:
    return out.with_name(out.stem + ".metrics.csv")


def result(
    out: Path | None,
    sae: SAE,
    evaluation: SAEEvaluation,
    rows: Sequence[Mapping[str, Any]],
    settings: TrainingSettings,
    source: ShardSource,
    validation: ShardSet | None,
) -> Trained:
    """The record and the metrics table of an SAE; the evaluation is in the last row, as columns eval_*."""
    name = out or "the SAE"
    summary = evaluation.summary()
    last = {**rows[-1], **{f"eval_{name}": value for name, value in summary.items()}}
    trained_on = {**source.header.source(), "layer": source.layer, "tokens": rows[-1]["tokens"]}
    n_given, n_whole = count_shards(source.all_shards())
    if n_given < n_whole:
        trained_on["shards"] = f"{n_given} of {n_whole} shards"
        logger.warning("%s: it was trained on %s", name, trained_on["shards"])
    examples = [shard.examples for shard in source.all_shards()]
    if validation and (n_shared := count_overlap(examples, validation.examples)):
        trained_on["val_overlap"] = n_shared
        logger.warning(
            "%s: %d of the %d evaluation images were trained on", *(name, n_shared, validation.n_images)
        )
    provenance = Provenance.of(
        SCORERS, "train-sae", _recorded(settings, source, validation), _parents(source)
    )
    frequency_s, mean_value_s = evaluation.frequency_s.float(), evaluation.mean_value_s.float()
    record = TrainedScorer("sae", sae, provenance, trained_on, summary, frequency_s, mean_value_s)
    return Trained(record, pd.DataFrame([*rows[:-1], last]), out)


def save(trained: Trained) -> None:
    """Write the metrics table and then the scorer file: if the scorer file exists, so does the table.

    The state saved for resuming is removed.
    """
    out, record, known = trained.path, trained.record, trained.record.provenance
    assert out is not None
    provenance = Provenance.of(TRAINING_METRICS, "train-sae", known.settings, known.parents)
    of = {"trained_on": record.trained_on, "scorer": known.uid}
    write_csv(metrics_path(out), trained.metrics, provenance, of)
    save_scorer(out, record)
    state_path(out).unlink(missing_ok=True)


def load_trained(
    out: Path, settings: TrainingSettings, source: ShardSource, validation: ShardSet | None
) -> Trained:
    """What an earlier run wrote; raises UserError unless it trained with these settings on these shards.

    Shards that were consumed are gone, and are not compared.
    """
    found = load_scorer(out)
    n_shards = len(found.provenance.parents)
    if n_shards < source.header.n_shards and not source.allow_incomplete:
        raise UserError(
            f"{out}: it was trained on {n_shards} of {source.header.n_shards} shards; remove it to train on all,"
            " or accept a part with `allow_incomplete`"
        )
    # The same shards may have come through a pipe, or to several processes.
    found_settings = {**found.provenance.settings, **source.order}
    settings_now = _recorded(settings, source, validation)
    if not source.consume:
        found_settings["shards"], settings_now["shards"] = list(found.provenance.parents), _parents(source)
    if difference := first_difference(found_settings, settings_now):
        raise UserError(
            f"{out}: it was trained with other settings: {difference}; choose another `out`, or remove the file"
        )
    state_path(out).unlink(missing_ok=True)  # the run may have ended before it could
    logger.info("%s: it is trained already, with these settings on these shards", out)
    return Trained(found, read_csv(metrics_path(out), TRAINING_METRICS)[0], out)


def identity(
    settings: TrainingSettings, source: ShardSource, validation: ShardSet | None
) -> tuple[dict[str, Any], list[str]]:
    """Settings and parents, as the files will record them; of shards that are still arriving, what all share."""
    recording = {**_recorded(settings, source, validation), "recording": source.header.source()}
    return recording, _parents(source) if source.all_arrived else []


def describe(summary: Mapping[str, float]) -> str:
    """The evaluation in one line."""
    return (
        f"L0 {summary['l0']:.1f}, NMSE {summary['nmse']:.4f}, standardized {summary['nmse_standardized']:.4f},"
        f" dead {summary['dead']:.1%}, dense {summary['dense']:.1%} on {summary['n_tokens']:,} tokens"
    )


def _recorded(settings: TrainingSettings, source: ShardSource, validation: ShardSet | None) -> dict[str, Any]:
    """The settings that the files record."""
    return {**settings.to_json(), "val": validation.uids if validation else None, **source.order}


def _parents(source: ShardSource) -> list[str]:
    return [shard.provenance.uid for shard in source.all_shards()]
