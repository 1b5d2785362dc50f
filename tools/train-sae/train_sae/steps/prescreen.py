"""Selection at the rate of bfloat16 products, with the result of float32."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from saetools.workers import Workers, even_pieces
from train_sae.steps.events import EventBuffer, Events
from train_sae.steps.parameters import SAEParameters
from train_sae.steps.selection import CHUNK_BYTES, MAX_PIECES, AboveThreshold, TopKSelector, block_width

# |fl(x) fl(w) - x w| <= (2 u + u^2) |x w| with bfloat16's u = 2^-9, summed with sum |x w| <= |x| |w|; float32 sums
# add less than D 2^-23 of it, and rounding the result u |z|.
UNIT = 2.0**-9
# More candidates than this share of the latents, and the products in float32 are the faster way; every
# 64th step looks again.
TOO_MANY = 0.02
PAUSE = 63


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices faster than float32 ones (AVX512-BF16 or AMX)."""
    checks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(check() for check in checks if check is not None)


class Screen:
    """Pre-activations in bfloat16, a few hundred tokens at a time, with what bounds their error:

        |z~ - z| <= product |x_b| |enc_s| + UNIT |z~|

    `norm_b` and `norm_block` are upper bounds of |x_b|, and of |enc_s| over each block of `width` latents.
    """

    def __init__(self, parameters: SAEParameters, width: int, batch_size: int) -> None:
        s, d = parameters.n_latents, parameters.d_model
        self.parameters, self.width = parameters, width
        self.product = np.float32(2 * UNIT + UNIT**2 + d * 2.0**-23)
        self.enc_sd = torch.empty(s, d, dtype=torch.bfloat16)
        self.centred_bd = torch.empty(batch_size, d, dtype=torch.bfloat16)
        n_chunks = -(-batch_size * s * 2 // CHUNK_BYTES)
        self.tokens = max(min(128, batch_size), -(-batch_size // n_chunks))
        self.z_bs = torch.empty(self.tokens, s, dtype=torch.bfloat16)
        self.norm_block = np.empty(0, np.float32)
        self.norm_b = np.empty(0, np.float32)

    def __call__(self, centred_bd: Tensor) -> Iterator[tuple[int, int, np.ndarray]]:
        """(first token, one past the last, the bits of their z~, valid until the next chunk)."""
        up = 1 + self.parameters.d_model * 2.0**-23  # a norm computed in float32 may be low by that
        norm_s = self.parameters.enc_sd.norm(dim=1).mul_(up)
        padded = torch.nn.functional.pad(norm_s, (0, -len(norm_s) % self.width))
        self.norm_block = padded.view(-1, self.width).amax(1).numpy()
        self.norm_b = centred_bd.norm(dim=1).mul_(up).numpy()
        self.enc_sd.copy_(self.parameters.enc_sd)
        x_bd = self.centred_bd[: len(centred_bd)].copy_(centred_bd)
        for start in range(0, len(x_bd), self.tokens):
            stop = min(start + self.tokens, len(x_bd))
            z_bs = self.z_bs[: stop - start]
            torch.mm(x_bd[start:stop], self.enc_sd.T, out=z_bs)
            yield start, stop, z_bs.view(torch.uint16).numpy()


class ScreenedTopKSelector:
    """`TopKSelector`, with candidates from bfloat16 products, which provably hold the k largest."""

    def __init__(self, parameters: SAEParameters, k: int, batch_size: int, workers: Workers) -> None:
        self.parameters, self.k, self.workers = parameters, k, workers
        width = block_width(parameters.n_latents, k)
        assert width > 1, "as many blocks as latents: nothing to screen"
        self.screen = Screen(parameters, width, batch_size)
        self.buffer = EventBuffer(batch_size, batch_size * k)
        self.buffer.ptr_b[:] = range(0, batch_size * k + 1, k)
        self.exact: TopKSelector | None = None
        self.pause = 0  # exact steps to make before screening is tried again

    def select(self, centred_bd: Tensor) -> Events:
        if self.pause > 0:
            self.pause -= 1
            if self.exact is None:
                self.exact = TopKSelector(self.parameters, self.k, len(self.buffer.ptr_b) - 1, self.workers)
            return self.exact.select(centred_bd)
        n_scored = self._screen(centred_bd)
        if n_scored > TOO_MANY * self.parameters.n_latents * len(centred_bd):
            self.pause = PAUSE
        return self.buffer.events(len(centred_bd))

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"pause": np.array([self.pause])}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.pause = int(state["pause"][0])

    def _screen(self, centred_bd: Tensor) -> int:
        """Fills the buffer; returns how many candidates were scored."""
        from train_sae.steps.kernels.prescreen import screened_top_k_rows

        screen = self.screen
        bias_s, enc_sd = self.parameters.b_enc_s.numpy(), self.parameters.enc_sd.numpy()
        latent_bk, value_bk = self.buffer.latent_e.reshape(-1, self.k), self.buffer.f_e.reshape(-1, self.k)
        n_scored = 0
        for start, stop, z_bs in screen(centred_bd):
            n_piece = np.zeros(MAX_PIECES, np.int64)
            self.workers.run(
                screened_top_k_rows, even_pieces(stop - start, MAX_PIECES), z_bs, bias_s,
                centred_bd[start:stop].numpy(), enc_sd, screen.norm_b[start:stop], screen.norm_block, screen.product,
                np.float32(UNIT), self.k, screen.width, latent_bk[start:stop], value_bk[start:stop], n_piece,
            )  # fmt: skip
            n_scored += int(n_piece.sum())
        return n_scored


class ScreenedAboveThreshold(AboveThreshold):
    """`AboveThreshold`, with candidates from bfloat16 products, which provably hold all that is above the cut."""

    def __init__(self, parameters: SAEParameters, batch_size: int, workers: Workers) -> None:
        super().__init__(parameters, batch_size, workers)
        self.screen = Screen(parameters, 16, batch_size)
        self.pause = 0

    def collect(
        self, centred_bd: Tensor, cut_s: np.ndarray, theta_s: np.ndarray, at_most: int | None = None
    ) -> Events:
        if self.pause > 0:
            self.pause -= 1
        elif self._screen(centred_bd, cut_s, theta_s):
            return self.buffer.events(len(centred_bd))
        else:
            self.pause = PAUSE
        return self.collect_exactly(centred_bd, cut_s, theta_s, at_most)

    def _screen(self, centred_bd: Tensor, cut_s: np.ndarray, theta_s: np.ndarray) -> bool:
        """Fills the buffer, or gives up if there are too many candidates."""
        from train_sae.steps.kernels.prescreen import count_candidate_rows, score_candidate_rows
        from train_sae.steps.kernels.threshold import drop_marked

        screen, ptr_b = self.screen, self.buffer.ptr_b
        bias_s, enc_sd = self.parameters.b_enc_s.numpy(), self.parameters.enc_sd.numpy()
        ptr_b[0] = 0
        for start, stop, z_bs in screen(centred_bd):
            pieces, n_b = even_pieces(stop - start, MAX_PIECES), np.empty(stop - start, np.int32)
            bounds = screen.norm_b[start:stop], screen.norm_block, screen.product, np.float32(UNIT)
            self.workers.run(count_candidate_rows, pieces, z_bs, bias_s, cut_s, *bounds, n_b)
            if n_b.mean() > TOO_MANY * self.parameters.n_latents:
                return False
            np.cumsum(n_b, out=ptr_b[start + 1 : stop + 1])
            ptr_b[start + 1 : stop + 1] += ptr_b[start]
            self.buffer.grow(int(ptr_b[stop]))
            self.workers.run(
                score_candidate_rows, pieces, z_bs, bias_s, cut_s, *bounds, theta_s, centred_bd[start:stop].numpy(),
                enc_sd, ptr_b[start : stop + 1], self.buffer.latent_e, self.buffer.f_e,
            )  # fmt: skip
        drop_marked(ptr_b, len(centred_bd), self.buffer.latent_e, self.buffer.f_e)
        return True
