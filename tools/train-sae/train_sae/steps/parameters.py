"""The parameters of one SAE in training, their Adam moments, and Adam's step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import overload

import numpy as np
import torch
from torch import Tensor

from saetools.scorers.start import Start

Array = np.ndarray


@dataclass
class SAEParameters:
    """Parameters of an SAE in float32, laid out for training: one contiguous row per latent.

    With `W_enc = enc_sd.T`, `W_dec = dec_sd`:

        f = act(W_enc^T (x - b_dec) + b_enc),    x_hat = W_dec^T f + b_dec

    `log_threshold_s` exists for JumpReLU alone; the threshold is trained as its logarithm (arXiv 2407.14435,
    appendix J), so that it stays positive. The moments are zero until a step is made.

    Shapes: `enc_sd`, `dec_sd` {S, D}; `b_enc_s`, `log_threshold_s` {S}; `b_dec_d` {D}.
    """

    enc_sd: Tensor
    b_enc_s: Tensor
    dec_sd: Tensor
    b_dec_d: Tensor
    log_threshold_s: Tensor | None = None
    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        s, d = self.dec_sd.shape
        shapes = {
            "enc_sd": (s, d),
            "b_enc_s": (s,),
            "dec_sd": (s, d),
            "b_dec_d": (d,),
            "log_threshold_s": (s,),
        }
        for name, value in self.trained().items():
            assert tuple(value.shape) == shapes[name], (
                f"{name}: {tuple(value.shape)}, expected {shapes[name]}"
            )
            assert value.dtype == torch.float32, f"{name}: {value.dtype}, expected float32"
            assert value.is_contiguous(), f"{name}: not contiguous"
            self.first.setdefault(name, torch.zeros_like(value))
            self.second.setdefault(name, torch.zeros_like(value))

    @classmethod
    def from_arrays(
        cls, enc_sd: Array, b_enc_s: Array, dec_sd: Array, b_dec_d: Array, threshold_s: Array | None = None
    ) -> SAEParameters:
        """Copies of the arrays as float32, the decoder's rows scaled to unit norm (a row of zeros stays)."""
        dec = np.asarray(dec_sd, dtype=np.float64)
        norm_s = np.linalg.norm(dec, axis=1)
        dec = dec / np.where(norm_s > 0, norm_s, 1)[:, None]
        log_threshold = None if threshold_s is None else _float32(np.log(np.asarray(threshold_s, np.float64)))
        return cls(_float32(enc_sd), _float32(b_enc_s), _float32(dec), _float32(b_dec_d), log_threshold)

    @classmethod
    def at_start(cls, start: Start) -> SAEParameters:
        """Those of an SAE before its first step, sharing its memory."""
        return cls(start.enc_sd, start.b_enc_s, start.dec_sd, start.b_dec_d, start.log_threshold_s)

    @property
    def n_latents(self) -> int:
        return self.dec_sd.shape[0]

    @property
    def d_model(self) -> int:
        return self.dec_sd.shape[1]

    @property
    def threshold_s(self) -> Tensor | None:
        """JumpReLU's threshold, always positive; None for other activations."""
        return None if self.log_threshold_s is None else self.log_threshold_s.exp()

    def trained(self) -> dict[str, Tensor]:
        """The trained tensors by name (not copies)."""
        tensors = {
            "enc_sd": self.enc_sd,
            "b_enc_s": self.b_enc_s,
            "dec_sd": self.dec_sd,
            "b_dec_d": self.b_dec_d,
        }
        if self.log_threshold_s is not None:
            tensors["log_threshold_s"] = self.log_threshold_s
        return tensors

    def with_moments(self, name: str) -> tuple[Tensor, Tensor, Tensor]:
        """A trained tensor and its two moments."""
        return self.trained()[name], self.first[name], self.second[name]

    def to(self, device: str | torch.device) -> SAEParameters:
        """The same parameters and moments on another device."""
        moved = {name: value.to(device) for name, value in self.trained().items()}
        first = {name: value.to(device) for name, value in self.first.items()}
        second = {name: value.to(device) for name, value in self.second.items()}
        return SAEParameters(**moved, first=first, second=second)

    def state_dict(self) -> dict[str, Array]:
        """Copies of everything by name: `enc_sd`, ..., and the moments as `adam_m/enc_sd`, `adam_v/enc_sd`, ..."""
        state: dict[str, Array] = {}
        for name, value in self.trained().items():
            state[name] = _to_numpy(value)
            state[f"adam_m/{name}"] = _to_numpy(self.first[name])
            state[f"adam_v/{name}"] = _to_numpy(self.second[name])
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Array]) -> None:
        """Overwrites everything with what `state_dict` gave."""
        for name, value in self.trained().items():
            for key, target in (
                (name, value),
                (f"adam_m/{name}", self.first[name]),
                (f"adam_v/{name}", self.second[name]),
            ):
                source = torch.from_numpy(np.ascontiguousarray(state[key]))
                assert source.shape == target.shape, (
                    f"{key}: {tuple(source.shape)}, not {tuple(target.shape)}"
                )
                target.copy_(source)


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


def _float32(values: Array) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32, order="C"))


def _to_numpy(value: Tensor) -> Array:
    return value.detach().cpu().numpy().copy()
