"""How much memory the training of an SAE takes, estimated before it starts, so that a sweep is cut to size."""

from __future__ import annotations

import os
from pathlib import Path

from train_sae.settings import TrainingSettings

CHUNK_BYTES = 64 * 2**20  # pre-activations that are held at a time


def peak_bytes(settings: TrainingSettings, d_model: int) -> int:
    """About what one SAE takes: its matrices with two moments each, gradients where the norm of the whole is logged,
    the residuals of each prefix, and for ReLU and JumpReLU, whose latents begin dense, all latents of a batch."""
    d, s, b, step = d_model, settings.d_sae, settings.batch_size, settings.step
    matrices = 6 * 4 * s * d
    slabs = (step.n_prefixes if step.objective == "matryoshka" else 1) + (step.aux_k > 0) + 2
    dense = step.activation in ("relu", "jumprelu") or settings.optimizer == "muon"
    codes = 4 * b * s + 2 * 4 * s * d if dense else CHUNK_BYTES + 16 * b * step.k
    return matrices + 4 * slabs * b * d + codes


def available_bytes() -> int:
    """Memory that is free at the moment, or could be freed; where the system does not say, half of what there is."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # no Linux
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
