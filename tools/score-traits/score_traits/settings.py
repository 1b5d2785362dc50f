"""What is asked of score-traits beside the scorers and the traits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ScoringSettings:
    """What is asked for beside the scorers.

    layers:    of the shards, ascending or not
    n_train:   numbers of training images; None for all
    pool:      as in saetools.metrics.pooling; of no meaning for patch traits
    seeds:     one repeat each
    bootstrap: resamples of the test images; 0 for none
    bootstrap_by: what is drawn, `image` or `class` (all test images of one)
    null:      shuffles of the training labels; 0 for none
    memory:    bytes that scores may take in memory at a time
    """

    layers: Sequence[int]
    n_train: Sequence[int | None]
    pool: str
    seeds: Sequence[int]
    bootstrap: int
    bootstrap_by: str
    null: int
    memory: int

    def plain(self) -> dict[str, Any]:
        """What decides the table, as JSON."""
        names = ("layers", "n_train", "pool", "seeds", "bootstrap", "bootstrap_by", "null")
        values = {name: getattr(self, name) for name in names}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
