"""Which latents to draw."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from render_visuals.csv_tables import LATENT_TABLES, check_made_from, read_table, rows_of_latents
from render_visuals.survey import Survey
from saetools.errors import UserError
from saetools.latents.header import LatentsHeader


@dataclass(frozen=True)
class Choice:
    """The latents by number, those of `table` where it is given, or so many drawn at random of those within ranges.

    log_frequency, log_value: (least, most) of log10 of the share of patches and of the mean value.
    """

    latents: list[int] | None = None
    table: Path | None = None
    n_random: int | None = None
    log_frequency: tuple[float, float] = (-np.inf, np.inf)
    log_value: tuple[float, float] = (-np.inf, np.inf)
    seed: int = 0

    def of(self, survey: Survey) -> list[int]:
        """The chosen latents, none twice, in their order; raises UserError where there is no such latent."""
        n_latents = len(survey.count_k)
        if self.latents is not None:
            return checked_latents(self.latents, n_latents, str(self.table or "--latents"))
        return self._random(survey)

    def _random(self, survey: Survey) -> list[int]:
        with np.errstate(divide="ignore"):
            frequency_k, value_k = np.log10(survey.frequency_k), np.log10(survey.mean_k)
        fits_k = survey.count_k > 0
        for values_k, (least, most) in ((frequency_k, self.log_frequency), (value_k, self.log_value)):
            fits_k &= (values_k >= least) & (values_k <= most)
        among = np.flatnonzero(fits_k)
        if not len(among):
            fired = survey.count_k > 0
            seen = (
                f"the {int(fired.sum()):,} that fire have log10 frequencies from {frequency_k[fired].min():.2f} to"
                f" {frequency_k[fired].max():.2f} and log10 mean values from {value_k[fired].min():.2f} to"
                f" {value_k[fired].max():.2f}"
                if fired.any()
                else "no latent fires at all"
            )
            raise UserError(f"--random: no latent is within the ranges; {seen}")
        drawn = np.random.default_rng(self.seed).permutation(among)[: self.n_random]
        return sorted(int(latent) for latent in drawn)


def latents_of_table(path: Path, header: LatentsHeader) -> list[int]:
    """The numbers in a table's column `latent` (latents.csv, probes.csv, index.csv) or `prototype` (AP table).

    Of an AP table those rows count that are of the latents' scorer. Raises UserError where none is, or where the table
    was made with another scorer.
    """
    table, provenance = read_table(path, LATENT_TABLES)
    check_made_from(path, provenance, header)
    if {"scorer", "prototype"} <= set(table.columns):
        table = rows_of_latents(path, table, header)
    column = next((name for name in ("latent", "prototype") if name in table.columns), None)
    if column is None:
        near = difflib.get_close_matches("latent", list(table.columns), n=1)
        hint = f" (there is {near[0]!r})" if near else ""
        raise UserError(
            f"{path}: it has no column 'latent' or 'prototype'{hint}; give latents.csv, probes.csv or an AP table"
        )
    numbers = table[column].dropna()
    try:
        return [int(number) for number in numbers]
    except ValueError as error:
        raise UserError(
            f"{path}: the column {column!r} holds {error.args[0]!r}, expected numbers of latents"
        ) from error


def checked_latents(numbers: list[int], n_latents: int, where: str) -> list[int]:
    """Without repetitions; raises UserError, naming `where`, for a number that no latent has."""
    wrong = [number for number in numbers if not 0 <= number < n_latents]
    if wrong:
        listed = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
        raise UserError(
            f"{where}: there is no latent {listed}; these latents have the numbers 0 to {n_latents - 1}"
        )
    if not numbers:
        raise UserError(f"{where}: it names no latent")
    return list(dict.fromkeys(numbers))
