"""The probe solver against float64 optima of the dense definition, written apart from it."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, sparse, special
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fit_probes.problem import NO_PROBE, SEPARABLE_RIDGE, ProbeFlag
from fit_probes.solver import fit_probes
from fit_probes.torch_newton import fit_probes_torch
from saetools.errors import UserError
from saetools.labels.rows import RowLabels
from saetools.latents.block import Latents

Floats = npt.NDArray[np.floating]


def in_columns(z_nk: Floats) -> Latents:
    """CSC of a dense {N, K} array."""
    csc = sparse.csc_array(z_nk)
    return Latents(csc.indptr.astype(np.int64), csc.indices.astype(np.int32), csc.data, z_nk.shape[0])


def cross_entropy(w: float, b: float, z_n: Floats, y_n: Floats) -> float:
    """The definition: -mean[y ln s + (1 - y) ln(1 - s)], s = sigma(w z + b)."""
    t_n = w * z_n.astype(np.float64) + b
    return float(-np.mean(y_n * special.log_expit(t_n) + (1 - y_n) * special.log_expit(-t_n)))


def optimum(
    z_n: Floats, y_n: Floats, ridge: float, *, standardise: bool = True
) -> tuple[float, float, float]:
    """(w, b, penalised loss) by scipy's trust-region method on the dense, standardised problem."""
    z_n = z_n.astype(np.float64)
    mean, sd = z_n.mean(), z_n.std()
    x_n = (z_n - mean) / sd
    penalty = ridge if standardise else ridge / sd**2

    def loss(p: Floats) -> float:
        return cross_entropy(p[0], p[1], x_n, y_n) + 0.5 * penalty * p[0] ** 2

    def gradient(p: Floats) -> Floats:
        g_n = special.expit(p[0] * x_n + p[1]) - y_n
        return np.array([np.mean(g_n * x_n) + penalty * p[0], np.mean(g_n)])

    def hessian(p: Floats) -> Floats:
        t_n = p[0] * x_n + p[1]
        v_n = special.expit(t_n) * special.expit(-t_n)
        off = np.mean(v_n * x_n)
        return np.array([[np.mean(v_n * x_n**2) + penalty, off], [off, np.mean(v_n)]])

    start = np.array([0.0, special.logit(y_n.mean())])
    options = {"gtol": 1e-12, "maxiter": 2000}
    found = optimize.minimize(loss, start, jac=gradient, hess=hessian, method="trust-exact", options=options)
    w = found.x[0] / sd
    return float(w), float(found.x[1] - w * mean), float(found.fun)


def assert_optimal(z_nk: Floats, y_nc: Floats, labels: RowLabels, ridge: float) -> None:
    """Every pair: loss as defined, objective as low as the oracle's, or the prior alone with a flag that says why."""
    fit = fit_probes(in_columns(z_nk), labels, ridge=ridge)
    assert fit.converged.all()
    for k, c in np.ndindex(fit.loss.shape):
        z_n, y_n = z_nk[:, k].astype(np.float64), y_nc[:, c]
        if fit.flags[k, c] & NO_PROBE:
            assert np.all(z_n == z_n[0]) or y_n.min() == y_n.max() in (0, 1)
            assert fit.weight[k, c] == 0 and fit.loss[k, c] == fit.prior_loss[c]
            continue
        loss = cross_entropy(fit.weight[k, c], fit.bias[k, c], z_n, y_n)
        # Where w z and b nearly cancel, the rounding of the given w and b alone changes a logit by this much.
        rounding = 4e-16 * (abs(fit.weight[k, c]) * np.abs(z_n).max() + abs(fit.bias[k, c]))
        assert fit.loss[k, c] == pytest.approx(loss, abs=1e-12 + rounding)
        used = max(ridge, SEPARABLE_RIDGE) if fit.flags[k, c] & ProbeFlag.SEPARABLE else ridge
        _, _, least = optimum(z_n, y_n, used)
        assert loss + 0.5 * used * (fit.weight[k, c] * z_n.std()) ** 2 <= least + 1e-12 + rounding


