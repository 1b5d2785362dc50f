"""audit-latents: the L1 path against scikit-learn, yields against counting, and the program on planted traits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from broken_files import broken_tables, contents
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import runner
from processes import Tool, error_lines
from scipy import sparse, special
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from small_latents import write_latents

from audit_latents.audit import Events, Patches, audit, bootstrap, yields
from audit_latents.cli import app
from audit_latents.l1_path import Design
from audit_latents.proposals import rank
from saetools.latent_block import Latents

audit_latents = runner("audit-latents", app)
N_LATENTS, GOOD = 40, (3, 17, 25)  # the latents that know class 1 of the patches


def in_columns(z_nk: np.ndarray) -> Latents:
    csc = sparse.csc_array(z_nk)
    return Latents(csc.indptr.astype(np.int64), csc.indices.astype(np.int32), csc.data, len(z_nk))


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


@pytest.mark.parametrize("least_share", [0.5, 0.1, 0.03])
def test_the_path_ends_at_scikit_learns_optimum(least_share: float) -> None:
    z_nk, y_n = draw(4)
    path = Design(in_columns(z_nk)).path(y_n, most=10**6, least_share=least_share)
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
def test_the_end_of_the_path_is_stationary(seed: int, least_share: float) -> None:
    """The subgradient of the objective holds zero: |g_k| <= penalty, and = penalty with the sign of beta_k != 0."""
    z_nk, y_n = draw(seed, n=60, k=30)
    if not 0 < y_n.mean() < 1:
        return
    path = Design(in_columns(z_nk)).path(y_n, most=10**6, least_share=least_share)
    scale_k = z_nk.std(axis=0)
    x_nk = z_nk / np.where(scale_k > 1e-9, scale_k, np.inf)
    residual_n = y_n - special.expit(x_nk @ path.beta_k + path.intercept)
    g_k = x_nk.T @ residual_n / len(y_n)
    assert abs(residual_n.mean()) < 1e-4
    assert np.all(np.abs(g_k) <= path.penalty + 1e-4)
    on = path.beta_k != 0
    np.testing.assert_allclose(g_k[on], path.penalty * np.sign(path.beta_k[on]), atol=1e-4)
    assert (path.share_k[on] > 0).all() and (path.share_k[:2] == 0).all()


def test_the_first_to_enter_pulls_most() -> None:
    z_nk, y_n = draw(9)
    design = Design(in_columns(z_nk))
    path = design.path(y_n, most=1)
    scale_k = z_nk.std(axis=0)
    pull_k = np.abs((z_nk / np.where(scale_k > 1e-9, scale_k, np.inf)).T @ (y_n - y_n.mean()))
    ranking = rank(design, y_n[:, None], 5)
    assert ranking.latent[0] == pull_k.argmax() and path.share_k[ranking.latent[0]] > 0
    both = rank(design, np.stack([y_n, 1 - y_n, np.zeros(len(y_n))], axis=1), 5)
    np.testing.assert_array_equal(both.latent, ranking.latent)


@pytest.mark.parametrize(("seed", "most"), [(0, 3), (1, 6), (2, 12), (3, 1000)])
def test_paths_that_stop_early_rank_as_whole_paths(seed: int, most: int) -> None:
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

    def counting(self: Design, y_n: np.ndarray, most: int, **limits: int) -> object:
        asked.append(limits["steps"])
        return path_of(self, y_n, most, **limits)

    for c in (0, 1, 2, 3, 4, 6, 7):
        paths[c] = design.path(np.ascontiguousarray(y_nc[:, c]), most)
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
        found = rank(design, y_nc, most)
    assert found.latent.tolist() == list(expected)[:most]
    assert found.label.tolist() == list(expected.values())[:most]
    for k, c, share, coefficient in zip(
        found.latent, found.label, found.share, found.coefficient, strict=True
    ):
        assert (share, coefficient) == (paths[c].share_k[k], paths[c].coefficient_k[k])
    assert most > 30 or asked[-1] < asked[0]


def test_yields_by_hand() -> None:
    found = np.array([[True, False, True], [False, False, False]])
    np.testing.assert_allclose(yields(found, 4), [[1, 1 / 2, 2 / 3, 2 / 4], [0, 0, 0, 0]])


class Planted:
    """Train images with a trait, test images with patch labels: class 1 where the trait's objects are."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(2)
        self.folder, self.f, self.labels, self.has = folder, {}, {}, {}
        for split, n in (("train", 200), ("test", 60)):
            has = rng.random(n) < 0.5
            labels_np = np.where(
                has[:, None] & (rng.random((n, 8)) < 0.4), 1, rng.choice([0, 2, 65535], (n, 8))
            )
            f_npk = rng.gamma(2.0, 1.0, (n, 8, N_LATENTS)) * (rng.random((n, 8, N_LATENTS)) < 0.2)
            for k in GOOD:
                f_npk[..., k] = (labels_np == 1) * rng.gamma(8.0, 1.0, (n, 8)) * (rng.random((n, 8)) < 0.8)
            f_npk[..., 30] = 9.0 * (has ^ (rng.random(n) < 0.2))[:, None]  # tells the images, not the patches
            self.f[split], self.labels[split], self.has[split] = f_npk.astype(np.float32), labels_np, has
            write_latents(folder / split, self.f[split], labels_np=labels_np.astype(np.uint16), prefix=split)
        rows = [f"train/{i:04d}.jpg,{int(yes)},{i % 2}" for i, yes in enumerate(self.has["train"])]
        self.table = folder / "k.csv"
        self.table.write_text("\n".join(["path,trait,noise", *rows]) + "\n")
        self.common = ("--train", folder / "train", "--test", folder / "test", "--labels", self.table)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return Planted(tmp_path_factory.mktemp("audit"))


