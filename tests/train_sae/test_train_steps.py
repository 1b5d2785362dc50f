"""Training steps against float64 autograd of the printed formulas and torch.optim.Adam."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_steps import ACTIVATIONS, EXTRAS, LR, OBJECTIVES, SEED, B, batches, settings_of, start
from training_page import printed_code, printed_losses, run_printed

from train_sae.steps import make_step
from train_sae.steps.torch_step import TorchStep

PRINTED = run_printed(printed_code())


class Oracle:
    """One SAE in float64: the losses as docs/training.md prints them, and torch.optim.Adam."""

    def __init__(self, parameters, settings):
        self.settings = settings
        self.w = {name: value.double().requires_grad_() for name, value in parameters.trained().items()}
        self.optimiser = torch.optim.Adam(self.w.values(), lr=1.0, betas=settings.betas, eps=settings.eps)
        self.since_fired = torch.zeros(parameters.n_latents, dtype=torch.int64)
        self.steps = 0

    def step(self, x, lr, scale):
        x, settings = x.double(), self.settings
        self.optimiser.zero_grad()
        dead = self.since_fired >= settings.dead_after_tokens
        parts, f = printed_losses(PRINTED, settings, self.w, x, dead, (SEED, self.steps), scale)
        parts["loss"].backward()
        with torch.no_grad():
            decoder = self.w["dec_sd"]
            decoder.grad -= (decoder.grad * decoder).sum(1, keepdim=True) * decoder
            largest = settings.grad_clip or float("inf")
            norm = torch.nn.utils.clip_grad_norm_(self.w.values(), largest)
            self.optimiser.param_groups[0]["lr"] = lr
            self.optimiser.step()
            decoder /= decoder.norm(dim=1, keepdim=True)
        self.steps += 1
        fired = (f > 0).any(0)
        self.since_fired = torch.where(fired, 0, self.since_fired + len(x))
        report = {name: float(value.detach()) for name, value in parts.items()}
        return report | {"grad_norm": float(norm)}


def assert_equal_to_oracle(settings, steps=6, make=make_step, tolerance=1e-5):
    parameters = start(settings)
    oracle = Oracle(parameters, settings)
    step = make(parameters, settings, B, SEED)
    dead = 0
    for i, x in enumerate(batches(steps)):
        scale = min(1.0, (i + 1) / 3)
        expected = oracle.step(x, LR * (i + 1), scale)
        found = step.step(x, LR * (i + 1), sparsity_scale=scale, log_norm=i % 2 == 1)
        assert ("grad_norm" in found) == (settings.grad_clip is not None or i % 2 == 1)
        for name, value in found.items():
            assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-9), (i, name)
        np.testing.assert_array_equal(step.fired_s, oracle.since_fired.numpy())
        dead += found.get("aux", 0) > 0
    moved = 0.0
    for name, value in parameters.trained().items():
        expected = oracle.w[name].detach().float()
        assert (value.detach() - expected).abs().max() < tolerance, name
        moved = max(moved, float((expected - start(settings).trained()[name]).abs().max()))
    assert moved > 100 * tolerance  # the tolerance is far below what training did
    assert dead == (steps - 2 if settings.aux_k else 0)
    norm_s = parameters.dec_sd.detach().double().norm(dim=1)
    assert (norm_s - 1).abs().max() < 1e-6
    return found


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_equals_autograd(activation, objective, extra, monkeypatch):
    monkeypatch.setattr("train_sae.steps.cpu.prescreen.TOO_MANY", 2.0)
    settings = settings_of(activation, objective, extra)
    found = assert_equal_to_oracle(settings)
    if activation in ("topk", "screened topk") and "aux" not in extra:
        assert found["l0"] == 6


@pytest.mark.parametrize("prescreen", [False, True], ids=["", "screened"])
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
def test_sparse_way_of_dense_activations(activation, objective, extra, prescreen, monkeypatch):
    monkeypatch.setattr("train_sae.steps.cpu.cpu_step.SPARSE_BELOW", 2.0)
    monkeypatch.setattr("train_sae.steps.cpu.prescreen.TOO_MANY", 2.0)
    assert_equal_to_oracle(replace(settings_of(activation, objective, extra), prescreen=prescreen))


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("activation", ["topk", "batchtopk", "relu", "jumprelu"])
def test_torch_step_equals_autograd(activation, objective, extra):
    assert_equal_to_oracle(settings_of(activation, objective, extra), make=TorchStep)
