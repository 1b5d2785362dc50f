"""The encoder's matrix product, for every kind of training step."""

from __future__ import annotations

import torch
from torch import Tensor


def pre_activations(centred_bd: Tensor, enc_sd: Tensor, out_bs: Tensor) -> None:
    """out = (x - b_dec) W_enc, without the bias, into a buffer that is reused (a fresh one costs page faults)."""
    torch.mm(centred_bd, enc_sd.T, out=out_bs)
