"""One run of fit-probes: files that exist already are kept, the others are fitted, tested and written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fit_probes.evaluation import evaluate
from fit_probes.probe_file import NAME, PAIRS, Probes, find_parts, load_probes, part_name, save_probes
from fit_probes.solver import fit_probes
from fit_probes.tables import choose, class_table, latent_table, render_classes, render_summary, summary_table
from saetools.cli.progress import Progress
from saetools.cli.slices import WHOLE, Slice
from saetools.errors import UserError, some_of
from saetools.files.formats import LATENT_TABLE, PROBE_SUMMARY, PROBE_TABLE, PROBES, Format
from saetools.files.provenance import Provenance
from saetools.files.reuse import read_reusable, writing
from saetools.files.tables import write_csv
from saetools.labels.splits import PATCH, TARGET, LabelledSplits, choose_tau, read_labels
from saetools.labels.tables import FAIL, trait_table_digest
from saetools.latents.columns import Columns
from saetools.latents.reader import LatentsSet, check_splits
from saetools.log import logger

TABLES = {"probes.csv": PROBE_TABLE, "latents.csv": LATENT_TABLE, "summary.csv": PROBE_SUMMARY}


@dataclass(frozen=True)
class ProbeSettings:
    """labels: patch, target, or the path of a table; tau: None for the default of `choose_tau`; ignore, ridge and
    missing_rows as the command's options; class_names: of the labels 0, 1, ..."""

    labels: str
    ignore: list[int]
    ridge: float
    tau: float | None
    missing_rows: str | None = None
    class_names: Sequence[str] = ()


@dataclass(frozen=True)
class Resources:
    """memory: bytes for the latents' values; folder: for values that do not fit; device, threads: of the solver."""

    memory: int
    folder: Path
    device: str
    threads: int


