"""Scorers give every activation one number per prototype; the larger, the more of it.

An SAE's latents are its scores (`saetools.scorers.sae`); here are the baselines that it must beat.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch


class Scorer(Protocol):
    """float32 [B, D] -> float32 [B, K], every activation scored on its own."""

    def __call__(self, activations: torch.Tensor) -> torch.Tensor: ...

    @property
    def n_prototypes(self) -> int: ...


class Const:
    """One prototype that scores everything alike: its AP is the trait's prevalence, by definition.

    If the mAP of `const` is high, the labels were parsed wrongly.
    """

    n_prototypes = 1

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        return activations.new_zeros(len(activations), 1)

    def to(self, device: torch.device) -> Const:  # noqa: ARG002 (as the others have it)
        return self


class Units:
    """The model's own neurons: prototype k scores by dimension k of the activation."""

    def __init__(self, d_model: int) -> None:
        self.n_prototypes = d_model

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        return activations

    def to(self, device: torch.device) -> Units:  # noqa: ARG002 (as the others have it)
        return self


class Linear:
    """Scores by inner product: x @ vectors.T + bias, for vectors {K, D} and bias {K} (default 0)."""

    def __init__(self, vectors: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.vectors = vectors
        self.bias = vectors.new_zeros(len(vectors)) if bias is None else bias
        self._has_bias = bool(self.bias.any())

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        return self.score_into(activations, activations.new_empty(len(activations), len(self.vectors)))

    def score_into(self, activations: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """The same into `out` {B, K}, which callers use again: the pages of fresh memory cost time."""
        torch.mm(activations, self.vectors.T, out=out)
        return out.add_(self.bias) if self._has_bias else out

    def to(self, device: torch.device) -> Linear:
        return Linear(self.vectors.to(device), self.bias.to(device))

    @property
    def n_prototypes(self) -> int:
        return len(self.vectors)

    @property
    def d_model(self) -> int:
        return self.vectors.shape[1]

    def contents(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What a scorer file holds of it: attributes, and float32 tensors by name."""
        return {}, {"vectors": self.vectors, "bias": self.bias}


def both_signs(scorer: Linear) -> Linear:
    """Every direction with both signs: of K prototypes 2 K, where prototype K + k scores minus what k does."""
    return Linear(torch.cat([scorer.vectors, -scorer.vectors]), torch.cat([scorer.bias, -scorer.bias]))


class Nearest(Linear):
    """Scores by nearness: -|x - v|^2 = 2 x . v - |v|^2 - |x|^2, for vectors v {K, D}; its bias is -|v|^2.

    For one activation the order is that of x . v - |v|^2 / 2; between activations, as when the patches of an
    image are pooled, |x|^2 counts, and a long activation is near to nothing.
    """

    def __init__(self, vectors: torch.Tensor) -> None:
        super().__init__(vectors, -vectors.square().sum(1))

    def score_into(self, activations: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        torch.addmm(self.bias, activations, self.vectors.T, alpha=2, out=out)
        return out.sub_(activations.square().sum(1, keepdim=True))

    def to(self, device: torch.device) -> Nearest:
        return Nearest(self.vectors.to(device))
