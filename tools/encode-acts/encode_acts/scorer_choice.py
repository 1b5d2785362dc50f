"""The scorer of `--scorer`: a file, or the model's own neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from encode_acts.triangle import Triangle
from saetools.errors import UsageError, near_names
from saetools.latents.header import SCORE, TRIANGLE
from saetools.scorers.baselines import Linear, Nearest, Units
from saetools.scorers.compatibility import check_scorer_fits, trained_on_these
from saetools.scorers.file import load_scorer
from saetools.scorers.record import TrainedScorer
from saetools.scorers.sae import SAE
from saetools.shards.reader import Shard

UNITS = "units"


@dataclass(frozen=True)
class ScorerChoice:
    """A scorer file at `path`; both are None for `units`, the model's own neurons."""

    path: Path | None
    file: TrainedScorer | None

    @property
    def kind(self) -> str:
        """That of the file; `untrained` for an SAE before its training (train-sae --tokens 0), which is a control."""
        if self.file is None:
            return UNITS
        seen = self.file.trained_on.get("tokens")
        return "untrained" if self.file.kind == "sae" and seen == 0 else self.file.kind

    @property
    def uid(self) -> str:
        """The scorer's uid in the header of the latents."""
        return UNITS if self.file is None else self.file.provenance.uid

    @property
    def code(self) -> str:
        """What the values of its latents mean, see `LatentsHeader.code`."""
        return TRIANGLE if self.file is not None and isinstance(self.file.scorer, Nearest) else SCORE

    @property
    def has_negative_values(self) -> bool:
        """Whether values can be negative, so that a latent that is not stored, read as 0, exceeds stored ones."""
        return self.file is None or not (isinstance(self.file.scorer, SAE) or self.code == TRIANGLE)

    def was_trained_on(self, shard: Shard) -> bool | None:
        """Whether the scorer was trained on this shard; None where its file does not record that."""
        return False if self.file is None else trained_on_these(self.file, [shard.provenance.uid])

    def scorer_for(self, shard: Shard, layer: int) -> SAE | Linear | Units | Triangle:
        """The scorer as a function; raises UserError where the model or layer of the shard is another than its own."""
        if self.file is None or self.path is None:
            return Units(shard.shape(layer)[1])
        check_scorer_fits(self.file, self.path, shard, layer)
        scorer = self.file.scorer
        assert isinstance(scorer, SAE | Linear)
        return Triangle(scorer.vectors) if isinstance(scorer, Nearest) else scorer

    def check_what_is_kept(self, threshold: float, top: int | None) -> None:
        """Raise UsageError where only some negative values would be kept: the others are read as 0, which is higher."""
        text = f"--threshold={threshold:g}"
        if threshold >= 0:
            return
        if self.code == TRIANGLE:
            raise UsageError(
                f"{text}: latents of k-means are never negative (mean distance minus distance, 0 where far);"
                " leave it out; --top 1 alone keeps the nearest centroid"
            )
        if not self.has_negative_values:
            return
        if threshold > -math.inf:
            raise UsageError(
                f"{text}: it keeps only some negative values, and the others would be read as 0, which is higher;"
                " keep all with --threshold=-inf, or none with --threshold 0"
            )
        if top is not None:
            raise UsageError(
                f"{text} --top {top}: it keeps only some negative values, and the others would be read as 0, which is"
                " higher; leave out --top, or keep the largest positive values with --threshold 0"
            )


def choose_scorer(text: str) -> ScorerChoice:
    """`units`, or the path of a scorer file; raises UserError."""
    if text == UNITS:
        return ScorerChoice(None, None)
    if near_names(text, [UNITS]) and not Path(text).exists():
        raise UsageError(f"--scorer {text}: expected a scorer file, or {UNITS}")
    return ScorerChoice(Path(text), load_scorer(Path(text)))