class ProbeRun:
    """Fits on the latents of one split and tests on another; raises UserError where they do not belong together."""

    def __init__(
        self,
        train: LatentsSet,
        test: LatentsSet,
        settings: ProbeSettings,
        out: Path,
        memory: int,
        device: str,
        threads: int,
    ) -> None:
        check_splits(train, test)
        self.train, self.test, self.settings, self.out = train, test, settings, out
        self.splits: LabelledSplits = read_labels(
            settings.labels, train, test, settings.ignore, settings.missing_rows, settings.class_names
        )
        if not self.splits.train.keep.any():
            raise UserError(
                f"{train.files[0].path}: no training row has a label that is not ignored; give others as `train`"
            )
        self._tau = choose_tau(settings.tau, self.splits)
        self._memory, self._device, self._threads = memory, device, threads

    def run_part(self, part: Slice) -> Iterator[Path]:
        """Fit part I of N of the classes into a file of its own."""
        path = self.out / part_name(part)
        wanted = self._provenance(PROBES, part)
        with self._writing():
            if path.exists():
                load_probes(path, wanted)
            else:
                save_probes(path, self._fit(part), wanted)
            yield path

    def run_all(self) -> Iterator[Path]:
        """Fit all classes, or merge the parts that exist; then test, and write the tables."""
        with self._writing():
            yield from self._run_all()

    def _writing(self) -> AbstractContextManager[None]:
        settings = {**self._identity, "tau": self._tau}
        return writing(self.out, settings, [*self.train.uids, *self.test.uids], folder=True)

    def _run_all(self) -> Iterator[Path]:
        path = self.out / NAME
        wanted = self._provenance(PROBES, WHOLE)
        if path.exists():
            _, probes = load_probes(path, wanted)
        else:
            probes = self._merge(find_parts(self.out)) or self._fit(WHOLE)
            save_probes(path, probes, wanted)
        yield path
        targets = {name: self.out / name for name in TABLES}
        expected = {name: self._table_provenance(name) for name in TABLES}
        there = {name: read_reusable(targets[name], TABLES[name], expected[name]) for name in TABLES}
        tables = {name: table for name, table in there.items() if table is not None}
        if len(tables) < len(TABLES):
            tables = self._tables(probes)
            for name, table in tables.items():
                write_csv(targets[name], table, expected[name])
        logger.info("%s", render_summary(tables["summary.csv"]))
        yield from targets.values()
        logger.info("%s", render_classes(tables["probes.csv"], self._tau))

    def _fit(self, part: Slice) -> Probes:
        classes = np.arange(*part.bounds(len(self.splits.names)))
        resources = Resources(self._memory, self.out, self._device, self._threads)
        probes = fit_classes(self.train, self.splits, classes, self.settings.ridge, resources)
        if not probes.converged.all():
            logger.info("%d of %d probes did not converge", (~probes.converged).sum(), probes.converged.size)
        return probes

    def _merge(self, parts: list[Path]) -> Probes | None:
        if not parts:
            return None
        probes = Probes.empty(self.train.n_latents, self.splits.names)
        for number, path in enumerate(parts, start=1):
            part = Slice(number, len(parts))
            _, found = load_probes(path, self._provenance(PROBES, part))
            probes.set_classes(np.arange(*part.bounds(len(self.splits.names))), found)
        return probes

    def _tables(self, probes: Probes) -> dict[str, pd.DataFrame]:
        choice, labels = choose(probes), self.splits.test
        with Columns(self.test.files, labels.keep, self.splits.pooled, self._memory, self.out) as columns:
            found = evaluate(labels, choice, columns.blocks(), self._threads)
        classes = class_table(probes, choice, found.classes, labels)
        latents = latent_table(probes, choice, found.latents)
        self._report_absent(classes)
        header = self.train.header
        what: dict[str, object] = {
            "scorer": header.kind,
            "model": header.source.get("model"),
            "layer": header.layer,
        }
        summary = summary_table(what, classes, latents, probes, self._tau)
        return {"probes.csv": classes, "latents.csv": latents, "summary.csv": summary}

    def _report_absent(self, classes: pd.DataFrame) -> None:
        for column, split in (("n_pos_train", "training"), ("n_pos", "test")):
            absent = classes["class"][classes[column] == 0].tolist()
            if absent:
                logger.info(
                    "%d of %d classes have no positive row in the %s latents: %s",
                    *(len(absent), len(classes), split, some_of(absent, 10)),
                )

    def _provenance(self, format: Format, part: Slice) -> Provenance:
        settings = {**self._identity, "classes": str(part)}
        return Provenance.of(format, "fit-probes", settings, [*self.train.uids, *self.test.uids])

    def _table_provenance(self, name: str) -> Provenance:
        header = self.train.header
        settings = {**self._identity, "tau": self._tau, "scorer": header.scorer, "kind": header.kind}
        return Provenance.of(TABLES[name], "fit-probes", settings, [*self.train.uids, *self.test.uids])

    @cached_property
    def _identity(self) -> dict[str, object]:
        """The settings that decide the probes; a table of labels is identified by its contents, not its name."""
        labels = self.settings.labels
        if labels not in (PATCH, TARGET):
            labels = trait_table_digest(Path(labels))
        plain = {**asdict(self.settings), "labels": labels, "ignore": sorted(self.settings.ignore)}
        del plain["tau"]
        if self.settings.missing_rows in (None, FAIL):  # as in files of versions without it
            del plain["missing_rows"]
        if not self.settings.class_names:
            del plain["class_names"]
        return plain


def fit_classes(
    train: LatentsSet,
    splits: LabelledSplits,
    classes: npt.NDArray[np.int64],
    ridge: float,
    resources: Resources,
) -> Probes:
    """The probes of all latents for some classes, given by their positions in `splits.names`."""
    labels = splits.train
    probes = Probes.empty(train.n_latents, [splits.names[c] for c in classes])
    groups = labels.groups(classes)
    for positions, of_group in groups:
        prior_c, _, prior_loss_c = of_group.prior()
        probes.prior[positions], probes.prior_loss[positions] = prior_c, prior_loss_c
    probes.n_positives[:] = labels.positives[classes]
    with (
        Columns(train.files, labels.keep, splits.pooled, resources.memory, resources.folder) as columns,
        Progress("fitting", total=train.n_latents, unit="latents") as progress,
    ):
        for first, latents in columns.blocks():
            here = slice(first, first + latents.n_latents)
            for positions, of_group in groups:
                fit = fit_probes(
                    latents, of_group, ridge=ridge, threads=resources.threads, device=resources.device
                )
                for name in PAIRS:
                    getattr(probes, name)[here, positions] = getattr(fit, name)
            progress.advance(latents.n_latents)
    return probes
