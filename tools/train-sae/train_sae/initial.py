"""Where the training of an SAE starts: input normalisation and data-point initialisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from train_sae.steps import SAEParameters, StepSettings

SCALE_TOKENS = 2048
NORMALIZATIONS = ("none", "mean", "sqrt-d")
B_DEC_STARTS = ("mean", "geometric-median")


@dataclass(frozen=True)
class Normalization:
    """x' = (x - mean) / scale, with mean {D}."""

    mean: torch.Tensor
    scale: float

    def apply_(self, x_bd: torch.Tensor) -> torch.Tensor:
        """In place; returns x'."""
        return x_bd.sub_(self.mean).div_(self.scale)


def choose_normalization(kind: str, sample_nd: torch.Tensor) -> Normalization:
    """none: x' = x; mean: the sample's mean is subtracted; sqrt-d: and the mean of |x'|^2 is then D."""
    zero = torch.zeros(sample_nd.shape[1])
    if kind == "none":
        return Normalization(zero, 1.0)
    mean = sample_nd.double().mean(0)
    if kind == "mean":
        return Normalization(mean.float(), 1.0)
    mean_square = (sample_nd.double() - mean).square().mean().item()
    return Normalization(mean.float(), math.sqrt(mean_square) or 1.0)


def data_point_parameters(
    sample_nd: torch.Tensor,
    d_sae: int,
    blend: float,
    b_dec: str,
    start_l0: float,
    settings: StepSettings,
    generator: torch.Generator,
) -> SAEParameters:
    """Decoder rows near data points; the encoder is the decoder's transpose, scaled; b_dec is in the sample's middle:
    its mean, or its geometric median, which far-off tokens do not move.

    W_dec[s] is proportional to blend * u + (1 - blend) * v, with u the unit vector of a random token less
    b_dec, and v that of Kaiming-uniform noise. A blend of 0 is the plain random initialisation.
    W_enc = a W_dec^T, with the a for which the sample is reconstructed best: many latents near one token would
    otherwise add up to a multiple of it. b_enc = 0; with `start_l0`, what lets each latent be active on the share
    start_l0 / S of the sample, at most half of it.
    """
    mean = sample_nd.mean(0) if b_dec == "mean" else geometric_median(sample_nd)
    rows = _draw_rows(len(sample_nd), d_sae, generator)
    points_sd = torch.nn.functional.normalize(sample_nd[rows] - mean, dim=1)
    noise_sd = torch.empty(d_sae, sample_nd.shape[1]).uniform_(-1, 1, generator=generator)
    noise_sd = torch.nn.functional.normalize(noise_sd, dim=1)
    dec_sd = torch.nn.functional.normalize(blend * points_sd + (1 - blend) * noise_sd, dim=1)
    # JumpReLU's threshold starts at the width of the window in which it is learnt.
    theta = settings.bandwidth if settings.activation == "jumprelu" else None
    some_nd = sample_nd[:SCALE_TOKENS] - mean
    z_ns = some_nd @ dec_sd.T
    floor, q_s = 0.0, torch.zeros(d_sae)  # the smallest active value, and the z of it before scaling
    if start_l0:
        floor, q_s = theta or 0.0, _quantiles(z_ns, min(start_l0 / d_sae, 1.0))
    scale = _best_scale(some_nd, z_ns.sub_(q_s), floor, dec_sd, settings)
    return SAEParameters(
        enc_sd=scale * dec_sd,
        b_enc_s=floor - scale * q_s,
        dec_sd=dec_sd,
        b_dec_d=mean.contiguous(),
        log_threshold_s=None if theta is None else torch.full((d_sae,), theta).log(),
    )


def geometric_median(sample_nd: torch.Tensor) -> torch.Tensor:
    """The point {D} with the least sum of distances to the tokens {N, D} (Weiszfeld's algorithm).

    m <- sum_n x_n / |x_n - m| / sum_n 1 / |x_n - m|, from the mean, until it moves by less than 1e-6 of the median
    distance, at most 100 times. Where m meets a token, that distance counts as 1e-6 of the largest.
    """
    m_d = sample_nd.mean(0, dtype=torch.float64)
    for _ in range(100):
        distance_n = (sample_nd - m_d.float()).norm(dim=1).double()
        weight_n = 1 / distance_n.clamp(min=max(1e-6 * distance_n.max().item(), 1e-30))
        new_d = ((weight_n / weight_n.sum()).float() @ sample_nd).double()
        moved, m_d = (new_d - m_d).norm(), new_d
        if moved < 1e-6 * distance_n.median():
            break
    return m_d.float()


def _quantiles(z_ns: torch.Tensor, share: float) -> torch.Tensor:
    """What the given share of each latent's z exceeds, {S}; their median, if more than half are to."""
    n_above = min(max(round(share * len(z_ns)), 1), len(z_ns) // 2)
    rank = max(len(z_ns) - n_above, 1)
    # Some latents at a time, because kthvalue copies.
    return torch.cat([some.kthvalue(rank, dim=0).values for some in z_ns.split(1024, dim=1)])


def _best_scale(
    x_nd: torch.Tensor, z_ns: torch.Tensor, floor: float, dec_sd: torch.Tensor, settings: StepSettings
) -> float:
    """The a that minimises |x - sum of (a z + floor) w|^2, over the sample and over the latents that are active.

    Active are those with z > 0; of them the k largest of a token for TopK, k times as many as tokens for BatchTopK.
    """
    f_ns = z_ns.relu_()
    if settings.activation == "topk":
        values_nk, index_nk = f_ns.topk(settings.k, dim=1)
        f_ns = torch.zeros_like(f_ns).scatter_(1, index_nk, values_nk)
    elif settings.activation == "batchtopk" and settings.k < f_ns.shape[1]:
        rest = f_ns.numel() - settings.k * len(f_ns)
        f_ns *= f_ns > np.partition(f_ns.numpy().ravel(), rest - 1)[rest - 1]
    y_nd = f_ns @ dec_sd
    if floor:
        x_nd = x_nd - floor * ((f_ns > 0).float() @ dec_sd)
    squares = y_nd.double().square().sum().item()
    scale = (x_nd * y_nd).double().sum().item() / squares if squares > 0 else 1.0
    return scale if scale > 0 else 1.0


def _draw_rows(n: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` rows out of n; none comes again before all have been drawn."""
    rounds = -(-count // n)
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(rounds)])[:count]