def test_planted_latents_are_proposed_and_found(tool: Tool, planted: Planted) -> None:
    out = planted.folder / "out"
    arguments = (
        *planted.common,
        "--trait",
        "trait",
        "--budgets",
        "4,10",
        "--tau",
        0.6,
        "--null",
        19,
        "--bootstrap",
        50,
    )
    done = tool("audit-latents", *arguments, "--out", out)
    assert done.stdout.split() == [str(out / "ranking.csv"), str(out / "yield.csv")]
    ranking = pd.read_csv(out / "ranking.csv")
    assert set(GOOD) < set(ranking["latent"][:4]) and 30 in set(ranking["latent"][:4])
    z_nk, y_n = planted.f["test"].reshape(-1, N_LATENTS), planted.labels["test"].ravel()
    keep_n = y_n != 65535
    ap_kc = [
        [average_precision_score(y_n[keep_n] == c, z_nk[keep_n, k]) for c in (0, 1, 2)]
        for k in range(N_LATENTS)
    ]
    for row in ranking.itertuples():
        assert row.ap == pytest.approx(max(ap_kc[row.latent]), abs=1e-12)
        assert row.found_in == (0, 1, 2)[int(np.argmax(ap_kc[row.latent]))]
        assert row.found == (row.ap >= 0.6) and row.asked_by == "trait"
    assert (ranking["ap"][ranking["latent"].isin(GOOD)] > 0.7).all()
    table = pd.read_csv(out / "yield.csv")
    assert list(table["measure"]) == ["yield", "yield", "area"] and list(table["budget"]) == [4, 10, 10]
    found = ranking["found"].to_numpy(float)
    counts = np.concatenate([found, np.zeros(10)])[:10].cumsum()
    assert table["value"].tolist() == pytest.approx(
        [counts[3] / 4, counts[9] / 10, (counts / np.arange(1, 11)).mean()]
    )
    assert (table["low"] <= table["value"]).all() and (table["value"] <= table["high"]).all()
    assert table["chance"][0] == pytest.approx(np.mean([max(row) >= 0.6 for row in ap_kc]))
    assert "Yield(4)" in done.stderr


def test_the_null_knows_nothing(planted: Planted) -> None:
    """A trait that is drawn at random gets proposals no better than those for shuffled labels."""
    wanted = {"trait": [], "noise": []}
    for trait, p in wanted.items():
        out = planted.folder / f"null-{trait}"
        audit_latents(
            *(*planted.common, "--out", out, "--trait", trait, "--budgets", 3, "--tau", 0.6),
            *("--null", 39, "--bootstrap", 0),
        )
        table = pd.read_csv(out / "yield.csv")
        p.append(table["p"][0])
        assert table["low"].isna().all()
        assert 0 <= table["null_mean"][0] <= table["null_high"][0] <= 1
    assert wanted["trait"][0] <= 0.05 < wanted["noise"][0]


def test_bootstrap_equals_repeating_the_images() -> None:
    rng = np.random.default_rng(0)
    n, p = 12, 5
    class_n = rng.integers(-1, 3, n * p).astype(np.int32)
    z_nk = rng.gamma(1.0, 1.0, (n * p, 4)).round(1) * (rng.random((n * p, 4)) < 0.5)
    z_nk[class_n < 0] = 0
    patches = Patches(class_n, p, 3)
    blocks = [
        (0, in_columns(z_nk[:, :3].astype(np.float32))),
        (3, in_columns(z_nk[:, 3:].astype(np.float32))),
    ]
    audited = audit(blocks, 4, patches, {0, 3}, threads=2)
    assert set(audited.events) == {0, 3}
    weight_n = rng.integers(0, 3, n)
    image_n = np.repeat(np.arange(n), p)
    rows = np.repeat(np.arange(n * p), weight_n[image_n])
    rows = rows[class_n[rows] >= 0]
    found_c = audited.events[3].ap(weight_n, weight_n @ patches.masses())
    expected = [
        average_precision_score(class_n[rows] == c, z_nk[rows, 3].astype(np.float32)) for c in range(3)
    ]
    np.testing.assert_allclose(found_c, expected, atol=1e-12)
    found = bootstrap(audited, np.array([0, 3]), patches, 0.4, 200, np.random.default_rng(1), threads=2)
    again = bootstrap(audited, np.array([0, 3]), patches, 0.4, 200, np.random.default_rng(1), threads=1)
    np.testing.assert_array_equal(found, again)
    assert isinstance(audited.events[0], Events) and 0 < found.mean() < 1


