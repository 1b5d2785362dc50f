"""One training step in plain torch: autograd and `torch.optim.Adam`, on any device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saetools.compute.devices import exact_type
from train_sae.steps.parameters import SAEParameters, clip_factor
from train_sae.steps.prefixes import prefixes_of_step
from train_sae.steps.settings import StepSettings

# On a GPU, the host asks every so many steps which latents may be dead: each time it waits for the device.
STEPS_PER_LOOK = 32


class DeferredReport(Mapping[str, float]):
    """A step's report, still on the device; reading one value fetches all of them and waits for the step."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self.tensors = {name: value.detach() for name, value in values.items()}
        self._read: dict[str, float] | None = None

    def __getitem__(self, name: str) -> float:
        if self._read is None:
            self._read = dict(zip(self.tensors, torch.stack([*self.tensors.values()]).tolist(), strict=True))
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


class JumpReLU(torch.autograd.Function):
    """(f, on) = (z on, on) with on = [z > theta]; straight-through for theta (arXiv 2407.14435, equations 11 and 12).

    d f / d theta = -theta / width K,  d on / d theta = -1 / width K,  K = [|z - theta| < width / 2];
    d f / d z = on, d on / d z = 0.
    """

    @staticmethod
    def forward(ctx: Any, z_bs: Tensor, theta_s: Tensor, width: float) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(z_bs, theta_s)
        ctx.width = width
        on_bs = (z_bs > theta_s).to(z_bs.dtype)
        return z_bs * on_bs, on_bs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        z_bs, theta_s = ctx.saved_tensors
        df_bs, don_bs = gradients
        window_bs = (z_bs - theta_s).abs() < ctx.width / 2
        g_theta_s = -(window_bs * (theta_s * df_bs + don_bs)).sum(0) / ctx.width
        return df_bs * (z_bs > theta_s), g_theta_s, None


