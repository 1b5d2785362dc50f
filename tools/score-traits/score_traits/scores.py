"""Scores of all images (or patches) with every scorer: one pass over the shards, kept in files.

A file holds the scores of one scorer on one split, in blocks of prototypes, so that a block is one read. Its name is
the digest of everything that decides its contents (the shards' bytes, the scorer, the pool), so a folder of them is a
cache whose files are never out of date.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from saetools.cli.progress import Progress
from saetools.compute.matmul import float32_matmul
from saetools.files.formats import IMAGE_SCORES, SCORERS
from saetools.files.hdf5 import new_hdf5, open_hdf5
from saetools.files.provenance import Provenance
from saetools.log import logger
from saetools.metrics.pooling import Pool, parse_pool, pool_scores
from saetools.scorers.baselines import Const, Scorer, Units
from saetools.scorers.file import load_scorer
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import as_scorer
from saetools.shards.reader import Shard, ShardSet
from score_traits.scorer_runs import UNTRAINED, ScorerRun, fit, key_of

WIDTH = 256  # prototypes in a block of a file
BLOCK_BYTES = 32 * 2**20  # of activations, and of scores, at a time


class ScoreFile:
    """Scores float32 of `n_rows` images or patches for `n_prototypes`; data set /scores {blocks, rows, width}."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_hdf5(path, IMAGE_SCORES) as file:
            Provenance.from_attributes(file.attrs, IMAGE_SCORES, path)
            self.n_prototypes = int(file.attrs["n_prototypes"])
            _, self.n_rows, self.width = file["scores"].shape

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first prototype, scores {rows, prototypes of the block})."""
        with open_hdf5(self.path, IMAGE_SCORES) as file:
            for index in range(len(file["scores"])):
                yield index * self.width, self._block(file, index)

    def columns(self, prototypes: np.ndarray) -> np.ndarray:
        """Scores {rows, len(prototypes)} of these prototypes, in this order; -1 gives zeros."""
        columns_nt = np.zeros((self.n_rows, len(prototypes)), np.float32)
        with open_hdf5(self.path, IMAGE_SCORES) as file:
            for index in np.unique(prototypes[prototypes >= 0] // self.width):
                (here,) = np.nonzero(prototypes // self.width == index)
                block = self._block(file, index)
                columns_nt[:, here] = block[:, prototypes[here] - index * self.width]
        return columns_nt

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Scores {stop - start, K} of these rows, for a K that is small."""
        with open_hdf5(self.path, IMAGE_SCORES) as file:
            part = file["scores"][:, start:stop]
        return part.transpose(1, 0, 2).reshape(part.shape[1], -1)[:, : self.n_prototypes]

    def _block(self, file: h5py.File, index: int) -> np.ndarray:
        block: np.ndarray = file["scores"][index]
        return block[:, : self.n_prototypes - index * self.width]


class ScoreFileWriter:
    """Takes the rows of a score file in order; made by `new_score_file`."""

    def __init__(self, dataset: h5py.Dataset, n_prototypes: int) -> None:
        self._dataset, self._n_prototypes, self._done = dataset, n_prototypes, 0

    def append(self, scores_nk: np.ndarray) -> None:
        width = self._dataset.shape[2]
        stop = self._done + len(scores_nk)
        for index, first in enumerate(range(0, self._n_prototypes, width)):
            part = np.ascontiguousarray(scores_nk[:, first : first + width])
            self._dataset[index, self._done : stop, : part.shape[1]] = part
        self._done = stop

    def finish(self) -> None:
        assert self._done == self._dataset.shape[1], "rows are missing"


