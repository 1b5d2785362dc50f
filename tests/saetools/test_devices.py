"""What every tool does on a device other than the CPU, on a fake one (fake_device.py).

Two devices in one operation raise. Results are compared with the CPU's, whose numbers they are. In a training step
of which no row of the metrics table is due, nothing may make the host wait.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fake_device import FakeDevice
from small_steps import ACTIVATIONS, LR, OBJECTIVES, SEED, B, D, S, batches, settings_of, start

from saetools.scorers.sae import SAE, SAEConfig
from train_sae.optimizers import MuonAndAdam
from train_sae.steps import make_step
from train_sae.steps.torch_step import TorchStep
from train_sae.tracking import diagnose

DEVICE_CHAIN = Path(__file__).resolve().parents[2] / "benchmarks/device_chain.py"
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


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_evaluation_and_diagnostics_of_an_sae_are_the_cpus(kind):
    """mps has no float64: a tensor of that type there raises."""
    generator = torch.Generator().manual_seed(0)
    w_ds = torch.randn(D, S, generator=generator)
    b_dec_d, mean_d = torch.ones(D), torch.arange(D) / D
    sae = SAE(
        SAEConfig(D, S, "topk", 6), w_ds, torch.zeros(S), w_ds.T.contiguous(), b_dec_d, None, mean_d, 2.0
    )
    x_bd = next(batches(1))
    expected = diagnose(sae, x_bd, torch.Generator().manual_seed(1))
    expected_f_bs = sae.folded().encode(x_bd)
    with FakeDevice(kind):
        there = sae.to(torch.device(kind))
        found = diagnose(there, x_bd.to(kind), torch.Generator().manual_seed(1))
        f_bs = there.folded().encode(x_bd.to(kind)).cpu()
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(f_bs, expected_f_bs, rtol=1e-4, atol=1e-4)
    if kind == "mps":
        with FakeDevice(kind), pytest.raises(TypeError, match="no float64"):
            x_bd.to(kind).double()


def test_tables_of_two_devices_are_compared(tmp_path, capsys):
    main = runpy.run_path(str(DEVICE_CHAIN))["main"]
    rows = [
        (7, name, 8, 0, 40, trait, 0.3, ap)
        for name in ("random", "sae")
        for trait, ap in (("a", 0.5), ("b", 0.7))
    ]
    columns = ["layer", "scorer", "n_prototypes", "seed", "n_train", "trait", "prevalence", "ap"]
    table = pd.DataFrame(rows, columns=columns)

    def compared(changes: list[float], traits: str = "abab") -> int:
        for folder, changed in (
            ("cpu", table),
            ("there", table.assign(ap=table.ap + changes, trait=list(traits))),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            changed.to_csv(tmp_path / folder / "ap-0123-layer7.csv", index=False)
        return main([str(tmp_path / "cpu"), str(tmp_path / "there")])

    assert compared([0, 0, 0, 0]) == 0
    assert compared([0.05, -0.05, 0.05, 0]) == 0  # in the mean over traits 0, and 0.025 of what was trained
    out = capsys.readouterr().out
    assert "| 7 | sae | 8 | 0 | 40 | 0.6000 | 0.6250 | 0.0250 | 0.0300 |" in out
    assert "| 7 | random | 8 | 0 | 40 | a | 0.5000 | 0.5500 | 0.0500 |" in out
    assert compared([0.02, 0, 0, 0]) == 1
    assert compared([0, 0, 0.08, 0]) == 1
    assert "1 of 2 rows" in capsys.readouterr().err
    assert compared([0, 0, 0, 0], traits="abba") == 1
