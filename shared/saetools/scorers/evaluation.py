"""How well an SAE reconstructs, and how sparsely. Formulas with sources: docs/metrics.md."""

from __future__ import annotations

import math

import torch

from saetools.compute.devices import float64_device, in_float64
from saetools.scorers.sae import SAE

DENSE_ABOVE = 0.01  # a latent is dense where it fires on more than this share of the tokens


class SAEEvaluation:
    """Accumulates, in float64, over batches of tokens x {B, D}:

    mse                 sum (x - x_hat)^2 / (n D)
    nmse                sum (x - x_hat)^2 / sum (x - mean)^2, mean over the tokens of the evaluation {D}
    nmse_standardized   mean over dimensions of sum (x_d - x_hat_d)^2 / sum (x_d - mean_d)^2; dimensions that do not
                        vary are left out
    explained_variance  1 - nmse
    l0                  mean number of non-zero latents per token
    l1                  mean sum of latents per token
    dead, dense         share of the latents that never fired, that fired on more than 1% of tokens

    Sums of squares about the mean are merged batch by batch (Chan, Golub and LeVeque 1983), of tokens less the first
    one: so means far from 0 cost no digits, and a dimension that never varies has a sum of exactly 0.
    """

    def __init__(self, d_model: int, d_sae: int) -> None:
        self.n_tokens = 0
        self._error_d = torch.zeros(d_model, dtype=torch.float64)  # sum (x - x_hat)^2
        self._first_d: torch.Tensor | None = None
        self._mean_d = torch.zeros(d_model, dtype=torch.float64)  # of x - first
        self._spread_d = torch.zeros(d_model, dtype=torch.float64)  # sum (x - mean)^2
        self._fired_s = torch.zeros(d_sae, dtype=torch.int64)
        self._value_s = torch.zeros(d_sae, dtype=torch.float64)

    def add(self, sae: SAE, x_bd: torch.Tensor) -> torch.Tensor:
        """Count the tokens x {B, D}; returns their latents {B, S}."""
        f_bs = sae.encode(x_bd)
        x64_bd = in_float64(x_bd)
        if not len(x64_bd):
            return f_bs
        self._error_d += (in_float64(sae.decode(f_bs)) - x64_bd).square().sum(0).cpu()
        if self._first_d is None:
            self._first_d = x64_bd[0].clone()
        y_bd = x64_bd - self._first_d
        mean_d = y_bd.mean(0)
        away_d = mean_d.cpu() - self._mean_d
        before, self.n_tokens = self.n_tokens, self.n_tokens + len(x_bd)
        self._spread_d += (y_bd - mean_d).square().sum(0).cpu()
        self._spread_d += away_d.square() * (before * len(x_bd) / self.n_tokens)
        self._mean_d += away_d * (len(x_bd) / self.n_tokens)
        self._fired_s += (f_bs != 0).sum(0).cpu()
        self._value_s += f_bs.to(float64_device(f_bs.device)).sum(0, dtype=torch.float64).cpu()
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
        """The metrics above, and n_tokens; of tokens that are all alike, nmse and what follows from it are NaN."""
        n, d = self.n_tokens, len(self._error_d)
        error, varies_d = self._error_d.sum(), self._spread_d > 0
        nmse = (error / self._spread_d.sum()).item() if varies_d.any() else math.nan
        return {
            "n_tokens": n,
            "mse": error.item() / (n * d),
            "nmse": nmse,
            "nmse_standardized": (self._error_d[varies_d] / self._spread_d[varies_d]).mean().item(),
            "explained_variance": 1 - nmse,
            "l0": self._fired_s.sum().item() / n,
            "l1": self._value_s.sum().item() / n,
            "dead": (self._fired_s == 0).double().mean().item(),
            "dense": (self.frequency_s > DENSE_ABOVE).double().mean().item(),
        }
