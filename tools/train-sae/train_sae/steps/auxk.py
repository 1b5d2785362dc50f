"""AuxK: dead latents reconstruct what the living ones leave over."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saetools.compute.threads import Workers
from train_sae.steps.events import EventBuffer, Events
from train_sae.steps.parameters import SAEParameters
from train_sae.steps.selection import EncoderChunks, choose_top_k


class DeadSelector:
    """The `aux_k` dead latents with the largest pre-activations of each token, as events.

    Their codes are ReLU(z), or z itself if `signed`: a dead latent of ReLU or JumpReLU is one whose z is never
    positive, so that ReLU(z) would have no gradient to revive it by.
    """

    def __init__(
        self, parameters: SAEParameters, aux_k: int, signed: bool, batch_size: int, workers: Workers
    ) -> None:
        self.parameters, self.aux_k, self.signed = parameters, aux_k, signed
        self.workers = workers
        self.buffer = EventBuffer(batch_size, 0)

    def select(self, centred_bd: Tensor, dead_s: np.ndarray) -> Events | None:
        """None if no latent is dead. `dead_s` {S} bool; `centred_bd` = x - b_dec."""
        dead = np.flatnonzero(dead_s)
        if len(dead) == 0:
            return None
        k, n = min(self.aux_k, len(dead)), len(centred_bd)
        self.buffer.grow(n * k)
        self.buffer.ptr_b[: n + 1] = range(0, n * k + 1, k)
        events = self.buffer.events(n)
        enc_sd = self.parameters.enc_sd[torch.from_numpy(dead)]
        bias_s = self.parameters.b_enc_s.numpy()[dead]
        chunks = EncoderChunks(len(dead), n, self.workers)
        choose_top_k(chunks, centred_bd, enc_sd, bias_s, k, -np.inf if self.signed else 0.0, events)
        events.latent_e[:] = dead[events.latent_e]
        return events
