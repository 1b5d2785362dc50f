"""Scorers that are fitted on training patches, against scikit-learn, scipy and plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score

from saetools.errors import UserError
from saetools.scorers.file import load_scorer
from saetools.shards.reader import ShardSet, open_shards
from score_traits import fitted_scorers
from score_traits.fitted_scorers import draw_random, draw_random_centred, fit_kmeans, fit_pca
from score_traits.linear_probes import PENALTIES, fit_ridge

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    """600 patches of 40 images in 9 loose clusters, with an offset and unequal variances."""
    rng = np.random.default_rng(0)
    centres = 4 * rng.standard_normal((9, 7))
    acts = centres[rng.integers(9, size=600)] + rng.standard_normal((600, 7))
    return (acts * np.geomspace(0.3, 2, 7) + 50).astype(np.float32)


@pytest.fixture(scope="module")
def shards(patches, new_shards, tmp_path_factory) -> ShardSet:
    folder = tmp_path_factory.mktemp("fits") / "train"
    paths = [f"{i}.png" for i in range(40)]
    return open_shards([new_shards(folder, {3: patches.reshape(40, 15, 7)}, paths, n_shards=4)])


def test_random_is_a_draw_without_replacement_from_all_patches(shards, patches) -> None:
    drawn = draw_random(shards, 3, 600, seed=5).vectors.numpy()
    assert np.array_equal(np.unique(drawn, axis=0), np.unique(patches, axis=0))
    assert not np.array_equal(drawn, draw_random(shards, 3, 600, seed=6).vectors.numpy())


def test_random_draws_every_patch_equally_often(shards, patches) -> None:
    """Chi-squared over 400 draws of 30; the number fails one time in 10,000 by chance, and the seeds are fixed."""
    place = {patch.tobytes(): index for index, patch in enumerate(patches)}
    drawn = [
        place[v.tobytes()] for seed in range(400) for v in draw_random(shards, 3, 30, seed).vectors.numpy()
    ]
    counts = np.bincount(drawn, minlength=600)
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("seed", [0, 5])
def test_centred_random_patches_are_those_of_random_around_the_mean_patch(shards, patches, seed) -> None:
    """Against the definition in float64: the same draw, less the mean of all patches, of unit norm."""
    found = draw_random_centred(shards, 3, 30, seed)
    mean = patches.astype(np.float64).mean(0)
    drawn = draw_random(shards, 3, 30, seed).vectors.double().numpy() - mean
    expected = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    np.testing.assert_allclose(found.vectors.numpy(), expected, atol=1e-6)
    scores = (patches - mean) @ expected.T
    np.testing.assert_allclose(found(torch.from_numpy(patches)).numpy(), scores, atol=1e-4)
    assert np.abs(scores).max() > 1


def test_a_patch_at_the_mean_has_no_direction(new_shards, tmp_path) -> None:
    acts = np.array([[[1.0, 2], [3, 4], [2, 3]]], np.float32)
    found = draw_random_centred(open_shards([new_shards(tmp_path / "three", {3: acts}, ["a"])]), 3, 3, 0)
    lengths = found.vectors.norm(dim=1)
    assert sorted(lengths.tolist()) == pytest.approx([0, 1, 1])
    assert torch.isfinite(found.vectors).all()


@pytest.mark.parametrize("k", [1, 3, 7])
def test_pca_equals_scikit_learn(shards, patches, k) -> None:
    expected = PCA(7, svd_solver="full").fit(patches.astype(np.float64))
    found = fit_pca(shards, 3, k, CPU)
    scores = found(torch.from_numpy(patches)).numpy()
    theirs = expected.transform(patches.astype(np.float64))[:, :k]
    signs = np.sign((scores * theirs).sum(0))
    np.testing.assert_allclose(scores * signs, theirs, atol=2e-4)
    largest = np.abs(found.vectors.numpy()).argmax(1)
    assert (found.vectors.numpy()[np.arange(k), largest] > 0).all()


def test_kmeans_equals_scikit_learn_from_the_same_start(shards, patches) -> None:
    """Six steps of Lloyd's algorithm, centroid by centroid."""
    start = draw_random(shards, 3, 12, seed=1).vectors.numpy()
    expected = KMeans(12, init=start, n_init=1, max_iter=6, algorithm="lloyd", tol=0).fit(patches)
    found = fit_kmeans(shards, 3, 12, 1, CPU, max_passes=6, tolerance=0)
    np.testing.assert_allclose(found.scorer.vectors.numpy(), expected.cluster_centers_, rtol=1e-4)


def test_kmeans_scores_are_minus_the_squared_distances(shards, patches) -> None:
    scorer = fit_kmeans(shards, 3, 5, 0, CPU, max_passes=2).scorer
    distances = ((patches[:, None].astype(np.float64) - scorer.vectors.numpy()) ** 2).sum(2)
    np.testing.assert_allclose(scorer(torch.from_numpy(patches)).numpy(), -distances, atol=0.02)


