"""Makes the AP table: reads the traits, scores both splits, chooses on one and tests on the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch

from saetools.cli.progress import Progress
from saetools.errors import UserError
from saetools.files.formats import AP_TABLE, SCORERS
from saetools.files.provenance import Provenance
from saetools.log import logger
from saetools.scorers.baselines import Linear
from saetools.scorers.file import TrainedScorer, load_scorer, save_scorer
from saetools.shards.header import check_same_source
from saetools.shards.reader import ShardSet
from saetools.shards.splits import check_no_overlap
from score_traits.jobs import Job, list_file, make_jobs
from score_traits.ridge import Probes
from score_traits.rows import Subset, counted_rows, probe_rows
from score_traits.score_store import ScoreStore
from score_traits.scorer_specs import Spec
from score_traits.settings import ScoringSettings
from score_traits.trait_sources import TraitSettings, read_patch_traits, read_traits, with_test_classes
from score_traits.traits import Labelled


class TableMaker:
    """Everything that a table is made of, read and checked; raises UserError where it does not belong together."""

    def __init__(
        self,
        train: ShardSet,
        test: ShardSet,
        traits: TraitSettings,
        specs: Sequence[Spec],
        settings: ScoringSettings,
    ) -> None:
        self.train, self.test, self.specs, self.settings = train, test, specs, settings
        _check_splits(train, test)
        self.jobs = make_jobs(specs, settings.layers, settings.seeds, train, test)
        self.labelled: dict[int, Labelled] = {}
        if traits.patches:
            self.labelled = {layer: read_patch_traits(train, test, layer) for layer in settings.layers}
        else:
            self.labelled = dict.fromkeys(settings.layers, read_traits(traits, train, test))
        if settings.bootstrap_by == "class":
            self.labelled = {
                layer: with_test_classes(labelled, test, layer) for layer, labelled in self.labelled.items()
            }
        for labelled in self.labelled.values():
            _check_sizes(settings, labelled)
            _check_prevalence(labelled, specs)
        # of every scorer file, given or saved: what the table's sidecar says of it
        self.scorer_files = [job.listed for job in self.jobs if job.listed is not None]

    def provenance(self) -> Provenance:
        """What the table depends on, by content: shards by uid, scorers and traits by digest."""
        plain = {
            **self.settings.plain(),
            "scorers": list(dict.fromkeys(_wanted(job) for job in self.jobs)),
            "traits": [labelled.digest for labelled in self.labelled.values()],
        }
        return Provenance.of(AP_TABLE, "score-traits", plain, [*self.train.uids, *self.test.uids])

    def make(self, folder: Path, device: torch.device, save_to: Path | None) -> pd.DataFrame:
        """The table; `folder` holds scores and fitted scorers, `save_to` gets copies of the fitted ones."""
        pool = self.settings.pool if self._unit == "image" else None
        store = ScoreStore(folder, self.train, self.test, pool, device, self.settings.memory)
        units = Spec("units", "units")
        needed = [
            Job(job.layer, units, None, "units", "units") if job.spec.kind == "linear" else job
            for job in self.jobs
        ]
        store.fill(needed)
        tables: list[pd.DataFrame] = []
        with Progress("choosing prototypes", total=len(self.jobs), unit="scorers") as progress:
            for job, scored in zip(self.jobs, needed, strict=True):
                tables += self._rows(job, scored, store, save_to)
                progress.advance(1)
                if save_to is not None and job.spec.is_fitted:
                    fitted = load_scorer(store.scorer_path(job))
                    _save(save_to / f"{_name(job)}.h5", fitted)
                    self.scorer_files.append(list_file(job.spec, job.layer, job.seed, fitted))
        return pd.concat(tables, ignore_index=True)

    def _rows(self, job: Job, scored: Job, store: ScoreStore, save_to: Path | None) -> Iterator[pd.DataFrame]:
        scores = store.open(scored, self.train), store.open(scored, self.test)
        labelled = self.labelled[job.layer]
        columns = {
            "scorer": job.name,
            "n_prototypes": len(labelled.names) if job.spec.kind == "linear" else scores[0].n_prototypes,
            "model": self.train.header.model,
            "layer": job.layer,
            **job.columns,
        }
        if job.spec.kind != "linear":
            yield from counted_rows(job, scores, labelled, self.settings, columns)
            return
        for subset, tested, table in probe_rows(job, scores, labelled, self.settings, columns):
            if save_to is not None:
                self._save_probes(save_to, job, subset, tested.probes)
            yield table

    def _save_probes(self, folder: Path, job: Job, subset: Subset, probes: Probes) -> None:
        settings = {
            "spec": job.spec.text,
            "seed": subset.seed,
            "n_train": subset.n_train,
            "pool": self.settings.pool,
        }
        provenance = Provenance.of(SCORERS, "score-traits", settings, self.train.uids)
        n_patches, _ = self.train.shape(job.layer)
        trained_on = {
            **self.train.header.source(),
            "layer": job.layer,
            "tokens": subset.n_train * n_patches,
        }
        weight_td, bias_t = (torch.from_numpy(array).float() for array in (probes.weight_td, probes.bias_t))
        name = f"{_name(job)}-n{subset.n_train}-seed{subset.seed}.h5"
        fitted = TrainedScorer("linear", Linear(weight_td, bias_t), provenance, trained_on)
        _save(folder / name, fitted)
        entry = list_file(job.spec, job.layer, subset.seed, fitted, n_train=subset.n_train)
        self.scorer_files.append(entry)

    @property
    def _unit(self) -> str:
        return next(iter(self.labelled.values())).unit


def _wanted(job: Job) -> str:
    """What was asked for: a file by what is in it, wherever it lies."""
    return job.identity if job.spec.file else job.spec.text


def _name(job: Job) -> str:
    k = f"-{job.spec.k}" if job.spec.k else ""
    k += f"-{job.spec.active}" if job.spec.active else ""
    if job.spec.file:
        return f"layer{job.layer}-{job.spec.kind}-{job.spec.path(job.seed).stem}"
    seed = "" if job.seed is None else f"-seed{job.seed}"
    return f"layer{job.layer}-{job.spec.kind}{k}{seed}"


def _save(path: Path, contents: TrainedScorer) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_scorer(path, contents)
    logger.info("saved %s", path)


def _check_splits(train: ShardSet, test: ShardSet) -> None:
    first, other = train.shards[0], test.shards[0]
    check_same_source(first.header.source(), first.path, other.header.source(), other.path)
    check_no_overlap(train.examples, test.examples, other.path)


def _check_sizes(settings: ScoringSettings, labelled: Labelled) -> None:
    n_images = labelled.train.n_images
    too_large = [size for size in settings.n_train if size is not None and size > n_images]
    if too_large:
        what = "" if labelled.train.n_images == len(labelled.train.row_n) else " whose labels are known"
        raise UserError(
            f"--n-train {too_large[0]}: the training shards hold {n_images} images{what}; ask for fewer or all"
        )


def _check_prevalence(labelled: Labelled, specs: Sequence[Spec]) -> None:
    """Traits that most images have are mostly traits read wrongly: the constant scorer shows it."""
    if labelled.is_pairs:
        return
    n_pos, n_test = labelled.test.n_positives, labelled.test.n_known
    known = n_pos > 0
    if not known.any() or (mean := float((n_pos[known] / n_test[known]).mean())) <= 0.5:
        return
    found = (
        f"the mean prevalence of the traits in the test images is {mean:.3f}, over one half, and so would be the"
        " mAP of the const row, which knows nothing"
    )
    if any(spec.kind == "const" for spec in specs):
        raise UserError(
            f"--scorer const: {found}; most likely the traits were read wrongly (of CUB-200-2011: is_present"
            " ignored, so that every answered question counts as yes);\nmend the table, or leave const out if"
            " the traits really are that common"
        )
    logger.warning("warning: %s; check how the traits were read", found)
