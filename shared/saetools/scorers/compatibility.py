"""What a scorer is given: a layer of the shards, which must be the activations that it was made for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saetools.errors import UserError
from saetools.files.provenance import first_difference
from saetools.log import logger
from saetools.scorers.record import TrainedScorer
from saetools.shards.reader import Shard


def check_scorer_fits(found: TrainedScorer, path: Path, shard: Shard, layer: int) -> None:
    """Raise UserError, saying what differs, unless the scorer at `path` was made from such activations.

    Of another library's checkpoint nothing but the width is known, which a warning says.
    """
    d_model = shard.shape(layer)[1]
    if found.d_model != d_model:
        raise UserError(
            f"{path}: it scores activations of width {found.d_model}, but the shards' width is {d_model};"
            " use a scorer that was trained on this model"
        )
    if not found.trained_on:
        logger.warning(
            "%s: it does not say what it was trained on; only its width was compared with the shards'", path
        )
        return
    if difference := other_activations(found.trained_on, shard.header.source(), layer):
        raise UserError(
            f"{path}: it was trained on other activations than {shard.path} holds: {difference};"
            " use a scorer of the same model, weights, preprocessing and layer"
        )


def other_activations(trained_on: Mapping[str, Any], source: Mapping[str, Any], layer: int) -> str | None:
    """The first thing in which these activations are not those that a scorer was trained on.

    source: see `ShardHeader.source`. None where all agrees, or nothing is known of the training.
    """
    here = {**source, "layer": layer}
    return first_difference({name: trained_on.get(name) for name in here}, here) if trained_on else None


def trained_on_these(found: TrainedScorer, uids: Iterable[str]) -> bool | None:
    """Whether the scorer was made from any of the shards with these uids, by its provenance.

    None where that is not known: of another library's checkpoint, and of one that was converted.
    """
    parents = found.provenance.parents
    if not parents or found.provenance.tool == "convert-sae":
        return None
    return not set(parents).isdisjoint(uids)


def warn_if_trained_on(found: TrainedScorer, path: Path, shards: Iterable[Shard]) -> None:
    """Say on stderr where shards to test on are among those that the scorer at `path` was made from."""
    same = [shard.path for shard in shards if trained_on_these(found, [shard.provenance.uid])]
    if same:
        logger.warning(
            "warning: %s: it was trained on %d of the --test shards, for example %s; its results on them say nothing of"
            " images that it has not seen; swap --train and --test if they were confused",
            *(path, len(same), same[0]),
        )
