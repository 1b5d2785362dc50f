"""The step on sparse codes: after the encoder, the work is proportional to the number of active latents."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saetools.compute.threads import Workers, even_pieces, pieces_of_equal_work
from train_sae.steps.cpu.selection import ActiveLatents
from train_sae.steps.parameters import Adam, SAEParameters, clip_factor, squared_norm
from train_sae.steps.settings import StepSettings

PIECES = 32
ADAM_COST = 3  # of one latent's Adam step, in active tokens


class SparseBackward:
    """Reconstruction, gradients and update from the active latents of a batch.

    G {P + 1, B, D} holds the gradient with respect to x_hat for the latents of each prefix (P = 1 without
    Matryoshka), and in its last slab that of AuxK's reconstruction.
    """

    def __init__(
        self, parameters: SAEParameters, settings: StepSettings, batch_size: int, workers: Workers
    ) -> None:
        self.parameters, self.settings, self.workers = parameters, settings, workers
        n_prefixes = settings.n_prefixes if settings.objective == "matryoshka" else 1
        slabs = n_prefixes + (settings.aux_k > 0)
        self.G_rd = torch.empty(slabs * batch_size, parameters.d_model)
        self.cursor_s = np.empty(parameters.n_latents, np.int64)
        self.ptr_s = np.zeros(parameters.n_latents + 1, np.int64)
        self.g_b_enc_s = torch.empty(parameters.n_latents)
        self.g_b_dec_pd = torch.zeros(PIECES, parameters.d_model)
        self.grouped = (np.empty(0, np.int32), np.empty(0, np.float32), np.empty(0, np.float32))

    def decode(
        self,
        target_bd: Tensor,
        offset_d: Tensor,
        active: ActiveLatents,
        ends_p: np.ndarray,
        slab: int,
        weight: float,
    ) -> np.ndarray:
        """Fills in `active.df_a`, `active.row_a` and G's slabs from `slab` on; the loss is `weight` times the mean
        over prefixes, tokens and dimensions of the squared residual. Returns each prefix's MSE, without the weight."""
        from train_sae.steps.cpu.kernels.sparse import decode_rows

        n, d = target_bd.shape
        sse_bp = np.empty((n, len(ends_p)), np.float32)
        G_pbd = self.G_rd[slab * n : (slab + len(ends_p)) * n].view(len(ends_p), n, d)
        self.workers.run(
            decode_rows, even_pieces(n, PIECES), target_bd.numpy(), offset_d.numpy(), self.parameters.dec_sd.numpy(),
            active.ptr_b, active.latent_a, active.f_a, ends_p, np.float32(2 * weight / (len(ends_p) * n * d)), slab * n,
            G_pbd.numpy(), active.df_a, active.row_a, sse_bp,
        )  # fmt: skip
        return sse_bp.sum(axis=0, dtype=np.float64) / (n * d)

    def group(
        self, active: ActiveLatents | None, l1: float, aux: ActiveLatents | None, aux_signed: bool
    ) -> None:
        """Sorts the active latents by latent, for `update`; l1: the derivative of the sparsity term by an active f."""
        from train_sae.steps.cpu.kernels.sparse import count_latents, group_by_latent

        lists = ((active, l1, False), (aux, 0.0, aux_signed))
        n = sum(len(listed.latent_a) for listed, _, _ in lists if listed is not None)
        if len(self.grouped[0]) < n:
            room = n + n // 4
            self.grouped = np.empty(room, np.int32), np.empty(room, np.float32), np.empty(room, np.float32)
        self.ptr_s[:] = 0
        for listed, _, _ in lists:
            if listed is not None:
                count_latents(listed.latent_a, self.ptr_s[1:])
        np.cumsum(self.ptr_s, out=self.ptr_s)
        self.cursor_s[:] = self.ptr_s[:-1]
        for listed, slope, signed in lists:
            if listed is not None:
                group_by_latent(
                    listed.latent_a, listed.row_a, listed.f_a, listed.df_a, np.float32(slope), signed,
                    self.cursor_s, *self.grouped,
                )  # fmt: skip

    def update(
        self, centred_bd: Tensor, adam: Adam, lr: float, g_log_threshold_s: Tensor | None, with_norm: bool
    ) -> float | None:
        """Gradients and Adam for all parameters. Returns the gradient's norm if `with_norm` (needed for clipping)."""
        from train_sae.steps.cpu.kernels.update import square_norms, update_from_active

        parameters, settings = self.parameters, self.settings
        bounds = pieces_of_equal_work(self.ptr_s, ADAM_COST, PIECES)
        scalars = adam.next_step(lr)
        enc, dec = parameters.enc_sd, parameters.dec_sd
        inputs = (self.ptr_s, *self.grouped, centred_bd.numpy(), self.G_rd.numpy())
        g_b_dec_d = self._sum_of_G(len(centred_bd))
        norm, clip = None, 1.0
        if with_norm:
            square_s = np.empty(parameters.n_latents, np.float32)
            self.g_b_dec_pd.zero_()
            self.workers.run(
                square_norms, bounds, *inputs, enc.numpy(), dec.numpy(), square_s, self.g_b_enc_s.numpy(),
                self.g_b_dec_pd.numpy(),
            )  # fmt: skip
            whole_d = g_b_dec_d + self.g_b_dec_pd.sum(0, dtype=torch.float64)
            square = float(square_s.sum(dtype=np.float64)) + squared_norm(whole_d)
            if g_log_threshold_s is not None:
                square += squared_norm(g_log_threshold_s)
            norm = square**0.5
            clip = clip_factor(norm, settings.grad_clip)
        self.g_b_dec_pd.zero_()
        rows = [t.numpy() for name in ("enc_sd", "dec_sd") for t in parameters.with_moments(name)]
        self.workers.run(
            update_from_active, bounds, *inputs, np.float32(clip), scalars, *rows, self.g_b_enc_s.numpy(),
            self.g_b_dec_pd.numpy(),
        )  # fmt: skip
        g_b_dec_d = g_b_dec_d * clip + self.g_b_dec_pd.sum(0, dtype=torch.float64)
        adam.update(parameters, "b_enc_s", self.g_b_enc_s, scalars)
        adam.update(parameters, "b_dec_d", g_b_dec_d.float(), scalars)
        if g_log_threshold_s is not None:
            adam.update(parameters, "log_threshold_s", g_log_threshold_s * clip, scalars)
        return norm

    def _sum_of_G(self, n_tokens: int) -> Tensor:
        """Of the first slab, over tokens, {D} in float64."""
        bounds = even_pieces(n_tokens, PIECES)
        sum_pd = torch.empty(len(bounds) - 1, self.G_rd.shape[1])

        def add_up(piece: int, lo: int, hi: int) -> None:
            torch.sum(self.G_rd[lo:hi], 0, out=sum_pd[piece])

        self.workers.run_torch(add_up, bounds)
        return sum_pd.sum(0, dtype=torch.float64)
