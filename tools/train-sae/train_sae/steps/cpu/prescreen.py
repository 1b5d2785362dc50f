"""Selection by bfloat16 products, with the result of float32: candidates are scored again in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from saetools.compute.selection import SIMD_WIDTH, set_depth
from saetools.compute.threads import Workers, even_pieces
from train_sae.steps.cpu.selection import (
    MAX_PIECES,
    AboveThreshold,
    ActiveBuffer,
    ActiveLatents,
    EncoderChunks,
    TopKSelector,
)
from train_sae.steps.parameters import SAEParameters

UNIT = 2.0**-8  # bfloat16's unit roundoff: it has 8 significant bits
# |r - z| <= UNIT |z| where r is z rounded, so |r - z| <= UNIT / (1 - UNIT) |r|.
OUTPUT = np.float32(1.01 * UNIT)
# With more candidates than this fraction of the latents, float32 products are faster; screening is then tried again
# in every 64th step.
TOO_MANY = 0.05
PAUSE = 63
Norms = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def has_fast_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 matrices faster than float32 ones (AVX512-BF16 or AMX)."""
    checks = (
        getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(check() for check in checks if check is not None)


class Screen:
    """Pre-activations in bfloat16, a few hundred tokens at a time, with bounds of their error.

    With x~ and w~ for a token and an encoder row rounded to bfloat16, z~ = <x~, w~> summed in float32 and rounded:

        |z~ - z| <= |x~ - x| |w~| + |x| |w~ - w| + D 2^-23 |x~| |w~| + OUTPUT |z~|

    by Cauchy and Schwarz. The roundings are measured: bounds by 2^-8 |x| would leave twice as many candidates.
    Its `norms` are upper bounds of |x| {B}, |x~ - x| {B}, and the largest |w~| and |w~ - w| + D 2^-23 |w~| of each
    block of `SIMD_WIDTH` latents.
    """

    def __init__(self, parameters: SAEParameters, batch_size: int, workers: Workers) -> None:
        s, d = parameters.n_latents, parameters.d_model
        self.parameters, self.workers = parameters, workers
        self.enc_sd = torch.empty(s, d, dtype=torch.bfloat16)
        self.centred_bd = torch.empty(batch_size, d, dtype=torch.bfloat16)
        self.chunks = EncoderChunks(s, batch_size, workers, torch.bfloat16)

    def in_turn(self, centred_bd: Tensor) -> Iterator[tuple[int, int, np.ndarray, Norms]]:
        """(first token, one past the last, the bits of their z~, their `norms`), valid until the next chunk."""
        x_bd, norms = self._rounded(centred_bd)
        for start, stop, z_bs in self.chunks.in_turn(x_bd, self.enc_sd):
            yield start, stop, z_bs.view(torch.uint16).numpy(), _of_tokens(norms, start, stop)

    def at_once(self, centred_bd: Tensor, take: Callable[[int, int, np.ndarray, Norms], None]) -> None:
        """Calls `take` with the same for all chunks, on several threads."""
        x_bd, norms = self._rounded(centred_bd)

        def take_bits(start: int, stop: int, z_bs: Tensor) -> None:
            take(start, stop, z_bs.view(torch.uint16).numpy(), _of_tokens(norms, start, stop))

        self.chunks.at_once(x_bd, self.enc_sd, take_bits)

    def _rounded(self, centred_bd: Tensor) -> tuple[Tensor, Norms]:
        """Fills in both factors; returns that of the tokens, and the norms of all."""
        x_bd = self.centred_bd[: len(centred_bd)]
        norm_b, rounding_b = self._round(centred_bd, x_bd)
        norm_s, rounding_s = self._round(self.parameters.enc_sd, self.enc_sd)
        rounding_s += self.parameters.d_model * 2.0**-23 * norm_s
        blocks = self._largest(norm_s), self._largest(rounding_s)
        return x_bd, ((norm_b + rounding_b).numpy(), rounding_b.numpy(), *blocks)

    def _round(self, exact_nd: Tensor, rounded_nd: Tensor) -> tuple[Tensor, Tensor]:
        """Fills in the second with the first, rounded; upper bounds of |rounded| and |rounded - exact| of each row."""
        from train_sae.steps.cpu.kernels.prescreen import round_rows

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
        padded = torch.nn.functional.pad(value_s, (0, -len(value_s) % SIMD_WIDTH))
        return padded.view(-1, SIMD_WIDTH).amax(1).numpy()


def _of_tokens(norms: Norms, start: int, stop: int) -> Norms:
    norm_b, rounding_b, norm_block, rounding_block = norms
    return norm_b[start:stop], rounding_b[start:stop], norm_block, rounding_block


class ScreenedTopKSelector:
    """`TopKSelector`, with candidates from bfloat16 products, which provably hold the k largest."""

    def __init__(self, parameters: SAEParameters, k: int, batch_size: int, workers: Workers) -> None:
        self.parameters, self.k, self.workers = parameters, k, workers
        self.depth = set_depth(parameters.n_latents, k)
        assert self.depth > 1, "as many sets as latents: nothing to screen"
        self.screen = Screen(parameters, batch_size, workers)
        self.buffer = ActiveBuffer(batch_size, batch_size * k)
        self.buffer.ptr_b[:] = range(0, batch_size * k + 1, k)
        self.exact: TopKSelector | None = None
        self.pause = 0  # exact steps to make before screening is tried again

    def select(self, centred_bd: Tensor) -> ActiveLatents:
        if self.pause > 0:
            self.pause -= 1
            if self.exact is None:
                self.exact = TopKSelector(self.parameters, self.k, len(self.buffer.ptr_b) - 1, self.workers)
            return self.exact.select(centred_bd)
        n_scored = self._screen(centred_bd)
        if n_scored > TOO_MANY * self.parameters.n_latents * len(centred_bd):
            self.pause = PAUSE
        return self.buffer.of_tokens(len(centred_bd))

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"pause": np.array([self.pause])}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.pause = int(state["pause"][0])

    def _screen(self, centred_bd: Tensor) -> int:
        """Fills the buffer; returns how many candidates were scored."""
        from train_sae.steps.cpu.kernels.prescreen import screened_top_k_rows

        bias_s, enc_sd = self.parameters.b_enc_s.numpy(), self.parameters.enc_sd.numpy()
        latent_bk, value_bk = self.buffer.latent_a.reshape(-1, self.k), self.buffer.f_a.reshape(-1, self.k)
        n_scored = []

        def take(start: int, stop: int, z_bs: np.ndarray, norms: Norms) -> None:
            n_scored.append(
                screened_top_k_rows(
                    z_bs, bias_s, centred_bd[start:stop].numpy(), enc_sd, *norms, OUTPUT, self.k, self.depth,
                    latent_bk[start:stop], value_bk[start:stop],
                )
            )  # fmt: skip

        self.screen.at_once(centred_bd, take)
        return sum(n_scored)


