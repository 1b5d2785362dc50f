"""The metrics of SAEs against their definitions, in float64 and all at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from saetools.scorers.evaluation import SAEEvaluation
from saetools.scorers.sae import SAE, SAEConfig


def identity(d: int, kept: list[int]) -> SAE:
    """Its reconstruction is exact in the kept dimensions, of which the inputs are positive, and 0 in the others."""
    w = torch.zeros(d, d)
    w[kept, kept] = 1
    return SAE(SAEConfig(d, d, "relu"), w, torch.zeros(d), torch.eye(d), torch.zeros(d))


def noisy(d: int, s: int, seed: int) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(s, d, generator=generator)
    return SAE(SAEConfig(d, s, "relu"), w.T.contiguous() / d, torch.zeros(s), w / d, torch.ones(d))


def measured(sae: SAE, x_nd: torch.Tensor, batch: int) -> dict[str, float]:
    evaluation = SAEEvaluation(sae.config.d_model, sae.config.d_sae)
    for x_bd in x_nd.split(batch):
        evaluation.add(sae, x_bd)
    return evaluation.summary()


def by_definition(sae: SAE, x_nd: torch.Tensor, batch: int) -> dict[str, float]:
    x = x_nd.double().numpy()
    x_hat_nd = torch.cat(
        [sae.decode(sae.encode(x_bd)) for x_bd in x_nd.split(batch)]
    )  # float32 rounds by batch
    x_hat = x_hat_nd.double().numpy()
    error_d, spread_d = ((x - x_hat) ** 2).sum(0), ((x - x.mean(0)) ** 2).sum(0)
    varies = x.min(0) < x.max(0)
    return {
        "mse": error_d.sum() / x.size,
        "nmse": error_d.sum() / spread_d[varies].sum(),
        "nmse_standardized": float(
            np.mean([e / s for e, s in zip(error_d[varies], spread_d[varies], strict=True)])
        ),
        "explained_variance": 1 - error_d.sum() / spread_d[varies].sum(),
    }


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
@pytest.mark.parametrize("mean", [0.0, 3.0, -4096.0])
def test_it_is_its_definition(batch: int, mean: float) -> None:
    generator = torch.Generator().manual_seed(1)
    scale_d = torch.logspace(-2, 2, 9)
    x_nd = torch.randn(300, 9, generator=generator) * scale_d + mean
    x_nd[:, 4] = 7.25  # does not vary
    sae = noisy(9, 20, 2)
    found, expected = measured(sae, x_nd, batch), by_definition(sae, x_nd, batch)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("mean", [1e4, 1e7])
def test_means_far_from_0_cost_no_digits(mean: float) -> None:
    """The sum of squares less n mean^2 would have none left: 1e14 and a variance of about 1."""
    generator = torch.Generator().manual_seed(0)
    x_nd = torch.randint(-2, 3, (5000, 3), generator=generator).float() + mean
    sae = identity(3, [])  # reconstructs 0
    found = measured(sae, x_nd, 512)
    shifted = x_nd.double() - mean  # exact
    spread_d = (shifted - shifted.mean(0)).square().sum(0)
    error_d = x_nd.double().square().sum(0)
    assert found["nmse"] == pytest.approx((error_d.sum() / spread_d.sum()).item(), rel=1e-10)
    assert found["nmse_standardized"] == pytest.approx((error_d / spread_d).mean().item(), rel=1e-10)


def test_nmse_says_little_where_one_dimension_has_the_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    x_nd = torch.randn(4000, 11, generator=generator)
    x_nd[:, 0] = 50 + 10 * math.sqrt(10) * x_nd[:, 0].clamp(-1, 1) / x_nd[:, 0].clamp(-1, 1).std()
    x_nd[:, 1:] -= x_nd[:, 1:].mean(0)
    found = measured(identity(11, [0]), x_nd, 512)
    assert found["nmse"] == pytest.approx(0.01, rel=0.03)
    assert found["nmse_standardized"] == pytest.approx(10 / 11, rel=1e-6)


def test_tokens_all_alike_have_no_nmse() -> None:
    found = measured(identity(4, [0, 1]), torch.full((40, 4), 0.1), 16)
    assert found["mse"] > 0
    assert all(math.isnan(found[name]) for name in ("nmse", "nmse_standardized", "explained_variance"))


def test_it_leaves_the_tokens_as_they_are() -> None:
    x_nd = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).float()
    before = x_nd.clone()
    measured(noisy(4, 6, 0), x_nd, 8)
    assert torch.equal(x_nd, before)
