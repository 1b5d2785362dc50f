"""The L1 path: its end against scikit-learn, its entries against their definition, labels against each alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from sklearn.linear_model import LogisticRegression
from small_latents import in_columns

from audit_latents.ranking import Design, rank
from saetools.latents.block import Latents


def draw(seed: int, n: int = 120, k: int = 25) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    z_nk = rng.gamma(2.0, 10.0 ** rng.uniform(-2, 2, k), (n, k)) * (
        rng.random((n, k)) < rng.uniform(0.05, 1, k)
    )
    z_nk[:, 0] = 0
    z_nk[:, 1] = 5
    x_nk = z_nk / np.where(z_nk.std(axis=0) > 1e-9, z_nk.std(axis=0), 1)
    return z_nk, (rng.random(n) < special.expit(-1 + x_nk[:, 2] - x_nk[:, 3])).astype(float)


def objective(x_nk: np.ndarray, y_n: np.ndarray, beta_k: np.ndarray, b: float, penalty: float) -> float:
    t_n = x_nk @ beta_k + b
    loss = -np.mean(y_n * special.log_expit(t_n) + (1 - y_n) * special.log_expit(-t_n))
    return float(loss + penalty * np.abs(beta_k).sum())


@pytest.mark.parametrize("min_share", [0.5, 0.1, 0.03])
def test_the_path_ends_at_scikit_learns_optimum(min_share: float) -> None:
    z_nk, y_n = draw(4)
    path = Design(in_columns(z_nk)).path(y_n, n_proposals=10**6, min_share=min_share)
    scale_k = z_nk.std(axis=0)
    x_nk = z_nk / np.where(scale_k > 1e-9, scale_k, np.inf)
    peer = LogisticRegression(
        l1_ratio=1.0, C=1 / (len(y_n) * path.penalty), solver="saga", tol=1e-9, max_iter=200_000
    ).fit(x_nk, y_n)
    np.testing.assert_allclose(path.beta_k, peer.coef_[0], atol=2e-4)
    assert path.intercept == pytest.approx(peer.intercept_[0], abs=2e-4)
    ours = objective(x_nk, y_n, path.beta_k, path.intercept, path.penalty)
    assert ours <= objective(x_nk, y_n, peer.coef_[0], peer.intercept_[0], path.penalty) + 1e-9


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([0.8, 0.2, 0.02]))
def test_the_end_of_the_path_is_stationary(seed: int, min_share: float) -> None:
    """The subgradient of the objective holds zero: |g_k| <= penalty, and = penalty with the sign of beta_k != 0."""
    z_nk, y_n = draw(seed, n=60, k=30)
    if not 0 < y_n.mean() < 1:
        return
    path = Design(in_columns(z_nk)).path(y_n, n_proposals=10**6, min_share=min_share)
    scale_k = z_nk.std(axis=0)
    x_nk = z_nk / np.where(scale_k > 1e-9, scale_k, np.inf)
    residual_n = y_n - special.expit(x_nk @ path.beta_k + path.intercept)
    g_k = x_nk.T @ residual_n / len(y_n)
    assert abs(residual_n.mean()) < 1e-4
    assert np.all(np.abs(g_k) <= path.penalty + 1e-4)
    on = path.beta_k != 0
    np.testing.assert_allclose(g_k[on], path.penalty * np.sign(path.beta_k[on]), atol=1e-4)
    assert (path.share_k[on] > 0).all() and (path.share_k[:2] == 0).all()


def entries_by_definition(
    x_nk: np.ndarray, y_n: np.ndarray, penalties: np.ndarray
) -> dict[int, tuple[int, float]]:
    """Latent -> (step at which it first has a coefficient, that coefficient), in the order of entering; by FISTA on the
    whole dense matrix, whose thresholding makes exact zeros, until the subgradient is zero to 1e-10."""
    design_nk = np.column_stack([np.ones(len(y_n)), x_nk])
    rate = 4 * len(y_n) / np.linalg.norm(design_nk, 2) ** 2
    beta_k = np.zeros(design_nk.shape[1])
    beta_k[0] = special.logit(y_n.mean())
    found: dict[int, tuple[int, float]] = {}
    for step, penalty in enumerate(penalties):
        cost_k = np.full(len(beta_k), penalty)
        cost_k[0] = 0
        ahead_k, t = beta_k.copy(), 1.0
        for _ in range(200_000):
            g_k = design_nk.T @ (y_n - special.expit(design_nk @ ahead_k)) / len(y_n)
            stepped_k = ahead_k + rate * g_k
            new_k = np.sign(stepped_k) * np.maximum(np.abs(stepped_k) - rate * cost_k, 0)
            if np.abs(new_k - ahead_k).max() < 1e-10 * rate:
                break
            if (ahead_k - new_k) @ (new_k - beta_k) > 0:  # restart (O'Donoghue and Candes 2015)
                t = 1.0
            later = (1 + np.sqrt(1 + 4 * t * t)) / 2
            ahead_k, beta_k, t = new_k + (t - 1) / later * (new_k - beta_k), new_k, later
        else:
            raise AssertionError("the oracle did not converge")
        beta_k = new_k
        entering = [k for k in np.flatnonzero(beta_k[1:]) if k not in found]
        for k in sorted(entering, key=lambda k: -abs(beta_k[1 + k])):
            found[int(k)] = step, beta_k[1 + k]
    return found


@pytest.mark.parametrize(
    ("seed", "n", "k", "dtype"),
    [(0, 120, 25, np.float64), (1, 60, 90, np.float32), (2, 90, 40, np.float16), (3, 70_000, 5, np.float32)],
)
def test_latents_enter_in_the_order_of_the_definition(seed: int, n: int, k: int, dtype: type) -> None:
    """Every entry, its step and its coefficient, over 60 penalties: nothing is missed by what the path leaves out."""
    z_nk, y_n = draw(seed, n, k)
    z_nk = z_nk.astype(dtype)
    latents = in_columns(z_nk.astype(np.float32))
    design = Design(Latents(latents.indptr, latents.rows, latents.values.astype(dtype), n))
    steps = 60
    path = design.path(y_n, n_proposals=10**6, steps=steps)
    wide_nk = z_nk.astype(np.float64)
    scale_k = wide_nk.std(axis=0)
    x_nk = wide_nk / np.where(scale_k > 1e-9, scale_k, np.inf)
    first = np.abs(x_nk.T @ (y_n - y_n.mean())).max() / n
    shares = np.geomspace(1, 0.01, 100)[:steps]
    expected = entries_by_definition(x_nk, y_n, first * (1 + 1e-9) * shares)
    assert len(expected) >= 2 and min(step for step, _ in expected.values()) == 1
    assert {k: path.share_k[k] for k in np.flatnonzero(path.share_k)} == pytest.approx(
        {k: shares[step] for k, (step, _) in expected.items()}
    )
    for latent, (_, coefficient) in expected.items():
        assert path.coefficient_k[latent] == pytest.approx(coefficient, abs=1e-5)
    n_proposals = min(10, len(expected))
    assert rank(design, y_n[:, None], n_proposals).latent.tolist() == list(expected)[:n_proposals]


def test_the_first_to_enter_pulls_most() -> None:
    z_nk, y_n = draw(9)
    design = Design(in_columns(z_nk))
    path = design.path(y_n, n_proposals=1)
    scale_k = z_nk.std(axis=0)
    pull_k = np.abs((z_nk / np.where(scale_k > 1e-9, scale_k, np.inf)).T @ (y_n - y_n.mean()))
    ranking = rank(design, y_n[:, None], 5)
    assert ranking.latent[0] == pull_k.argmax() and path.share_k[ranking.latent[0]] > 0
    both = rank(design, np.stack([y_n, 1 - y_n, np.zeros(len(y_n))], axis=1), 5)
    np.testing.assert_array_equal(both.latent, ranking.latent)


@pytest.mark.parametrize(("seed", "n_proposals"), [(0, 3), (1, 6), (2, 12), (3, 1000)])
def test_paths_that_stop_early_rank_as_whole_paths(seed: int, n_proposals: int) -> None:
    """Over several labels: the ranking is that of every label's path followed to its own end."""
    rng = np.random.default_rng(seed)
    z_nk, _ = draw(seed, n=150, k=30)
    design = Design(in_columns(z_nk))
    x_nk = z_nk / np.where(z_nk.std(axis=0) > 1e-9, z_nk.std(axis=0), 1)
    own = rng.integers(2, 30, 8)
    y_nc = (rng.random((150, 8)) < special.expit(2 * (x_nk[:, own] - x_nk[:, own].mean(axis=0)))).astype(
        float
    )
    y_nc[:, 5] = 1
    asked: list[int] = []
    paths, path_of = {}, Design.path

    def counting(self: Design, y_n: np.ndarray, n_proposals: int, **limits: int) -> object:
        asked.append(limits["steps"])
        return path_of(self, y_n, n_proposals, **limits)

    for c in (0, 1, 2, 3, 4, 6, 7):
        paths[c] = design.path(np.ascontiguousarray(y_nc[:, c]), n_proposals)
    entries = [
        (-path.share_k[k], -abs(path.coefficient_k[k]), k, c)
        for c, path in paths.items()
        for k in range(30)
        if path.share_k[k] > 0
    ]
    expected: dict[int, int] = {}
    for _, _, k, c in sorted(entries):
        expected.setdefault(k, c)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Design, "path", counting)
        found = rank(design, y_nc, n_proposals)
    assert found.latent.tolist() == list(expected)[:n_proposals]
    assert found.label.tolist() == list(expected.values())[:n_proposals]
    for k, c, share, coefficient in zip(
        found.latent, found.label, found.share, found.coefficient, strict=True
    ):
        assert (share, coefficient) == (paths[c].share_k[k], paths[c].coefficient_k[k])
    assert n_proposals > 30 or asked[-1] < asked[0]