@pytest.fixture(scope="module")
def sparse_case() -> tuple[Floats, npt.NDArray[np.int64]]:
    """3,000 rows, 12 latents of falling density (one dense, one silent), 5 classes, some of them told by a latent."""
    rng = np.random.default_rng(3)
    ids_n = rng.choice(5, 3000, p=[0.6, 0.25, 0.1, 0.04, 0.01])
    density_k = np.array([1.0, 0.9, 0.5, 0.2, 0.2, 0.1, 0.05, 0.02, 0.01, 0.003, 0.001, 0.0])
    z_nk = rng.gamma(2.0, 1.0, (3000, 12)) * (rng.random((3000, 12)) < density_k)
    z_nk *= 1.0 + 2.0 * (ids_n[:, None] == np.arange(12) % 5)
    return z_nk.astype(np.float32), ids_n


def test_one_class_a_row_reaches_the_optimum(sparse_case: tuple[Floats, npt.NDArray[np.int64]]) -> None:
    z_nk, ids_n = sparse_case
    assert_optimal(z_nk, np.eye(5)[ids_n], RowLabels.from_classes(ids_n, 5), 1e-8)


@pytest.mark.parametrize("standardise", [True, False])
def test_equals_scikit_learn(sparse_case: tuple[Floats, npt.NDArray[np.int64]], standardise: bool) -> None:
    z_nk, ids_n = sparse_case
    ridge = 1e-3
    fit = fit_probes(in_columns(z_nk), RowLabels.from_classes(ids_n, 5), ridge=ridge, standardise=standardise)
    for k, c in ((0, 0), (1, 3), (3, 1), (7, 2)):
        z_n1 = z_nk[:, k : k + 1].astype(np.float64)
        x_n1 = StandardScaler().fit_transform(z_n1) if standardise else z_n1
        peer = LogisticRegression(C=1 / (ridge * len(z_n1)), tol=1e-10, solver="newton-cholesky")
        t_n = peer.fit(x_n1, ids_n == c).decision_function(x_n1)
        ours_n = fit.weight[k, c] * z_n1[:, 0] + fit.bias[k, c]
        np.testing.assert_allclose(ours_n, t_n, atol=1e-6)


def test_ridge_zero_has_a_vanishing_gradient(sparse_case: tuple[Floats, npt.NDArray[np.int64]]) -> None:
    z_nk, ids_n = sparse_case
    fit = fit_probes(in_columns(z_nk), RowLabels.from_classes(ids_n, 5), ridge=0.0)
    for k, c in np.argwhere(fit.flags == 0):
        z_n = z_nk[:, k].astype(np.float64)
        g_n = special.expit(fit.weight[k, c] * z_n + fit.bias[k, c]) - (ids_n == c)
        assert abs(g_n.mean()) < 1e-13 and abs((g_n * z_n).mean()) < 1e-12


def test_r_by_hand() -> None:
    """Two values only: the probe reproduces the share of positives of each, so its loss is known in closed form."""
    z_n1 = np.array([0, 0, 0, 0, 1, 1, 1, 1], np.float32)[:, None]
    y_n1 = np.array([1, 0, 0, 0, 1, 1, 1, 0], bool)[:, None]
    fit = fit_probes(in_columns(z_n1), RowLabels.from_table(y_n1), ridge=0.0)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert fit.weight[0, 0] == pytest.approx(2 * np.log(3), abs=1e-12)
    assert fit.bias[0, 0] == pytest.approx(-np.log(3), abs=1e-12)
    assert fit.r()[0, 0] == pytest.approx(1 - entropy / np.log(2), abs=1e-14)


def test_blanks_are_answered_by_the_prior() -> None:
    ids_n = np.array([0, 0, 0, 1, 1, 3])
    z_nk = np.zeros((6, 3), np.float32)
    z_nk[:, 1] = 2.5
    z_nk[:, 2] = [1, 2, 3, 1, 2, 0]
    fit = fit_probes(in_columns(z_nk), RowLabels.from_classes(ids_n, 4))
    np.testing.assert_array_equal(fit.flags[0], [1, 1, 1 | ProbeFlag.NO_POSITIVES, 1])
    np.testing.assert_array_equal(fit.flags[1] & ProbeFlag.CONSTANT, 2)
    assert fit.flags[2, 2] == ProbeFlag.NO_POSITIVES
    np.testing.assert_array_equal(fit.weight[:2], 0.0)
    np.testing.assert_array_equal(fit.r()[:2], 0.0)
    np.testing.assert_allclose(fit.bias[0, [0, 1, 3]], special.logit([1 / 2, 1 / 3, 1 / 6]))
    np.testing.assert_allclose(fit.prior_loss[1], -(np.log(1 / 3) + 2 * np.log(2 / 3)) / 3, rtol=1e-14)
    assert np.all(fit.bias[:, 2] == -np.inf) and np.all(fit.loss[:, 2] == 0.0)
    assert fit.converged.all()
    full = fit_probes(in_columns(z_nk), RowLabels.from_classes(np.zeros(6, np.int64), 1))
    assert (
        np.all(full.flags & ProbeFlag.ALL_POSITIVES)
        and np.all(full.bias == np.inf)
        and np.all(full.loss == 0)
    )


