"""CSV tables as input of pictures and plots: ours, with their sidecars, and tables of the user's own."""

from __future__ import annotations

import difflib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from saetools.errors import UserError, some_of
from saetools.files.ap_tables import rows_of_scorer, scorer_files, shortest_end
from saetools.files.formats import (
    AP_TABLE,
    LATENT_PICTURES,
    LATENT_RANKING,
    LATENT_TABLE,
    PROBE_TABLE,
    Format,
)
from saetools.files.provenance import Provenance
from saetools.files.tables import read_csv, sidecar_path, sidecar_values
from saetools.files.user_csv import numbers_of, read_user_csv, whole_numbers
from saetools.latents.header import LatentsHeader
from saetools.log import logger

if TYPE_CHECKING:
    import pandas as pd

LATENT_TABLES = (LATENT_TABLE, PROBE_TABLE, AP_TABLE, LATENT_RANKING, LATENT_PICTURES)
# Columns by which tables of traits and of classes are recognised
TRAITS, CLASSES = {"trait", "prototype", "ap"}, {"class", "latent", "ap", "r"}
# Columns that plots and pages compute with
NUMBERS = {
    *(
        "latent",
        "prototype",
        "frequency",
        "mean",
        "mean_value",
        "ap",
        "r",
        "prevalence",
        "n_train",
        "n_prototypes",
    ),
    *("layer", "l0", "mse", "nmse", "nmse_standardized", "eval_l0", "eval_mse", "eval_nmse"),
    *("eval_nmse_standardized", "tokens", "loss", "dead", "lr", "seed"),
}
# A table with all columns of one of these sets is ours, so its sidecar is missing. Collected runs on stdout and notes
# exported from a page, which have no sidecar, have none of the sets.
MARKS = (
    {"trait", "prototype"},  # AP table
    {"tokens", "eval_nmse"},  # training metrics
    {"latent", "baseline_loss"},  # probe table
    {"latent", "mean_value", "train_r"},  # latent table
    {"latent", "picture"},  # pictures of latents
    {"latent", "control", "relative_change"},  # effects of edits
)


def read_table(path: Path, formats: Sequence[Format]) -> tuple[pd.DataFrame, Provenance | None]:
    """A table of one of these formats and its provenance, or a table of the user's own, which has none.

    Raises UserError where it is broken, or has no rows.
    """
    if sidecar_path(path).is_file():
        table, provenance = read_csv(path, formats)
        _check_rows(path, table)
        for name in NUMBERS & set(
            table.columns
        ):  # text only in tables of earlier versions, without a SHA-256
            table[name] = (
                numbers_of(path, table[name]) if table[name].dtype.kind not in "biuf" else table[name]
            )
        return table, provenance
    table = read_own(path)
    if any(mark <= set(table.columns) for mark in MARKS):
        sidecar_values(path)  # raises: the sidecar is missing
    for name in NUMBERS & set(table.columns):
        table[name] = numbers_of(path, table[name]) if table[name].dtype.kind not in "iu" else table[name]
    return table, None


def check_made_from(path: Path, provenance: Provenance | None, header: LatentsHeader) -> None:
    """Raise UserError where the provenance of a table names another scorer than that of the latents."""
    settings = provenance.settings if provenance is not None else {}
    scorer = settings.get("scorer")
    # In older tables without `kind`, `scorer` may be a kind in place of a uid
    named = isinstance(scorer, str) and ("kind" in settings or len(scorer) == 32)
    if named and scorer != header.scorer:
        raise UserError(
            f"{path}: made with the scorer {scorer}, but the latents with {header.scorer};"
            " give tables and latents of one scorer"
        )


def rows_of_latents(
    path: Path, table: pd.DataFrame, header: LatentsHeader, scorer: Path | None = None, quiet: bool = False
) -> pd.DataFrame:
    """The rows of an AP table that belong to the latents' scorer; else raises UserError.

    scorer: its file; quiet: do not say how many rows are left out.
    """
    mine = rows_of_scorer(
        path,
        table,
        uid=header.scorer,
        kind=header.kind,
        n_prototypes=header.n_latents,
        layer=header.layer,
        file=scorer,
    )
    if scorer_files(path) is None and "checkpoint" in mine and mine["checkpoint"].notna().any():
        logger.warning(
            "%s: an earlier version wrote it, without the uids of its scorers: that these rows are of %s is known by"
            " kind, size and layer only; score the file again to be sure",
            *(path, mine["checkpoint"].dropna().iloc[0]),
        )
    if len(mine) < len(table) and not quiet:
        logger.info(
            "%s: %d of %d rows belong to the scorer of these latents; the others are left out",
            *(path, len(mine), len(table)),
        )
    return mine


def short_names(paths: Sequence[Path]) -> list[str]:
    """The names of tables: without endings, and with as many folders as it takes to tell them apart."""
    plain = [str(path.with_name(path.name.removesuffix(".csv").removesuffix(".metrics"))) for path in paths]
    return [shortest_end(one, set(plain)) for one in plain]


def read_own(path: Path) -> pd.DataFrame:
    """A CSV of any origin; raises UserError where it is not a CSV, or has no rows."""
    import pandas as pd

    found = read_user_csv(path, "a CSV table with a header")
    try:
        return pd.read_csv(
            io.StringIO(found.text, newline=""), sep=found.separator, decimal=found.decimal, index_col=False
        )
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise UserError(f"{path}: it is not a CSV table ({str(error).strip()})") from error


def _check_rows(path: Path, table: pd.DataFrame) -> None:
    if not len(table):
        raise UserError(f"{path}: it has a header but no rows")


def latents_of_table(path: Path, header: LatentsHeader, quiet: bool = False) -> list[int]:
    """The latents in a table's column `latent` (latents.csv, probes.csv, index.csv) or `prototype` (AP table).

    From an AP table, only the rows of the latents' scorer are taken; quiet: without saying so. Raises UserError if
    there are none, or if the table was made with another scorer.
    """
    table, provenance = read_table(path, LATENT_TABLES)
    check_made_from(path, provenance, header)
    if {"scorer", "prototype"} <= set(table.columns):
        table = rows_of_latents(path, table, header, quiet=quiet)
    column = next((name for name in ("latent", "prototype") if name in table.columns), None)
    if column is None:
        near = difflib.get_close_matches("latent", list(table.columns), n=1)
        hint = f" (there is {near[0]!r})" if near else ""
        raise UserError(
            f"{path}: it has no column 'latent' or 'prototype'{hint}; give latents.csv, probes.csv or an AP table"
        )
    return whole_numbers(path, table[column].dropna()).tolist()


def check_latent_numbers(numbers: list[int], n_latents: int, where: str) -> list[int]:
    """The numbers without repetitions; raises UserError for one that is no latent. where: their source, for errors."""
    wrong = [number for number in numbers if not 0 <= number < n_latents]
    if wrong:
        raise UserError(
            f"{where}: there is no latent {some_of(wrong, 5)}; latents are numbered 0 to {n_latents - 1}"
        )
    if not numbers:
        raise UserError(f"{where}: it lists no latent")
    return list(dict.fromkeys(numbers))
