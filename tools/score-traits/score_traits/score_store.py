"""Scores of all scorers on both splits: fitted, scored and kept in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import torch

from saetools.files.formats import SCORERS
from saetools.files.provenance import Provenance
from saetools.log import logger
from saetools.metrics.pooling import parse_pool
from saetools.scorers.baselines import Const, Scorer, Units
from saetools.scorers.file import TrainedScorer, load_scorer, save_scorer
from saetools.scorers.sae import as_scorer
from saetools.shards.reader import ShardSet
from score_traits.jobs import Job
from score_traits.score_files import ScoreFile, ScoreFileWriter, key_of, new_score_file
from score_traits.scorer_specs import UNTRAINED, AnyScorer, fit
from score_traits.scoring_pass import Task, score_shards


class ScoreStore:
    """Scores of all jobs on both splits, in files of a folder; what is there already is not made again."""

    def __init__(
        self,
        folder: Path,
        train: ShardSet,
        test: ShardSet,
        pool: str | None,
        device: torch.device,
        memory: int,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._train, self._test = folder, train, test
        self._pool = None if pool is None else parse_pool(pool)
        self._device, self._memory = device, memory

    def open(self, job: Job, shards: ShardSet) -> ScoreFile:
        return ScoreFile(self._path(job, shards))

    def fill(self, jobs: Sequence[Job]) -> None:
        """Score both splits with every job that lacks scores, in one pass where the scorers fit into memory."""
        different = list({self._path(job, self._train): job for job in jobs}.values())
        missing = [job for job in different if any(not self._path(job, s).exists() for s in self._splits)]
        if len(missing) < len(different):
            found = len(different) - len(missing)
            logger.info("scores of %d of %d scorers are in %s already", found, len(different), self._folder)
        for group in self._groups(missing):
            scorers = [as_scorer(scorer.to(self._device)) for _, scorer in group]
            for shards, what in ((self._train, "training images"), (self._test, "test images")):
                with ExitStack() as stack:
                    tasks = [
                        Task(job.layer, scorer, stack.enter_context(self._writer(job, scorer, shards)))
                        for (job, _), scorer in zip(group, scorers, strict=True)
                        if not self._path(job, shards).exists()
                    ]
                    if tasks:
                        score_shards(shards, tasks, self._pool, self._device, what)

    def scorer(self, job: Job) -> AnyScorer:
        """The scorer of a job: loaded, or fitted and kept."""
        if job.spec.kind == "const":
            return Const()
        if job.spec.kind == "units":
            return Units(self._train.shape(job.layer)[1])
        if job.spec.kind == "file":
            return load_scorer(job.spec.path(job.seed)).scorer
        return load_scorer(self.scorer_path(job)).scorer

    def scorer_path(self, job: Job) -> Path:
        """The scorer file of a job that is fitted; fits it where it is not there."""
        path = self._folder / f"scorer-{job.identity}.h5"
        if not path.exists():
            logger.info("fitting %s on layer %d", job.spec.text, job.layer)
            scorer = fit(job.spec, self._train, job.layer, job.seed or 0, self._device)
            settings = {"spec": job.spec.text, "seed": job.seed}
            provenance = Provenance.of(SCORERS, "score-traits", settings, self._train.uids)
            n_patches, _ = self._train.shape(job.layer)
            tokens = 0 if job.spec.kind == UNTRAINED else self._train.n_images * n_patches
            trained_on = {**self._train.header.source(), "layer": job.layer, "tokens": tokens}
            save_scorer(path, TrainedScorer(job.spec.kind, scorer, provenance, trained_on))
        return path

    @property
    def _splits(self) -> tuple[ShardSet, ShardSet]:
        return self._train, self._test

    def _groups(self, jobs: Sequence[Job]) -> Iterator[list[tuple[Job, AnyScorer]]]:
        """Jobs with their scorers, as many at a time as take half of the memory."""
        group: list[tuple[Job, AnyScorer]] = []
        size = 0
        for job in jobs:
            scorer = self.scorer(job)
            own = 8 * scorer.n_prototypes * self._train.shape(job.layer)[1]
            if group and size + own > self._memory // 2:
                yield group
                group, size = [], 0
            group.append((job, scorer))
            size += own
        if group:
            yield group

    def _writer(self, job: Job, scorer: Scorer, shards: ShardSet) -> AbstractContextManager[ScoreFileWriter]:
        n_patches, _ = shards.shape(job.layer)
        n_rows = shards.n_images * (n_patches if self._pool is None else 1)
        settings = job.score_settings(shards, self._pool_name, self._device.type)
        shape = (n_rows, scorer.n_prototypes)
        return new_score_file(self._path(job, shards), shape, settings, shards.uids, self._memory // 8)

    def _path(self, job: Job, shards: ShardSet) -> Path:
        settings = job.score_settings(shards, self._pool_name, self._device.type)
        return self._folder / f"scores-{key_of(settings)}.h5"

    @property
    def _pool_name(self) -> str:
        return "patches" if self._pool is None else str(self._pool)
