"""The scorer that was asked for: a file, or the model's own neurons."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from saetools.errors import UsageError, near_names
from saetools.sae import SAE
from saetools.scorer_file import ScorerFile, load_scorer
from saetools.scorer_inputs import check_scorer_fits
from saetools.scorers import Linear, Units
from saetools.shard_reader import Shard

UNITS = "units"


@dataclass(frozen=True)
class ScorerChoice:
    """A scorer file at `path`, or `units` where there is none."""

    path: Path | None
    file: ScorerFile | None

    @property
    def kind(self) -> str:
        return UNITS if self.file is None else self.file.kind

    @property
    def uid(self) -> str:
        """What the latents say they were made by."""
        return UNITS if self.file is None else self.file.provenance.uid

    def scorer_for(self, shard: Shard, layer: int) -> SAE | Linear | Units:
        """The scorer; raises UserError where it was not made from activations like the shard's."""
        if self.file is None or self.path is None:
            return Units(shard.shape(layer)[1])
        check_scorer_fits(self.file, self.path, shard, layer)
        return self.file.scorer


def choose_scorer(text: str) -> ScorerChoice:
    """`units`, or the path of a scorer file; raises UserError."""
    if text == UNITS:
        return ScorerChoice(None, None)
    if near_names(text, [UNITS]) and not Path(text).exists():
        raise UsageError(f"--scorer {text}: expected a scorer file, or {UNITS}")
    return ScorerChoice(Path(text), load_scorer(Path(text)))
