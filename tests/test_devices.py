"""What every tool does on a device other than the CPU, on a fake one (fake_device.py).

Two devices in one operation raise. Results are compared with the CPU's, whose numbers they are. In a training step
of which no row of the metrics table is due, nothing may make the host wait.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_device import FakeDevice
from test_train_steps import ACTIVATIONS, LR, OBJECTIVES, SEED, B, D, S, batches, settings_of, start

from saetools.sae import SAE, SAEConfig
from train_sae.diagnostics import diagnose
from train_sae.optimizers import MuonAndAdam
from train_sae.steps import make_step
from train_sae.steps.plain import TorchStep

PLAIN_ACTIVATIONS = [name for name in ACTIVATIONS if "screened" not in name]


@pytest.fixture
def fake():
    with FakeDevice("cuda") as device:
        yield device


def test_fake_device_finds_both_kinds_of_mistake(fake):
    there = torch.arange(3.0, device="cuda") * 2
    assert there.device == torch.device("cuda", 0)
    assert not fake.waits
    with pytest.raises(RuntimeError, match="two devices"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()
    assert there.sum().item() == 6
    assert there[there > 0].cpu().tolist() == [2, 4]
    torch.ones(3).to("cuda", non_blocking=True)
    torch.ones(3).to("cuda")
    assert fake.waits == ["_local_scalar_dense", "index", "_to_copy to the host", "_to_copy to the device"]


def taken_steps(make, settings, n_steps, kind="cuda", muon=False, autocast=False, log_norm=False):
    """(step, waits of each step, reports) after training on the fake device."""
    with FakeDevice(kind) as fake:
        step = make(start(settings).to(kind), settings, B, SEED, autocast)
        if muon:
            step.optimiser = MuonAndAdam(step)
        waits, reports = [], []
        for i, x_bd in enumerate(batches(n_steps)):
            fake.waits.clear()
            report = step.step(x_bd, LR * (i + 1), min(1.0, (i + 1) / 3), log_norm)
            waits.append(list(fake.waits))
            reports.append(report)
        reports = [dict(report) for report in reports]
        return step, waits, reports, step.parameters.state_dict() | step.state_dict()


@pytest.mark.parametrize(("extra", "muon"), [("", False), ("clip", False), ("aux", False), ("aux", True)])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("activation", PLAIN_ACTIVATIONS)
def test_training_step_is_the_cpus_and_waits_for_nothing(activation, objective, extra, muon):
    settings = settings_of(activation, objective, extra)
    step, waits, reports, state = taken_steps(make_step, settings, 4, muon=muon, log_norm=True)
    assert isinstance(step, TorchStep)
    assert step.parameters.dec_sd.device.type == "cuda"
    looks = (
        ["nonzero"] if settings.aux_k else []
    )  # once in STEPS_PER_LOOK, AuxK asks which latents may be dead
    assert waits == [looks, [], [], []]
    twin = TorchStep(start(settings), settings, B, SEED)
    if muon:
        twin.optimiser = MuonAndAdam(twin)
    for i, x_bd in enumerate(batches(4)):
        expected = twin.step(x_bd, LR * (i + 1), min(1.0, (i + 1) / 3), log_norm=True)
        assert dict(reports[i]) == pytest.approx(dict(expected), rel=1e-5)
    for name, value in (twin.parameters.state_dict() | twin.state_dict()).items():
        np.testing.assert_allclose(state[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_evaluation_and_diagnostics_of_an_sae_are_the_cpus(fake):
    generator = torch.Generator().manual_seed(0)
    w_ds = torch.randn(D, S, generator=generator)
    sae = SAE(SAEConfig(D, S, "topk", 6), w_ds, torch.zeros(S), w_ds.T.contiguous(), torch.ones(D))
    x_bd = next(batches(1))
    expected = diagnose(sae, x_bd, torch.Generator().manual_seed(1))
    found = diagnose(sae.to(torch.device("cuda")), x_bd.to("cuda"), torch.Generator().manual_seed(1))
    assert found == pytest.approx(expected, rel=1e-5)