@contextmanager
def new_score_file(
    path: Path,
    shape: tuple[int, int],
    settings: Mapping[str, Any],
    parents: list[str],
    memory: int,
) -> Iterator[ScoreFileWriter]:
    """A writer of scores of `shape` {rows, K}; the file appears when the block ends without an exception.

    memory: what a block of prototypes may take when it is read.
    """
    n_rows, n_prototypes = shape
    width = max(1, min(WIDTH, n_prototypes, memory // (4 * n_rows)))
    provenance = Provenance.of(IMAGE_SCORES, "score-traits", settings, parents)
    n_blocks = -(-n_prototypes // width)
    with new_hdf5(path, 4 * n_blocks * n_rows * width) as file:
        for name, value in {**provenance.to_attributes(), "n_prototypes": n_prototypes}.items():
            file.attrs[name] = value
        dataset = file.create_dataset("scores", (n_blocks, n_rows, width), "<f4")
        writer = ScoreFileWriter(dataset, n_prototypes)
        yield writer
        writer.finish()


class ScoreStore:
    """Scores of all runs on both splits, in files of a folder; files that exist are not computed again."""

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

    def open(self, run: ScorerRun, shards: ShardSet) -> ScoreFile:
        return ScoreFile(self._path(run, shards))

    def fill(self, runs: Sequence[ScorerRun]) -> None:
        """Score both splits with each run that has no scores yet, in one pass if the scorers fit into memory."""
        different = list({self._path(run, self._train): run for run in runs}.values())
        missing = [run for run in different if any(not self._path(run, s).exists() for s in self._splits)]
        if len(missing) < len(different):
            found = len(different) - len(missing)
            logger.info("scores of %d of %d scorers are already in %s", found, len(different), self._folder)
        for group in self._groups(missing):
            scorers = [_on(self._device, scorer) for _, scorer in group]
            for shards, what in ((self._train, "training images"), (self._test, "test images")):
                with ExitStack() as stack:
                    scorings = [
                        Scoring(run.layer, scorer, stack.enter_context(self._writer(run, scorer, shards)))
                        for (run, _), scorer in zip(group, scorers, strict=True)
                        if not self._path(run, shards).exists()
                    ]
                    if scorings:
                        score_shards(shards, scorings, self._pool, self._device, what)

    def scorer(self, run: ScorerRun) -> Scorer:
        """The scorer of a run: loaded from its file, or fitted and saved."""
        if run.spec.kind == "const":
            return Const()
        if run.spec.kind == "units":
            return Units(self._train.shape(run.layer)[1])
        if run.spec.given is not None:
            return copy.deepcopy(run.spec.given.scorer)  # it may move to another device
        if run.spec.kind == "file":
            return load_scorer(run.spec.path(run.seed)).scorer
        return load_scorer(self.scorer_path(run)).scorer

    def scorer_path(self, run: ScorerRun) -> Path:
        """The scorer file of a fitted scorer; fits it if the file does not exist."""
        path = self._folder / f"scorer-{run.identity}.h5"
        if not path.exists():
            logger.info("fitting %s on layer %d", run.spec.text, run.layer)
            scorer = fit(run.spec, self._train, run.layer, run.seed or 0, self._device)
            settings = {"spec": run.spec.text, "seed": run.seed}
            provenance = Provenance.of(SCORERS, "score-traits", settings, self._train.uids)
            n_patches, _ = self._train.shape(run.layer)
            tokens = 0 if run.spec.kind == UNTRAINED else self._train.n_images * n_patches
            trained_on = {**self._train.header.source(), "layer": run.layer, "tokens": tokens}
            save_scorer(path, TrainedScorer(run.spec.kind, scorer, provenance, trained_on))
        return path

    @property
    def _splits(self) -> tuple[ShardSet, ShardSet]:
        return self._train, self._test

    def _groups(self, runs: Sequence[ScorerRun]) -> Iterator[list[tuple[ScorerRun, Scorer]]]:
        """Runs with their scorers, in groups that take at most half of the memory."""
        group: list[tuple[ScorerRun, Scorer]] = []
        size = 0
        for run in runs:
            scorer = self.scorer(run)
            own = 8 * scorer.n_prototypes * self._train.shape(run.layer)[1]
            if group and size + own > self._memory // 2:
                yield group
                group, size = [], 0
            group.append((run, scorer))
            size += own
        if group:
            yield group

    def _writer(
        self, run: ScorerRun, scorer: Scorer, shards: ShardSet
    ) -> AbstractContextManager[ScoreFileWriter]:
        n_patches, _ = shards.shape(run.layer)
        n_rows = shards.n_images * (n_patches if self._pool is None else 1)
        settings = run.score_settings(shards, self._pool_name, self._device.type)
        shape = (n_rows, scorer.n_prototypes)
        return new_score_file(self._path(run, shards), shape, settings, shards.uids, self._memory // 8)

    def _path(self, run: ScorerRun, shards: ShardSet) -> Path:
        settings = run.score_settings(shards, self._pool_name, self._device.type)
        return self._folder / f"scores-{key_of(settings)}.h5"

    @property
    def _pool_name(self) -> str:
        return "patches" if self._pool is None else str(self._pool)


@dataclass(frozen=True)
class Scoring:
    """A scorer on the device, the layer it scores, and the file for its scores."""

    layer: int
    scorer: Scorer
    writer: ScoreFileWriter


def _on(device: torch.device, scorer: Any) -> Scorer:
    """The scorer on the device, where it can move."""
    return as_scorer(scorer.to(device) if hasattr(scorer, "to") else scorer)


def score_shards(
    shards: ShardSet, scorings: Sequence[Scoring], pool: Pool | None, device: torch.device, what: str
) -> None:
    """Score all images in order; pool None scores their patches. Each layer's activations are read once."""
    layers = sorted({scoring.layer for scoring in scorings})
    with ExitStack() as stack:
        stack.enter_context(float32_matmul())
        total = shards.n_images * len(scorings)
        progress = stack.enter_context(Progress(f"scoring {what}", total=total, unit="images"))
        for shard in shards.shards:
            for layer in layers:
                here = [scoring for scoring in scorings if scoring.layer == layer]
                _score_layer(shard, layer, here, pool, device, progress)


def _score_layer(
    shard: Shard,
    layer: int,
    scorings: Sequence[Scoring],
    pool: Pool | None,
    device: torch.device,
    progress: Progress,
) -> None:
    n_patches, d_model = shard.shape(layer)
    at_a_time = max(1, BLOCK_BYTES // (4 * n_patches * d_model))
    for start in range(0, shard.n_images, at_a_time):
        acts_npd = shard.patches(layer, start, start + at_a_time).to(device)
        for scoring in scorings:
            for scores_nk in _scores(scoring.scorer, acts_npd, pool):
                scoring.writer.append(scores_nk)
            progress.advance(len(acts_npd))


def _scores(scorer: Scorer, acts_npd: torch.Tensor, pool: Pool | None) -> Iterator[np.ndarray]:
    """Scores of the images, or patches, in order, a few at a time."""
    rows = acts_npd if pool is not None else acts_npd.reshape(-1, acts_npd.shape[2])
    for part in rows.split(max(1, BLOCK_BYTES // (4 * scorer.n_prototypes))):
        with torch.no_grad():
            scores_nk = scorer(part) if pool is None else pool_scores(scorer, part, pool)
        yield scores_nk.cpu().numpy()
