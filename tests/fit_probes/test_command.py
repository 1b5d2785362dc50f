"""fit-probes as a program, against dense computations with scipy and scikit-learn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from broken_files import broken_tables, contents
from edited_files import save_npz
from in_process import runner
from processes import Tool, error_lines
from scipy import special
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score
from small_latents import write_latents

from fit_probes.cli import app

fit_probes = runner("fit-probes", app)
N_LATENTS = 30
Pairs = list[tuple[np.ndarray, np.ndarray]]


class Case:
    """Latents {N, P, K} of two splits with patch labels (some ignored), targets, and traits of the images."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(5)
        self.folder = folder
        self.f, self.labels, self.targets, self.traits = {}, {}, {}, {}
        for split, n_images in (("train", 90), ("test", 70)):
            labels_np = rng.choice(
                [0, 3, 11, 299, 300, 65534], (n_images, 7), p=[0.4, 0.3, 0.1, 0.1, 0.09, 0.01]
            )
            labels_np[rng.random((n_images, 7)) < 0.05] = 65535
            targets = rng.integers(-1, 4, n_images)
            density_k = np.geomspace(0.9, 0.004, N_LATENTS)
            density_k[7] = 0.0
            own_k = np.array([0, 3, 11, 299, 300])[np.arange(N_LATENTS) % 5]
            chance = density_k * np.where(labels_np[..., None] == own_k, 3.0, 0.5)
            f_npk = rng.gamma(2.0, 1.0, (n_images, 7, N_LATENTS)) * (rng.random(chance.shape) < chance)
            f_npk[..., 4] = np.round(f_npk[..., 4] * 2)  # ties
            f_npk[..., 5] = rng.normal(-1, 1, (n_images, 7)) + (targets == 1)[:, None]  # dense, of both signs
            f_npk *= 1 + 0.5 * (targets[:, None, None] == np.arange(N_LATENTS) % 4)
            self.f[split] = f_npk.astype(np.float32)
            self.labels[split], self.targets[split] = labels_np.astype(np.uint16), targets
            self.traits[split] = rng.random((n_images, 3)).round(2) * (f_npk[:, 0, :3] > 0)
            write_latents(
                folder / split,
                self.f[split],
                labels_np=self.labels[split],
                targets=targets,
                prefix=split,
                n_shards=3,
            )

    def __call__(self, out: str, *arguments: object, code: int = 0) -> Path:
        found = fit_probes(
            *("--train", self.folder / "train", "--test", self.folder / "test", "--out", self.folder / out),
            *arguments,
            code=code,
        )
        self.stderr = found.stderr
        return self.folder / out

    def rows(self, split: str) -> np.ndarray:
        return self.f[split].reshape(-1, N_LATENTS).astype(np.float64)

    def pooled(self, split: str) -> np.ndarray:
        return self.f[split].max(axis=1).astype(np.float64)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("probes"))


def cross_entropy(y_n: np.ndarray, t_n: np.ndarray) -> float:
    return float(-np.mean(y_n * special.log_expit(t_n) + (1 - y_n) * special.log_expit(-t_n)))


def read_exactly(path: Path, **settings: Any) -> pd.DataFrame:
    """A table with its numbers as Python reads them; the default parser of older pandas may miss the last bit."""
    return pd.read_csv(path, engine="python", **settings)


