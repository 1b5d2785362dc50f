"""Writes what was trained, the scorer file with its metrics beside it, and recognises it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from saetools.csv_files import write_csv
from saetools.errors import UserError
from saetools.provenance import Provenance, first_difference
from saetools.sae import SAE
from saetools.sae_metrics import SAEEvaluation
from saetools.scorer_file import SCORERS, ScorerFile, load_scorer, save_scorer
from saetools.shard_reader import ShardSet
from saetools.table_formats import TRAINING_METRICS
from saetools.token_source import ShardSource
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
    source_of = Provenance.of(TRAINING_METRICS, "train-sae", plain, parents)
    trained_on = {**source.header.source(), "layer": source.layer, "tokens": rows[-1]["tokens"]}
    write_csv(csv, pd.DataFrame([*rows[:-1], last]), source_of, {"trained_on": trained_on})
    provenance = Provenance.of(SCORERS, "train-sae", plain, parents)
    save_scorer(
        out,
        ScorerFile(
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


def _parents(source: ShardSource) -> list[str]:
    return [shard.provenance.uid for shard in source.all_shards()]