def test_kmeans_improves_with_each_pass_and_is_as_good_as_scikit_learn(shards, patches) -> None:
    """Over ten starts, its best distortion is within 2% of theirs."""
    runs = [fit_kmeans(shards, 3, 9, seed, CPU, tolerance=1e-5, max_passes=50) for seed in range(10)]
    for run in runs:
        assert all(b <= a * (1 + 1e-6) for a, b in zip(run.distortion, run.distortion[1:], strict=False))
    theirs = KMeans(9, init="random", n_init=10, random_state=0).fit(patches).inertia_ / 600
    assert min(run.distortion[-1] for run in runs) < 1.02 * theirs


def test_an_empty_cluster_moves_to_a_far_patch(new_shards, tmp_path) -> None:
    """Two centroids start at the same place; one of them must end at the other heap."""
    acts = np.zeros((4, 25, 2), np.float32)
    acts[3] = 10
    shards = open_shards([new_shards(tmp_path / "heaps", {3: acts}, list("abcd"))])
    for seed in range(5):
        found = fit_kmeans(shards, 3, 2, seed, CPU).scorer.vectors
        assert sorted(found[:, 0].tolist()) == [0, 10]


def test_kmeans_on_some_of_the_images(shards, patches, monkeypatch) -> None:
    """More patches than a centroid needs: random images, and all of what is read is used."""
    seen = []
    blocks = fitted_scorers.token_blocks
    monkeypatch.setattr(
        fitted_scorers, "token_blocks", lambda *a: (seen.append(a[2]) or b for b in blocks(*a))
    )
    fit_kmeans(shards, 3, 4, 0, CPU, patches_per_centroid=30, max_passes=1)
    assert len(seen[0]) == 8
    assert len(set(seen[0])) == 8


@pytest.mark.parametrize(("one", "both", "k"), [("units", "units-both", 6), ("pca:4", "pca-both:4", 4)])
def test_both_signs_choose_among_each_direction_and_its_negative(
    birds, score_traits, tmp_path, one, both, k
) -> None:
    """Prototype K + k has the AP of scoring by minus prototype k; the best of 2 K is chosen by its training AP."""
    low_n = birds.acts[5].min(1).min(1)  # the trait: something is very low
    labels_nt = np.column_stack([low_n < np.quantile(low_n, 0.3), birds.labels_nt])
    rows = [f"{path},{','.join(map(str, row))}" for path, row in zip(birds.paths, labels_nt * 1, strict=True)]
    (tmp_path / "traits.csv").write_text("\n".join(["path,low,a,b,c", *rows]) + "\n")
    splits = ["--train", birds.train, "--test", birds.test, "--traits", tmp_path / "traits.csv", "--layer", 5]
    done = score_traits(*splits, "--scorer", one, "--scorer", both, "--save-scorer", tmp_path)
    assert done.returncode == 0, done.stderr
    table = frame(done.stdout)
    if one == "units":
        vectors_kd, bias_k = np.eye(6), np.zeros(6)
    else:
        scorer = load_scorer(tmp_path / f"layer5-pca-{k}.h5").scorer
        vectors_kd, bias_k = scorer.vectors.double().numpy(), scorer.bias.double().numpy()
    patches_npk = birds.acts[5].astype(np.float64) @ vectors_kd.T + bias_k
    images_nk = np.concatenate([patches_npk.max(1), (-patches_npk).max(1)], axis=1)
    found = table[table.scorer == both.partition(":")[0]]
    assert set(found.n_prototypes) == {2 * k}
    for trait, row in enumerate(found.itertuples()):
        labels = labels_nt[:, trait]
        on_train = [average_precision_score(labels[:60], images_nk[:60, p]) for p in range(2 * k)]
        assert row.prototype == np.argmax(on_train)
        assert row.ap_train == pytest.approx(max(on_train), abs=1e-9)
        expected = average_precision_score(labels[60:], images_nk[60:, row.prototype])
        assert row.ap == pytest.approx(expected, abs=1e-9)
    single = table[table.scorer == one.partition(":")[0]].ap_train.to_numpy()
    assert (found.ap_train.to_numpy() >= single - 1e-12).all()
    assert (found.prototype >= k).any()


@pytest.mark.parametrize(("spec", "words"), [("pca:8", "width 7"), ("kmeans:601", "600 patches")])
def test_more_than_there_is(shards, spec, words) -> None:
    kind, k = spec.split(":")
    with pytest.raises(UserError, match=words):
        fit_pca(shards, 3, int(k), CPU) if kind == "pca" else fit_kmeans(shards, 3, int(k), 0, CPU)


