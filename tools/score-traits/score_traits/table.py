"""The AP table: reads the traits, scores both splits, chooses prototypes on one and tests them on the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from saetools.cli.progress import Progress
from saetools.errors import UserError
from saetools.files.formats import AP_TABLE, SCORERS
from saetools.files.provenance import Provenance
from saetools.labels.dense import DenseSplits
from saetools.labels.splits import targets
from saetools.log import logger
from saetools.scorers.baselines import Linear
from saetools.scorers.file import load_scorer
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.shards.header import check_same_source
from saetools.shards.held_out import check_no_overlap
from saetools.shards.reader import ShardSet
from score_traits.linear_probes import Probes
from score_traits.rows import ScoringSettings, Subset, choice_rows, probe_rows
from score_traits.scorer_runs import ScorerRun, Spec, list_entry, list_runs
from score_traits.scores import ScoreStore


class ApTable:
    """Everything that a table is made from, read and checked; raises UserError where it does not belong together.

    labels: of the rows of both splits, by layer (patches differ between the layers of a convolutional network)
    """

    def __init__(
        self,
        train: ShardSet,
        test: ShardSet,
        labels: Mapping[int, DenseSplits],
        specs: Sequence[Spec],
        settings: ScoringSettings,
    ) -> None:
        self.train, self.test, self.settings, self.labels = train, test, settings, labels
        self.runs = list_runs(specs, settings.layers, settings.seeds, train, test)
        for of_layer in labels.values():
            _check_sizes(settings, of_layer)
            _check_prevalence(of_layer, specs)
        self._group_n = {layer: self._bootstrap_groups(layer) for layer in labels}
        # one entry for each scorer file, given or saved, for the table's sidecar
        self.scorer_files = [run.listed for run in self.runs if run.listed is not None]

    def provenance(self) -> Provenance:
        """What the table depends on, by content: shards by uid, scorers and traits by digest."""
        plain = {
            **self.settings.plain(),
            "scorers": list(dict.fromkeys(run.requested for run in self.runs)),
            "traits": [of_layer.digest for of_layer in self.labels.values()],
        }
        return Provenance.of(AP_TABLE, "score-traits", plain, [*self.train.uids, *self.test.uids])

    def make(self, folder: Path, device: torch.device, save_to: Path | None) -> pd.DataFrame:
        """The table; `folder` holds scores and fitted scorers, `save_to` gets copies of the fitted ones."""
        pool = self.settings.pool if self._unit == "image" else None
        store = ScoreStore(folder, self.train, self.test, pool, device, self.settings.memory)
        units = Spec("units", "units")
        scored_runs = [
            ScorerRun(run.layer, units, None, "units", "units") if run.spec.kind == "linear" else run
            for run in self.runs
        ]
        store.fill(scored_runs)
        tables: list[pd.DataFrame] = []
        with Progress("choosing prototypes", total=len(self.runs), unit="scorers") as progress:
            for run, scored in zip(self.runs, scored_runs, strict=True):
                tables += self._rows(run, scored, store, save_to)
                progress.advance(1)
                if save_to is not None and run.spec.is_fitted:
                    fitted = load_scorer(store.scorer_path(run))
                    _save(save_to / f"{run.file_stem}.h5", fitted)
                    self.scorer_files.append(list_entry(run.spec, run.layer, run.seed, fitted))
        return pd.concat(tables, ignore_index=True)

    def _rows(
        self, run: ScorerRun, scored: ScorerRun, store: ScoreStore, save_to: Path | None
    ) -> Iterator[pd.DataFrame]:
        scores = store.open(scored, self.train), store.open(scored, self.test)
        labels, group_n = self.labels[run.layer], self._group_n[run.layer]
        columns = {
            "scorer": run.name,
            "n_prototypes": len(labels.names) if run.spec.kind == "linear" else scores[0].n_prototypes,
            "model": self.train.header.model,
            "layer": run.layer,
            **run.columns,
        }
        if run.spec.kind != "linear":
            yield from choice_rows(run, scores, labels, group_n, self.settings, columns)
            return
        for subset, tested, table in probe_rows(run, scores, labels, group_n, self.settings, columns):
            if save_to is not None:
                self._save_probes(save_to, run, subset, tested.probes)
            yield table

    def _save_probes(self, folder: Path, run: ScorerRun, subset: Subset, probes: Probes) -> None:
        settings = {
            "spec": run.spec.text,
            "seed": subset.seed,
            "n_train": subset.n_train,
            "pool": self.settings.pool,
        }
        provenance = Provenance.of(SCORERS, "score-traits", settings, self.train.uids)
        n_patches, _ = self.train.shape(run.layer)
        trained_on = {
            **self.train.header.source(),
            "layer": run.layer,
            "tokens": subset.n_train * n_patches,
        }
        weight_td, bias_t = (torch.from_numpy(array).float() for array in (probes.weight_td, probes.bias_t))
        name = f"{run.file_stem}-n{subset.n_train}-seed{subset.seed}.h5"
        fitted = TrainedScorer("linear", Linear(weight_td, bias_t), provenance, trained_on)
        _save(folder / name, fitted)
        entry = list_entry(run.spec, run.layer, subset.seed, fitted, n_train=subset.n_train)
        self.scorer_files.append(entry)

    def _bootstrap_groups(self, layer: int) -> np.ndarray:
        """The number of each test row's group: its image, or its image's class. A bootstrap draws whole groups."""
        labels = self.labels[layer]
        if self.settings.bootstrap_by == "image":
            return labels.test.image_n
        rows_per_image = self.test.shape(layer)[0] if labels.unit == "patch" else 1
        image_of_row = labels.test.row_n // rows_per_image
        class_of_row = targets(self.test)[image_of_row]
        where = f"{self.test.shards[0].path}: `bootstrap_by` class"
        if (class_of_row < 0).any():
            images = np.unique(image_of_row[class_of_row < 0])
            raise UserError(
                f"{where}: {len(images)} test images have no class, for example {self.test.paths[images[0]]!r};\n"
                "record images from class folders, or use `bootstrap_by` image"
            )
        classes, class_n = np.unique(class_of_row, return_inverse=True)
        if len(classes) < 2:
            raise UserError(f"{where}: all test images are of one class; expected two or more")
        return class_n

    @property
    def _unit(self) -> str:
        return next(iter(self.labels.values())).unit


def check_splits(train: ShardSet, test: ShardSet) -> None:
    """Raise UserError unless both were recorded alike, from different images."""
    first, other = train.shards[0], test.shards[0]
    check_same_source(first.header.source(), first.path, other.header.source(), other.path)
    check_no_overlap(train.examples, test.examples, other.path)


def _save(path: Path, contents: TrainedScorer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_scorer(path, contents)
    logger.info("saved %s", path)


def _check_sizes(settings: ScoringSettings, labels: DenseSplits) -> None:
    n_images = labels.train.n_images
    too_large = [size for size in settings.n_train if size is not None and size > n_images]
    if too_large:
        what = "" if n_images == len(labels.train.row_n) else " whose labels are known"
        raise UserError(
            f"`n_train` {too_large[0]}: the training shards hold {n_images} images{what}; ask for fewer or all"
        )


def _check_prevalence(labels: DenseSplits, specs: Sequence[Spec]) -> None:
    """Where the constant scorer's mAP is above one half, CUB-200-2011's labels were most likely parsed wrongly."""
    if labels.is_pairs:
        return
    n_pos, n_test = labels.test.n_positives, labels.test.n_known
    known = n_pos > 0
    if not known.any() or (mean := float((n_pos[known] / n_test[known]).mean())) <= 0.5:
        return
    found = (
        f"the mean prevalence of the traits in the test images is {mean:.3f}, over one half, and so would be the mAP of"
        " the constant scorer"
    )
    if labels.is_cub and any(spec.kind == "const" for spec in specs):
        raise UserError(
            f"`scorers` const: {found}; most likely the labels were parsed wrongly (is_present ignored, so that every"
            " answered question counts as yes);\nmend the table, or leave const out if they really are that common"
        )
    logger.warning("warning: %s; check how the traits were read, and compare every mAP with that", found)
