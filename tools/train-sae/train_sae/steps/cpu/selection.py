"""From centred inputs to the active latents of a batch, one selector per activation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from saetools.compute.selection import set_depth
from saetools.compute.threads import Workers, even_pieces
from train_sae.steps.parameters import SAEParameters

# Pre-activations held at a time: few enough to stay in a cache, enough for a fast product.
CHUNK_BYTES = 32 << 20
MIN_CHUNK_TOKENS = 128  # fewer make a slow product
MAX_PIECES = 32


@dataclass
class ActiveLatents:
    """The active latents of a batch, as a list: entry a says that latent `latent_a[a]` has the value `f_a[a]`.

    The entries of token b are [ptr_b[b], ptr_b[b + 1]), ascending by latent. `ptr_b` int64 {B + 1}; `latent_a` int32,
    `f_a` float32 {A}. Filled in by the decoder: `df_a` float32, the derivative of the loss with respect to f, and
    `row_a` int32, the row of the gradient of x_hat that the entry belongs to.
    """

    ptr_b: np.ndarray
    latent_a: np.ndarray
    f_a: np.ndarray
    df_a: np.ndarray
    row_a: np.ndarray


class ActiveBuffer:
    """Memory for active latents, kept from step to step; it grows when a batch has more of them."""

    def __init__(self, n_tokens: int, capacity: int) -> None:
        self.ptr_b = np.zeros(n_tokens + 1, dtype=np.int64)
        self.latent_a, self.f_a = np.empty(0, np.int32), np.empty(0, np.float32)
        self.df_a, self.row_a = np.empty(0, np.float32), np.empty(0, np.int32)
        self.grow(capacity)

    @property
    def capacity(self) -> int:
        """How many active latents fit."""
        return len(self.f_a)

    def grow(self, capacity: int) -> None:
        """Room for at least that many; the latents and values so far are kept."""
        if capacity <= self.capacity:
            return
        more = capacity - self.capacity
        self.latent_a = np.concatenate([self.latent_a, np.empty(more, np.int32)])
        self.f_a = np.concatenate([self.f_a, np.empty(more, np.float32)])
        self.df_a, self.row_a = np.empty(capacity, np.float32), np.empty(capacity, np.int32)

    def of_tokens(self, n_tokens: int) -> ActiveLatents:
        """Those of the first `n_tokens` tokens."""
        n = int(self.ptr_b[n_tokens])
        return ActiveLatents(
            self.ptr_b[: n_tokens + 1], self.latent_a[:n], self.f_a[:n], self.df_a[:n], self.row_a[:n]
        )


class Selector(Protocol):
    """Computes the active latents of a batch."""

    def select(self, centred_bd: Tensor) -> ActiveLatents:
        """`centred_bd` = x - b_dec. The list stays valid until the next call."""
        ...

    def state_dict(self) -> dict[str, np.ndarray]:
        """The state that later selections depend on."""
        ...

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continues where `state_dict` was taken."""
        ...