class ScreenedAboveThreshold(AboveThreshold):
    """`AboveThreshold`, with candidates from bfloat16 products, which provably hold all that is above the cut."""

    def __init__(self, parameters: SAEParameters, batch_size: int, workers: Workers) -> None:
        super().__init__(parameters, batch_size, workers)
        self.screen = Screen(parameters, batch_size, workers)
        self.pause = 0

    def collect(
        self, centred_bd: Tensor, cut_s: np.ndarray, theta_s: np.ndarray, at_most: int | None = None
    ) -> ActiveLatents:
        if self.pause > 0:
            self.pause -= 1
        elif self.collect_screened(centred_bd, cut_s, theta_s):
            return self.buffer.of_tokens(len(centred_bd))
        else:
            self.pause = PAUSE
        return self.collect_exactly(centred_bd, cut_s, theta_s, at_most)

    def collect_screened(self, centred_bd: Tensor, cut_s: np.ndarray, theta_s: np.ndarray) -> bool:
        """Fills the buffer and returns True, or returns False if there are too many candidates."""
        from train_sae.steps.cpu.kernels.prescreen import count_candidate_rows, score_candidate_rows
        from train_sae.steps.cpu.kernels.sparse import drop_marked

        ptr_b = self.buffer.ptr_b
        bias_s, enc_sd = self.parameters.b_enc_s.numpy(), self.parameters.enc_sd.numpy()
        ptr_b[0] = 0
        for start, stop, z_bs, norms in self.screen.in_turn(centred_bd):
            pieces, n_b = even_pieces(stop - start, MAX_PIECES), np.empty(stop - start, np.int32)
            self.workers.run(count_candidate_rows, pieces, z_bs, bias_s, cut_s, *norms, OUTPUT, n_b)
            if n_b.mean() > TOO_MANY * self.parameters.n_latents:
                return False
            np.cumsum(n_b, out=ptr_b[start + 1 : stop + 1])
            ptr_b[start + 1 : stop + 1] += ptr_b[start]
            self.buffer.grow(int(ptr_b[stop]))
            self.workers.run(
                score_candidate_rows, pieces, z_bs, bias_s, cut_s, *norms, OUTPUT, theta_s,
                centred_bd[start:stop].numpy(), enc_sd, ptr_b[start : stop + 1], self.buffer.latent_a, self.buffer.f_a,
            )  # fmt: skip
        drop_marked(ptr_b, len(centred_bd), self.buffer.latent_a, self.buffer.f_a)
        return True
