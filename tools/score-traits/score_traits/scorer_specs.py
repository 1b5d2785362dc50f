"""Scorers as they are asked for on the command line: `const`, `random:K`, or a scorer file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saetools.errors import UsageError, UserError
from saetools.sae import SAE
from saetools.scorer_file import ScorerFile, load_scorer
from saetools.scorer_inputs import check_scorer_fits
from saetools.scorers import Const, Linear
from saetools.shard_reader import ShardSet


@dataclass(frozen=True)
class NamedScorer:
    """A scorer, and its columns of the AP table (empty where they do not apply)."""

    name: str
    scorer: Const | Linear | SAE
    columns: dict[str, Any] = field(default_factory=dict)


def make_scorer(spec: str, train: ShardSet, layer: int, seed: int) -> NamedScorer:
    """`const`; `random:K`, drawn from the training patches; or the path of a scorer file.

    Raises UserError where the spec is none of them, or where the file was made for other activations.
    """
    name, _, count = spec.partition(":")
    if spec == "const":
        return NamedScorer("const", Const())
    if name == "random" and count.isdigit() and int(count) > 0:
        return NamedScorer("random", draw_random(train, layer, int(count), seed))
    if Path(spec).exists():
        path = Path(spec)
        found = load_scorer(path)
        check_scorer_fits(found, path, train.shards[0], layer)
        return NamedScorer(found.kind, found.scorer, _sae_columns(found, path))
    raise UsageError(f"--scorer {spec}: expected const, random:K, or the path of a scorer file that exists")


def draw_random(train: ShardSet, layer: int, k: int, seed: int) -> Linear:
    """K of the training patches, each set of K equally likely, scored by inner product."""
    n_tokens = train.n_images * train.n_patches
    if k > n_tokens:
        raise UserError(
            f"--scorer random:{k}: the training shards hold only {n_tokens} patches; ask for fewer"
        )
    chosen = np.random.default_rng(seed).choice(n_tokens, size=k, replace=False)
    vectors_kd = torch.empty(k, train.d_model)
    start = 0
    for shard in train.shards:
        end = start + shard.n_images * shard.n_patches
        (here,) = np.nonzero((chosen >= start) & (chosen < end))
        vectors_kd[torch.from_numpy(here)] = shard.tokens(layer, chosen[here] - start)
        start = end
    return Linear(vectors_kd)


def _sae_columns(found: ScorerFile, path: Path) -> dict[str, Any]:
    if not isinstance(found.scorer, SAE):
        return {}
    settings = found.provenance.settings
    columns = {name: settings.get(name) for name in ("activation", "objective", "sparsity", "lr")}
    columns |= {name: found.evaluation.get(name) for name in ("l0", "mse", "nmse")}
    return {**columns, "checkpoint": str(path), "d_sae": found.scorer.n_prototypes}