class EncoderChunks:
    """Products x enc^T {tokens, S} in one type, for a few hundred tokens at a time."""

    def __init__(
        self, n_latents: int, batch_size: int, workers: Workers, dtype: torch.dtype = torch.float32
    ) -> None:
        self.workers = workers
        whole = -(-batch_size * n_latents * dtype.itemsize // CHUNK_BYTES)
        self.tokens = max(min(MIN_CHUNK_TOKENS, batch_size), -(-batch_size // whole))
        # Half a chunk each, for any number of threads, so that results do not depend on that number.
        self.tokens_each = min(self.tokens, max(MIN_CHUNK_TOKENS, -(-self.tokens // 2)))
        n_at_once = min(workers.n_threads, -(-batch_size // self.tokens_each))
        self.z_bs = torch.empty(max(self.tokens, self.tokens_each * n_at_once), n_latents, dtype=dtype)

    def in_turn(self, x_bd: Tensor, enc_sd: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """(first token, one past the last, their product, valid until the next chunk), by all threads each."""
        for start in range(0, len(x_bd), self.tokens):
            stop = min(start + self.tokens, len(x_bd))
            z_bs = self.z_bs[: stop - start]
            torch.mm(x_bd[start:stop], enc_sd.T, out=z_bs)
            yield start, stop, z_bs

    def at_once(self, x_bd: Tensor, enc_sd: Tensor, take: Callable[[int, int, Tensor], None]) -> None:
        """`take(first token, one past the last, their product)` for all chunks, as many at a time as threads.

        A thread that takes what it has just computed finds it in its cache, and none waits for another after each
        product, which torch's threads do in a busy loop that keeps a core from ours.
        """
        n_buffers = len(self.z_bs) // self.tokens_each
        free = deque(self.z_bs[: n_buffers * self.tokens_each].split(self.tokens_each))

        def multiply_and_take(_piece: int, start: int, stop: int) -> None:
            rows = free.popleft()
            z_bs = rows[: stop - start]
            torch.mm(x_bd[start:stop], enc_sd.T, out=z_bs)
            take(start, stop, z_bs)
            free.append(rows)

        self.workers.run_torch(multiply_and_take, even_pieces(len(x_bd), -(-len(x_bd) // self.tokens_each)))


def choose_top_k(
    chunks: EncoderChunks,
    x_bd: Tensor,
    enc_sd: Tensor,
    bias_s: np.ndarray,
    k: int,
    floor: float,
    active: ActiveLatents,
) -> None:
    """Fills in k latents and values per token: the largest of x enc^T + bias, with values of at least `floor`."""
    from saetools.compute.kernels.selection import top_k_rows

    latent_bk, value_bk = active.latent_a.reshape(-1, k), active.f_a.reshape(-1, k)
    depth = set_depth(len(enc_sd), k)

    def take(start: int, stop: int, z_bs: Tensor) -> None:
        out = latent_bk[start:stop], value_bk[start:stop]
        top_k_rows(0, 0, stop - start, z_bs.numpy(), bias_s, k, depth, np.float32(floor), *out)

    chunks.at_once(x_bd, enc_sd, take)


class TopKSelector:
    """f = ReLU of the k largest pre-activations of each token, 0 elsewhere; ties go to the lower latent."""

    def __init__(self, parameters: SAEParameters, k: int, batch_size: int, workers: Workers) -> None:
        self.parameters, self.k = parameters, k
        self.chunks = EncoderChunks(parameters.n_latents, batch_size, workers)
        self.buffer = ActiveBuffer(batch_size, batch_size * k)
        self.buffer.ptr_b[:] = range(0, batch_size * k + 1, k)

    def select(self, centred_bd: Tensor) -> ActiveLatents:
        active = self.buffer.of_tokens(len(centred_bd))
        bias_s = self.parameters.b_enc_s.numpy()
        choose_top_k(self.chunks, centred_bd, self.parameters.enc_sd, bias_s, self.k, 0.0, active)
        return active

    def state_dict(self) -> dict[str, np.ndarray]:
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        pass


class AboveThreshold:
    """Every pre-activation above a cut, token by token."""

    pause = 0  # of the screening in `prescreen.ScreenedAboveThreshold`

    def __init__(self, parameters: SAEParameters, batch_size: int, workers: Workers) -> None:
        self.parameters, self.workers = parameters, workers
        self.chunks = EncoderChunks(parameters.n_latents, batch_size, workers)
        self.buffer = ActiveBuffer(batch_size, 32 * batch_size)

    def collect(
        self, centred_bd: Tensor, cut_s: np.ndarray, theta_s: np.ndarray, at_most: int | None = None
    ) -> ActiveLatents:
        """As `collect_exactly`; subclasses are faster where few latents are above the cut."""
        return self.collect_exactly(centred_bd, cut_s, theta_s, at_most)

    def collect_exactly(
        self, centred_bd: Tensor, cut_s: np.ndarray, theta_s: np.ndarray, at_most: int | None = None
    ) -> ActiveLatents:
        """The latents with z > cut; f = z where z > theta, else 0.

        `at_most`: only that many of the largest are wanted, so `cut_s` may be raised on the way (in place) whenever
        the list becomes much longer; those wanted are always in it.
        """
        from saetools.compute.kernels.selection import count_above_rows, take_above_rows

        ptr_b, bias_s = self.buffer.ptr_b, self.parameters.b_enc_s.numpy()
        ptr_b[0] = 0
        for start, stop, z_bs in self.chunks.in_turn(centred_bd, self.parameters.enc_sd):
            pieces = even_pieces(stop - start, MAX_PIECES)
            z = z_bs.numpy()
            n_b = np.empty(stop - start, np.int32)
            self.workers.run(count_above_rows, pieces, z, bias_s, cut_s, n_b)
            if at_most is not None and ptr_b[start] + n_b.sum() > 3 * at_most:
                self._raise_cut(start, z + bias_s, cut_s, at_most)
                self.workers.run(count_above_rows, pieces, z, bias_s, cut_s, n_b)
            np.cumsum(n_b, out=ptr_b[start + 1 : stop + 1])
            ptr_b[start + 1 : stop + 1] += ptr_b[start]
            if ptr_b[stop] > self.buffer.capacity:
                self.buffer.grow(int(ptr_b[stop]) * 5 // 4)
            buffer = self.buffer.latent_a, self.buffer.f_a
            self.workers.run(take_above_rows, pieces, z, bias_s, cut_s, theta_s, ptr_b[start:stop], *buffer)
        return self.buffer.of_tokens(len(centred_bd))

    def _raise_cut(self, n_tokens: int, z_bs: np.ndarray, cut_s: np.ndarray, at_most: int) -> None:
        """Drops the entries of the first tokens below the `at_most`-th largest of theirs and `z_bs`."""
        known = np.concatenate([self.buffer.f_a[: self.buffer.ptr_b[n_tokens]], z_bs[z_bs > cut_s[0]]])
        smallest = np.partition(known, len(known) - at_most)[len(known) - at_most]
        self.keep(n_tokens, smallest, ties=len(known))
        cut_s[:] = np.nextafter(smallest, np.float32(-np.inf))

    def keep(self, n_tokens: int, smallest: np.float32, ties: int) -> None:
        """Keeps the entries of the first tokens with f > smallest, and the first `ties` with f == smallest."""
        from train_sae.steps.cpu.kernels.sparse import keep_largest

        keep_largest(self.buffer.ptr_b, n_tokens, self.buffer.latent_a, self.buffer.f_a, smallest, ties)


class ThresholdSelector:
    """ReLU: f = z where z > 0. JumpReLU: f = z where z > theta, and listed with f = 0 the rest of the window
    theta - bandwidth / 2 < z, which the threshold's gradient needs."""

    def __init__(self, above: AboveThreshold, bandwidth: float) -> None:
        self.above, self.half = above, np.float32(bandwidth / 2)

    def select(self, centred_bd: Tensor) -> ActiveLatents:
        threshold_s = self.above.parameters.threshold_s
        if threshold_s is None:
            zero_s = np.zeros(self.above.parameters.n_latents, np.float32)
            return self.above.collect(centred_bd, zero_s, zero_s)
        theta_s = threshold_s.numpy()
        return self.above.collect(centred_bd, theta_s - self.half, theta_s)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"pause": np.array([self.above.pause])}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.above.pause = int(state["pause"][0])


class BatchTopKSelector:
    """f = ReLU(z) for the k B largest of the batch, 0 elsewhere; ties go to the lower token, then the lower latent.

    `running` is (sum, weight) of the moving average of the smallest active value, which replaces the selection
    when the SAE is used on single tokens: threshold = sum / weight (arXiv 2412.06410, section 3; the average is
    Adam's, so that it is unbiased from the first step).
    """

    def __init__(self, above: AboveThreshold, k: int, decay: float) -> None:
        self.above, self.k, self.decay = above, k, decay
        self.cut_s = np.zeros(above.parameters.n_latents, np.float32)
        self.zero_s = np.zeros(above.parameters.n_latents, np.float32)
        self.running = np.zeros(2)
        self.smallest = (
            0.0  # the smallest active value of the last batch, near which the next one's is expected
        )

    def select(self, centred_bd: Tensor) -> ActiveLatents:
        n, wanted = len(centred_bd), self.k * len(centred_bd)
        for cut in (0.97 * self.smallest, 0.8 * self.smallest, 0.0):
            self.cut_s[:] = cut
            collect = self.above.collect if cut > 0 else self.above.collect_exactly
            active = collect(centred_bd, self.cut_s, self.zero_s, at_most=wanted)
            if len(active.f_a) >= wanted or cut == 0.0:
                break
        if len(active.f_a) > wanted:
            smallest = np.partition(active.f_a, len(active.f_a) - wanted)[len(active.f_a) - wanted]
            self.above.keep(n, smallest, ties=wanted - int(np.count_nonzero(active.f_a > smallest)))
            active = self.above.buffer.of_tokens(n)
        if len(active.f_a):
            self.smallest = float(active.f_a.min())
            self.running = self.decay * self.running + (1 - self.decay) * np.array([self.smallest, 1.0])
        return active

    def state_dict(self) -> dict[str, np.ndarray]:
        pause = np.array([self.above.pause])
        return {"running_threshold": self.running.copy(), "least": np.array([self.smallest]), "pause": pause}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        self.running[:] = state["running_threshold"]
        self.smallest = float(state["least"][0])
        self.above.pause = int(state["pause"][0])


class DeadSelector:
    """The `aux_k` dead latents with the largest pre-activations of each token.

    Their codes are ReLU(z), or z itself if `signed`: a dead latent of ReLU or JumpReLU is one whose z is never
    positive, so that ReLU(z) would have no gradient to revive it by.
    """

    def __init__(
        self, parameters: SAEParameters, aux_k: int, signed: bool, batch_size: int, workers: Workers
    ) -> None:
        self.parameters, self.aux_k, self.signed = parameters, aux_k, signed
        self.workers = workers
        self.buffer = ActiveBuffer(batch_size, 0)

    def select(self, centred_bd: Tensor, dead_s: np.ndarray) -> ActiveLatents | None:
        """None if no latent is dead. `dead_s` {S} bool; `centred_bd` = x - b_dec."""
        dead = np.flatnonzero(dead_s)
        if len(dead) == 0:
            return None
        k, n = min(self.aux_k, len(dead)), len(centred_bd)
        self.buffer.grow(n * k)
        self.buffer.ptr_b[: n + 1] = range(0, n * k + 1, k)
        active = self.buffer.of_tokens(n)
        enc_sd = self.parameters.enc_sd[torch.from_numpy(dead)]
        bias_s = self.parameters.b_enc_s.numpy()[dead]
        chunks = EncoderChunks(len(dead), n, self.workers)
        choose_top_k(chunks, centred_bd, enc_sd, bias_s, k, -np.inf if self.signed else 0.0, active)
        active.latent_a[:] = dead[active.latent_a]
        return active
