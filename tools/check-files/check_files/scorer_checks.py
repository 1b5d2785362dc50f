"""Scorer files."""

from __future__ import annotations

from pathlib import Path

from check_files.facts import Facts
from saetools.scorers.file import load_scorer


def check_scorer(path: Path, deep: bool) -> Facts:  # noqa: ARG001
    """Everything a reader needs, sizes, NaN: a scorer is small, so always all of it."""
    found = load_scorer(path)
    trained_on = {name: found.trained_on.get(name) for name in ("model", "weights", "hook", "preprocess")}
    source = trained_on if all(value is not None for value in trained_on.values()) else {}
    summary = f"scorer of kind {found.kind}, {found.scorer.n_prototypes} prototypes of width {found.d_model}"
    return Facts(summary, found.provenance.uid, found.provenance.parents, source)
