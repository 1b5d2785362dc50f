"""The solver against scikit-learn on the same objective, and the choice of L2 against a plain cross-validation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import special
from sklearn.linear_model import LogisticRegression
from small_shards import clustered_acts, write_shards

from fit_heads import features as features_module
from fit_heads.api import shuffled
from fit_heads.choice import choose_l2, order_images
from fit_heads.features import MEAN, PATCHES, Features
from fit_heads.solver import Data, fit, held_out_loss
from fit_heads.targets import ClassTargets, TraitTargets, chance
from saetools.labels.rows import RowLabels
from saetools.shards.reader import ShardSet, open_shards

CPU = torch.device("cpu")
FOLDS = [(0, 180), (180, 360), (360, 540)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """60 images of 9 patches, with a feature that does not vary, and one far from 0."""
    acts = clustered_acts(60)
    acts[..., 3], acts[..., 5] = 7, 100 * acts[..., 5] + 4000
    return open_shards(write_shards(tmp_path_factory.mktemp("s"), acts, n_shards=3))


@pytest.fixture
def rows(shards: ShardSet, tmp_path: Path) -> Iterator[Features]:
    with Features(shards, 3, PATCHES, np.arange(60), 10**9, tmp_path, CPU) as found:
        yield found


def dense(found: Features) -> np.ndarray:
    return np.concatenate([x.numpy().copy() for _, x in found.blocks(0, found.n_rows)])


def ids_of(x_nd: np.ndarray, n_classes: int = 4) -> np.ndarray:
    rng = np.random.default_rng(7)
    score_nc = x_nd[:, 8 : 8 + n_classes] + rng.normal(size=(len(x_nd), n_classes))
    ids_n = score_nc.argmax(1)
    ids_n[rng.random(len(x_nd)) < 0.1] = -1
    return ids_n


def standardised(x_nd: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    mean_d, sd_d = x_nd.mean(0), x_nd.std(0)
    sd_d[3] = np.inf
    return (x_nd - mean_d) / sd_d, mean_d, sd_d


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-5])
def test_softmax_is_that_of_scikit_learn(rows: Features, l2: float) -> None:
    x_nd = dense(rows)
    ids_n = ids_of(x_nd)
    kept = ids_n >= 0
    targets = ClassTargets(ids_n, 4, CPU)
    found = fit(Data(rows, targets, FOLDS), targets, l2)
    z_nd, _mean_d, sd_d = standardised(x_nd[kept])
    expected = LogisticRegression(C=1 / (kept.sum() * l2), tol=1e-12, max_iter=20000).fit(z_nd, ids_n[kept])
    logp_nc = expected.predict_log_proba(z_nd)
    loss = (
        -logp_nc[np.arange(len(z_nd)), ids_n[kept]].mean()
        + l2 / 2 * (np.delete(expected.coef_, 3, 1) ** 2).sum()
    )
    assert found.loss == pytest.approx(loss, abs=1e-9)
    weight_cd = found.weight.numpy()
    assert (weight_cd[:, 3] == 0).all()
    weight_z = weight_cd * np.where(np.isinf(sd_d), 1, sd_d)
    np.testing.assert_allclose(weight_z, expected.coef_, atol=1e-5 if l2 > 1e-4 else 1e-3)
    ours_nc = special.log_softmax(x_nd[kept] @ weight_cd.T + found.bias.numpy(), axis=1)
    np.testing.assert_allclose(ours_nc, logp_nc, atol=1e-4 if l2 > 1e-4 else 1e-2)
    assert found.bias.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_each_trait_is_that_of_scikit_learn(rows: Features, l2: float) -> None:
    """Of the rows in which it is known; features have the mean and sd of all rows."""
    x_nd = dense(rows)
    rng = np.random.default_rng(3)
    table_nc = x_nd[:, 8:11] + rng.normal(size=(len(x_nd), 3)) > [3, 4.5, 2]
    known_nc = rng.random(table_nc.shape) < 0.7
    known_nc[:, 0] = True
    targets = TraitTargets(table_nc, known_nc, CPU)
    found = fit(Data(rows, targets, FOLDS), targets, l2)
    z_nd, _mean_d, sd_d = standardised(x_nd)
    total = 0.0
    for c in range(3):
        kept = known_nc[:, c]
        one = LogisticRegression(C=1 / (kept.sum() * l2), tol=1e-12, max_iter=20000).fit(
            z_nd[kept], table_nc[kept, c]
        )
        np.testing.assert_allclose(
            found.weight[c].numpy() * np.where(np.isinf(sd_d), 1, sd_d), one.coef_[0], atol=1e-5
        )
        p_n = one.predict_proba(z_nd[kept])[:, 1]
        total += (
            -np.where(table_nc[kept, c], np.log(p_n), np.log1p(-p_n)).mean() + l2 / 2 * (one.coef_**2).sum()
        )
    assert found.loss == pytest.approx(total, abs=1e-8)


def test_a_single_trait_is_no_class(rows: Features) -> None:
    x_nd = dense(rows)
    y_n = x_nd[:, 8] + np.random.default_rng(3).normal(size=len(x_nd)) > 3
    targets = TraitTargets(y_n[:, None], np.ones((len(y_n), 1)), CPU)
    data = Data(rows, targets, FOLDS)
    found = fit(data, targets, 1e-2)
    z_nd, _, sd_d = standardised(x_nd)
    one = LogisticRegression(C=1 / (len(y_n) * 1e-2), tol=1e-12, max_iter=20000).fit(z_nd, y_n)
    np.testing.assert_allclose(
        found.weight[0].numpy() * np.where(np.isinf(sd_d), 1, sd_d), one.coef_[0], atol=1e-5
    )
    loss, n = held_out_loss(data, targets, fit(data, targets, 1e-2, left_out=0), 0)
    assert (loss.shape, n.tolist()) == ((1,), [180])


def test_a_warm_start_changes_nothing(rows: Features) -> None:
    targets = ClassTargets(ids_of(dense(rows)), 4, CPU)
    data = Data(rows, targets, FOLDS)
    cold = fit(data, targets, 1e-3)
    warm = fit(data, targets, 1e-3, start=fit(data, targets, 1e-1))
    assert warm.loss == pytest.approx(cold.loss, abs=1e-12)
    again = fit(data, targets, 1e-3, start=cold)
    assert again.passes < 5
    torch.testing.assert_close(again.weight, cold.weight, atol=1e-6, rtol=1e-6)


def test_rows_on_disk_give_the_same_bits(shards: ShardSet, rows: Features, tmp_path: Path) -> None:
    targets = ClassTargets(ids_of(dense(rows)), 4, CPU)
    expected = fit(Data(rows, targets, FOLDS), targets, 1e-2)
    with Features(shards, 3, PATCHES, np.arange(60), 1000, tmp_path, CPU) as spilled:
        assert spilled.spilled and not rows.spilled
        np.testing.assert_array_equal(dense(spilled), dense(rows))
        found = fit(Data(spilled, targets, FOLDS), targets, 1e-2)
    assert torch.equal(found.weight, expected.weight) and torch.equal(found.bias, expected.bias)
    assert not list(tmp_path.iterdir())


def test_blocks_of_rows_change_no_more_than_rounding(
    shards: ShardSet, rows: Features, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets = ClassTargets(ids_of(dense(rows)), 4, CPU)
    expected = fit(Data(rows, targets, FOLDS), targets, 1e-2)
    monkeypatch.setattr(features_module, "BLOCK_BYTES", 1)
    with Features(shards, 3, PATCHES, np.arange(60), 10**9, tmp_path, CPU) as small:
        assert small.block_rows == 64
        found = fit(Data(small, targets, FOLDS), targets, 1e-2)
    torch.testing.assert_close(found.weight, expected.weight, atol=1e-7, rtol=1e-6)


def test_rows_are_of_the_images_in_order(shards: ShardSet, tmp_path: Path) -> None:
    acts_npd = shards.read(3).double().numpy()
    order = np.random.default_rng(0).permutation(60)[:41]
    with Features(shards, 3, PATCHES, order, 10**9, tmp_path, CPU) as found:
        np.testing.assert_array_equal(dense(found), acts_npd[order].reshape(-1, 16))
    with Features(shards, 3, MEAN, order, 10**9, tmp_path, CPU) as found:
        np.testing.assert_allclose(dense(found), acts_npd[order].mean(1), rtol=1e-14)


def plain_cross_validation(x_nd: np.ndarray, ids_n: np.ndarray, fold_n: np.ndarray, l2: float) -> float:
    """Held-out log-loss, by scikit-learn; standardised by the training rows of each fold."""
    total, n = 0.0, 0
    for fold in range(fold_n.max() + 1):
        train, held = (fold_n != fold) & (ids_n >= 0), (fold_n == fold) & (ids_n >= 0)
        z_nd, mean_d, sd_d = standardised(x_nd[train])
        one = LogisticRegression(C=1 / (train.sum() * l2), tol=1e-12, max_iter=20000).fit(z_nd, ids_n[train])
        held &= np.isin(ids_n, one.classes_)
        logp_nc = one.predict_log_proba((x_nd[held] - mean_d) / sd_d)
        total -= logp_nc[np.arange(held.sum()), np.searchsorted(one.classes_, ids_n[held])].sum()
        n += held.sum()
    return total / n


def test_the_l2_that_predicts_held_out_images_best_is_chosen(rows: Features) -> None:
    x_nd = dense(rows)
    ids_n = ids_of(x_nd)
    ids_n[ids_n == 3] = -1
    ids_n[190:200] = 3  # a class of the second fold alone
    targets = ClassTargets(ids_n, 4, CPU)
    grid = [1e-5, 1.0, 1e-2, 1e-1, 1e-3]
    found = choose_l2(Data(rows, targets, FOLDS), targets, grid)
    fold_n = np.repeat(np.arange(3), 180)
    expected = {l2: plain_cross_validation(x_nd, ids_n, fold_n, l2) for l2 in grid}
    assert found.tried == sorted(grid, reverse=True)[: len(found.tried)] and len(found.tried) >= 3
    np.testing.assert_allclose(found.loss, [expected[l2] for l2 in found.tried], atol=1e-5)
    assert found.l2 == min(expected, key=lambda l2: expected[l2])
    assert 1e-5 < found.l2 < 1


def test_traits_are_chosen_for_together(rows: Features) -> None:
    x_nd = dense(rows)
    rng = np.random.default_rng(3)
    table_nc = x_nd[:, 8:11] + 2 * rng.normal(size=(len(x_nd), 3)) > [3, 4.5, 2]
    table_nc[:, 2] = False
    table_nc[5, 2] = True  # one row has it, so without the first fold nothing is to be learned
    targets = TraitTargets(table_nc, np.ones_like(table_nc), CPU)
    data = Data(rows, targets, FOLDS)
    found = choose_l2(data, targets, [1e-1, 1e-2, 1e-3])
    for l2, loss in zip(found.tried, found.loss, strict=True):
        sums, counts = np.zeros(3), np.zeros(3)
        for fold in range(3):
            loss_c, n_c = held_out_loss(data, targets, fit(data, targets, l2, left_out=fold), fold)
            sums, counts = sums + loss_c, counts + n_c
        assert counts.tolist() == [540, 540, 360]
        assert loss == pytest.approx((sums / counts).mean(), abs=1e-6)


def test_one_strength_is_taken_as_it_is(rows: Features) -> None:
    targets = ClassTargets(ids_of(dense(rows)), 4, CPU)
    found = choose_l2(Data(rows, targets, FOLDS), targets, [0.25])
    assert (found.l2, found.tried) == (0.25, [0.25]) and np.isnan(found.loss).all()


def test_folds_depend_on_paths_and_seed_alone() -> None:
    paths = [f"a/{n}.jpg" for n in range(103)]
    class_n = np.arange(103) % 7

    def folds(shuffle: np.ndarray, seed: int, classes: bool) -> dict[str, int]:
        given = [paths[n] for n in shuffle]
        order, sizes = order_images(given, class_n[shuffle] if classes else None, 5, seed)
        assert sorted(sizes) == [20, 20, 21, 21, 21] and sorted(order) == list(range(103))
        fold_of = np.repeat(np.arange(5), sizes)
        return {given[n]: int(fold) for n, fold in zip(order, fold_of, strict=True)}

    mixed = np.random.default_rng(0).permutation(103)
    for classes in (False, True):
        mine = folds(np.arange(103), 0, classes)
        assert mine == folds(mixed, 0, classes)
        assert mine != folds(np.arange(103), 1, classes)
    of_class = np.array([[mine[paths[n]] for n in np.flatnonzero(class_n == c)[:14]] for c in range(7)])
    for row in of_class:  # each class in every fold, 2 to 4 times
        assert set(np.bincount(row, minlength=5)) <= {2, 3, 4}


@pytest.mark.parametrize("n", [2, 41])
def test_shuffled_labels_are_those_of_another_image(n: int) -> None:
    """Place by place, each image's once, and the same for any order of the images."""
    ids_n = np.arange(n * 4)
    labels = RowLabels(n * 4, ids=ids_n.astype(np.int32))

    def drawn(order: np.ndarray) -> np.ndarray:
        rows = (order[:, None] * 4 + np.arange(4)).ravel()
        targets = shuffled(labels, rows, 4, 0, CPU)
        assert isinstance(targets, ClassTargets)
        found = np.empty((n, 4), np.int64)
        found[order] = targets._ids.reshape(n, 4).numpy()
        return found

    found = drawn(np.arange(n))
    image_n = found[:, 0] // 4
    assert sorted(image_n) == list(range(n)) and (image_n != np.arange(n)).all()
    np.testing.assert_array_equal(found, image_n[:, None] * 4 + np.arange(4))
    np.testing.assert_array_equal(found, drawn(np.random.default_rng(1).permutation(n)))


def test_shares_of_the_training_labels() -> None:
    classes = ClassTargets(np.array([0, 0, 2, -1, 2, 2]), 3, CPU)
    p_c, logit_c = chance(classes, [(0, 6)])
    np.testing.assert_allclose(p_c, [0.4, 0, 0.6])
    np.testing.assert_allclose(special.softmax(logit_c), [0.4, 0, 0.6])
    traits = TraitTargets(np.array([[1, 1], [0, 1], [0, 1]]), np.array([[1, 1], [1, 1], [0, 1]]), CPU)
    p_c, logit_c = chance(traits, [(0, 3)])
    np.testing.assert_allclose(special.expit(logit_c), [0.5, 0])  # the second is yes everywhere: left out
