"""Trains one SAE on a stream of tokens, and evaluates it on tokens that it never saw."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from saetools.progress import Progress
from saetools.sae import SAE, SAEConfig
from saetools.sae_metrics import SAEEvaluation
from train_sae.initial import Normalization, choose_normalization, data_point_parameters
from train_sae.schedule import Schedule
from train_sae.sources import Block
from train_sae.steps import SAEParameters, StepSettings, make_step
from train_sae.stream import TokenStream

SAMPLE_TOKENS = 65_536  # for the normalisation, and as data points to start from


@dataclass(frozen=True)
class TrainingSettings:
    """d_sae S; tokens to train on, in whole batches; warmup: share of the steps; normalize and blend as in
    initial.py; holdout as in sources.py; log_every in steps."""

    d_sae: int
    tokens: int
    batch_size: int
    lr: float
    warmup: float
    normalize: str
    blend: float
    holdout: float
    pool_bytes: int
    seed: int
    log_every: int
    step: StepSettings

    @property
    def n_steps(self) -> int:
        return max(1, self.tokens // self.batch_size)

    @property
    def sparsity(self) -> float:
        """What sets how sparse the latents are: k, or the weight of the L1 or L0 penalty."""
        step = self.step
        return {"relu": step.l1, "jumprelu": step.l0}.get(step.activation, step.k)


def train(
    stream: TokenStream, settings: TrainingSettings, device: torch.device
) -> tuple[SAE, list[dict[str, Any]]]:
    """The trained SAE, on the CPU, and the rows of its metrics table, one every `log_every` steps."""
    sample_nd = stream.sample(SAMPLE_TOKENS, settings.seed)
    normalization = choose_normalization(settings.normalize, sample_nd)
    generator = torch.Generator().manual_seed(settings.seed)
    parameters = data_point_parameters(
        normalization.apply_(sample_nd), settings.d_sae, settings.blend, settings.step, generator
    ).to(device)
    step = make_step(parameters, settings.step, settings.batch_size, settings.seed)
    schedule = Schedule(settings.lr, round(settings.warmup * settings.n_steps), settings.n_steps)
    rows: list[dict[str, Any]] = []
    started = time.monotonic()
    with Progress("training", settings.n_steps * settings.batch_size, "tokens") as progress:
        for number, x_bd in zip(range(settings.n_steps), stream, strict=False):
            lr = schedule.at(number)
            report = step.step(normalization.apply_(x_bd).to(device), lr)
            last = number + 1 == settings.n_steps
            if number % settings.log_every == 0 or last:
                tokens = (number + 1) * settings.batch_size
                dead = float((step.fired_s > settings.step.dead_after_tokens).mean())
                row = {"step": number + 1, "tokens": tokens, "lr": lr, **report, "dead": dead}
                rows.append({**row, "tokens_per_second": tokens / (time.monotonic() - started)})
                notes = {name: f"{row[name]:.4g}" for name in ("loss", "l0", "dead")}
            progress.advance(settings.batch_size, **notes)
    return _to_sae(parameters, step.threshold_s, settings, normalization), rows


def evaluate(sae: SAE, blocks: Iterable[Block], layer: int) -> SAEEvaluation:
    """The SAE's metrics on the tokens of these blocks of images."""
    evaluation = SAEEvaluation(sae.config.d_model, sae.config.d_sae)
    for block in blocks:
        x_bd = block.shard.images(layer, block.rows).flatten(0, 1).float()
        for batch_bd in x_bd.split(1024):
            evaluation.add(sae, batch_bd)
    return evaluation


def _to_sae(
    parameters: SAEParameters, threshold_s: Any, settings: TrainingSettings, normalization: Normalization
) -> SAE:
    k = settings.step.k if settings.step.activation in ("topk", "batchtopk") else None
    d_sae, d_model = parameters.dec_sd.shape
    return SAE(
        SAEConfig(d_model, d_sae, settings.step.activation, k),
        W_enc=parameters.enc_sd.cpu().T.contiguous(),
        b_enc=parameters.b_enc_s.cpu(),
        W_dec=parameters.dec_sd.cpu(),
        b_dec=parameters.b_dec_d.cpu(),
        threshold=None if threshold_s is None else torch.as_tensor(threshold_s).cpu(),
        mean=normalization.mean,
        scale=normalization.scale,
    )
