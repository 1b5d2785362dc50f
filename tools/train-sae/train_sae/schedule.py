"""The learning rate, and the weight of the sparsity penalties, over a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

DECAYS = ("cosine", "linear", "none")


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over the first `warmup` steps, then a decay from `lr` down to 0 at `n_steps`.

    With u the share of the steps after the warm-up: cosine lr (1 + cos(pi u)) / 2, linear lr (1 - u), none lr.
    The penalties' weights rise linearly over the first `sparsity_warmup` steps.
    """

    lr: float
    warmup: int
    n_steps: int
    decay: str = "cosine"
    sparsity_warmup: int = 0

    def at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.n_steps - self.warmup)
        if self.decay == "cosine":
            return self.lr * 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * (1 - done) if self.decay == "linear" else self.lr

    def sparsity_at(self, step: int) -> float:
        """What the penalties are multiplied with in a step, counted from 0."""
        return min(1.0, (step + 1) / self.sparsity_warmup) if self.sparsity_warmup else 1.0
