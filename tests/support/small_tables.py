"""CSV tables of ours that tests write themselves."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from saetools.files.formats import Format
from saetools.files.provenance import Provenance
from saetools.files.tables import write_csv


def write_table(path: Path, table: pd.DataFrame, format: Format) -> Path:
    """A table with its sidecar, as of the tool that makes this format, without settings; returns its path."""
    write_csv(path, table, Provenance.of(format, format.made_by, {}))
    return path
