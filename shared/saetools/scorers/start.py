"""Initialisation of an SAE: input normalisation, and decoder rows near data points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch

from saetools.errors import UserError
from saetools.scorers.record import TrainedScorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.scorers.start_settings import StartSettings
from saetools.shards.pool_plan import Load, plan, pool_capacity
from saetools.shards.reader import Shard
from saetools.shards.token_source import ShardSource

SAMPLE_TOKENS = 65_536  # for the normalisation, and as data points for the decoder
SCALE_TOKENS = 2048  # of these, for the scale of the encoder and for thresholds


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


@dataclass(frozen=True)
class Start:
    """An SAE before its first step, for inputs x' = normalization.apply_(x).

    enc_sd, dec_sd {S, D}, b_enc_s {S}, b_dec_d {D}, in float32. log_threshold_s {S}: the logarithm of JumpReLU's
    threshold, which is trained; None for others. threshold: BatchTopK's, above which k latents per token are active on
    average in the first 2,048 tokens of the sample; None for others. Training does not use it.
    """

    settings: StartSettings
    normalization: Normalization
    enc_sd: torch.Tensor
    b_enc_s: torch.Tensor
    dec_sd: torch.Tensor
    b_dec_d: torch.Tensor
    log_threshold_s: torch.Tensor | None
    threshold: float | None

    def sae(self) -> SAE:
        """The untrained SAE."""
        d_sae, d_model = self.dec_sd.shape
        activation, threshold_s = self.settings.activation, None
        if self.log_threshold_s is not None:
            threshold_s = self.log_threshold_s.exp()
        elif self.threshold is not None:
            threshold_s = torch.full((d_sae,), self.threshold)
        return SAE(
            SAEConfig(d_model, d_sae, activation, self.settings.k if "topk" in activation else None),
            W_enc=self.enc_sd.T.contiguous(),
            b_enc=self.b_enc_s,
            W_dec=self.dec_sd,
            b_dec=self.b_dec_d,
            threshold=threshold_s,
            mean=self.normalization.mean,
            scale=self.normalization.scale,
        )


def make_start(settings: StartSettings, sample_nd: torch.Tensor) -> Start:
    """Normalisation and data-point initialisation from a sample of tokens {N, D}, which is normalised in place.

    b_dec is the sample's mean, or its geometric median, which outliers hardly move.
    W_dec[s] is proportional to blend * u + (1 - blend) * v, with u the unit vector of a random token minus
    b_dec, and v that of Kaiming-uniform noise. A blend of 0 is plain random initialisation.
    W_enc = a W_dec^T, with the a that minimises the reconstruction error of the sample: many latents near one token
    would otherwise add up to a multiple of it. b_enc = 0; with `start_l0`, the value at which each latent is active on
    the fraction start_l0 / S of the sample, at most half of it.
    """
    normalization = choose_normalization(settings.normalize, sample_nd)
    sample_nd = normalization.apply_(sample_nd)
    generator = torch.Generator().manual_seed(settings.seed)
    mean = sample_nd.mean(0) if settings.b_dec == "mean" else geometric_median(sample_nd)
    rows = _draw_rows(len(sample_nd), settings.d_sae, generator)
    points_sd = torch.nn.functional.normalize(sample_nd[rows] - mean, dim=1)
    noise_sd = torch.empty(settings.d_sae, sample_nd.shape[1]).uniform_(-1, 1, generator=generator)
    noise_sd = torch.nn.functional.normalize(noise_sd, dim=1)
    blend = settings.blend
    dec_sd = torch.nn.functional.normalize(blend * points_sd + (1 - blend) * noise_sd, dim=1)
    # JumpReLU's threshold starts at the width of the window that its gradient is estimated in.
    theta = settings.bandwidth if settings.activation == "jumprelu" else None
    some_nd = sample_nd[:SCALE_TOKENS] - mean
    z_ns = some_nd @ dec_sd.T
    floor, q_s = 0.0, torch.zeros(settings.d_sae)  # the smallest active value, and the z of it before scaling
    if settings.start_l0:
        floor, q_s = theta or 0.0, _quantiles(z_ns, min(settings.start_l0 / settings.d_sae, 1.0))
    least = _keep_active(z_ns.sub_(q_s), settings)
    scale = _best_scale(some_nd, z_ns, floor, dec_sd)
    return Start(
        settings,
        normalization,
        enc_sd=scale * dec_sd,
        b_enc_s=floor - scale * q_s,
        dec_sd=dec_sd,
        b_dec_d=mean.contiguous(),
        log_threshold_s=None if theta is None else torch.full((settings.d_sae,), theta).log(),
        threshold=scale * least if settings.activation == "batchtopk" else None,
    )


def geometric_median(sample_nd: torch.Tensor) -> torch.Tensor:
    """The point {D} with the smallest sum of distances to the tokens {N, D} (Weiszfeld's algorithm).

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
    """For each latent, the value that the given share of its z exceeds, {S}; at most half of them."""
    n_above = min(max(round(share * len(z_ns)), 1), len(z_ns) // 2)
    rank = max(len(z_ns) - n_above, 1)
    # Some latents at a time, because kthvalue copies.
    return torch.cat([some.kthvalue(rank, dim=0).values for some in z_ns.split(1024, dim=1)])


def _keep_active(z_ns: torch.Tensor, settings: StartSettings) -> float:
    """Set inactive values to 0, in place: z <= 0, and what TopK (k per token) or BatchTopK (k per token on average)
    leaves out. Returns BatchTopK's threshold, which the active values exceed; 0 for others."""
    f_ns = z_ns.relu_()
    if settings.activation == "topk":
        values_nk, index_nk = f_ns.topk(settings.k, dim=1)
        f_ns.zero_().scatter_(1, index_nk, values_nk)
    elif settings.activation == "batchtopk" and settings.k < f_ns.shape[1]:
        rest = f_ns.numel() - settings.k * len(f_ns)
        least = np.partition(f_ns.numpy().ravel(), rest - 1)[rest - 1]
        f_ns *= f_ns > least
        return float(least)
    return 0.0


def _best_scale(x_nd: torch.Tensor, f_ns: torch.Tensor, floor: float, dec_sd: torch.Tensor) -> float:
    """The a that minimises |x - sum of (a f + floor) w|^2, over the sample and over the latents with f > 0."""
    y_nd = f_ns @ dec_sd
    if floor:
        x_nd = x_nd - floor * ((f_ns > 0).float() @ dec_sd)
    squares = y_nd.double().square().sum().item()
    scale = (x_nd * y_nd).double().sum().item() / squares if squares > 0 else 1.0
    return scale if scale > 0 else 1.0


def _draw_rows(n: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` random rows out of n; a row is repeated only after all have been drawn."""
    rounds = -(-count // n)
    return torch.cat([torch.randperm(n, generator=generator) for _ in range(rounds)])[:count]


def draw_sample(n_tokens: int, seed: int) -> np.ndarray:
    """The sample: at most 65,536 of the tokens in the pool before the first batch, as their positions, int64."""
    return np.random.default_rng([seed, 3]).choice(n_tokens, min(n_tokens, SAMPLE_TOKENS), replace=False)


def read_sample(source: ShardSource, settings: StartSettings) -> torch.Tensor:
    """The sample float32 {n, D} that a training run would draw from its pool, without filling the pool.

    Reads only the images of the sampled tokens. Raises UserError if there are fewer tokens than a batch.
    """
    rng = np.random.default_rng([settings.seed, 2])
    batch_size = settings.batch_size // settings.processes
    capacity = pool_capacity(source, batch_size, settings.pool_bytes)
    # Slots of the pool are taken in order as long as nothing has been drawn.
    loads = takewhile(lambda action: isinstance(action, Load), plan(source, batch_size, capacity, rng))
    blocks = [load.block for load in loads if isinstance(load, Load)]
    ends = np.cumsum([block.n_tokens for block in blocks])
    chosen = draw_sample(int(ends[-1]), settings.seed)
    sample_nd = torch.empty(len(chosen), source.d_model)
    block_of = np.searchsorted(ends, chosen, side="right")
    order = np.argsort(block_of, kind="stable")
    found, starts = np.unique(block_of[order], return_index=True)
    for number, here in zip(found, np.split(order, starts[1:]), strict=True):
        block = blocks[number]
        places = chosen[here] - (ends[number] - block.n_tokens)
        sample_nd[torch.from_numpy(here)] = block.at(places).float()
    return sample_nd


def rebuild_start(
    settings: Mapping[str, Any], shards: Sequence[Shard], layer: int, what: str = "the settings"
) -> SAE:
    """The SAE as it was before training: what `train-sae --tokens 0` with these settings writes.

    settings: from the provenance of a scorer file; shards: its training shards, in their order (see `training_shards`).
    Raises UserError, naming `what`, if settings of a training run are missing.
    """
    return _start(StartSettings.of(settings, what), shards, layer)


def untrained_topk(d_sae: int, k: int, seed: int, shards: Sequence[Shard], layer: int) -> SAE:
    """An untrained TopK SAE: what `train-sae --tokens 0` writes with its other settings at their defaults.

    Works with fewer tokens than a batch.
    """
    settings = StartSettings(d_sae, k=k, seed=seed)
    n_tokens = sum(shard.n_images * shard.shape(layer)[0] for shard in shards)
    few = n_tokens < 2 * settings.batch_size
    return _start(replace(settings, batch_size=1) if few else settings, shards, layer)


def training_shards(found: TrainedScorer, what: str, shards: Sequence[Shard]) -> list[Shard]:
    """The shards that the scorer was trained on, out of `shards`, in the order of its training.

    Raises UserError, naming `what`, if one of them is missing.
    """
    by_uid = {shard.provenance.uid: shard for shard in shards}
    missing = [uid for uid in found.provenance.parents if uid not in by_uid]
    if missing or not found.provenance.parents:
        raise UserError(
            f"{what}: {len(missing) or 'an unknown number'} of the {len(found.provenance.parents)} shards that it was"
            " trained on are not among the given training shards, which its initialisation is rebuilt from; give the"
            " same files, not recorded again"
        )
    return [by_uid[uid] for uid in found.provenance.parents]


def _start(settings: StartSettings, shards: Sequence[Shard], layer: int) -> SAE:
    source = ShardSource(
        (shard.path for shard in shards),
        layer,
        settings.holdout,
        arriving=settings.arriving,
        excluded=settings.exclude_labels,
        allow_incomplete=True,
        world=settings.processes,
    )
    return make_start(settings, read_sample(source, settings)).sae()
