"""The training step with the chosen optimiser, in one process or in several."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from train_sae.config import TrainingSettings
from train_sae.ranks import Ranks
from train_sae.steps import TrainingStep, make_step
from train_sae.steps.parameters import SAEParameters
from train_sae.steps.torch_step import DeferredReport, TorchStep


def make_training_step(parameters: SAEParameters, settings: TrainingSettings, ranks: Ranks) -> TrainingStep:
    """Numba kernels for Adam in one process on a CPU, torch for everything else."""
    options, batch = settings.options, settings.options.batch_size // ranks.world
    if ranks.world == 1 and options.optimizer == "adam":
        return make_step(parameters, settings.step, batch, options.seed, options.autocast)
    kind = TorchStep if ranks.world == 1 else ParallelStep
    step = kind(parameters, settings.step, batch, options.seed, options.autocast)
    if isinstance(step, ParallelStep):
        step.connect(ranks)
    if options.optimizer == "muon":
        step.optimiser = MuonAndAdam(step)  # type: ignore[assignment]
    return step


class MuonAndAdam:
    """Muon (Jordan et al. 2024) for W_enc and W_dec, Adam for the vectors; replaces the optimiser of a `TorchStep`.

    Muon's momentum is stored as Adam's first moment, so that saved states contain it. Its rate is scaled to Adam's
    size of a step (0.2 sqrt(max(S, D)), arXiv 2502.16982, 2.2), so that one --lr suits both.
    """

    def __init__(self, step: TorchStep) -> None:
        trained, first = step.parameters.trained(), step.parameters.first
        matrices = {name: value for name, value in trained.items() if value.ndim == 2}
        self._muon = torch.optim.Muon(
            list(matrices.values()), lr=0.0, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
        )
        for name, value in matrices.items():
            self._muon.state[value] = {"momentum_buffer": first[name]}
        old = step.optimiser
        vectors = [value for value in trained.values() if value.ndim == 1]
        fused = old.defaults["fused"]  # on a GPU the count of steps is there, and stays there
        self._adam = torch.optim.Adam(
            vectors, lr=0.0, betas=step.settings.betas, eps=step.settings.eps, fused=fused
        )
        for value in vectors:
            self._adam.state[value] = old.state[value]
        self.state = self._adam.state  # what counts steps
        self.param_groups: list[dict[str, Any]] = [{"lr": 0.0}]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._muon.zero_grad(set_to_none)
        self._adam.zero_grad(set_to_none)

    def step(self) -> None:
        for optimiser in (self._muon, self._adam):
            optimiser.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            optimiser.step()


class ParallelStep(TorchStep):
    """A step on this process's share of the batch; gradients are averaged over all processes before they are used.

    TopK and prefixes are as in one process; BatchTopK selects within each process's share.
    """

    def connect(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._tokens_per_step *= ranks.world
        for value in self._trained.values():
            value.register_post_accumulate_grad_hook(self._average)

    def _average(self, value: Tensor) -> None:
        assert value.grad is not None
        self._ranks.mean_(value.grad)

    def step(
        self, x_bd: Tensor, lr: float, sparsity_scale: float = 1.0, log_norm: bool = False
    ) -> DeferredReport:
        report = super().step(x_bd, lr, sparsity_scale, log_norm).tensors
        with torch.no_grad():
            self._ranks.minimum_(self._fired_s)  # fired anywhere
            self._fired_s += torch.where(self._fired_s > 0, (self._ranks.world - 1) * len(x_bd), 0)
        values = torch.stack([*report.values(), *self._running]).to(self._running)
        self._ranks.mean_(values)
        self._running = values[-2:]
        return DeferredReport(dict(zip(report, values, strict=False)))
