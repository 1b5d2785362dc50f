"""Training steps."""

from __future__ import annotations

from train_sae.steps.cpu import CpuStep
from train_sae.steps.parameters import SAEParameters
from train_sae.steps.settings import StepSettings


def make_step(parameters: SAEParameters, settings: StepSettings, batch_size: int, seed: int) -> CpuStep:
    return CpuStep(parameters, settings, batch_size, seed)