def probes_by_hand(x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The penalty with the least leave-one-out error, each row left out in turn, and the scores with it."""
    z = (x - x.mean(0)) / x.std(0)
    errors = []
    for penalty in PENALTIES * len(x):
        error = 0.0
        for i in range(len(x)):
            others = np.arange(len(x)) != i
            # the centring is that of all rows, as in the closed form; the intercept is fitted anew
            error += (y[i] - Ridge(alpha=penalty).fit(z[others], y[others]).predict(z[i : i + 1])[0]) ** 2
        errors.append(error)
    best = PENALTIES[int(np.argmin(errors))]
    return best, Ridge(alpha=best * len(x)).fit(z, y).predict(z)


def test_probes_equal_ridge_with_rows_left_out_one_by_one() -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((40, 6)) * np.geomspace(0.1, 10, 6) + 3
    y = (rng.random((40, 3)) < 0.3).astype(float)
    y[:, 0] = x[:, 0] > 3.05
    found = fit_ridge(lambda: iter([(x[:13], y[:13]), (x[13:], y[13:])]))
    for trait in range(3):
        penalty, scores = probes_by_hand(x, y[:, trait])
        assert found.penalty_t[trait] == penalty
        np.testing.assert_allclose(found(x)[:, trait], scores, atol=1e-9)


def test_probes_ignore_unknown_labels_and_constant_features() -> None:
    """An unknown label takes the mean of the known ones; a feature without variance gets no weight."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, 4))
    x[:, 2] = 7
    y = (rng.random((60, 2)) < 0.5).astype(float)
    y[:20, 1] = np.nan
    filled = np.where(np.isnan(y), np.nanmean(y, 0), y)
    found, expected = (fit_ridge(lambda t=t: iter([(x, t)])) for t in (y, filled))
    np.testing.assert_allclose(found.weight_td, expected.weight_td, atol=1e-12)
    assert (found.weight_td[:, 2] == 0).all()
    assert np.isfinite(found.weight_td).all()


def test_saved_scorers_score_as_they_did(birds, score_traits, tmp_path) -> None:
    """--save-scorer, then the files as scorers: the same rows; of linear with mean pooling, the same AP."""
    saved = tmp_path / "scorers"
    kinds = ["random:8", "random-centred:8", "kmeans:4", "pca:3", "pca-both:3", "units-both"]
    specs = [part for kind in kinds for part in ("--scorer", kind)]
    first = score_traits(*birds.options, "--layer", 3, *specs, "--save-scorer", saved)
    assert first.returncode == 0, first.stderr
    saved_as = (
        "random-8-seed0",
        "random-centred-8-seed0",
        "kmeans-4-seed0",
        "pca-3",
        "pca-both-3",
        "units-both",
    )
    names = [f"layer3-{name}.h5" for name in saved_as]
    assert [load_scorer(saved / name).kind for name in names] == [kind.partition(":")[0] for kind in kinds]
    assert sorted(path.name for path in saved.iterdir()) == sorted(names)
    files: list[object] = [part for name in names for part in ("--scorer", saved / name)]
    second = score_traits(*birds.options, "--layer", 3, *files)
    drop = ["checkpoint"]
    ours, again = (frame(done.stdout).drop(columns=drop) for done in (first, second))
    assert ours.equals(again)
    linear = score_traits(
        *birds.options,
        "--layer",
        3,
        "--scorer",
        "linear",
        "--pool",
        "mean",
        "--n-train",
        40,
        "--save-scorer",
        saved,
    )
    path = saved / "layer3-linear-n40-seed0.h5"
    assert load_scorer(path).kind == "linear"
    direct = frame(linear.stdout)
    assert direct.prototype.tolist() == [0, 1, 2]
    loaded = load_scorer(path).scorer
    images_nk = loaded(torch.from_numpy(birds.acts[3].reshape(-1, 6))).reshape(100, 4, 3).mean(1).numpy()
    for trait in range(3):
        expected = average_precision_score(birds.labels_nt[60:, trait], images_nk[60:, trait])
        assert direct.ap[trait] == pytest.approx(expected, abs=0.02)


def frame(text: str):
    import io

    import pandas as pd

    return pd.read_csv(io.StringIO(text))


def test_the_labels_of_test_images_do_not_reach_the_probes(birds, score_traits, tmp_path) -> None:
    import pandas as pd

    table = pd.read_csv(birds.table)
    table.iloc[60:, 1:] = 1 - table.iloc[60:, 1:]
    flipped = Path(tmp_path / "flipped.csv")
    table.to_csv(flipped, index=False)
    command = ["--train", birds.train, "--test", birds.test, "--layer", 3, "--scorer", "linear"]
    first, other = (score_traits(*command, "--traits", path) for path in (birds.table, flipped))
    assert frame(first.stdout).ap_train.equals(frame(other.stdout).ap_train)
    assert not frame(first.stdout).ap.equals(frame(other.stdout).ap)
