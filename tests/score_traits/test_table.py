"""The AP table that score-traits writes, number for number."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

from saetools.cli.markdown import render_cell
from saetools.files.formats import SCORERS
from saetools.files.provenance import Provenance
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.shards.reader import open_shards


def read(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text))


@pytest.fixture(scope="module")
def table(birds, score_traits_process) -> pd.DataFrame:
    done = score_traits_process(
        *birds.options, "--layer", 3, "--scorer", "const", "--scorer", "random:16", "--n-train", "10,40,all"
    )
    assert done.returncode == 0, done.stderr
    return read(done.stdout)


def test_one_row_per_scorer_size_and_trait(table, birds) -> None:
    assert len(table) == 2 * 3 * 3
    assert list(table.columns[:13]) == [
        "scorer",
        "n_prototypes",
        "seed",
        "model",
        "layer",
        "n_train",
        "trait",
        "prototype",
        "ap_train",
        "ap",
        "prevalence",
        "n_pos",
        "n_test",
    ]
    assert set(zip(table.scorer, table.n_prototypes, strict=True)) == {("const", 1), ("random", 16)}
    assert sorted(set(table.n_train)) == [10, 40, 60]
    assert list(table.trait[:3]) == list(birds.traits)
    assert set(table.layer) == {3}
    assert set(table.n_test) == {40}
    n_pos = birds.labels_nt[60:].sum(0)
    np.testing.assert_array_equal(table.n_pos[:3], n_pos)
    np.testing.assert_allclose(table.prevalence[:3], n_pos / 40)


def test_const_shows_the_prevalence(table) -> None:
    const = table[table.scorer == "const"]
    np.testing.assert_allclose(const.ap, const.prevalence, rtol=0, atol=1e-12)


def test_random_finds_what_is_there(table) -> None:
    random = table[(table.scorer == "random") & (table.n_train == 60)]
    assert random.ap.mean() > 0.5
    assert (random.ap_train > random.prevalence).all()


def test_the_choice_does_not_see_test_images(birds, score_traits, new_shards, tmp_path, table) -> None:
    """Other test images: the same prototypes are chosen with the same training AP."""
    rng = np.random.default_rng(1)
    other = new_shards(
        tmp_path / "other", {layer: rng.standard_normal((40, 4, 6)) for layer in (3, 5)}, birds.paths[60:]
    )
    done = score_traits(
        *("--train", birds.train, "--test", other, "--traits", birds.table, "--layer", 3),
        *("--scorer", "random:16", "--n-train", "10,40,all"),
    )
    found = read(done.stdout)
    before = table[table.scorer == "random"].reset_index(drop=True)
    columns = ["n_train", "trait", "prototype", "ap_train"]
    pd.testing.assert_frame_equal(found[columns], before[columns])
    assert (found.ap - before.ap).abs().max() > 0.05


def test_ap_of_a_known_direction_is_that_of_scikit_learn(birds, score_traits, tmp_path) -> None:
    """A scorer file whose prototypes are the dimensions themselves: its image scores are known."""
    import torch

    from saetools.files.formats import SCORERS
    from saetools.files.provenance import Provenance
    from saetools.scorers.baselines import Linear
    from saetools.scorers.record import TrainedScorer, save_scorer
    from saetools.shards.reader import open_shards

    path = tmp_path / "dimensions.h5"
    trained_on = {**open_shards([birds.train]).header.source(), "layer": 3}
    save_scorer(
        path,
        TrainedScorer("random", Linear(torch.eye(6)), Provenance.of(SCORERS, "a test", {}), trained_on),
    )
    done = score_traits(*birds.options, "--layer", 3, "--scorer", path)
    assert done.returncode == 0, done.stderr
    found = read(done.stdout)
    images_nk = birds.acts[3].max(1)
    for trait, row in found.iterrows():
        labels = birds.labels_nt[:, trait]
        on_train = [average_precision_score(labels[:60], images_nk[:60, k]) for k in range(6)]
        assert row.prototype == np.argmax(on_train)
        assert row.ap_train == pytest.approx(max(on_train), abs=1e-12)
        assert row.ap == pytest.approx(
            average_precision_score(labels[60:], images_nk[60:, row.prototype]), abs=1e-12
        )


def test_csv_of_0_1_and_empty(birds, score_traits, tmp_path) -> None:
    """An image with an empty cell counts neither way; a trait without positives in test has no AP."""
    table = pd.read_csv(birds.table, dtype=object)
    table["no positives in test"] = ["1"] * 60 + ["0"] * 40
    table["no positives in train"] = ["0"] * 60 + ["1"] * 10 + ["0"] * 30
    table.loc[60:79, birds.traits[0]] = ""
    path = tmp_path / "partial.csv"
    table.to_csv(path, index=False)
    done = score_traits(
        *("--train", birds.train, "--test", birds.test, "--traits", path, "--layer", 3),
        *("--scorer", "const", "--scorer", "random:8", "--summary"),
    )
    assert done.returncode == 0, done.stderr
    found = read(done.stdout)
    partial = found[found.trait == birds.traits[0]]
    assert set(partial.n_test) == {20}
    assert set(partial.n_pos) == {birds.labels_nt[80:, 0].sum()}
    assert partial.ap.iloc[0] == pytest.approx(birds.labels_nt[80:, 0].mean(), abs=1e-12)
    never = found[found.trait == "no positives in test"]
    assert never.ap.isna().all()
    assert set(never.prevalence) == {0}
    unknown = found[found.trait == "no positives in train"]
    assert unknown.prototype.isna().all()
    assert unknown.ap_train.isna().all()
    np.testing.assert_allclose(unknown.ap, 0.25)
    shown = [line for line in done.stderr.splitlines() if line.startswith("| const")]
    means = found[found.scorer == "const"].ap.mean()
    assert f"{means:.3f}" in shown[0]


def test_the_same_command_again_does_nothing_and_another_refuses(
    birds, score_traits_process, tmp_path
) -> None:
    out = tmp_path / "ap.csv"
    command = [*birds.options, "--layer", 3, "--scorer", "random:8", "--out", out]
    done = score_traits_process(*command)
    assert (done.returncode, done.stdout) == (0, f"{out}\n")
    provenance = json.loads(out.with_name("ap.csv.json").read_text())
    assert provenance["format"] == "saetools-ap-table"
    assert len(provenance["parents"]) == 5
    before = out.stat()
    again = score_traits_process(*command, "--summary")
    assert (again.returncode, again.stdout) == (0, f"{out}\n")
    assert out.stat().st_mtime_ns == before.st_mtime_ns
    assert "| random" in again.stderr
    other = score_traits_process(*command, "--seed", 1)
    assert (other.returncode, other.stdout) == (1, "")
    assert other.stderr.startswith(f"score-traits: error: {out}: ")
    assert "seeds: [0] against [1]" in other.stderr


def test_the_seed_decides_and_nothing_else(birds, score_traits) -> None:
    command = [*birds.options, "--layer", 3, "--scorer", "random:8", "--n-train", "20"]
    first, again, other = (score_traits(*command, "--seed", seed).stdout for seed in (0, 0, 1))
    assert first == again
    assert list(read(first).ap_train) != list(read(other).ap_train)


def test_an_sae_stands_in_the_table_with_what_is_known_of_it(birds, score_traits, tmp_path) -> None:
    """Its latents are the scores: relu of the dimensions here, so every AP is known."""
    import torch

    from saetools.files.formats import SCORERS
    from saetools.files.provenance import Provenance
    from saetools.scorers.record import TrainedScorer, save_scorer
    from saetools.scorers.sae import SAE, SAEConfig
    from saetools.shards.reader import open_shards

    eye = torch.eye(6)
    sae = SAE(SAEConfig(6, 6, "relu"), eye, torch.zeros(6), eye, torch.zeros(6))
    settings = {"objective": "mse", "sparsity": 0.5, "lr": 0.01}
    trained_on = {**open_shards([birds.train]).header.source(), "layer": 3}
    evaluation = {"l0": 2.5, "mse": 0.25, "nmse": 0.125}
    path = tmp_path / "sae.h5"
    save_scorer(
        path,
        TrainedScorer("sae", sae, Provenance.of(SCORERS, "a test", settings), trained_on, evaluation),
    )
    found = read(score_traits(*birds.options, "--layer", 3, "--scorer", path).stdout)
    assert set(found.scorer) == {"sae"}
    assert set(found.checkpoint) == {str(path)}
    known = {"d_sae": 6, "activation": "relu", **settings, **evaluation}
    assert all(set(found[name]) == {value} for name, value in known.items())
    images_nk = np.maximum(birds.acts[3], 0).max(1)
    for trait, row in found.iterrows():
        labels = birds.labels_nt[60:, trait]
        expected = average_precision_score(labels, images_nk[60:, int(row.prototype)])
        assert row.ap == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["pt", "saelens"])
def test_checkpoints_of_other_libraries_are_scorers(kind, score_traits, new_shards, tmp_path) -> None:
    """An SAE of our own, converted, gives the same rows (its own settings and checkpoint aside)."""
    import torch

    from saetools.files.formats import SCORERS
    from saetools.files.provenance import Provenance
    from saetools.scorers.record import TrainedScorer, save_scorer
    from saetools.scorers.sae import SAE, SAEConfig
    from saetools.scorers.saelens import write_saelens
    from saetools.scorers.saev import write_saev

    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    folders = [
        new_shards(tmp_path / split, {3: rng.standard_normal((30, 4, 8))}, [f"{split}{i}" for i in range(30)])
        for split in ("train", "test")
    ]
    table = tmp_path / "t.csv"
    rows = [f"{s}{i},{int(rng.random() < 0.3 or i == 0)}" for s in ("train", "test") for i in range(30)]
    table.write_text("\n".join(["path,a", *rows]) + "\n")
    w_dec = torch.nn.functional.normalize(torch.randn(12, 8), dim=1)
    sae = SAE(SAEConfig(8, 12, "topk", 3), w_dec.T.contiguous(), torch.zeros(12), w_dec, torch.zeros(8))
    ours = TrainedScorer("sae", sae, Provenance.of(SCORERS, "a test", {}), {})
    own, other = tmp_path / "sae.h5", tmp_path / ("sae.pt" if kind == "pt" else "saelens")
    save_scorer(own, ours)
    if kind == "pt":
        write_saev(other, sae)
    else:
        write_saelens(other, sae, {})
    command = ["--train", folders[0], "--test", folders[1], "--traits", table]
    first, second = (read(score_traits(*command, "--scorer", path).stdout) for path in (own, other))
    pd.testing.assert_frame_equal(
        first[["prototype", "ap_train", "ap"]], second[["prototype", "ap_train", "ap"]]
    )


def test_tables_as_people_have_them(birds, score_traits_process, tmp_path) -> None:
    """Semicolons, yes and no, absolute paths and a column that is no trait: the numbers of the plain table."""
    plain = score_traits_process(*birds.options, "--layer", 3, "--scorer", "random:8")
    table = pd.read_csv(birds.table)
    for name in birds.traits:
        table[name] = table[name].map({1: "yes", 0: "No"})
    table["path"] = "/home/me/birds/" + table["path"]
    table.insert(0, "species", "hen")
    table.to_csv(tmp_path / "own.csv", sep=";", index=False)
    options = ["--train", birds.train, "--test", birds.test, "--traits", tmp_path / "own.csv"]
    done = score_traits_process(*options, "--layer", 3, "--scorer", "random:8")
    assert done.returncode == plain.returncode == 0, done.stderr
    assert done.stdout == plain.stdout
    assert "columns that hold other things than a trait are left out: species ('hen')" in done.stderr
    assert "the paths of train are read without '/home/me/birds/'" in done.stderr


@pytest.mark.parametrize("rule", ["unknown", "no", "fail"])
def test_missing_rows(birds, score_traits, score_traits_process, tmp_path, rule) -> None:
    """The same table as with the cells of these images left empty, or with 0 in them."""
    lines = birds.table.read_text().splitlines()
    some, full = tmp_path / "some.csv", tmp_path / "full.csv"
    some.write_text("\n".join([*lines[:40], *lines[50:90]]) + "\n")
    cell = {"unknown": ",,,", "no": ",0,0,0", "fail": ""}[rule]
    filled = [line.partition(",")[0] + cell for line in (*lines[40:50], *lines[90:])]
    full.write_text("\n".join([*lines[:40], *lines[50:90], *filled]) + "\n")
    options = ["--train", birds.train, "--test", birds.test, "--layer", 3, "--scorer", "random:8", "--traits"]
    if rule == "fail":
        for more in ((), ("--missing-rows", "fail")):
            done = score_traits_process(*options, some, *more)
            assert (done.returncode, done.stdout) == (1, "")
            assert "10 of the 60 images in --train have no row" in done.stderr
            assert "choose with --missing-rows what they mean" in done.stderr
        return
    done = score_traits_process(*options, some, "--missing-rows", rule)
    assert done.returncode == 0, done.stderr
    assert done.stdout == score_traits(*options, full).stdout
    meant = {"unknown": "they are left out", "no": "they count as having no trait"}[rule]
    assert f"{some}: 10 of the 60 images in train have no row: {meant}" in done.stderr
    assert f"{some}: 11 of the 40 images in test have no row: {meant}" in done.stderr


@pytest.mark.parametrize("bootstrap", [0, 20])
def test_traits_in_words(birds, score_traits_process, bootstrap) -> None:
    """Each trait with its latent, best first, per layer and scorer; and how many have no AP."""
    table = pd.read_csv(birds.table)
    table["never in test"] = [1] * 60 + [0] * 40
    path = birds.table.with_name("never.csv")
    table.to_csv(path, index=False)
    options = ["--train", birds.train, "--test", birds.test, "--traits", path, "--layer", "3,5"]
    done = score_traits_process(
        *(*options, "--scorer", "random:8", "--scorer", "units", "--n-train", "20,all"),
        *("--per-trait", "--bootstrap", bootstrap),
    )
    assert done.returncode == 0, done.stderr
    found = read(done.stdout).dropna(subset=["ap"])
    found = found[found.n_train == 60]
    lines = [line for line in done.stderr.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    interval = ["95% from", "to"] if bootstrap else []
    assert cells[0] == [
        "layer",
        "scorer",
        "trait",
        "prototype",
        "AP",
        *interval,
        "prevalence",
        "with it",
        "n",
    ]
    shown = pd.DataFrame(cells[2:], columns=cells[0])
    order = []
    for layer in (3, 5):
        for scorer in ("random", "units"):
            rows = found[(found.layer == layer) & (found.scorer == scorer)]
            order += list(rows.sort_values("ap", ascending=False, kind="stable").itertuples())
    assert len(shown) == len(order) == 12
    for one, row in zip(shown.to_dict("records"), order, strict=True):
        wanted = {
            "layer": str(row.layer), "scorer": row.scorer, "trait": row.trait, "prototype": f"{row.prototype:.0f}",
            "AP": f"{row.ap:.3f}", "prevalence": f"{row.prevalence:.3f}", "with it": str(row.n_pos), "n": "40",
        }  # fmt: skip
        if bootstrap:
            wanted |= {"95% from": render_cell(row.ap_low), "to": render_cell(row.ap_high)}
        assert {name: one[name] for name in wanted} == wanted
    assert "without a positive test image, and so without an AP: 1 traits" in done.stderr


def test_the_latents_of_one_sae_in_words(birds, score_traits, tmp_path) -> None:
    """No column for what all rows share; numbers of latents without a comma."""
    config = SAEConfig(6, 2000, "relu")
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 2000, generator=generator)
    weight[:, :1000] = 0  # latents of which none is the best
    sae = SAE(config, weight, torch.zeros(2000), weight.T.clone(), torch.zeros(6))
    source = {**open_shards([birds.train]).header.source(), "layer": 3}
    save_scorer(tmp_path / "sae.h5", TrainedScorer("sae", sae, Provenance.of(SCORERS, "a test", {}), source))
    done = score_traits(*birds.options, "--layer", 3, "--scorer", tmp_path / "sae.h5", "--per-trait")
    found = read(done.stdout).sort_values("ap", ascending=False)
    lines = [line for line in done.stderr.splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["trait", "latent", "AP", "prevalence", "with it", "n"]
    assert [row[:2] for row in cells[2:]] == [[row.trait, str(row.prototype)] for row in found.itertuples()]
    assert found.prototype.max() >= 1000


def test_missing_rows_need_a_table(birds, score_traits) -> None:
    options = ["--train", birds.train, "--test", birds.test, "--layer", 3, "--scorer", "const"]
    for labels, said in (
        (("--traits", "target"), "only a table of traits has rows"),
        (("--patch-traits",), "needs a table of traits as --traits"),
    ):
        done = score_traits(*options, *labels, "--missing-rows", "no")
        assert done.returncode == 2 and said in done.stderr
    done = score_traits(*options, "--traits", birds.table, "--missing-rows", "maybe")
    assert done.returncode == 2 and "--missing-rows maybe: expected one of unknown, no, fail" in done.stderr
