"""Where scores lie while a table is made."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def score_folder(cache: Path | None) -> Iterator[Path]:
    """The cache, or a temporary folder ($TMPDIR decides where) that goes with the block."""
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="score-traits-") as folder:
        yield Path(folder)