def test_a_second_run_reads_what_is_there(planted: Planted) -> None:
    arguments = (*planted.common, "--out", planted.folder / "again", "--null", 1, "--bootstrap", 1)
    audit_latents(*arguments)
    before = (planted.folder / "again" / "yield.csv").stat().st_mtime_ns
    audit_latents(*arguments)
    assert (planted.folder / "again" / "yield.csv").stat().st_mtime_ns == before
    for flag, value in (("--tau", 0.5), ("--seed", 3), ("--ignore", 0), ("--trait", "noise")):
        assert f"other settings: {flag[2:]}" in error_lines(audit_latents(*arguments, flag, value, code=1))


def test_a_broken_table_is_refused_and_kept(planted: Planted) -> None:
    made, out = planted.folder / "sound", planted.folder / "broken"
    arguments = (*planted.common, "--null", 1, "--bootstrap", 1)
    audit_latents(*arguments, "--out", made)
    for name in ("ranking.csv", "yield.csv"):
        for kind in broken_tables(name).values():
            shutil.copytree(made, out)
            kind.break_it(out)
            before = contents(out)
            assert str(out / name) in error_lines(audit_latents(*arguments, "--out", out, code=1))
            assert contents(out) == before
            shutil.rmtree(out)


def test_options_change_the_outcome(planted: Planted) -> None:
    def run(name: str, *arguments: object) -> pd.DataFrame:
        out = planted.folder / name
        audit_latents(*planted.common, "--out", out, "--null", 3, "--bootstrap", 9, "--tau", 0.6, *arguments)
        return pd.read_csv(out / "yield.csv")

    plain = run("plain")
    assert list(plain["budget"]) == [10, 25, 50, 100, 100]
    assert plain.equals(run("threads", "--threads", 1, "--memory", "1kB"))
    assert not plain.equals(run("seed", "--seed", 1))
    assert run("tau", "--tau", 0.5)["value"][0] > 0 and run("tau1", "--tau", 1)["value"][0] == 0
    assert not plain.equals(run("ignore", "--ignore", 0, "--tau", 0.9))


def test_what_a_constant_reaches_is_refused_before_anything_is_computed(planted: Planted) -> None:
    """With a tau at or below the share of the commonest label every latent would count as found."""
    label_n = planted.labels["test"].ravel()
    shares = {label: (label_n[label_n != 65535] == label).mean() for label in (0, 1, 2)}
    label, highest = max(shares.items(), key=lambda item: item[1])
    default = np.ceil(50 * (1 + highest)) / 100
    out = planted.folder / "constant"

    def refused(*arguments: object) -> str:
        error = error_lines(audit_latents(*planted.common, "--out", out, *arguments, code=1))
        assert not out.exists()
        return error

    found = refused("--tau", f"{highest:.17g}")
    assert f"{highest:.3f} of the test rows are of class '{label}'" in found
    assert f"leave --tau out for {default:g}" in found
    assert "a single label" in refused("--ignore", "0,2")
    done = audit_latents(*planted.common, "--out", out, "--null", 2, "--bootstrap", 3, "--budgets", "2,3")
    settings = json.loads((out / "yield.csv.json").read_text())["settings"]
    assert settings["tau"] == default and f"an AP of at least {default:g}" in done.stderr
    table = pd.read_csv(out / "yield.csv")
    assert table["n_proposals"].tolist() == [2, 3, 3] and set(table["n_null"]) == {2}
    assert set(table["n_latents"]) == {N_LATENTS} and "(of 3 proposals, 2 nulls)" in done.stderr


def test_errors_say_what_to_do(planted: Planted, tmp_path: Path) -> None:
    def refused(*arguments: object, code: int = 1) -> str:
        return error_lines(audit_latents(*arguments, "--out", tmp_path / "out", code=code))

    train, test, labels = planted.common[:2], planted.common[2:4], planted.common[4:]
    assert "images are in --train and --test" in refused(*train, "--test", planted.folder / "train", *labels)
    assert "what the ranking must not see" in refused(*train, *test, "--labels", "patch", code=2)
    assert "did you mean trait?" in refused(*planted.common, "--trait", "trai")
    assert "expected numbers of at least 1" in refused(*planted.common, "--budgets", "0,5", code=2)
    other = write_latents(tmp_path / "other", planted.f["test"], prefix="test", scorer="another")
    assert "scorer: 'uid' against 'another'" in refused(*train, "--test", other, *labels)
    bare = write_latents(tmp_path / "bare", planted.f["test"], prefix="test")
    assert "no patch labels" in refused(*train, "--test", bare, *labels)
    rows = [f"train/{i:04d}.jpg,1" for i in range(200)]
    (tmp_path / "all.csv").write_text("\n".join(["path,all", *rows]) + "\n")
    assert "no latent tells its labels apart" in refused(*train, *test, "--labels", tmp_path / "all.csv")
