"""One run of audit-latents: rank on K, audit on H, bootstrap and null distribution, write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
import pandas as pd

from audit_latents.audit import Patches, audit, bootstrap
from audit_latents.ranking import Design, columns_of, rank
from audit_latents.report import YieldInput, ranking_table, render, render_found, yield_table
from saetools.cli.progress import Progress
from saetools.compute.threads import share_out
from saetools.errors import UserError, near_names
from saetools.files.formats import LATENT_RANKING, YIELD, Format
from saetools.files.provenance import Provenance
from saetools.files.reuse import read_reusable, writing
from saetools.files.tables import write_csv
from saetools.labels.splits import PATCH, TARGET, LabelledSplits, choose_tau, read_labels
from saetools.labels.tables import FAIL, trait_table_digest
from saetools.latents.block import Latents
from saetools.latents.columns import Columns
from saetools.latents.reader import LatentsSet, check_splits
from saetools.log import logger

TABLES = {"ranking.csv": LATENT_RANKING, "yield.csv": YIELD}


@dataclass(frozen=True)
class AuditSettings:
    """labels: K, target or the path of a table; trait: only this one of K; ignore: of H; tau: None for the
    default of `choose_tau`; resamples and permutations: of the bootstrap and the null; missing_rows: of K's table;
    class_names: of the patch labels 0, 1, ..."""

    labels: str
    trait: str | None
    ignore: list[int]
    budgets: list[int]
    tau: float | None
    resamples: int
    permutations: int
    seed: int
    missing_rows: str | None = None
    class_names: Sequence[str] = ()


def run_audit(
    train: LatentsSet, test: LatentsSet, settings: AuditSettings, out: Path, memory: int, threads: int
) -> Iterator[Path]:
    """Write the tables, or keep them where all exist, and yield their paths; raises UserError."""
    check_splits(train, test)
    held = read_labels(PATCH, test, test, settings.ignore, class_names=settings.class_names)
    if np.count_nonzero(held.test.positives) < 2:
        raise UserError(
            f"{test.files[0].path}: its patches have only one label that is not ignored, so that every latent finds it;"
            " use latents with several labels, or ignore fewer with `ignore`"
        )
    tau = choose_tau(settings.tau, held)
    settings = replace(settings, tau=tau)
    paths = {name: out / name for name in TABLES}
    wanted = {name: _provenance(format, train, test, settings) for name, format in TABLES.items()}
    one = next(iter(wanted.values()))
    with writing(out, one.settings, one.parents, folder=True):
        there = {name: read_reusable(path, TABLES[name], wanted[name]) for name, path in paths.items()}
        tables = {name: table for name, table in there.items() if table is not None}
        if len(tables) < len(paths):
            tables = _tables(train, test, held, settings, out, memory, threads)
            for name, table in tables.items():
                write_csv(paths[name], table, wanted[name])
        logger.info("%s", render(tables["yield.csv"], tau))
        yield from paths.values()
        logger.info("%s", render_found(tables["yield.csv"], tables["ranking.csv"], tau))


def _tables(
    train: LatentsSet,
    test: LatentsSet,
    held: LabelledSplits,
    settings: AuditSettings,
    out: Path,
    memory: int,
    threads: int,
) -> dict[str, pd.DataFrame]:
    tau = settings.tau
    assert held.test.ids is not None and tau is not None
    patches = Patches(held.test.ids, test.n_patches, len(held.names))
    asked = read_labels(settings.labels, train, train, missing_rows=settings.missing_rows)
    names, y_nc, keep_n = _labels(asked.names, *columns_of(asked.train), settings.trait)
    n_proposals = max(settings.budgets)
    design = Design(_whole(train, keep_n, memory, out))
    # One progress bar for the labels and all shuffles, so that it shows the time that is left for both.
    with Progress("ranking", total=len(names) * (1 + settings.permutations), unit="paths") as progress:
        ranking = rank(design, y_nc[keep_n], n_proposals, progress.advance)
        if not len(ranking.latent):
            raise UserError(
                f"{settings.labels}: no latent tells its labels apart on the training images; nothing to audit"
            )
        shuffled = shuffled_rankings(design, y_nc[keep_n], n_proposals, settings, threads, progress)

    with Columns(test.files, held.test.keep, False, memory, out) as columns:
        audited = audit(columns.blocks(), test.n_latents, patches, set(map(int, ranking.latent)), threads)
    good_k = audited.best_ap >= tau
    rng = np.random.default_rng([settings.seed, 1])
    null = np.zeros((len(shuffled), n_proposals), bool)
    for row, latents in zip(null, shuffled, strict=True):
        row[: len(latents)] = good_k[latents]
    given = YieldInput(
        good_k[ranking.latent],
        bootstrap(audited, ranking.latent, patches, tau, settings.resamples, rng, threads),
        null,
        float(good_k.mean()),
        len(good_k),
    )
    table = ranking_table(ranking, audited, names, held.names, tau)
    return {"ranking.csv": table, "yield.csv": yield_table(given, table, settings.budgets)}


def _labels(
    names: list[str], y_nc: np.ndarray, known_nc: np.ndarray, trait: str | None
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, y {N, C}, and the images for which all requested labels are known {N}."""
    if trait is not None:
        if trait not in names:
            raise UserError(f"`trait` {trait}: the labels have no such trait{near_names(trait, names)}")
        column = names.index(trait)
        names, y_nc, known_nc = [trait], y_nc[:, [column]], known_nc[:, [column]]
    keep_n = np.asarray(known_nc.all(axis=1))
    if not keep_n.any():
        raise UserError(
            "`labels`: no training image has all of them; choose one with `trait`, or complete the table"
        )
    return names, y_nc, keep_n


