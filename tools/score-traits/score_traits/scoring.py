"""Scores every image of both splits with every scorer, and puts the AP table together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from saetools.csv_files import read_sidecar
from saetools.errors import UserError
from saetools.pooling import pool_scores
from saetools.progress import Progress
from saetools.provenance import Format, Provenance, first_difference
from saetools.scorer_file import load_scorer
from saetools.scorer_inputs import choose_layer
from saetools.scorers import Scorer
from saetools.shard_layout import check_same_source
from saetools.shard_reader import ShardSet
from score_traits.ap_table import Scored, ap_rows, training_subsets
from score_traits.scorer_specs import make_scorer
from score_traits.traits import read_traits, traits_digest

AP_TABLE = Format("saetools-ap-table", 1, "score-traits")
IMAGES_PER_BLOCK = 32


@dataclass(frozen=True)
class ScoringSettings:
    """layer: None where the shards hold one; n_train: None for all images; pool: as in saetools.pooling."""

    layer: int | None
    n_train: list[int | None]
    pool: str
    seed: int


def score(
    train: ShardSet,
    test: ShardSet,
    trait_source: Path,
    specs: Sequence[str],
    settings: ScoringSettings,
    device: torch.device,
) -> pd.DataFrame:
    """The AP table; raises UserError where files do not belong together."""
    _check_splits(train, test)
    layer = choose_layer(train.shards[0], settings.layer)
    traits = read_traits(trait_source)
    train_labels = traits.of(train.paths, "the training shards")
    test_labels = traits.of(test.paths, "the test shards")
    sizes = _training_sizes(settings.n_train, train.n_images)
    subsets = training_subsets(train.n_images, sizes, settings.seed)
    tables = []
    for spec in specs:
        named = make_scorer(spec, train, layer, settings.seed)
        scorer = named.scorer.to(device)
        on_train = Scored(image_scores(scorer, train, layer, settings.pool, device, spec), *train_labels)
        on_test = Scored(image_scores(scorer, test, layer, settings.pool, device, spec), *test_labels)
        columns = {
            "scorer": named.name,
            "n_prototypes": named.scorer.n_prototypes,
            "seed": settings.seed,
            "model": train.header.model,
            "layer": layer,
            **named.columns,
        }
        for rows in subsets:
            tables.append(ap_rows(on_train[rows], on_test, traits.name, {**columns, "n_train": len(rows)}))
    return pd.concat(tables, ignore_index=True)


def table_provenance(
    train: ShardSet, test: ShardSet, trait_source: Path, specs: Sequence[str], settings: ScoringSettings
) -> Provenance:
    """What the table depends on: shards and scorer files by uid, traits by the digest of their file."""
    scorers = [load_scorer(Path(spec)).provenance.uid if Path(spec).exists() else spec for spec in specs]
    plain = {**asdict(settings), "scorers": scorers, "traits": traits_digest(trait_source)}
    return Provenance.of(AP_TABLE, "score-traits", plain, [*train.uids, *test.uids])


def read_table(out: Path, wanted: Provenance) -> pd.DataFrame | None:
    """The table that is at `out` already, None where there is none; raises UserError where it is another."""
    if not out.exists():
        return None
    found = read_sidecar(out, AP_TABLE)
    mine = {**found.settings, "parents": list(found.parents)}
    if difference := first_difference(mine, {**wanted.settings, "parents": list(wanted.parents)}):
        raise UserError(
            f"{out}: it was made with other settings: {difference}; choose another --out, or remove it"
        )
    return pd.read_csv(out)


def image_scores(
    scorer: Scorer, shards: ShardSet, layer: int, pool: str, device: torch.device, name: str
) -> np.ndarray:
    """Pooled scores float32 {N, K} of every image of the shards."""
    scores_nk = np.empty((shards.n_images, scorer.n_prototypes), dtype=np.float32)
    with Progress(f"scoring with {name}", total=shards.n_images, unit="images") as progress:
        for start, acts_npd in shards.blocks(layer, IMAGES_PER_BLOCK):
            pooled_nk = pool_scores(scorer, acts_npd.to(device), pool)
            scores_nk[start : start + len(pooled_nk)] = pooled_nk.cpu().numpy()
            progress.advance(len(pooled_nk))
    return scores_nk


def _check_splits(train: ShardSet, test: ShardSet) -> None:
    first, other = train.shards[0], test.shards[0]
    check_same_source(first.header.source(), first.path, other.header.source(), other.path)
    if shared := set(train.paths) & set(test.paths):
        raise UserError(
            f"{other.path}: {len(shared)} images are in --train and --test, for example {min(shared)!r};"
            " test on images that were not trained on"
        )


def _training_sizes(sizes: list[int | None], n_images: int) -> list[int | None]:
    too_large = [size for size in sizes if size is not None and size > n_images]
    if too_large:
        raise UserError(
            f"--n-train {too_large[0]}: the training shards hold {n_images} images; ask for fewer or all"
        )
    return sizes
