"""audit-latents: yields against counting, and the program on planted traits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from broken_files import broken_tables, contents
from in_process import runner
from processes import Tool, error_lines
from sklearn.metrics import average_precision_score
from small_latents import in_columns, write_latents

from audit_latents.audit import ActivePatches, Patches, audit, bootstrap, yields
from audit_latents.cli import app
from audit_latents.ranking import Design, rank
from audit_latents.run import AuditSettings, shuffled_rankings
from saetools.cli.progress import Progress

audit_latents = runner("audit-latents", app)
N_LATENTS, GOOD = 40, (3, 17, 25)  # the latents that know class 1 of the patches


def test_shuffles_are_drawn_as_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand permutations of many images are never in memory together, and threads change nothing."""
    rng = np.random.default_rng(5)
    z_nk = rng.gamma(2.0, 1.0, (60, 20)) * (rng.random((60, 20)) < 0.4)
    y_n = (rng.random(60) < 0.4).astype(float)
    design = Design(in_columns(z_nk))
    wanted = AuditSettings("k.csv", None, [], [5], 0.5, 0, 37, 11)
    drawn, done, ahead = [], [], []
    real = np.random.default_rng

    class Counting:
        def __init__(self, seed: object) -> None:
            self.rng = real(seed)

        def permutation(self, n: int) -> np.ndarray:
            drawn.append(self.rng.permutation(n))
            ahead.append(len(drawn) - len(done))
            return drawn[-1]

    class Counted:
        def advance(self, count: int) -> None:
            done.append(count)

    monkeypatch.setattr(np.random, "default_rng", Counting)
    one = shuffled_rankings(design, y_n[:, None], 5, wanted, 1, Counted())
    assert len(drawn) == len(done) == 37 and max(ahead) <= 4
    for order, latents in zip(drawn, one, strict=True):
        assert latents.tolist() == rank(design, y_n[order][:, None], 5).latent.tolist()
    two = shuffled_rankings(design, y_n[:, None], 5, wanted, 3, Counted())
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))


def test_progress_counts_every_path_from_the_start(
    planted: Planted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    totals, done = [], []

    class Watched(Progress):
        def __init__(self, what: str, total: int | None, unit: str) -> None:
            super().__init__(what, total, unit)
            totals.append((what, total, unit))

        def advance(self, count: int, **_: str) -> None:
            done.append(count)

    monkeypatch.setattr("audit_latents.run.Progress", Watched)
    audit_latents(*planted.common, "--out", tmp_path / "out", "--null", 6, "--bootstrap", 2)
    assert totals == [("ranking", 2 * (1 + 6), "paths")] and sum(done) == 14


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
    best = ranking.loc[ranking["ap"].idxmax()]
    assert done.stderr.splitlines()[-1] == (
        f"audit-latents: {int(found[:10].sum())} of the first {len(ranking)} latents for trait show in a patch label"
        f" (AP of at least 0.6); of {len(ranking)} latents drawn at random"
        f" {table['chance'][0] * len(ranking):.1f} would,"
        f" of a ranking by shuffled labels {table['null_mean'][1] * 10:.1f} (p = {table['p'][1]:.3f});"
        f" best: latent {best['latent']} in label {best['found_in']} (AP {best['ap']:.2f})"
    )


def test_missing_rows_of_the_image_labels(tool: Tool, planted: Planted, tmp_path: Path) -> None:
    """`no` is the same as rows of zeros, `unknown` as empty cells."""
    lines = planted.table.read_text().splitlines()
    some = tmp_path / "some.csv"
    some.write_text("\n".join([lines[0], *lines[21:]]) + "\n")
    common = (
        *planted.common[:4],
        "--trait",
        "trait",
        "--budgets",
        4,
        "--null",
        3,
        "--bootstrap",
        5,
        "--labels",
    )
    done = tool("audit-latents", *common, some, "--out", tmp_path / "out", code=1)
    assert "20 of the 200 images in --train have no row" in done.stderr
    for rule, cell in (("unknown", ",,"), ("no", ",0,0")):
        full = tmp_path / f"{rule}.csv"
        full.write_text(
            "\n".join([lines[0], *(line.partition(",")[0] + cell for line in lines[1:21]), *lines[21:]])
        )
        tool("audit-latents", *common, some, "--missing-rows", rule, "--out", tmp_path / f"some-{rule}")
        audit_latents(*common, full, "--out", tmp_path / f"full-{rule}")
        for name in ("ranking.csv", "yield.csv"):
            one, other = ((tmp_path / f"{kind}-{rule}" / name).read_text() for kind in ("some", "full"))
            assert one == other
    one, other = ((tmp_path / f"some-{rule}/ranking.csv").read_text() for rule in ("unknown", "no"))
    assert one != other


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
    assert set(audited.active) == {0, 3}
    weight_n = rng.integers(0, 3, n)
    image_n = np.repeat(np.arange(n), p)
    rows = np.repeat(np.arange(n * p), weight_n[image_n])
    rows = rows[class_n[rows] >= 0]
    found_c = audited.active[3].ap(weight_n, weight_n @ patches.masses())
    expected = [
        average_precision_score(class_n[rows] == c, z_nk[rows, 3].astype(np.float32)) for c in range(3)
    ]
    np.testing.assert_allclose(found_c, expected, atol=1e-12)
    found = bootstrap(audited, np.array([0, 3]), patches, 0.4, 200, np.random.default_rng(1), threads=2)
    again = bootstrap(audited, np.array([0, 3]), patches, 0.4, 200, np.random.default_rng(1), threads=1)
    np.testing.assert_array_equal(found, again)
    assert isinstance(audited.active[0], ActivePatches) and 0 < found.mean() < 1


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
    assert "only one label that is not ignored" in refused("--ignore", "0,2")
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
    assert "the patch labels are kept for testing the ranking" in refused(
        *train, *test, "--labels", "patch", code=2
    )
    assert "did you mean trait?" in refused(*planted.common, "--trait", "trai")
    assert "expected numbers of at least 1" in refused(*planted.common, "--budgets", "0,5", code=2)
    other = write_latents(tmp_path / "other", planted.f["test"], prefix="test", scorer="another")
    assert "scorer: 'uid' against 'another'" in refused(*train, "--test", other, *labels)
    bare = write_latents(tmp_path / "bare", planted.f["test"], prefix="test")
    assert "no patch labels" in refused(*train, "--test", bare, *labels)
    rows = [f"train/{i:04d}.jpg,1" for i in range(200)]
    (tmp_path / "all.csv").write_text("\n".join(["path,all", *rows]) + "\n")
    assert "no latent tells its labels apart" in refused(*train, *test, "--labels", tmp_path / "all.csv")
