"""TopK at the rate of bfloat16 products, with the result of float32."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saetools.workers import Workers, even_pieces
from train_sae.steps.events import EventBuffer, Events
from train_sae.steps.parameters import SAEParameters
from train_sae.steps.selection import CHUNK_BYTES, MAX_PIECES, TopKSelector, block_width

# |fl(x) fl(w) - x w| <= (2 u + u^2) |x w| with bfloat16's u = 2^-9, summed with |sum x w| <= |x| |w|; the float32
# sums add D 2^-24 of it at most (accounted below), and rounding the result u |z|.
UNIT = 2.0**-9
# More candidates than this share of the latents, and the products in float32 are the faster way.
TOO_MANY = 0.02


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices faster than float32 ones (AVX512-BF16 or AMX)."""
    checks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(check() for check in checks if check is not None)


class ScreenedTopKSelector:
    """`TopKSelector`, with candidates from bfloat16 products, which provably hold the k largest.

    While they are too many, as when all pre-activations of a token are nearly alike, float32 products are used;
    every 64th step tries again.
    """

    def __init__(self, parameters: SAEParameters, k: int, batch_size: int, workers: Workers) -> None:
        self.parameters, self.k, self.workers = parameters, k, workers
        s, d = parameters.n_latents, parameters.d_model
        self.width = block_width(s, k)
        assert self.width > 1, "as many blocks as latents: nothing to screen"
        self.buffer = EventBuffer(batch_size, batch_size * k)
        self.buffer.ptr_b[:] = range(0, batch_size * k + 1, k)
        self.enc_sd = torch.empty(s, d, dtype=torch.bfloat16)
        self.centred_bd = torch.empty(batch_size, d, dtype=torch.bfloat16)
        n_chunks = -(-batch_size * s * 2 // CHUNK_BYTES)
        self.tokens = max(min(128, batch_size), -(-batch_size // n_chunks))
        self.z_bs = torch.empty(self.tokens, s, dtype=torch.bfloat16)
        self.exact: TopKSelector | None = None
        self.exact_steps = 0  # to make before screening is tried again

    def select(self, centred_bd: Tensor) -> Events:
        if self.exact_steps > 0:
            self.exact_steps -= 1
            if self.exact is None:
                self.exact = TopKSelector(self.parameters, self.k, len(self.centred_bd), self.workers)
            return self.exact.select(centred_bd)
        n_scored = self._screen(centred_bd)
        if n_scored > TOO_MANY * self.parameters.n_latents * len(centred_bd):
            self.exact_steps = 63
        return self.buffer.events(len(centred_bd))

    def _screen(self, centred_bd: Tensor) -> int:
        from train_sae.steps.kernels.prescreen import screened_top_k_rows

        n, d = centred_bd.shape
        parameters, width = self.parameters, self.width
        self.enc_sd.copy_(parameters.enc_sd)
        x_bd = self.centred_bd[:n].copy_(centred_bd)
        product = 2 * UNIT + UNIT**2 + d * 2.0**-23
        up = 1 + d * 2.0**-23  # so that norms computed in float32 are upper bounds
        norm_s = parameters.enc_sd.norm(dim=1).mul_(up)
        norm_block = torch.nn.functional.pad(norm_s, (0, -len(norm_s) % width)).view(-1, width).amax(1)
        norm_b = centred_bd.norm(dim=1).mul_(up).numpy()
        latent_bk, value_bk = self.buffer.latent_e.reshape(-1, self.k), self.buffer.f_e.reshape(-1, self.k)
        n_scored = 0
        for start in range(0, n, self.tokens):
            stop = min(start + self.tokens, n)
            z_bs = self.z_bs[: stop - start]
            torch.mm(x_bd[start:stop], self.enc_sd.T, out=z_bs)
            n_piece = np.zeros(MAX_PIECES, np.int64)
            self.workers.run(
                screened_top_k_rows, even_pieces(stop - start, MAX_PIECES), z_bs.view(torch.uint16).numpy(),
                parameters.b_enc_s.numpy(), centred_bd[start:stop].numpy(), parameters.enc_sd.numpy(),
                norm_b[start:stop], norm_block.numpy(), np.float32(product), np.float32(UNIT), self.k, width,
                latent_bk[start:stop], value_bk[start:stop], n_piece,
            )  # fmt: skip
            n_scored += int(n_piece.sum())
        return n_scored
