"""How well an SAE reconstructs, and how sparsely. Formulas with sources: docs/metrics.md."""

from __future__ import annotations

import torch

from saetools.sae import SAE

DENSE_ABOVE = 0.01  # a latent is dense where it fires on more than this share of the tokens


class SAEEvaluation:
    """Accumulates, in float64, over batches of tokens x {B, D}:

    mse                 sum (x - x_hat)^2 / (n D)
    nmse                sum (x - x_hat)^2 / sum (x - mean)^2, mean over the tokens of the evaluation {D}
    explained_variance  1 - nmse
    l0                  mean number of non-zero latents per token
    l1                  mean sum of latents per token
    dead, dense         share of the latents that never fired, that fired on more than 1% of tokens
    """

    def __init__(self, d_model: int, d_sae: int) -> None:
        self.n_tokens = 0
        self._squared_error = 0.0
        self._sum_d = torch.zeros(d_model, dtype=torch.float64)
        self._sum_of_squares_d = torch.zeros(d_model, dtype=torch.float64)
        self._fired_s = torch.zeros(d_sae, dtype=torch.int64)
        self._value_s = torch.zeros(d_sae, dtype=torch.float64)

    def add(self, sae: SAE, x_bd: torch.Tensor) -> torch.Tensor:
        """Count the tokens x {B, D}; returns their latents {B, S}."""
        f_bs = sae.encode(x_bd)
        x64_bd = x_bd.double()
        self.n_tokens += len(x_bd)
        self._squared_error += (sae.decode(f_bs).double() - x64_bd).square().sum().item()
        self._sum_d += x64_bd.sum(0).cpu()
        self._sum_of_squares_d += x64_bd.square().sum(0).cpu()
        self._fired_s += (f_bs != 0).sum(0).cpu()
        self._value_s += f_bs.sum(0, dtype=torch.float64).cpu()
        return f_bs

    @property
    def frequency_s(self) -> torch.Tensor:
        """Share of the tokens {S} on which each latent fired, float64."""
        return self._fired_s.double() / self.n_tokens

    @property
    def mean_value_s(self) -> torch.Tensor:
        """Mean value {S} of each latent where it fired, float64, 0 for a dead one."""
        return self._value_s / self._fired_s.clamp(min=1)

    def summary(self) -> dict[str, float]:
        """The metrics above, and n_tokens."""
        n, d = self.n_tokens, len(self._sum_d)
        baseline = (self._sum_of_squares_d - self._sum_d.square() / n).sum().item()
        nmse = self._squared_error / baseline
        return {
            "n_tokens": n,
            "mse": self._squared_error / (n * d),
            "nmse": nmse,
            "explained_variance": 1 - nmse,
            "l0": self._fired_s.sum().item() / n,
            "l1": self._value_s.sum().item() / n,
            "dead": (self._fired_s == 0).double().mean().item(),
            "dense": (self.frequency_s > DENSE_ABOVE).double().mean().item(),
        }
