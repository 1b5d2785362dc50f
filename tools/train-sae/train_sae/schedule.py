"""The learning rate over a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over the first `warmup` steps, then a cosine from `lr` down to 0 at `n_steps`."""

    lr: float
    warmup: int
    n_steps: int

    def at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.n_steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))
