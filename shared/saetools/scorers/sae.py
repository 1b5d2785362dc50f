"""The sparse autoencoder (SAE), as every tool sees it.

    f     = act((x' - b_dec) W_enc + b_enc)        x' = (x - mean) / scale
    x_hat = (f W_dec + b_dec) * scale + mean

with x {B, D}, f {B, S}, W_enc {D, S}, W_dec {S, D}; rows of W_dec have unit norm. The activation is
one of `ACTIVATIONS`; `mean` and `scale` are the input normalisation of the training run and stay with
the weights, so that nobody can forget to apply them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from saetools.compute.devices import in_float64
from saetools.errors import UserError


@dataclass(frozen=True)
class SAEConfig:
    """d_model D, d_sae S, the activation and, for topk and batchtopk, its k."""

    d_model: int
    d_sae: int
    activation: str
    k: int | None = None


class SAE:
    """Weights of one SAE; a Scorer whose scores are its latents.

    W_enc {D, S}, b_enc {S}, W_dec {S, D}, b_dec {D}, threshold {S} or None, mean {D}, scale a number.
    """

    def __init__(
        self,
        config: SAEConfig,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_dec: torch.Tensor,
        threshold: torch.Tensor | None = None,
        mean: torch.Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        self.config = config
        self.W_enc, self.b_enc, self.W_dec, self.b_dec, self.threshold = W_enc, b_enc, W_dec, b_dec, threshold
        self.mean = torch.zeros_like(b_dec) if mean is None else mean
        self.scale = scale
        self._activate = ACTIVATIONS[config.activation]
        # (x' - b_dec) W_enc + b_enc = x (W_enc / scale) + offset: one matrix product on the raw input
        self._W_in = (W_enc / scale).contiguous() if scale != 1.0 else W_enc
        self._offset = b_enc - (in_float64(self.mean / scale + b_dec) @ in_float64(W_enc)).to(b_enc)

    def pre_activations(self, x_bd: torch.Tensor) -> torch.Tensor:
        """x {B, D} -> {B, S}, before the activation function."""
        return torch.addmm(self._offset, x_bd, self._W_in)

    def encode(self, x_bd: torch.Tensor) -> torch.Tensor:
        """x {B, D} -> latents f {B, S} >= 0."""
        return self._activate(self.pre_activations(x_bd), self)

    def decode(self, f_bs: torch.Tensor) -> torch.Tensor:
        """Latents f {B, S} -> x_hat {B, D}."""
        x_hat_bd = torch.addmm(self.b_dec, f_bs, self.W_dec)
        return x_hat_bd * self.scale + self.mean

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        return self.encode(activations)

    @property
    def n_prototypes(self) -> int:
        return self.config.d_sae

    def folded(self) -> SAE:
        """The same function of x without input normalisation: mean 0, scale 1. Decoder rows have norm `scale` then.

        W_enc / scale, b_enc, W_dec * scale, b_dec * scale + mean
        """
        b_dec_d = (in_float64(self.b_dec) * self.scale + in_float64(self.mean)).to(self.b_dec)
        w_enc_ds, w_dec_sd = self.W_enc / self.scale, self.W_dec * self.scale
        return SAE(self.config, w_enc_ds, self.b_enc, w_dec_sd, b_dec_d, self.threshold)

    def to(self, device: torch.device) -> SAE:
        return SAE(
            self.config,
            W_enc=self.W_enc.to(device),
            b_enc=self.b_enc.to(device),
            W_dec=self.W_dec.to(device),
            b_dec=self.b_dec.to(device),
            threshold=None if self.threshold is None else self.threshold.to(device),
            mean=self.mean.to(device),
            scale=self.scale,
        )


def _relu(pre_bs: torch.Tensor, _sae: SAE) -> torch.Tensor:
    return pre_bs.relu_()


def _topk(pre_bs: torch.Tensor, sae: SAE) -> torch.Tensor:
    """Keep the k largest of each token, where they are positive (arXiv 2406.04093, section 2.3)."""
    assert sae.config.k is not None
    values_bk, index_bk = pre_bs.topk(sae.config.k, dim=1, sorted=False)
    return torch.zeros_like(pre_bs).scatter_(1, index_bk, values_bk.relu_())


def _above_threshold(pre_bs: torch.Tensor, sae: SAE) -> torch.Tensor:
    """z where z exceeds the latent's threshold, else 0 (JumpReLU, arXiv 2407.14435)."""
    assert sae.threshold is not None
    return pre_bs.relu_().mul_(pre_bs > sae.threshold)


# The names in checkpoints. BatchTopK (arXiv 2412.06410) keeps, of single tokens, what exceeds the
# running threshold of its training.
ACTIVATIONS: dict[str, Callable[[torch.Tensor, SAE], torch.Tensor]] = {
    "relu": _relu,
    "topk": _topk,
    "batchtopk": _above_threshold,
    "jumprelu": _above_threshold,
}


def check_config(config: SAEConfig, what: str) -> None:
    """Raise UserError, naming `what`, where the activation is unknown or its k does not fit the width."""
    if config.activation not in ACTIVATIONS:
        raise UserError(
            f"{what}: unknown activation {config.activation!r}; known are {', '.join(ACTIVATIONS)}"
        )
    if config.activation in ("topk", "batchtopk") and not (config.k and 1 <= config.k <= config.d_sae):
        raise UserError(
            f"{what}: k is {config.k}; {config.activation} needs 1 <= k <= {config.d_sae} latents"
        )
