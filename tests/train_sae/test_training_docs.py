"""docs/training.md: a step's gradients equal float64 autograd of the formulas as they are printed there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from training_page import printed_code, printed_losses, run_printed

from train_sae.steps import StepSettings, make_step
from train_sae.steps.parameters import SAEParameters
from train_sae.steps.torch_step import TorchStep

B, D, S, SEED = 40, 20, 160, 3
ACTIVATIONS: dict[str, dict[str, Any]] = {
    "topk": {"k": 6},
    "batchtopk": {"k": 6},
    "relu": {"l1": 1e-2},
    "jumprelu": {"l1": 3e-3, "l0": 1e-2, "bandwidth": 0.3},
}
OBJECTIVES: dict[str, dict[str, Any]] = {"mse": {}, "matryoshka": {"n_prefixes": 5}}
AUX: dict[str, dict[str, Any]] = {"": {}, "aux": {"aux_k": 12, "aux_weight": 0.5, "dead_after_tokens": 1000}}
# The CPU's way for few active latents, its way for many (which TopK never goes), and the way of other devices.
WAYS = {"sparse": make_step, "dense": make_step, "torch": TorchStep}
PRINTED = run_printed(printed_code())


def settings_of(activation: str, objective: str, aux: str) -> StepSettings:
    return StepSettings(
        activation=activation,
        objective=objective,
        **ACTIVATIONS[activation],
        **OBJECTIVES[objective],
        **AUX[aux],
    )


def start(settings: StepSettings) -> tuple[SAEParameters, torch.Tensor, torch.Tensor]:
    """Parameters, a batch x {B, D}, and which latents are dead {S}."""
    rng = np.random.default_rng(0)
    decoder = rng.standard_normal((S, D))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    encoder = decoder + 0.05 * rng.standard_normal((S, D))
    bias = 0.1 * rng.standard_normal(S)
    dead = np.arange(S) % 3 == 0
    bias[dead] -= 1.5  # so that among the dead some z are positive, some negative
    theta = rng.uniform(0.1, 0.8, S) if settings.activation == "jumprelu" else None
    parameters = SAEParameters.from_arrays(encoder, bias, decoder, 0.1 * rng.standard_normal(D), theta)
    return (
        parameters,
        torch.from_numpy(rng.standard_normal((B, D)).astype(np.float32)),
        torch.from_numpy(dead),
    )


def gradients_of_step(settings: StepSettings, way: str) -> dict[str, np.ndarray]:
    """What a first step, from moments of 0, leaves in Adam's first moments, over 1 - beta1."""
    parameters, x_bd, dead_s = start(settings)
    step = WAYS[way](parameters, settings, B, SEED)
    state = step.state_dict()
    state["fired_s"] = np.where(dead_s.numpy(), settings.dead_after_tokens, 0)
    state["share"] = np.array([1.0 if way == "dense" else 0.0])  # of active latents, in the step before
    step.load_state_dict(state)
    step.step(x_bd, 1e-3)
    return {name: first.numpy() / (1 - settings.betas[0]) for name, first in parameters.first.items()}


def printed_gradients(settings: StepSettings, printed: SimpleNamespace) -> dict[str, np.ndarray]:
    parameters, x_bd, dead_s = start(settings)
    w = {name: value.double().requires_grad_() for name, value in parameters.trained().items()}
    parts, _ = printed_losses(printed, settings, w, x_bd.double(), dead_s, (SEED, 0))
    parts["loss"].backward()
    gradients = {name: value.grad.numpy() for name, value in w.items() if value.grad is not None}
    decoder = (
        w["dec_sd"].detach().numpy()
    )  # "The part of W_dec's gradient that is parallel to its rows is removed"
    gradients["dec_sd"] -= (gradients["dec_sd"] * decoder).sum(1, keepdims=True) * decoder
    return gradients


def largest_difference(settings: StepSettings, printed: SimpleNamespace, way: str) -> float:
    """Of any parameter's gradient, relative to the largest of that parameter's."""
    found, expected = gradients_of_step(settings, way), printed_gradients(settings, printed)
    assert found.keys() == expected.keys()
    assert all(np.abs(g).max() > 0 for g in expected.values())
    return max(float(np.abs(found[name] - g).max() / np.abs(g).max()) for name, g in expected.items())


@pytest.mark.parametrize("aux", AUX)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_the_printed_formulas(activation: str, objective: str, aux: str) -> None:
    settings = settings_of(activation, objective, aux)
    for way in WAYS:
        if way != "dense" or activation in ("relu", "jumprelu"):
            assert largest_difference(settings, PRINTED, way) < 1e-5, way


MISTAKES = [
    ("sum(mse) / len(mse)", "sum(mse)", "topk", "matryoshka", ""),
    ("for p in prefixes]", "for p in prefixes[-1:]]", "relu", "matryoshka", ""),
    ("W_dec[:p] + b_dec - x", "W_dec[:p] - x", "topk", "mse", ""),
    ("(x - b_dec) @ W_enc", "x @ W_enc", "topk", "mse", ""),
    ("** 2).mean() for p", "** 2).sum(1).mean() for p", "batchtopk", "mse", ""),
    ("k * len(f)", "k", "batchtopk", "mse", ""),
    ("f * largest(z, k)", "f", "topk", "mse", ""),
    ("l1 * f.sum() / len(x)", "-l1 * f.sum() / len(x)", "relu", "mse", ""),
    ("l1 * f.sum() / len(x)", "l1 * f.mean()", "relu", "matryoshka", ""),
    ("h / 2) / h", "h) / h", "jumprelu", "mse", ""),
    ("(theta * window).detach()", "window", "jumprelu", "mse", ""),
    ("on - window * zero", "on + window * zero", "jumprelu", "matryoshka", ""),
    ("on - window * zero", "on", "jumprelu", "mse", ""),
    ("residual.detach()", "residual", "topk", "mse", "aux"),
    ("(a @ W_dec - residual", "(a @ W_dec + residual", "batchtopk", "matryoshka", "aux"),
    ("aux_weight * auxk", "auxk", "relu", "mse", "aux"),
    ('in ("topk", "batchtopk") else z', "else z", "jumprelu", "mse", "aux"),
    ("z.masked_fill(~dead, -torch.inf)", "z", "topk", "mse", "aux"),
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES, ids=[f"{m[2]}: {m[1]}" for m in MISTAKES])
def test_a_mistake_on_the_page_is_found(mistake: tuple[str, str, str, str, str]) -> None:
    printed, mistaken, activation, objective, aux = mistake
    code = printed_code()
    assert code.count(printed) == 1
    wrong = run_printed(code.replace(printed, mistaken))
    assert largest_difference(settings_of(activation, objective, aux), wrong, "sparse") > 1e-3
