"""A scorer with all that is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from saetools.files.provenance import Provenance
from saetools.scorers.baselines import Linear
from saetools.scorers.sae import SAE


@dataclass(frozen=True)
class TrainedScorer:
    """A scorer and what is known of it.

    kind: one of saetools.scorers.file.SAE_KINDS and LINEAR_KINDS
    trained_on: model, weights, hook, preprocess, layer, and the number of tokens seen
    evaluation: l0, mse, nmse, explained_variance, dead, dense, n_tokens (of an SAE)
    frequency_s {S}: share of the evaluation's tokens on which each latent fired; mean_value_s {S}: its mean value there
    """

    kind: str
    scorer: SAE | Linear
    provenance: Provenance
    trained_on: Mapping[str, Any]
    evaluation: Mapping[str, float] = field(default_factory=dict)
    frequency_s: torch.Tensor | None = None
    mean_value_s: torch.Tensor | None = None

    @property
    def d_model(self) -> int:
        return self.scorer.config.d_model if isinstance(self.scorer, SAE) else self.scorer.d_model
