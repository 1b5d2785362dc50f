"""The step on dense codes: five matrix products per block of latents, with elementwise kernels between them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from saetools.compute.threads import Workers, even_pieces
from train_sae.steps.cpu.sparse import PIECES, SparseBackward
from train_sae.steps.parameters import Adam, SAEParameters, clip_factor, squared_norm
from train_sae.steps.settings import StepSettings

BLOCK = 2048  # latents per product: enough for its full rate, few enough that only f is ever held whole


class DenseBackward:
    """Forward and backward with all values of f {S, B} in memory, one row per latent.

    The blocks of latents end where prefixes end, so that Matryoshka costs the products of one decode: x_hat is
    summed block by block, each prefix leaves its residual on the way, and a block's gradient is the sum of the
    residuals of all prefixes that hold it.
    """

    def __init__(
        self,
        parameters: SAEParameters,
        settings: StepSettings,
        batch_size: int,
        workers: Workers,
        sparse: SparseBackward,
    ) -> None:
        self.parameters, self.settings, self.workers, self.sparse = parameters, settings, workers, sparse
        s, d = parameters.n_latents, parameters.d_model
        block = min(BLOCK, s)
        self.clips = settings.grad_clip is not None
        self.f_sb = torch.empty(s * batch_size)
        self.df_sb = torch.empty(block * batch_size)
        self.x_hat_bd = torch.empty(batch_size, d)
        self.g_enc_sd = torch.empty(s if self.clips else block, d)
        self.g_dec_sd = torch.empty(s if self.clips else block, d)
        self.g_b_enc_s = torch.empty(s)
        self.square_s = np.empty(s, np.float32)
        self.n_s, self.sum_s = np.empty(s, np.int32), np.empty(s, np.float32)
        self.theta_s = np.zeros(s, np.float32)
        self.window_sw = np.empty((0, 0), np.uint64)
        if settings.activation == "jumprelu":
            self.window_sw = np.empty((s, -(-batch_size // 64)), np.uint64)

    def forward(self, x_bd: Tensor, centred_bd: Tensor, ends_p: np.ndarray) -> np.ndarray:
        """Fills in f, n, sum and G; returns the MSE of each prefix."""
        from train_sae.steps.cpu.kernels.dense import activate_rows, mark_window_rows, residual_rows

        parameters, run = self.parameters, self.workers.run
        n, d = x_bd.shape
        bias_s = parameters.b_enc_s.numpy()
        threshold_s = parameters.threshold_s
        if threshold_s is not None:
            self.theta_s = threshold_s.numpy()
        half = np.float32(self.settings.bandwidth / 2)
        x_hat_bd = self.x_hat_bd[:n]
        x_hat_bd.copy_(parameters.b_dec_d)
        scale = np.float32(2 / (len(ends_p) * n * d))
        sse_pb = np.empty((len(ends_p), n), np.float32)
        for start, stop, prefix in blocks(ends_p):
            f_sb = self.f_sb[start * n : stop * n].view(stop - start, n)
            torch.mm(parameters.enc_sd[start:stop], centred_bd.T, out=f_sb)
            rows = even_pieces(stop - start, PIECES)
            f = f_sb.numpy()
            if threshold_s is not None:
                run(mark_window_rows, rows, start, f, bias_s, self.theta_s, half, self.window_sw)
            run(activate_rows, rows, start, f, bias_s, self.theta_s, self.n_s, self.sum_s)
            torch.addmm(x_hat_bd, f_sb.T, parameters.dec_sd[start:stop], out=x_hat_bd)
            if stop == ends_p[prefix]:
                G_bd = self._G(prefix, n)
                run(
                    residual_rows,
                    even_pieces(n, PIECES),
                    x_hat_bd.numpy(),
                    x_bd.numpy(),
                    scale,
                    G_bd.numpy(),
                    sse_pb[prefix],
                )
        for prefix in range(len(ends_p) - 2, -1, -1):
            self._G(prefix, n).add_(self._G(prefix + 1, n))
        return sse_pb.sum(axis=1, dtype=np.float64) / (n * d)

    def backward(
        self,
        centred_bd: Tensor,
        ends_p: np.ndarray,
        l1: float,
        l0: float,
        has_aux: bool,
        adam: Adam,
        lr: float,
    ) -> float:
        """Gradients and Adam; `l1`, `l0`: derivatives of the sparsity terms by an active f and by the count.

        With AuxK, `sparse` has grouped its active latents. Returns the gradient's global norm, before clipping.
        """
        from train_sae.steps.cpu.kernels.dense import backward_rows, threshold_gradient_rows
        from train_sae.steps.cpu.kernels.update import add_active_gradients, finish_gradients

        parameters, run, sparse = self.parameters, self.workers.run, self.sparse
        n = len(centred_bd)
        scalars = adam.next_step(lr)
        g_b_enc = self.g_b_enc_s.numpy()
        jump = self.settings.activation == "jumprelu"
        g_theta_s = torch.zeros(parameters.n_latents if jump else 0)
        sparse.g_b_dec_pd.zero_()
        g_b_dec_pd = sparse.g_b_dec_pd.numpy()
        for start, stop, prefix in blocks(ends_p):
            G_bd = self._G(prefix, n)
            f_sb = self.f_sb[start * n : stop * n].view(stop - start, n)
            df_sb = self.df_sb[: (stop - start) * n].view(stop - start, n)
            torch.mm(parameters.dec_sd[start:stop], G_bd.T, out=df_sb)
            rows = even_pieces(stop - start, PIECES)
            if jump:
                half = np.float32(self.settings.bandwidth / 2)
                run(
                    threshold_gradient_rows, rows, start, df_sb.numpy(), self.theta_s, half, np.float32(l1),
                    np.float32(l0), self.window_sw, g_theta_s.numpy(),
                )  # fmt: skip
            run(backward_rows, rows, start, df_sb.numpy(), f_sb.numpy(), np.float32(l1), g_b_enc)
            g_enc, g_dec = self._gradients(start, stop)
            torch.mm(f_sb, G_bd, out=g_dec)
            torch.mm(df_sb, centred_bd, out=g_enc)
            g_enc_sd, g_dec_sd = g_enc.numpy(), g_dec.numpy()
            if has_aux:
                inputs = sparse.ptr_s, *sparse.grouped, centred_bd.numpy(), sparse.G_rd.numpy()
                run(add_active_gradients, rows, start, *inputs, g_enc_sd, g_dec_sd, g_b_enc)
            run(
                finish_gradients, rows, start, g_enc_sd, g_dec_sd, g_b_enc, parameters.enc_sd.numpy(),
                parameters.dec_sd.numpy(), self.square_s, g_b_dec_pd,
            )  # fmt: skip
            if not self.clips:
                self._update(start, stop, 1.0, scalars)
        g_b_dec_d = self._G(0, n).sum(0, dtype=torch.float64) + sparse.g_b_dec_pd.sum(0, dtype=torch.float64)
        square_sum = float(self.square_s.sum(dtype=np.float64))
        norm = (square_sum + squared_norm(g_b_dec_d) + squared_norm(g_theta_s)) ** 0.5
        clip = clip_factor(norm, self.settings.grad_clip)
        if self.clips:
            self._update(0, parameters.n_latents, clip, scalars)
        adam.update(parameters, "b_enc_s", self.g_b_enc_s * clip, scalars)
        adam.update(parameters, "b_dec_d", (g_b_dec_d * clip).float(), scalars)
        if jump:
            adam.update(parameters, "log_threshold_s", g_theta_s * clip, scalars)
        return norm

    def _G(self, prefix: int, n_tokens: int) -> Tensor:
        return self.sparse.G_rd[prefix * n_tokens : (prefix + 1) * n_tokens]

    def _gradients(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        first = start if self.clips else 0
        rows = slice(first, first + stop - start)
        return self.g_enc_sd[rows], self.g_dec_sd[rows]

    def _update(self, start: int, stop: int, clip: float, scalars: np.ndarray) -> None:
        from train_sae.steps.cpu.kernels.update import update_from_gradients

        gradients = (gradient.numpy() for gradient in self._gradients(start, stop))
        self.workers.run(
            update_from_gradients, even_pieces(stop - start, PIECES), start, *gradients, np.float32(clip), scalars,
            *(tensor.numpy() for name in ("enc_sd", "dec_sd") for tensor in self.parameters.with_moments(name)),
        )  # fmt: skip


def blocks(ends_p: np.ndarray) -> list[tuple[int, int, int]]:
    """(first latent, one past the last, the first prefix that holds them), cut at every prefix's end."""
    cuts = []
    begin = 0
    for prefix, end in enumerate(ends_p.tolist()):
        n_blocks = -(-(end - begin) // BLOCK)
        bounds = [begin + (end - begin) * i // n_blocks for i in range(n_blocks + 1)]
        cuts += [(lo, hi, prefix) for lo, hi in pairwise(bounds)]
        begin = end
    return cuts