def _whole(train: LatentsSet, keep_n: np.ndarray, memory: int, folder: Path) -> Latents:
    """The largest value of every latent in the kept images, those numbered from 0."""
    number_n = np.cumsum(keep_n) - 1
    with Columns(train.files, keep_n, True, memory, folder) as columns:
        blocks = [block for _, block in columns.blocks()]
    sizes = np.concatenate([np.diff(block.indptr) for block in blocks])
    rows = np.concatenate([block.rows for block in blocks])
    values = np.concatenate([block.values for block in blocks])
    return Latents(np.concatenate([[0], np.cumsum(sizes)]), number_n[rows], values, int(keep_n.sum()))


def shuffled_rankings(
    design: Design,
    y_nc: np.ndarray,
    n_proposals: int,
    settings: AuditSettings,
    threads: int,
    progress: Progress,
) -> list[np.ndarray]:
    """The latents {R} of each permutation's ranking; of the shuffles themselves only those at work are in memory."""
    rng = np.random.default_rng([settings.seed, 0])
    drawing = Lock()

    def advance(count: int) -> None:
        with drawing:
            progress.advance(count)

    found: dict[int, np.ndarray] = {}
    while len(found) < settings.permutations:
        first = len(found)
        orders = [rng.permutation(len(y_nc)) for _ in range(min(4 * threads, settings.permutations - first))]

        def run(start: int, stop: int, first: int = first, orders: list[np.ndarray] = orders) -> None:
            for i in range(start, stop):
                found[first + i] = rank(design, y_nc[orders[i]], n_proposals, advance).latent

        share_out(len(orders), 1, threads, run)
    return [found[i] for i in range(settings.permutations)]


def _provenance(format: Format, train: LatentsSet, test: LatentsSet, settings: AuditSettings) -> Provenance:
    digest = settings.labels if settings.labels == TARGET else trait_table_digest(Path(settings.labels))
    header = train.header
    plain = {**asdict(settings), "labels": digest, "scorer": header.scorer, "kind": header.kind}
    if settings.missing_rows in (None, FAIL):  # as in tables of versions without it
        del plain["missing_rows"]
    if not settings.class_names:
        del plain["class_names"]
    return Provenance.of(format, "audit-latents", plain, [*train.uids, *test.uids])
