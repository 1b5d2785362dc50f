"""One SAE in training: its parameters, its schedules and its rows of the metrics table."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from saetools.scorers.sae import SAE, SAEConfig
from saetools.scorers.start import Normalization, Start, make_start
from train_sae.config import TrainingSettings
from train_sae.optimizers import make_training_step
from train_sae.ranks import Ranks
from train_sae.resuming import TrainingState
from train_sae.steps.parameters import SAEParameters
from train_sae.tracking import diagnose


@dataclass(frozen=True)
class Run:
    """An SAE to train: the scorer file to write (None: no file), and how."""

    out: Path | None
    settings: TrainingSettings

    @property
    def name(self) -> str:
        """In messages and logs."""
        return "sae" if self.out is None else self.out.stem


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up over the first `warmup` steps, then a decay from `lr` down to 0 at `n_steps`.

    With u the fraction of the steps after the warm-up: cosine lr (1 + cos(pi u)) / 2, linear lr (1 - u), none lr.
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
        """The factor of the penalties in a step, counted from 0."""
        return min(1.0, (step + 1) / self.sparsity_warmup) if self.sparsity_warmup else 1.0


class Trainer:
    """Trains the SAE of a run, from its beginning or from a saved state."""

    def __init__(self, run: Run, ranks: Ranks, device: torch.device) -> None:
        self.run, self.settings = run, run.settings
        self._ranks, self._device = ranks, device
        options, n_steps = run.settings.options, run.settings.n_steps
        self._schedule = Schedule(
            options.lr,
            round(options.warmup * n_steps),
            n_steps,
            options.decay,
            round(options.sparsity_warmup * n_steps),
        )
        self._untrained: SAE | None = None  # the result, where no step is to be made
        self.n_done = 0
        self.rows: list[dict[str, Any]] = []
        self._seconds_before = 0.0
        self._started = time.monotonic()

    def begin(self, sample_nd: torch.Tensor) -> None:
        """Initialise normalisation and parameters from a sample of tokens {n, D}."""
        start = make_start(self.settings.start(), sample_nd)
        if not self.settings.n_steps:
            self._untrained, self.rows = start.sae(), [self._row_of_start(start, sample_nd)]
            return
        parameters = SAEParameters.at_start(start)
        self._ranks.share(*parameters.trained().values())
        self._set(self._ranks.share_normalization(start.normalization), parameters)

    def resume(self, state: TrainingState) -> None:
        """Continue from a saved state."""
        trained: dict[str, Any] = {
            name: torch.from_numpy(value) for name, value in state.parameters.items() if "/" not in name
        }
        parameters = SAEParameters(**trained)
        parameters.load_state_dict(state.parameters)
        self._set(Normalization(torch.from_numpy(state.mean), state.scale), parameters)
        self._step.load_state_dict(state.step)
        self.n_done, self.rows, self._seconds_before = state.n_steps, list(state.rows), state.seconds

    def state(self) -> TrainingState:
        """The state to save; on a CPU it shares the parameters' memory, so use it before the next step."""
        arrays = {}
        for name in self.parameters.trained():
            keys = name, f"adam_m/{name}", f"adam_v/{name}"  # as in SAEParameters.state_dict
            for key, value in zip(keys, self.parameters.with_moments(name), strict=True):
                arrays[key] = value.detach().cpu().numpy()
        return TrainingState(
            n_steps=self.n_done,
            seconds=self._seconds(),
            rows=list(self.rows),
            parameters=arrays,
            step=self._step.state_dict(),
            mean=self._normalization.mean.numpy(),
            scale=self._normalization.scale,
        )

    @property
    def finished(self) -> bool:
        return self.n_done >= self.settings.n_steps

    def step(self, x_bd: torch.Tensor) -> dict[str, float] | None:
        """One step on x {B, D}, which is changed in place. Returns the row of the metrics table if one is due."""
        settings, number = self.settings, self.n_done
        due = number % settings.log_every == 0 or number + 1 == settings.n_steps
        there = self._device
        x_bd = self._normalization.apply_(x_bd).to(there, non_blocking=there.type == "cuda")
        generator = torch.Generator().manual_seed(settings.options.seed + number)
        noted = diagnose(self._in_normalised_space(), x_bd, generator) if due else {}
        lr = self._schedule.at(number)
        scale = self._schedule.sparsity_at(number)
        report = self._step.step(x_bd, lr, scale, log_norm=due)
        self.n_done += 1
        if not due:  # the report is not read: on a GPU that would wait for the step
            return None
        tokens = self.n_done * settings.options.batch_size
        dead = float((self._step.fired_s >= settings.step.dead_after_tokens).mean())
        return {
            "step": self.n_done,
            "tokens": tokens,
            "lr": lr,
            "aux": 0.0,
            **report,
            "l0_loss": settings.step.l0 * scale * report["l0"],
            **noted,
            "dead": dead,
            "tokens_per_second": tokens / max(self._seconds(), 1e-9),
        }

    def sae(self) -> SAE:
        """The SAE as it is now, on the CPU."""
        if self._untrained is not None:
            return self._untrained
        parameters = self.parameters
        return SAE(
            self._config(),
            W_enc=parameters.enc_sd.detach().cpu().T.contiguous(),
            b_enc=parameters.b_enc_s.detach().cpu().clone(),
            W_dec=parameters.dec_sd.detach().cpu().clone(),
            b_dec=parameters.b_dec_d.detach().cpu().clone(),
            threshold=self._threshold(torch.device("cpu")),
            mean=self._normalization.mean,
            scale=self._normalization.scale,
        )

    def _row_of_start(self, start: Start, sample_nd: torch.Tensor) -> dict[str, Any]:
        """The one row of an untrained SAE, for normalised tokens; columns that need a training step are empty."""
        sae = replace(start, normalization=Normalization(torch.zeros(sample_nd.shape[1]), 1.0)).sae()
        noted = diagnose(sae, sample_nd, torch.Generator().manual_seed(self.settings.options.seed))
        unknown = dict.fromkeys(("lr", "loss", "mse", "l1", "l0", "aux", "grad_norm", "l0_loss"))
        return {"step": 0, "tokens": 0, **unknown, **noted, "dead": 0.0, "tokens_per_second": None}

    def _in_normalised_space(self) -> SAE:
        """The SAE for inputs that are already normalised; it shares the parameters' memory."""
        w = {name: value.detach() for name, value in self.parameters.trained().items()}
        config, threshold = self._config(), self._threshold(self._device)
        if config.activation == "batchtopk" and self.n_done == 0:  # no batch has given it a threshold yet
            config, threshold = replace(config, activation="topk"), None
        return SAE(config, w["enc_sd"].T, w["b_enc_s"], w["dec_sd"], w["b_dec_d"], threshold)

    def _config(self) -> SAEConfig:
        step = self.settings.step
        d_sae, d_model = self.parameters.dec_sd.shape
        return SAEConfig(
            d_model, d_sae, step.activation, step.k if step.activation in ("topk", "batchtopk") else None
        )

    def _threshold(self, device: torch.device) -> torch.Tensor | None:
        threshold_s = self._step.threshold_s
        return None if threshold_s is None else torch.as_tensor(threshold_s).clone().to(device)

    def _set(self, normalization: Normalization, parameters: SAEParameters) -> None:
        self._normalization = normalization
        self.parameters = parameters.to(self._device)
        self._step = make_training_step(self.parameters, self.settings, self._ranks)

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started