class TorchStep:
    """The step of the formulas in `train_sae.steps`; `autocast`: matrix products in bfloat16.

    This is the plain implementation, for any device; `cpu.CpuStep` is the fast one for CPUs. A step only queues work on
    the device, so that the host can be some steps ahead. It waits when the report is read, when a state is saved and,
    with AuxK, once in `STEPS_PER_LOOK` steps.
    """

    def __init__(
        self,
        parameters: SAEParameters,
        settings: StepSettings,
        batch_size: int,
        seed: int,
        autocast: bool = False,
    ) -> None:
        self.parameters, self.settings, self.batch_size, self.seed = parameters, settings, batch_size, seed
        self.device = parameters.dec_sd.device
        self.autocast = autocast
        self.step_count = 0
        self._running = torch.zeros(2, dtype=exact_type(self.device), device=self.device)
        self._tokens_per_step = batch_size
        self._longest_silence = 0  # upper bound of fired_s, known without asking the device
        self._look_every = 1 if self.device.type == "cpu" else STEPS_PER_LOOK
        self._may_be_dead: Tensor | None = None
        self._fired_s = torch.zeros(parameters.n_latents, dtype=torch.int64, device=self.device)
        self._trained = parameters.trained()
        fused = self.device.type == "cuda"
        self.optimiser = torch.optim.Adam(
            self._trained.values(), lr=0.0, betas=settings.betas, eps=settings.eps, fused=fused or None
        )
        self._count = torch.zeros((), device=self.device if fused else "cpu")
        for name, value in self._trained.items():
            value.requires_grad_()
            first, second = parameters.first[name], parameters.second[name]
            state = {"step": self._count.clone(), "exp_avg": first, "exp_avg_sq": second}
            self.optimiser.state[value] = state

    @property
    def fired_s(self) -> np.ndarray:
        """Tokens since each latent last fired, int64 {S}."""
        return self._fired_s.cpu().numpy()

    @property
    def threshold_s(self) -> np.ndarray | None:
        """As `CpuStep.threshold_s`."""
        if self.settings.activation == "batchtopk":
            total, weight = self._running.tolist()
            return np.full(self.parameters.n_latents, total / weight if weight else 0.0, dtype=np.float32)
        threshold_s = self.parameters.threshold_s
        return None if threshold_s is None else threshold_s.detach().cpu().numpy()

    def step(
        self, x_bd: Tensor, lr: float, sparsity_scale: float = 1.0, log_norm: bool = False
    ) -> DeferredReport:
        x_bd = x_bd.to(self.device, torch.float32, non_blocking=self.device.type == "cuda")
        self.optimiser.zero_grad(set_to_none=True)
        report, f_bs = self._losses(x_bd, sparsity_scale)
        report["loss"].backward()
        with torch.no_grad():
            dec_sd = self.parameters.dec_sd
            assert dec_sd.grad is not None
            dec_sd.grad -= (dec_sd.grad * dec_sd).sum(1, keepdim=True) * dec_sd
            if self.settings.grad_clip is not None or log_norm:
                gradients = [value.grad for value in self._trained.values() if value.grad is not None]
                norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients]))
                report["grad_norm"] = norm
                if self.settings.grad_clip is not None:
                    factor = clip_factor(norm.to(exact_type(self.device)), self.settings.grad_clip)
                    torch._foreach_mul_(gradients, factor.to(norm))
            self.optimiser.param_groups[0]["lr"] = lr
            self.optimiser.step()
            norm_s1 = torch.linalg.vector_norm(dec_sd, dim=1, keepdim=True)
            dec_sd /= torch.where(norm_s1 > 0, norm_s1, 1)
            self._fired_s += len(x_bd)
            self._fired_s.masked_fill_((f_bs > 0).any(0), 0)
        self.step_count += 1
        self._longest_silence += self._tokens_per_step
        return DeferredReport(report)

    def state_dict(self) -> dict[str, np.ndarray]:
        state = {
            "step_count": np.array([self.step_count], dtype=np.int64),
            "seed": np.array([self.seed], dtype=np.int64),
            "fired_s": self.fired_s.copy(),
        }
        if self.settings.activation == "batchtopk":
            state["running_threshold"] = np.array(self._running.tolist())
        if self._may_be_dead is not None and self._look_every > 1:
            state["may_be_dead"] = self._may_be_dead.cpu().numpy().copy()
        return state

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.step_count = int(state["step_count"][0])
        self.seed = int(state["seed"][0])
        self._fired_s.copy_(torch.from_numpy(state["fired_s"]))
        self._longest_silence = int(state["fired_s"].max())
        for adam in self.optimiser.state.values():
            adam["step"].fill_(self.step_count)
        if self.settings.activation == "batchtopk":
            self._running.copy_(torch.from_numpy(state["running_threshold"]))
        if "may_be_dead" in state:  # so that later sums are over as many zeros as without the interruption
            self._may_be_dead = torch.from_numpy(state["may_be_dead"]).to(self.device)

    def _losses(self, x_bd: Tensor, scale: float) -> tuple[dict[str, Tensor], Tensor]:
        """The loss and its parts, and f {B, S}."""
        settings, w = self.settings, self.parameters
        n = len(x_bd)
        with self._products():
            z_bs = torch.nn.functional.linear(x_bd - w.b_dec_d, w.enc_sd, w.b_enc_s).float()
        f_bs, on_bs = self._activate(z_bs)
        ends = prefixes_of_step(settings, w.n_latents, (self.seed, self.step_count)).tolist()
        x_hat_bd = w.b_dec_d
        mses = []
        for start, stop in pairwise([0, *ends]):  # one decode, cut where the prefixes end
            with self._products():
                part_bd = f_bs[:, start:stop] @ w.dec_sd[start:stop]
            x_hat_bd = x_hat_bd + part_bd.float()
            mses.append((x_hat_bd - x_bd).square().mean())
        l1 = settings.l1 * scale * f_bs.sum() / n
        report = {"loss": torch.stack(mses).mean() + l1, "mse": mses[-1], "l1": l1, "l0": on_bs.sum() / n}
        if settings.l0:
            report["loss"] = report["loss"] + settings.l0 * scale * report["l0"]
        if settings.aux_k:
            report["aux"] = settings.aux_weight * self._aux(z_bs, (x_bd - x_hat_bd).detach())
            report["loss"] = report["loss"] + report["aux"]
        return report, f_bs.detach()

    def _activate(self, z_bs: Tensor) -> tuple[Tensor, Tensor]:
        """f, and where it is active; JumpReLU's activity has a gradient."""
        settings = self.settings
        if settings.activation == "jumprelu":
            assert self.parameters.log_threshold_s is not None
            f_bs, on_bs = JumpReLU.apply(z_bs, self.parameters.log_threshold_s.exp(), settings.bandwidth)
            return f_bs, on_bs
        f_bs = z_bs.relu()
        if settings.activation == "topk":
            keep = z_bs.detach().topk(settings.k, dim=1, sorted=False).indices
            f_bs = f_bs * torch.zeros_like(z_bs).scatter_(1, keep, 1.0)
        elif settings.activation == "batchtopk":
            flat = f_bs.detach().flatten()
            values, keep = flat.topk(settings.k * len(z_bs), sorted=False)
            f_bs = f_bs * torch.zeros_like(flat).scatter_(0, keep, 1.0).view_as(z_bs)
            self._update_running_threshold(values)
        return f_bs, (f_bs > 0).float()

    def _aux(self, z_bs: Tensor, residual_bd: Tensor) -> Tensor:
        listed_c = self._latents_that_may_be_dead()
        if listed_c is None:
            return torch.zeros((), device=self.device)
        dead_c = self._fired_s[listed_c] >= self.settings.dead_after_tokens
        z_bc = z_bs[:, listed_c]
        ranked_bc = z_bc.detach().masked_fill(~dead_c, -torch.inf)
        keep = ranked_bc.topk(min(self.settings.aux_k, len(listed_c)), dim=1, sorted=False).indices
        codes_bc = z_bc.relu() if self.settings.activation in ("topk", "batchtopk") else z_bc
        codes_bc = codes_bc * (torch.zeros_like(z_bc).scatter_(1, keep, 1.0) * dead_c)
        with self._products():
            part_bd = codes_bc @ self.parameters.dec_sd[listed_c]
        return (part_bd.float() - residual_bd).square().mean() * dead_c.any()

    def _latents_that_may_be_dead(self) -> Tensor | None:
        """The latents int64 {C} of which some may be dead now; None where there are none.

        How many are dead is on the device. The host asks once in some steps for those that can be dead before it asks
        again, so that a step need not wait for the one before.
        """
        since = self.step_count % self._look_every
        if since == 0 or self._may_be_dead is None:
            steps_to_come = self._look_every - 1 - since
            min_silence = self.settings.dead_after_tokens - steps_to_come * self._tokens_per_step
            if self._longest_silence < min_silence:  # too few tokens for any: no need to ask
                return None
            self._may_be_dead = torch.nonzero(self._fired_s >= min_silence).flatten()
        return self._may_be_dead if len(self._may_be_dead) else None

    def _update_running_threshold(self, chosen: Tensor) -> None:
        """BatchTopK's running threshold after a batch whose chosen values these are; unchanged if none is active."""
        decay, on = self.settings.threshold_decay, chosen > 0
        smallest = torch.where(on, chosen, torch.inf).amin().to(self._running)
        new = decay * self._running + (1 - decay) * torch.stack([smallest, torch.ones_like(smallest)])
        self._running = torch.where(on.any(), new, self._running)

    def _products(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.autocast else nullcontext()