@pytest.mark.parametrize("ridge", [0.0, 1e-8, 1e-2])
def test_separable_pairs_are_flagged_and_stay_finite(ridge: float) -> None:
    z_nk = np.zeros((40, 4), np.float32)
    z_nk[:10, 0] = np.linspace(1, 2, 10)  # fires on all positives and nothing else
    z_nk[10:30, 1] = 1.0  # fires on negatives only: the zeros stay mixed
    z_nk[:20, 2] = 1.0  # positives and some negatives share the value: separated on one side only
    z_nk[5:15, 3] = 1.0  # not separable
    y_n = np.arange(40) < 10
    fit = fit_probes(in_columns(z_nk), RowLabels.from_table(y_n[:, None]), ridge=ridge)
    np.testing.assert_array_equal(fit.flags[:, 0] & ProbeFlag.SEPARABLE, [16, 16, 16, 0])
    assert fit.converged.all() and np.all(np.abs(fit.weight) < 100)
    assert_optimal(z_nk, y_n[:, None].astype(float), RowLabels.from_table(y_n[:, None]), ridge)
    if ridge <= 1e-8:
        # What is left when each row beyond the threshold costs nothing: the entropy of the rows on it.
        # Latent 1: 20 rows, half of them positives. Latent 2: the same among its own events.
        np.testing.assert_allclose(fit.loss[:3, 0], [0.0, 0.5 * np.log(2), 0.5 * np.log(2)], atol=1e-5)


def test_soft_labels_and_table_equal_their_special_cases(
    sparse_case: tuple[Floats, npt.NDArray[np.int64]],
) -> None:
    """Soft labels of 0 and 1 are the table of bools, which with one class a row is the one-class case."""
    z_nk, ids_n = sparse_case
    latents, hot_nc = in_columns(z_nk), np.eye(5)[ids_n]
    one = fit_probes(latents, RowLabels.from_classes(ids_n, 5))
    for labels in (RowLabels.from_table(hot_nc.astype(bool)), RowLabels.from_table(hot_nc)):
        fit = fit_probes(latents, labels)
        np.testing.assert_array_equal(fit.flags, one.flags)
        np.testing.assert_allclose(fit.loss, one.loss, atol=1e-13)
        np.testing.assert_allclose(fit.weight, one.weight, rtol=1e-8, atol=1e-9)


def test_ignored_rows_count_for_nothing(sparse_case: tuple[Floats, npt.NDArray[np.int64]]) -> None:
    z_nk, ids_n = sparse_case
    kept_n = ids_n != 1
    fit = fit_probes(in_columns(z_nk), RowLabels.from_classes(ids_n, 5, ignore=1))
    table = fit_probes(in_columns(z_nk), RowLabels.from_table(np.eye(5, dtype=bool)[ids_n], keep=kept_n))
    alone = fit_probes(in_columns(z_nk[kept_n]), RowLabels.from_classes(ids_n[kept_n], 5))
    for other in (fit, table):
        np.testing.assert_array_equal(other.flags, alone.flags)
        np.testing.assert_allclose(other.loss, alone.loss, atol=1e-13)
        np.testing.assert_array_equal(other.prior, alone.prior)


