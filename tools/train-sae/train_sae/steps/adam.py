"""Adam's scalars, and its step on the short vectors. The matrices' rows are in `kernels.update`."""

from __future__ import annotations

from typing import overload

import numpy as np
import torch
from torch import Tensor

from train_sae.steps.parameters import SAEParameters


class Adam:
    """Counts the steps; same arithmetic as `torch.optim.Adam` (without weight decay).

        m <- beta1 m + (1 - beta1) g,    v <- beta2 v + (1 - beta2) g^2
        w <- w - lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)

    Dense: the moments of latents without a gradient decay too, and go on moving their weights.
    """

    def __init__(self, betas: tuple[float, float], eps: float) -> None:
        self.betas, self.eps, self.step_count = betas, eps, 0

    def next_step(self, lr: float) -> np.ndarray:
        """Counts one step; (beta1, beta2, lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), eps) in float32."""
        self.step_count += 1
        beta1, beta2 = self.betas
        rate = lr / (1 - beta1**self.step_count)
        root = (1 - beta2**self.step_count) ** -0.5
        return np.array([beta1, beta2, rate, root, self.eps], dtype=np.float32)

    def update(self, parameters: SAEParameters, name: str, gradient: Tensor, scalars: np.ndarray) -> None:
        """One step on a vector of `parameters`."""
        beta1, beta2, rate, root, eps = (float(value) for value in scalars)
        m, v = parameters.first[name], parameters.second[name]
        m.lerp_(gradient, 1 - beta1)
        v.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        parameters.trained()[name].addcdiv_(m, v.sqrt().mul_(root).add_(eps), value=-rate)


@overload
def clip_factor(norm: float, grad_clip: float | None) -> float: ...
@overload
def clip_factor(norm: Tensor, grad_clip: float) -> Tensor: ...
def clip_factor(norm: float | Tensor, grad_clip: float | None) -> float | Tensor:
    """What to multiply gradients with, so that their global norm is at most `grad_clip`."""
    if isinstance(norm, Tensor):  # a norm on a device stays there
        assert grad_clip is not None
        return (grad_clip / (norm + 1e-6)).clamp(max=1.0)
    return 1.0 if grad_clip is None else min(1.0, grad_clip / (norm + 1e-6))


def squared_norm(gradient: Tensor) -> float:
    """Sum of squares in float64."""
    return float(torch.sum(gradient.double() ** 2))
