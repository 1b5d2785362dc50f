"""Scorers give every activation one number per prototype; the larger, the more of it.

An SAE's latents are its scores (`saetools.sae`); here are the baselines that it must beat.
"""

from __future__ import annotations

from typing import Protocol

import torch


class Scorer(Protocol):
    """float32 [B, D] -> float32 [B, K], every activation scored on its own."""

    def __call__(self, activations: torch.Tensor) -> torch.Tensor: ...

    @property
    def n_prototypes(self) -> int: ...


class Const:
    """One prototype that scores everything alike: its AP is the trait's prevalence, by definition.

    A table whose `const` row is high is a table read wrongly.
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

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        return torch.addmm(self.bias, activations, self.vectors.T)

    def to(self, device: torch.device) -> Linear:
        return Linear(self.vectors.to(device), self.bias.to(device))

    @property
    def n_prototypes(self) -> int:
        return len(self.vectors)

    @property
    def d_model(self) -> int:
        return self.vectors.shape[1]