def test_order_threads_and_slices_change_nothing(sparse_case: tuple[Floats, npt.NDArray[np.int64]]) -> None:
    z_nk, ids_n = sparse_case
    whole = fit_probes(in_columns(z_nk), RowLabels.from_classes(ids_n, 5))
    alone = fit_probes(in_columns(z_nk), RowLabels.from_classes(ids_n, 5), threads=1)
    part = fit_probes(in_columns(z_nk[:, 3:6]), RowLabels.from_classes(ids_n, 5, classes=[4, 2]))
    np.testing.assert_array_equal(alone.weight, whole.weight)
    np.testing.assert_array_equal(part.weight, whole.weight[3:6][:, [4, 2]])
    np.testing.assert_array_equal(part.flags, whole.flags[3:6][:, [4, 2]])
    order_n = np.random.default_rng(0).permutation(len(ids_n))
    mixed = fit_probes(in_columns(z_nk[order_n]), RowLabels.from_classes(ids_n[order_n], 5))
    np.testing.assert_allclose(mixed.loss, whole.loss, atol=1e-14)
    np.testing.assert_allclose(mixed.weight, whole.weight, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(mixed.bias, whole.bias, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("unit", [1e-30, 1e-6, 1e6, 1e30])
def test_unit_of_the_latent_does_not_matter(
    sparse_case: tuple[Floats, npt.NDArray[np.int64]], unit: float
) -> None:
    z_nk, ids_n = sparse_case
    labels = RowLabels.from_classes(ids_n, 5)
    exact = 2.0 ** np.round(np.log2(unit))
    plain = fit_probes(in_columns(z_nk), labels)
    scaled = fit_probes(in_columns((z_nk * exact).astype(np.float32)), labels)
    np.testing.assert_array_equal(scaled.loss, plain.loss)
    np.testing.assert_array_equal(scaled.weight * exact, plain.weight)


def test_float16_is_widened(sparse_case: tuple[Floats, npt.NDArray[np.int64]]) -> None:
    z_nk, ids_n = sparse_case
    half_nk = z_nk.astype(np.float16)
    latents = in_columns(half_nk.astype(np.float32))
    half = Latents(latents.indptr, latents.rows, latents.values.astype(np.float16), latents.n_rows)
    labels = RowLabels.from_classes(ids_n, 5)
    np.testing.assert_array_equal(fit_probes(half, labels).weight, fit_probes(latents, labels).weight)


def test_a_million_rows_with_three_non_zeros() -> None:
    n = 1_000_000
    indptr = np.array([0, 3, 6], np.int64)
    rows = np.array([5, 70, 999_999, 1, 2, 3], np.int32)
    latents = Latents(indptr, rows, np.array([0.5, 1.0, 2.0, 1.0, 1.0, 1.0], np.float32), n)
    y_n = np.zeros(n, bool)
    y_n[[70, 1, 2, 12345]] = True
    fit = fit_probes(latents, RowLabels.from_table(y_n[:, None]), ridge=0.0)
    assert fit.converged.all()
    # Latent 1 has two values: sigma(b) and sigma(w + b) are the shares of positives, 2 of n - 3 and 2 of 3.
    assert fit.flags[1, 0] == 0
    assert fit.bias[1, 0] == pytest.approx(special.logit(2 / (n - 3)), abs=1e-9)
    assert fit.weight[1, 0] + fit.bias[1, 0] == pytest.approx(np.log(2), abs=1e-9)
    dense_n = np.zeros(n)
    dense_n[rows[:3]] = latents.values[:3]
    _, _, least = optimum(dense_n, y_n.astype(float), 0.0)
    assert fit.loss[0, 0] <= least + 1e-15
    assert fit.loss[0, 0] == pytest.approx(
        cross_entropy(fit.weight[0, 0], fit.bias[0, 0], dense_n, y_n), abs=1e-15
    )


@st.composite
def problems(draw: st.DrawFn) -> tuple[Floats, Floats, float]:
    """Small latents and labels of awkward kinds: constant, binary, huge, tiny, outliers, dense, one positive."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n = draw(st.sampled_from([2, 3, 12, 60, 700]))
    z_nk = rng.gamma(draw(st.sampled_from([0.3, 2.0, 30.0])), 1.0, (n, 3))
    z_nk *= rng.random((n, 3)) < draw(st.sampled_from([0.02, 0.3, 0.98, 1.0]))
    kind = draw(st.sampled_from(["plain", "binary", "signed", "outlier", "unit", "narrow"]))
    if kind == "binary":
        z_nk = np.round(z_nk)
    elif kind == "signed":
        z_nk = rng.normal(0.0, 1.0, (n, 3))
    elif kind == "outlier":
        z_nk[rng.integers(n)] *= 10.0 ** draw(st.integers(1, 7))
    elif kind == "unit":
        z_nk *= 10.0 ** draw(st.integers(-30, 30))
    elif kind == "narrow":
        z_nk = 1000.0 + z_nk * 0.1
    labels = draw(st.sampled_from(["one positive", "by value", "random", "soft"]))
    z_nk = z_nk.astype(np.float32)
    spread = float(z_nk[:, 0].astype(np.float64).std()) or 1.0
    logit_n = (z_nk[:, 0].astype(np.float64) - z_nk[:, 0].astype(np.float64).mean()) / spread
    if labels == "one positive":
        y_n = (np.arange(n) == rng.integers(n)).astype(float)
    elif labels == "by value":
        y_n = (logit_n > draw(st.sampled_from([0.0, 1.0]))).astype(float)
    elif labels == "random":
        y_n = (rng.random(n) < draw(st.sampled_from([0.03, 0.5, 0.97]))).astype(float)
    else:
        y_n = special.expit(draw(st.sampled_from([-4.0, 1.0])) * logit_n + rng.normal(-2.0, 1.0, n))
    return z_nk, y_n, 10.0 ** draw(st.integers(-9, 0))


@settings(max_examples=120, deadline=None)
@given(problems())
def test_awkward_cases_reach_the_optimum(problem: tuple[Floats, Floats, float]) -> None:
    z_nk, y_n, ridge = problem
    assert_optimal(z_nk, y_n[:, None], RowLabels.from_table(y_n[:, None]), ridge)


@pytest.mark.parametrize("kind", ["classes", "bools", "soft"])
def test_torch_equals_the_kernels(sparse_case: tuple[Floats, npt.NDArray[np.int64]], kind: str) -> None:
    z_nk, ids_n = sparse_case
    z_nk = np.concatenate([z_nk, np.full((len(z_nk), 1), 3.0, np.float32), (ids_n == 2)[:, None]], axis=1)
    hot_nc = np.eye(6)[ids_n]
    labels = {
        "classes": RowLabels.from_classes(ids_n, 6, ignore=1),
        "bools": RowLabels.from_table(hot_nc.astype(bool), keep=ids_n != 1),
        "soft": RowLabels.from_table(0.9 * hot_nc + 0.01, keep=ids_n != 1),
    }[kind]
    latents = in_columns(z_nk.astype(np.float32))
    ours = fit_probes(latents, labels, standardise=kind != "soft")
    torch = fit_probes_torch(
        latents, labels, ridge=1e-8, standardise=kind != "soft", device="cpu", budget=200_000
    )
    assert torch.converged.all()
    np.testing.assert_array_equal(torch.flags, ours.flags)
    np.testing.assert_allclose(torch.loss, ours.loss, atol=1e-14)
    np.testing.assert_allclose(torch.weight, ours.weight, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(torch.bias, ours.bias, rtol=1e-7, atol=1e-9)


def test_bad_input_is_refused() -> None:
    indptr, rows, values = np.array([0, 2]), np.array([0, 3], np.int32), np.array([1.0, 2.0], np.float32)
    latents = Latents(indptr, rows, values, 4)
    labels = RowLabels.from_classes(np.array([0, 1, 1, 0]), 2)
    with pytest.raises(UserError, match="NaN or infinity"):
        Latents(indptr, rows, np.array([1.0, np.nan], np.float32), 4)
    with pytest.raises(UserError, match="belong together"):
        Latents(indptr, rows, values, 3)
    with pytest.raises(UserError, match="5 rows, the latents have 4"):
        fit_probes(latents, RowLabels.from_classes(np.array([0, 1, 1, 0, 0]), 2))
    with pytest.raises(UserError, match="every row is ignored"):
        fit_probes(latents, RowLabels.from_classes(np.zeros(4, np.int64), 2, ignore=0))
    with pytest.raises(UserError, match="ridge"):
        fit_probes(latents, labels, ridge=-1.0)
    with pytest.raises(UserError, match="outside"):
        RowLabels.from_table(np.array([[0.5], [np.nan], [1.0], [0.0]]))
    with pytest.raises(UserError, match="class ids reach"):
        RowLabels.from_classes(np.array([0, 255]), 2)
