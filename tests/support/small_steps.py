"""Small training steps: settings of every kind, where they start, and batches with features in them."""

import numpy as np
import torch

from train_sae.steps import StepSettings
from train_sae.steps.parameters import SAEParameters

B, D, S, SEED = 48, 24, 192, 7
LR = 1e-3
ACTIVATIONS = {
    "topk": {"activation": "topk", "k": 6},
    "screened topk": {"activation": "topk", "k": 6, "prescreen": True},
    "batchtopk": {"activation": "batchtopk", "k": 6},
    "screened batchtopk": {"activation": "batchtopk", "k": 6, "prescreen": True},
    "relu": {"activation": "relu", "l1": 1e-2},
    "jumprelu": {"activation": "jumprelu", "l0": 1e-2, "bandwidth": 0.2},
}
OBJECTIVES = {"mse": {}, "matryoshka": {"objective": "matryoshka", "n_prefixes": 5}}
EXTRAS = {
    "": {},
    "clip": {"grad_clip": 0.02},
    "l1": {"l1": 2e-2},
    "aux": {"aux_k": 12, "dead_after_tokens": 2 * B, "grad_clip": 1.0},
    "aux_of_all_dead": {"aux_k": S, "dead_after_tokens": 2 * B},
}


def start(settings, seed=0):
    rng = np.random.default_rng(seed)
    decoder = rng.standard_normal((S, D))
    encoder = decoder / np.linalg.norm(decoder, axis=1, keepdims=True) + 0.01 * rng.standard_normal((S, D))
    threshold = rng.uniform(0.05, 0.6, S) if settings.activation == "jumprelu" else None
    bias = 0.1 * rng.standard_normal(S) - 0.05
    if settings.aux_k:  # a third of the latents begin far below the others, and so die
        bias[::3] -= 20 if settings.activation in ("relu", "jumprelu") else 4
        bias[::6] += 3.5 if settings.activation in ("topk", "batchtopk") else 0
    return SAEParameters.from_arrays(encoder, bias, decoder, 0.1 * rng.standard_normal(D), threshold)


def batches(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(40, D, generator=generator)
    for _ in range(n):
        codes = torch.rand(B, 40, generator=generator) * (torch.rand(B, 40, generator=generator) < 0.1)
        yield codes @ features + 0.05 * torch.randn(B, D, generator=generator)


def settings_of(activation, objective, extra=""):
    return StepSettings(**{"eps": 1e-6} | ACTIVATIONS[activation] | OBJECTIVES[objective] | EXTRAS[extra])
