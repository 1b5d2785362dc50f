"""The active latents of a batch, as a list of events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Events:
    """Event e says: at token b, latent `latent_e[e]` has the value `f_e[e]`.

    Those of token b are [ptr_b[b], ptr_b[b + 1]), ascending by latent. `ptr_b` int64 {B + 1}; `latent_e` int32,
    `f_e` float32. Filled in by the decoder: `df_e` float32, the derivative of the loss with respect to f, and
    `row_e` int32, the row of the gradient of x_hat that the event belongs to.
    """

    ptr_b: np.ndarray
    latent_e: np.ndarray
    f_e: np.ndarray
    df_e: np.ndarray
    row_e: np.ndarray


class EventBuffer:
    """Memory for events that is kept from step to step and grows when a batch has more of them."""

    def __init__(self, n_tokens: int, capacity: int) -> None:
        self.ptr_b = np.zeros(n_tokens + 1, dtype=np.int64)
        self.latent_e, self.f_e = np.empty(0, np.int32), np.empty(0, np.float32)
        self.df_e, self.row_e = np.empty(0, np.float32), np.empty(0, np.int32)
        self.grow(capacity)

    @property
    def capacity(self) -> int:
        """How many events fit."""
        return len(self.f_e)

    def grow(self, capacity: int) -> None:
        """Room for at least that many events; the latents and values so far are kept."""
        if capacity <= self.capacity:
            return
        more = capacity - self.capacity
        self.latent_e = np.concatenate([self.latent_e, np.empty(more, np.int32)])
        self.f_e = np.concatenate([self.f_e, np.empty(more, np.float32)])
        self.df_e, self.row_e = np.empty(capacity, np.float32), np.empty(capacity, np.int32)

    def events(self, n_tokens: int) -> Events:
        """The events of the first `n_tokens` tokens."""
        n = int(self.ptr_b[n_tokens])
        return Events(
            self.ptr_b[: n_tokens + 1], self.latent_e[:n], self.f_e[:n], self.df_e[:n], self.row_e[:n]
        )
