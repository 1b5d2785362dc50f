"""Where training starts: b_dec, the scale of the encoder, and how many latents are active at first."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from in_process import runner
from small_shards import clustered_acts, write_shards

from saetools.scorers.start import geometric_median, make_start
from saetools.scorers.start_settings import StartSettings
from train_sae.cli import app

S = 48
train = runner("train-sae", app)


def sample(n: int = 1000) -> torch.Tensor:
    """Tokens {N, 12} with one long direction, as vision transformers have."""
    x_nd = torch.randn(n, 12, generator=torch.Generator().manual_seed(0))
    x_nd[:, 0] *= 8
    return x_nd + 3


def start(activation: str, start_l0: float = 0, **settings: float):
    """(parameters, their f {N, S} on the sample in float64, and its reconstruction)."""
    x_nd = sample()
    wanted = StartSettings(S, activation, normalize="none", start_l0=start_l0, seed=1, **settings)  # type: ignore[arg-type]
    made = make_start(wanted, x_nd)
    z_ns = (x_nd - made.b_dec_d).double() @ made.enc_sd.double().T + made.b_enc_s.double()
    theta = made.log_threshold_s.double().exp() if made.log_threshold_s is not None else 0.0
    f_ns = torch.where(z_ns > theta, z_ns, 0).relu()
    if activation == "topk":
        f_ns = torch.zeros_like(f_ns).scatter(1, f_ns.topk(wanted.k).indices, f_ns.topk(wanted.k).values)
    if activation == "batchtopk":
        f_ns = torch.where(f_ns >= f_ns.flatten().topk(wanted.k * len(f_ns)).values[-1], f_ns, 0)
    return made, f_ns, f_ns @ made.dec_sd.double() + made.b_dec_d.double()


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "relu"])
def test_no_other_scale_reconstructs_better(activation: str) -> None:
    made, f_ns, _ = start(activation, k=4)
    centred = sample().double() - made.b_dec_d.double()
    y_nd = f_ns @ made.dec_sd.double()

    def error(factor: float) -> float:
        return (centred - factor * y_nd).square().sum().item()

    assert error(1.0) <= min(error(0.99), error(1.01)) and error(1.0) < 0.9 * centred.square().sum()


@pytest.mark.parametrize("activation", ["relu", "jumprelu"])
@pytest.mark.parametrize(
    ("start_l0", "expected"), [(1, 1), (6, 6), (24, 24), (40, 24), (1000, 24), (float("inf"), 24)]
)
def test_each_latent_starts_active_on_its_share(activation: str, start_l0: float, expected: float) -> None:
    made, f_ns, x_hat_nd = start(activation, start_l0)
    share_s = (f_ns > 0).double().mean(0)
    torch.testing.assert_close(
        share_s, torch.full((S,), expected / S, dtype=torch.float64), atol=2e-3, rtol=0
    )
    error = (x_hat_nd - sample()).square().sum()
    assert error < (made.b_dec_d - sample()).square().sum()
    torch.testing.assert_close(made.enc_sd / made.enc_sd.norm(dim=1, keepdim=True), made.dec_sd)


def test_without_it_half_of_the_latents_are_positive() -> None:
    for activation in ("relu", "jumprelu", "topk"):
        made, _, _ = start(activation, k=4)
        assert (made.b_enc_s == 0).all()
    _, f_ns, _ = start("relu")
    assert 0.4 < (f_ns > 0).double().mean() < 0.6


def test_the_command_starts_there(tmp_path: Path) -> None:
    write_shards(tmp_path / "acts", clustered_acts(80), n_shards=1, layers=(3,))
    small = ["--d-sae", 64, "--batch-size", 256, "--tokens", "1k", "--log-every", 1, "--device", "cpu"]
    first = {}
    for name, flags in {"four": ["--start-l0", 4], "default": [], "all": ["--start-l0", 0]}.items():
        out = tmp_path / f"{name}.h5"
        train(tmp_path / "acts", "--layer", 3, *small, "--activation", "relu", *flags, "--out", out)
        first[name] = pd.read_csv(tmp_path / f"{name}.metrics.csv").l0[0]
    assert first["four"] == pytest.approx(4, abs=1)
    assert first["default"] == pytest.approx(32, abs=4)


def test_batchtopk_is_diagnosed_by_its_k_before_it_has_a_threshold(tmp_path: Path) -> None:
    """With a threshold of 0 all latents would count as active, and the first row say so."""
    write_shards(tmp_path / "acts", clustered_acts(80), n_shards=1, layers=(3,))
    small = ["--d-sae", 64, "--k", 2, "--batch-size", 256, "--tokens", "1k", "--log-every", 1]
    train(tmp_path / "acts", "--layer", 3, *small, "--activation", "batchtopk", "--out", tmp_path / "sae.h5")
    table = pd.read_csv(tmp_path / "sae.metrics.csv")
    assert table.l1_norm[0] < 1.5 * table.l1_norm[1]


def test_geometric_median_has_the_least_sum_of_distances() -> None:
    generator = torch.Generator().manual_seed(0)
    x_nd = torch.randn(500, 6, generator=generator)
    x_nd[:50] += 100
    median = geometric_median(x_nd)

    def total(point_d: torch.Tensor) -> float:
        return (x_nd.double() - point_d.double()).norm(dim=1).sum().item()

    best = total(median)
    assert median.norm() < 1 < x_nd.mean(0).norm()
    for _ in range(50):
        assert best <= total(median + 0.01 * torch.randn(6, generator=generator)) + 1e-6
    same = torch.ones(10, 3)
    torch.testing.assert_close(geometric_median(same), torch.ones(3))