def assert_table_is_right(folder: Path, names: list[str], train: Pairs, test: Pairs) -> None:
    """Every number of probes.csv from its definition; train, test: (rows z {n, K}, y {n}) of each class."""
    table = read_exactly(folder / "probes.csv", dtype={"class": str}, keep_default_na=False, na_values=[""])
    assert list(table["class"]) == names
    with np.load(folder / "probes.npz") as probes:
        for c, row in table.iterrows():
            (z_nk, y_n), (test_nk, test_n) = train[c], test[c]
            losses = [
                cross_entropy(y_n, z_nk[:, k] * probes["weight"][k, c] + probes["bias"][k, c])
                for k in range(N_LATENTS)
            ]
            np.testing.assert_allclose(probes["loss"][:, c], losses, atol=1e-12)
            k = int(row["latent"])
            assert probes["loss"][k, c] == row["train_loss"] == probes["loss"][:, c].min()
            t_n = test_nk[:, k] * row["weight"] + row["bias"]
            prior = y_n.mean()
            baseline = -(test_n.mean() * np.log(prior) + (1 - test_n.mean()) * np.log(1 - prior))
            yes_n, called_n = test_n >= 0.5, t_n >= 0
            expected = {
                "test_loss": cross_entropy(test_n, t_n),
                "baseline_loss": baseline,
                "r": 1 - cross_entropy(test_n, t_n) / baseline,
                "ap": average_precision_score(yes_n, np.sign(row["weight"]) * test_nk[:, k]),
                "precision": precision_score(yes_n, called_n, zero_division=0),
                "recall": recall_score(yes_n, called_n),
                "f1": f1_score(yes_n, called_n, zero_division=0),
                "prevalence": test_n.mean(),
                "n_pos": yes_n.sum(),
                "n_test": len(test_n),
                "n_pos_train": (y_n >= 0.5).sum(),
            }
            for name, value in expected.items():
                assert row[name] == pytest.approx(value, abs=1e-10), name


def assert_latents_are_right(
    folder: Path, names: list[str], test_nk: np.ndarray, y_nc: np.ndarray, *, one_class: bool = True
) -> None:
    """Every number of latents.csv from its definition, on the test rows."""
    table = read_exactly(folder / "latents.csv", dtype={"class": str}, keep_default_na=False, na_values=[""])
    with np.load(folder / "probes.npz") as probes:
        r_kc = 1 - probes["loss"] / probes["prior_loss"]
        r_kc[(probes["weight"] <= 0) | (probes["flags"] & 15 > 0)] = -np.inf
    for k, row in table.iterrows():
        z_n = test_nk[:, k]
        assert row["frequency"] == pytest.approx((z_n != 0).mean())
        assert row["mean_value"] == pytest.approx(z_n[z_n != 0].mean() if z_n.any() else 0.0, rel=1e-6)
        c = int(r_kc[k].argmax())
        if not np.isfinite(r_kc[k, c]):
            assert pd.isna(row["class"]) and pd.isna(row["ap"])
        else:
            assert row["class"] == names[c]
            assert row["ap"] == pytest.approx(average_precision_score(y_nc[:, c] >= 0.5, z_n), abs=1e-12)
        order_n = np.argsort(-z_n, kind="stable")[: (z_n > 0).sum() if (z_n == 0).any() else None]
        for n in (16, 64, 256):
            expected = y_nc[order_n[:n]].sum(axis=0).max() / n if len(order_n) >= n else np.nan
            assert row[f"purity@{n}"] == pytest.approx(expected, nan_ok=True)
        mass_c = y_nc[order_n[:256]].sum(axis=0)
        share_c = mass_c[mass_c > 0] / mass_c.sum() if mass_c.any() else np.array([])
        expected = -(share_c * np.log(share_c)).sum() if len(share_c) else np.nan
        assert row["entropy"] == pytest.approx(expected, nan_ok=True, abs=1e-12)


