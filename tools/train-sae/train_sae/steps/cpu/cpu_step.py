"""The training step on the CPU: on lists of active latents while they are few, else on dense matrices."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saetools.compute.matmul import float32_matmul
from saetools.compute.selection import set_depth
from saetools.compute.threads import Workers, even_pieces
from train_sae.steps.cpu.dense import DenseBackward
from train_sae.steps.cpu.prescreen import ScreenedAboveThreshold, ScreenedTopKSelector, has_fast_bfloat16
from train_sae.steps.cpu.selection import (
    AboveThreshold,
    ActiveLatents,
    BatchTopKSelector,
    DeadSelector,
    Selector,
    ThresholdSelector,
    TopKSelector,
)
from train_sae.steps.cpu.sparse import PIECES, SparseBackward
from train_sae.steps.parameters import Adam, SAEParameters
from train_sae.steps.prefixes import prefixes_of_step
from train_sae.steps.settings import StepSettings

# The latents of ReLU and JumpReLU can start dense and become sparse. Below this fraction of active values the
# sparse step is faster; the fraction in one step decides how the next one is computed.
SPARSE_BELOW = 0.08


class CpuStep:
    """The step of `torch_step.TorchStep` in less time and memory; equal up to rounding."""

    def __init__(self, parameters: SAEParameters, settings: StepSettings, batch_size: int, seed: int) -> None:
        self.parameters, self.settings, self.batch_size, self.seed = parameters, settings, batch_size, seed
        self.adam = Adam(settings.betas, settings.eps)
        self.fired_s = np.zeros(parameters.n_latents, dtype=np.int64)
        self.share = 0.0 if settings.activation in ("topk", "batchtopk") else 1.0
        self.workers = Workers()
        self.centred_bd = torch.empty(batch_size, parameters.d_model)
        self.sparse = SparseBackward(parameters, settings, batch_size, self.workers)
        self.signed = settings.activation in ("relu", "jumprelu")
        self.dead = DeadSelector(parameters, settings.aux_k, self.signed, batch_size, self.workers)
        # Both have large buffers; only one of the two exists at a time.
        self._selector: Selector | None = None
        self.dense: DenseBackward | None = None

    def step(
        self, x_bd: Tensor, lr: float, sparsity_scale: float = 1.0, log_norm: bool = False
    ) -> dict[str, float]:
        n, d = x_bd.shape
        assert x_bd.dtype == torch.float32 and x_bd.is_contiguous() and x_bd.device.type == "cpu"
        assert d == self.parameters.d_model and 1 <= n <= self.batch_size, (
            tuple(x_bd.shape),
            self.batch_size,
        )
        with float32_matmul():
            centred_bd = self._centred(x_bd)
            take_step = self._sparse_step if self.share < SPARSE_BELOW else self._dense_step
            log_norm = log_norm or self.settings.grad_clip is not None
            report = take_step(x_bd, centred_bd, lr, sparsity_scale, log_norm)
        if self.settings.activation in ("relu", "jumprelu"):
            self.share = report["l0"] / self.parameters.n_latents
        return report

    @property
    def threshold_s(self) -> np.ndarray | None:
        """The threshold at inference, float32 {S}: JumpReLU's, or BatchTopK's running one; None for others."""
        selector = self._selector
        if self.settings.activation == "batchtopk":
            total, weight = selector.running if isinstance(selector, BatchTopKSelector) else (0.0, 0.0)
            return np.full(self.parameters.n_latents, total / weight if weight else 0.0, dtype=np.float32)
        threshold_s = self.parameters.threshold_s
        return None if threshold_s is None else threshold_s.numpy()

    def state_dict(self) -> dict[str, np.ndarray]:
        state = {
            "step_count": np.array([self.adam.step_count], dtype=np.int64),
            "seed": np.array([self.seed], dtype=np.int64),
            "fired_s": self.fired_s.copy(),
            "share": np.array([self.share]),
        }
        return state | ({} if self._selector is None else self._selector.state_dict())

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.adam.step_count = int(state["step_count"][0])
        self.seed = int(state["seed"][0])
        self.fired_s[:] = state["fired_s"]
        self.share = float(state["share"][0])
        if "pause" in state:
            self._get_selector().load_state_dict(state)

    def _sparse_step(
        self, x_bd: Tensor, centred_bd: Tensor, lr: float, scale: float, log_norm: bool
    ) -> dict[str, float]:
        self.dense = None
        n = len(x_bd)
        l1, l0 = self.settings.l1 * scale, self.settings.l0 * scale
        active = self._get_selector().select(centred_bd)
        ends_p = self._prefixes()
        mse_p = self.sparse.decode(x_bd, self.parameters.b_dec_d, active, ends_p, slab=0, weight=1.0)
        aux, aux_loss = self._aux(centred_bd, ends_p)
        self.sparse.group(active, l1 / n, aux, self.signed)
        g_threshold_s = self._threshold_gradient(active, l1 / n, l0 / n)
        norm = self.sparse.update(centred_bd, self.adam, lr, g_threshold_s, log_norm)
        on_e = active.f_a > 0
        self._note_fired(n, active.latent_a[on_e])
        values = float(active.f_a.sum(dtype=np.float64))
        return self._report(mse_p, l1 * values / n, l0, float(on_e.sum()) / n, aux_loss, norm)

    def _dense_step(
        self, x_bd: Tensor, centred_bd: Tensor, lr: float, scale: float, log_norm: bool
    ) -> dict[str, float]:
        self._selector = None
        if self.dense is None:
            self.dense = DenseBackward(
                self.parameters, self.settings, self.batch_size, self.workers, self.sparse
            )
        dense, n = self.dense, len(x_bd)
        l1, l0 = self.settings.l1 * scale, self.settings.l0 * scale
        ends_p = self._prefixes()
        mse_p = dense.forward(x_bd, centred_bd, ends_p)
        aux, aux_loss = self._aux(centred_bd, ends_p)
        if aux is not None:
            self.sparse.group(None, 0.0, aux, self.signed)
        norm = dense.backward(centred_bd, ends_p, l1 / n, l0 / n, aux is not None, self.adam, lr)
        self._note_fired(n, np.flatnonzero(dense.n_s))
        values, n_active = (float(sums.sum(dtype=np.float64)) for sums in (dense.sum_s, dense.n_s))
        return self._report(mse_p, l1 * values / n, l0, n_active / n, aux_loss, norm if log_norm else None)

    def _aux(self, centred_bd: Tensor, ends_p: np.ndarray) -> tuple[ActiveLatents | None, float]:
        """The latents of the AuxK loss, decoded, and the weighted loss."""
        if self.settings.aux_k == 0:
            return None, 0.0
        active = self.dead.select(centred_bd, self.fired_s >= self.settings.dead_after_tokens)
        if active is None:
            return None, 0.0
        n, d = centred_bd.shape
        last = self.sparse.G_rd[(len(ends_p) - 1) * n : len(ends_p) * n]
        residual_bd = last * (-0.5 * len(ends_p) * n * d)  # G = 2 / (P B D) (x_hat - x)
        every = np.array([self.parameters.n_latents])
        weight = self.settings.aux_weight
        mse_p = self.sparse.decode(
            residual_bd, torch.zeros(d), active, every, slab=len(ends_p), weight=weight
        )
        return active, weight * float(mse_p[0])

    def _threshold_gradient(self, active: ActiveLatents, l1: float, l0: float) -> Tensor | None:
        from train_sae.steps.cpu.kernels.sparse import threshold_gradient

        threshold_s = self.parameters.threshold_s
        if threshold_s is None:
            return None
        g_s = torch.zeros(self.parameters.n_latents)
        half = np.float32(self.settings.bandwidth / 2)
        threshold_gradient(
            active.latent_a, active.f_a, active.df_a, threshold_s.numpy(), half, np.float32(l1), np.float32(l0),
            g_s.numpy(),
        )  # fmt: skip
        return g_s

    def _report(
        self,
        mse_p: np.ndarray,
        l1_loss: float,
        l0_weight: float,
        l0: float,
        aux_loss: float,
        norm: float | None,
    ) -> dict[str, float]:
        loss = float(mse_p.mean()) + l1_loss + l0_weight * l0 + aux_loss
        report = {"loss": loss, "mse": float(mse_p[-1]), "l1": l1_loss, "l0": l0}
        if self.settings.aux_k:
            report["aux"] = aux_loss
        if norm is not None:
            report["grad_norm"] = norm
        return report

    def _note_fired(self, n_tokens: int, latents: np.ndarray) -> None:
        self.fired_s += n_tokens
        self.fired_s[latents] = 0

    def _centred(self, x_bd: Tensor) -> Tensor:
        out_bd = self.centred_bd[: len(x_bd)]

        def subtract(_piece: int, lo: int, hi: int) -> None:
            torch.sub(x_bd[lo:hi], self.parameters.b_dec_d, out=out_bd[lo:hi])

        self.workers.run_torch(subtract, even_pieces(len(x_bd), PIECES))
        return out_bd

    def _prefixes(self) -> np.ndarray:
        return prefixes_of_step(self.settings, self.parameters.n_latents, (self.seed, self.adam.step_count))

    def _get_selector(self) -> Selector:
        if self._selector is None:
            self._selector = make_selector(self.parameters, self.settings, self.batch_size, self.workers)
        return self._selector


def make_selector(
    parameters: SAEParameters, settings: StepSettings, batch_size: int, workers: Workers
) -> Selector:
    """The selector of the activation; with candidates from bfloat16 products where that is faster."""
    s, k = parameters.n_latents, settings.k
    screens = settings.prescreen
    if screens is None:
        screens = has_fast_bfloat16() and s >= 4096
    if settings.activation == "topk":
        if screens and set_depth(s, k) > 1:
            return ScreenedTopKSelector(parameters, k, batch_size, workers)
        return TopKSelector(parameters, k, batch_size, workers)
    above = (ScreenedAboveThreshold if screens else AboveThreshold)(parameters, batch_size, workers)
    if settings.activation == "batchtopk":
        return BatchTopKSelector(above, k, settings.threshold_decay)
    return ThresholdSelector(above, settings.bandwidth)
