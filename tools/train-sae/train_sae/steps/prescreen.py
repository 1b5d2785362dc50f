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

UNIT = 2.0**-8  # bfloat16's unit roundoff: it has 8 significant bits
# |r - z| <= UNIT |z| where r is z rounded, so |r - z| <= UNIT / (1 - UNIT) |r|.
OUTPUT = np.float32(1.01 * UNIT)
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
    """Pre-activations in bfloat16, a few hundred tokens at a time, with what bounds their error.

    With x~ and w~ for a token and an encoder row rounded to bfloat16, z~ = <x~, w~> summed in float32 and rounded:

        |z~ - z| <= |x~ - x| |w~| + |x| |w~ - w| + D 2^-23 |x~| |w~| + OUTPUT |z~|

    by Cauchy and Schwarz. The roundings are measured: bounds by 2^-8 |x| would leave twice as many candidates.
    Its `norms` are upper bounds of |x| {B}, |x~ - x| {B}, and the largest |w~| and |w~ - w| + D 2^-23 |w~| of each
    block of `width` latents.
    """

    def __init__(self, parameters: SAEParameters, width: int, batch_size: int, workers: Workers) -> None:
        s, d = parameters.n_latents, parameters.d_model
        self.parameters, self.width, self.workers = parameters, width, workers
        self.enc_sd = torch.empty(s, d, dtype=torch.bfloat16)
        self.centred_bd = torch.empty(batch_size, d, dtype=torch.bfloat16)
        n_chunks = -(-batch_size * s * 2 // CHUNK_BYTES)
        self.tokens = max(min(128, batch_size), -(-batch_size // n_chunks))
        self.z_bs = torch.empty(self.tokens, s, dtype=torch.bfloat16)

    def __call__(self, centred_bd: Tensor) -> Iterator[tuple[int, int, np.ndarray, tuple[np.ndarray, ...]]]:
        """(first token, one past the last, the bits of their z~, their `norms`), valid until the next chunk."""
        x_bd = self.centred_bd[: len(centred_bd)]
        rounded_b, rounding_b = self._round(centred_bd, x_bd)
        norm_b = (rounded_b + rounding_b).numpy()
        norm_s, rounding_s = self._round(self.parameters.enc_sd, self.enc_sd)
        rounding_s += self.parameters.d_model * 2.0**-23 * norm_s
        norm_block, rounding_block = self._largest(norm_s), self._largest(rounding_s)
        for start in range(0, len(x_bd), self.tokens):
            stop = min(start + self.tokens, len(x_bd))
            z_bs = self.z_bs[: stop - start]
            torch.mm(x_bd[start:stop], self.enc_sd.T, out=z_bs)
            norms = norm_b[start:stop], rounding_b[start:stop].numpy(), norm_block, rounding_block
            yield start, stop, z_bs.view(torch.uint16).numpy(), norms

    def _round(self, exact_nd: Tensor, rounded_nd: Tensor) -> tuple[Tensor, Tensor]:
        """Fills in the second with the first, rounded; upper bounds of |rounded| and |rounded - exact| of each row."""
        from train_sae.steps.kernels.prescreen import round_rows

        n, d = exact_nd.shape
        norm_n, rounding_n = torch.empty(n), torch.empty(n)
        self.workers.run(
            round_rows, even_pieces(n, MAX_PIECES), exact_nd.numpy(), rounded_nd.view(torch.uint16).numpy(),
            norm_n.numpy(), rounding_n.numpy(),
        )  # fmt: skip
        up = 1 + d * 2.0**-23  # a norm computed in float32 may be low by that
        return norm_n.mul_(up), rounding_n.mul_(up)

    def _largest(self, value_s: Tensor) -> np.ndarray:
        """Of each block of latents."""
        padded = torch.nn.functional.pad(value_s, (0, -len(value_s) % self.width))
        return padded.view(-1, self.width).amax(1).numpy()


class ScreenedTopKSelector:
    """`TopKSelector`, with candidates from bfloat16 products, which provably hold the k largest."""

    def __init__(self, parameters: SAEParameters, k: int, batch_size: int, workers: Workers) -> None:
        self.parameters, self.k, self.workers = parameters, k, workers
        width = block_width(parameters.n_latents, k)
        assert width > 1, "as many blocks as latents: nothing to screen"
        self.screen = Screen(parameters, width, batch_size, workers)
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

        bias_s, enc_sd = self.parameters.b_enc_s.numpy(), self.parameters.enc_sd.numpy()
        latent_bk, value_bk = self.buffer.latent_e.reshape(-1, self.k), self.buffer.f_e.reshape(-1, self.k)
        n_scored = 0
        for start, stop, z_bs, norms in self.screen(centred_bd):
            n_piece = np.zeros(MAX_PIECES, np.int64)
            self.workers.run(
                screened_top_k_rows, even_pieces(stop - start, MAX_PIECES), z_bs, bias_s,
                centred_bd[start:stop].numpy(), enc_sd, *norms, OUTPUT, self.k, self.screen.width,
                latent_bk[start:stop], value_bk[start:stop], n_piece,
            )  # fmt: skip
            n_scored += int(n_piece.sum())
        return n_scored


class ScreenedAboveThreshold(AboveThreshold):
    """`AboveThreshold`, with candidates from bfloat16 products, which provably hold all that is above the cut."""

    def __init__(self, parameters: SAEParameters, batch_size: int, workers: Workers) -> None:
        super().__init__(parameters, batch_size, workers)
        self.screen = Screen(parameters, 16, batch_size, workers)
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

        ptr_b = self.buffer.ptr_b
        bias_s, enc_sd = self.parameters.b_enc_s.numpy(), self.parameters.enc_sd.numpy()
        ptr_b[0] = 0
        for start, stop, z_bs, norms in self.screen(centred_bd):
            pieces, n_b = even_pieces(stop - start, MAX_PIECES), np.empty(stop - start, np.int32)
            self.workers.run(count_candidate_rows, pieces, z_bs, bias_s, cut_s, *norms, OUTPUT, n_b)
            if n_b.mean() > TOO_MANY * self.parameters.n_latents:
                return False
            np.cumsum(n_b, out=ptr_b[start + 1 : stop + 1])
            ptr_b[start + 1 : stop + 1] += ptr_b[start]
            self.buffer.grow(int(ptr_b[stop]))
            self.workers.run(
                score_candidate_rows, pieces, z_bs, bias_s, cut_s, *norms, OUTPUT, theta_s,
                centred_bd[start:stop].numpy(), enc_sd, ptr_b[start : stop + 1], self.buffer.latent_e, self.buffer.f_e,
            )  # fmt: skip
        drop_marked(ptr_b, len(centred_bd), self.buffer.latent_e, self.buffer.f_e)
        return True