def one_class_rows(
    z: dict[str, np.ndarray], labels: dict[str, np.ndarray], ignored: list[int]
) -> tuple[list[str], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Names, kept rows and their one-hot labels {n, C}, from the definition."""
    found = np.union1d(labels["train"], labels["test"])
    classes = [label for label in found if label not in ignored]
    keep = {split: ~np.isin(labels[split], ignored) for split in z}
    hot = {split: (labels[split][keep[split]][:, None] == classes).astype(float) for split in z}
    return [str(label) for label in classes], {split: z[split][keep[split]] for split in z}, hot


def check_one_class(
    folder: Path, z: dict[str, np.ndarray], labels: dict[str, np.ndarray], ignored: list[int]
) -> None:
    names, rows, hot = one_class_rows(z, labels, ignored)
    pairs = {split: [(rows[split], hot[split][:, c]) for c in range(len(names))] for split in rows}
    assert_table_is_right(folder, names, pairs["train"], pairs["test"])
    assert_latents_are_right(folder, names, rows["test"], hot["test"])


@pytest.mark.parametrize("ignore", [[], [0, 11]])
def test_patch_labels(case: Case, ignore: list[int]) -> None:
    folder = case("patch" + str(ignore), *(["--ignore", ",".join(map(str, ignore))] if ignore else []))
    z = {split: case.rows(split) for split in case.f}
    check_one_class(folder, z, {split: case.labels[split].ravel() for split in case.f}, [65535, *ignore])


def test_targets_take_the_largest_value_of_each_image(case: Case) -> None:
    folder = case("target", "--labels", "target")
    z = {split: case.pooled(split) for split in case.f}
    assert (z["test"] < 0).any()
    check_one_class(folder, z, case.targets, [-1])


def write_table(path: Path, case: Case, cells: dict[str, np.ndarray]) -> Path:
    lines = ["path,first,second,third"]
    for split, cells_nt in cells.items():
        for i, row in enumerate(cells_nt):
            lines.append(
                f"{split}/{i:04d}.jpg," + ",".join("" if np.isnan(cell) else f"{cell:g}" for cell in row)
            )
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("soft", [True, False])
def test_tables_with_soft_and_missing_labels(case: Case, soft: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cells = {}
    for split, traits_nt in case.traits.items():
        cells_nt = traits_nt.copy() if soft else (traits_nt > 0.5).astype(float)
        cells_nt[rng.random(len(cells_nt)) < 0.2, 1] = np.nan
        cells[split] = cells_nt
    folder = case(f"table{soft}", "--labels", write_table(tmp_path / "t.csv", case, cells))
    pairs = {
        split: [
            (case.pooled(split)[~np.isnan(cells_nt[:, c])], cells_nt[:, c][~np.isnan(cells_nt[:, c])])
            for c in range(3)
        ]
        for split, cells_nt in cells.items()
    }
    names = ["first", "second", "third"]
    assert_table_is_right(folder, names, pairs["train"], pairs["test"])


def test_missing_rows_are_empty_cells_or_zeros(case: Case, tool: Tool, tmp_path: Path) -> None:
    """Also with yes and no, semicolons and a column of text. Settings without it are those of earlier versions."""
    cells = {split: (traits_nt > 0.5).astype(float) for split, traits_nt in case.traits.items()}
    whole = write_table(tmp_path / "whole.csv", case, cells).read_text().splitlines()
    some = tmp_path / "some.csv"
    head, *lines = [
        line.replace(",", ";").replace("1.0", "yes").replace("0.0", "no") + ";hen" for line in whole
    ]
    some.write_text("\n".join([head.replace("hen", "species"), *lines[:50], *lines[60:]]) + "\n")
    splits = ("--train", case.folder / "train", "--test", case.folder / "test", "--labels")
    done = tool("fit-probes", *splits, some, "--out", tmp_path / "no", code=1)
    assert "10 of the 90 images in --train have no row" in done.stderr and "--missing-rows" in done.stderr
    for rule, cell in (("unknown", ",,,"), ("no", ",0,0,0")):
        full = tmp_path / f"{rule}.csv"
        filled = [line.partition(",")[0] + cell for line in whole[51:61]]
        full.write_text("\n".join([*whole[:51], *filled, *whole[61:]]) + "\n")
        done = tool("fit-probes", *splits, some, "--missing-rows", rule, "--out", tmp_path / rule)
        assert "10 of the 90 images in train have no row" in done.stderr and "species ('hen')" in done.stderr
        assert_same(tmp_path / rule, case(f"missing-{rule}", "--labels", full))
    settings = json.loads((tmp_path / "no/probes.csv.json").read_text())["settings"]
    assert settings["missing_rows"] == "no"
    assert (
        "missing_rows" not in json.loads((case.folder / "missing-no/probes.csv.json").read_text())["settings"]
    )
    done = tool("fit-probes", *splits[:-1], "--missing-rows", "no", "--out", tmp_path / "none", code=2)
    assert "only a table of traits has rows" in done.stderr


def read_all(folder: Path) -> tuple[dict[str, np.ndarray], list[str]]:
    with np.load(folder / "probes.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "saetools"}
    return arrays, [(folder / name).read_text() for name in ("probes.csv", "latents.csv", "summary.csv")]


def assert_same(mine: Path, other: Path) -> None:
    (arrays, tables), (others, other_tables) = read_all(mine), read_all(other)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
    assert tables == other_tables


def test_memory_threads_and_order_of_files_change_nothing(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = case("plain")
    files = {split: sorted((case.folder / split).iterdir())[::-1] for split in case.f}
    arguments = [part for split, paths in files.items() for path in paths for part in (f"--{split}", path)]
    fit_probes(*arguments, "--out", case.folder / "turned", "--threads", 1)
    assert_same(case.folder / "turned", plain)
    # Pieces, blocks and what is held all become a few hundred events: everything goes to disk.
    monkeypatch.setattr("saetools.latents.columns.MIN_ACTIVE", 300)
    assert_same(case("little", "--memory", "1kB"), plain)
    assert_same(
        case("pooled-little", "--memory", "1kB", "--labels", "target"), case("pooled", "--labels", "target")
    )


def test_parts_merge_into_the_whole(case: Case) -> None:
    whole = case("whole")
    for part in ("3/4", "1/4", "4/4"):
        folder = case("parts", "--classes", part)
    case("parts", code=1)
    assert "the parts 2/4 are missing" in case.stderr
    case("parts", "--classes", "2/4")
    assert_same(case("parts"), whole)
    case("parts", "--classes", "1/4", "--ridge", "0.1", code=1)
    assert "other settings: ridge" in case.stderr
    (folder / "probes-0001-of-0003.npz").write_bytes(b"")
    (folder / "probes.npz").unlink()
    case("parts", code=1)
    assert "remove one kind of parts" in case.stderr
    case("more-parts-than-classes", "--classes", "9/9")
    case("more-parts-than-classes", "--classes", "1/9")


def test_half_precision_latents(case: Case, tmp_path: Path) -> None:
    for split in case.f:
        exact = case.f[split].astype(np.float16)
        for name, dtype in (("half", "float16"), ("full", "float32")):
            write_latents(
                tmp_path / name / split, exact, labels_np=case.labels[split], prefix=split, dtype=dtype
            )
    for name in ("half", "full"):
        folder = tmp_path / name
        fit_probes("--train", folder / "train", "--test", folder / "test", "--out", folder)
    assert_same(tmp_path / "half", tmp_path / "full")


def test_a_second_run_reads_what_is_there(case: Case) -> None:
    folder = case("again")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    case("again")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert "mAP" in case.stderr
    (folder / "latents.csv").unlink()
    case("again")
    assert (folder / "probes.npz").stat().st_mtime_ns == before["probes.npz"]
    for change in (["--ridge", "0.5"], ["--labels", "target"], ["--ignore", "3"]):
        case("again", *change, code=1)
        assert f"other settings: {change[0][2:]}" in case.stderr
    case("again", "--tau", "0.7", code=1)
    assert "probes.csv: it was made with other settings: tau" in case.stderr


def test_a_broken_table_is_refused_and_kept(case: Case, tmp_path: Path) -> None:
    made = case("sound")
    for name in ("probes.csv", "latents.csv", "summary.csv"):
        for kind in broken_tables(name).values():
            out = case.folder / "broken"
            shutil.copytree(made, out)
            kind.break_it(out)
            before = contents(out)
            case("broken", code=1)
            assert str(out / name) in case.stderr
            assert contents(out) == before
            shutil.rmtree(out)


def test_r_by_hand_and_a_latent_that_never_fires(tool: Tool, tmp_path: Path) -> None:
    """Train and test alike: a quarter of the silent patches and three quarters of the others are of class 1."""
    f_npk = np.zeros((2, 4, 2), np.float32)
    f_npk[1, :, 0] = 1
    labels_np = np.array([[1, 0, 0, 0], [1, 1, 1, 0]], np.uint16)
    for split in ("train", "test"):
        write_latents(tmp_path / split, f_npk, labels_np=labels_np, prefix=split)
    done = tool(
        *("fit-probes", "--train", tmp_path / "train", "--test", tmp_path / "test"),
        *("--out", tmp_path / "out", "--ridge", 0),
    )
    assert done.stdout.split() == [
        str(tmp_path / "out" / name) for name in ("probes.npz", "probes.csv", "latents.csv", "summary.csv")
    ]
    table = read_exactly(tmp_path / "out" / "probes.csv").set_index("class")
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert table.loc[1, "r"] == pytest.approx(1 - entropy / np.log(2), abs=1e-12)
    assert table.loc[1, "ap"] == pytest.approx(0.75 * 0.75 + 0.25 * 0.5)
    assert table.loc[1, ["precision", "recall", "f1"]].tolist() == [0.75, 0.75, 0.75]
    assert done.stderr.splitlines()[-1] == (
        "fit-probes: the best latent of each class has an AP of 0.69 in the mean of 2 classes (by chance 0.50);"
        " 0 reach 0.75; best 0 (AP 0.69, latent 0)"
    )
    latents = read_exactly(tmp_path / "out" / "latents.csv")
    assert latents.loc[1, "flags"] == "never-fires" and latents.loc[1, "frequency"] == 0
    with np.load(tmp_path / "out" / "probes.npz") as probes:
        assert (probes["loss"][1] == probes["prior_loss"]).all() and (probes["weight"][1] == 0).all()
    sidecar = json.loads((tmp_path / "out" / "probes.csv.json").read_text())
    assert sidecar["format"] == "saetools-probe-table" and len(sidecar["parents"]) == 4


def test_classes_absent_in_a_split_are_reported(tmp_path: Path) -> None:
    f_npk = np.random.default_rng(0).gamma(1.0, 1.0, (6, 5, 3)).astype(np.float32)
    ids = np.random.default_rng(1).integers(0, 2, (6, 5)).astype(np.uint16)
    train, test = ids.copy(), ids.copy()
    train[0], test[0] = 7, 9
    write_latents(tmp_path / "train", f_npk, labels_np=train, prefix="train")
    write_latents(tmp_path / "test", f_npk, labels_np=test, prefix="test")
    done = fit_probes("--train", tmp_path / "train", "--test", tmp_path / "test", "--out", tmp_path / "out")
    assert "1 of 4 classes have no positive row in the training latents: 9" in done.stderr
    assert "1 of 4 classes have no positive row in the test latents: 7" in done.stderr
    table = read_exactly(tmp_path / "out" / "probes.csv").set_index("class")
    absent = table.loc[9]
    assert np.isnan(absent["latent"]) and absent["r"] == 0 and absent["flags"] == "no-positives"
    assert absent["ap"] == absent["prevalence"] == 5 / 30
    assert absent["baseline_loss"] == absent["test_loss"] == np.inf
    assert np.isnan(table.loc[7, "ap"]) and np.isfinite(table.loc[7, "test_loss"])
    summary = read_exactly(tmp_path / "out" / "summary.csv").iloc[0]
    tested = table.loc[[0, 1, 9]]
    best = tested["ap"].idxmax()
    assert done.stderr.splitlines()[-1] == (
        f"fit-probes: the best latent of each class has an AP of {tested['ap'].mean():.2f} in the mean of 3 classes (by"
        f" chance {1 / 3:.2f}); 0 reach 0.72; best {best} (AP {tested['ap'][best]:.2f}, latent"
        f" {tested['latent'][best]:.0f}), worst 9 (AP 0.17)"
    )
    assert summary["n_tested"] == 3 and summary["absent_in_train"] == 1
    assert summary["map"] == pytest.approx(tested["ap"].mean()) and summary["r"] == pytest.approx(
        tested["r"].mean()
    )
    tau = 0.72  # 13 of 30 test rows are of the commonest class; half way from there to 1, two digits
    assert (tested["prevalence"] * 30).max() == pytest.approx(13)
    assert summary[f"coverage@{tau}"] == pytest.approx((tested["ap"] >= tau).mean())


def test_tau_moves_the_coverage(case: Case) -> None:
    table = read_exactly(case("tau-low", "--tau", "0.43") / "probes.csv")
    coverage = []
    for tau, name in ((0.43, "tau-low"), (0.6, "tau-high")):
        summary = read_exactly(case(name, "--tau", tau) / "summary.csv").iloc[0]
        coverage.append(summary[f"coverage@{tau}"])
        assert coverage[-1] == (table["ap"] >= tau).mean()
        assert summary[f"coverage@{tau}_n"] == len(table)
    assert coverage[0] > coverage[1]


def test_a_tau_that_a_constant_reaches_is_refused(case: Case) -> None:
    """Before anything is computed: the commonest label is on about 0.4 of the test rows."""
    test_labels = case.labels["test"][case.labels["test"] != 65535]
    highest = (test_labels == 0).mean()
    case("tau-refused", "--tau", f"{highest - 1e-6:.9f}", code=1)
    assert f"{highest:.3f} of the test rows are of class '0'" in case.stderr
    assert f"leave --tau out for {np.ceil(50 * (1 + highest)) / 100:g}" in case.stderr
    assert not (case.folder / "tau-refused").exists()
    folder = case("tau-default")
    default = np.ceil(50 * (1 + highest)) / 100
    assert f"coverage@{default:g}" in pd.read_csv(folder / "summary.csv")
    assert json.loads((folder / "summary.csv.json").read_text())["settings"]["tau"] == default


def test_every_mean_comes_with_its_count(case: Case) -> None:
    """A latent that fires on fewer than k rows has no purity@k, so a mean of purities is not of all latents."""
    folder = case("counts")
    summary = read_exactly(folder / "summary.csv").iloc[0]
    classes, latents = (read_exactly(folder / name) for name in ("probes.csv", "latents.csv"))
    best = latents.set_index("latent").loc[classes["latent"]]
    for k in (16, 64, 256):
        for name, table in ((f"purity@{k}", best), (f"purity@{k}_all", latents)):
            defined = table[f"purity@{k}"].dropna()
            assert summary[f"{name}_n"] == len(defined)
            if len(defined):
                assert summary[name] == pytest.approx(defined.mean())
                assert f"{name} {summary[name]:.3f} (of {len(defined)})" in case.stderr
    assert 0 < summary["purity@64_all_n"] < len(latents)


def test_swapped_splits_are_told_by_what_the_scorer_was_trained_on(tmp_path: Path) -> None:
    f_npk = np.random.default_rng(0).gamma(1.0, 1.0, (6, 5, 3)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 3, (6, 5)).astype(np.uint16)
    for split, seen in (("train", [True, True]), ("test", [False, False]), ("old", [None, None])):
        write_latents(tmp_path / split, f_npk, labels_np=labels, prefix=split, trained_on=seen)
    for train, test, warned in (("train", "test", False), ("test", "train", True), ("test", "old", False)):
        done = fit_probes(
            *("--train", tmp_path / train, "--test", tmp_path / test, "--out", tmp_path / f"{train}-{test}")
        )
        assert ("warning:" in done.stderr) == warned
        assert ("trained on the activations of 2 of the 2 test files" in done.stderr) == warned


def test_copies_of_training_pictures_in_test_are_refused(tmp_path: Path) -> None:
    """By what they show; latents of shards that did not record it go on to be read."""
    f_npk = np.random.default_rng(0).gamma(1.0, 1.0, (6, 5, 3)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 3, (6, 5)).astype(np.uint16)
    numbers = {"train": range(6), "test": range(5, 11), "apart": range(6, 12), "old": None}
    for split, some in numbers.items():
        digests = None if some is None else [f"{number:032x}" for number in some]
        write_latents(tmp_path / split, f_npk, labels_np=labels, prefix=split, digests=digests)

    def fit(test: str, code: int) -> str:
        splits = ("--train", tmp_path / "train", "--test", tmp_path / test)
        return fit_probes(*splits, "--out", tmp_path / f"to-{test}", code=code).stderr

    assert "1 images of --test are the same pictures as images of --train" in fit("test", 1)
    assert "'test/0000.jpg' as 'train/0005.jpg'" in fit("test", 1)
    fit("apart", 0)
    fit("old", 0)


def test_ridge_makes_weights_smaller(case: Case) -> None:
    weights = []
    for ridge in ("0", "1e-2", "1"):
        with np.load(case(f"ridge{ridge}", "--ridge", ridge) / "probes.npz") as probes:
            weights.append(np.abs(probes["weight"][probes["flags"] == 0]).mean())
    assert weights[0] > weights[1] > weights[2]


def test_errors_say_what_to_do(case: Case, tmp_path: Path) -> None:
    def refused(*arguments: object, train: Path = case.folder / "train", code: int = 1) -> str:
        done = fit_probes(
            *("--train", train, "--test", case.folder / "test", "--out", tmp_path / "out"),
            *arguments,
            code=code,
        )
        return error_lines(done)

    f_npk, labels = case.f["train"], case.labels["train"]
    other = write_latents(tmp_path / "other", f_npk, labels_np=labels, scorer="another", prefix="train")
    assert "scorer: 'another' against 'uid'" in refused(train=other)
    overlap = write_latents(tmp_path / "overlap", f_npk, labels_np=labels, prefix="test")
    assert "70 images are in --train and --test, for example 'test/0000.jpg'" in refused(train=overlap)
    bare = write_latents(tmp_path / "bare", f_npk, prefix="train")
    assert "no patch labels" in refused(train=bare)
    assert "no training row has a label that is not ignored" in refused("--labels", "target", train=bare)
    table = tmp_path / "t.csv"
    table.write_text("path,red\ntrain/0000.jpg,1\n")
    assert "89 of the 90 images in --train have no row" in refused("--labels", table)
    assert "no such file; expected CUB-200-2011's folder, or a CSV" in refused(
        "--labels", tmp_path / "none.csv"
    )
    table.write_text("path,red\ntrain/0000.jpg,7\n")
    assert "expected a number from 0 to 1" in refused("--labels", table)
    assert "leave cells" in refused("--labels", table, "--ignore", 0)
    assert "ignored or unknown" in refused("--ignore", "0,3,11,299,300,65534")
    assert "expected numbers" in refused("--ignore", "x", code=2)
    assert "expected I/N" in refused("--classes", "5/4", code=2)
    assert "expected a size" in refused("--memory", "lots", code=2)
    nan = write_latents(tmp_path / "nan", f_npk, labels_np=labels, prefix="train", n_shards=1)
    (file,) = nan.iterdir()
    with np.load(file) as arrays:
        broken = {**arrays, "data": np.where(np.arange(len(arrays["data"])) == 5, np.nan, arrays["data"])}
        broken["data"] = broken["data"].astype(np.float32)
    save_npz(file, broken)
    assert "hold NaN or infinity" in refused(train=nan)
