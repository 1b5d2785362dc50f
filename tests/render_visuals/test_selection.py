"""Which images a latent's pictures show: against plain NumPy over dense latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictured_latents import CROPPED, sparse_latents, write_pictured

from render_visuals.analysis import survey as survey_module
from render_visuals.analysis.heat_matrix import Groups, group_images, heat_matrix, separating_latents, seriate
from render_visuals.analysis.kernels import N_BINS, lower_edge
from render_visuals.analysis.similar import near_misses, nearest_rows
from render_visuals.analysis.survey import ImageIndex, activation_maps, survey
from render_visuals.pictures.write import LatentSelection
from saetools.errors import UserError
from saetools.latents.reader import LatentsSet, open_latents

N, P, K = 23, 16, 40


def written(folder: Path, f_npk: np.ndarray, n_shards: int = 3) -> LatentsSet:
    paths = [f"images/{n % 4}.Kind_{n % 4}/{n}.png" for n in range(len(f_npk))]
    return open_latents(
        [write_pictured(folder, f_npk, paths, [(4, 4)] * len(f_npk), CROPPED, n_shards=n_shards)]
    )


@pytest.fixture(scope="module")
def f_npk() -> np.ndarray:
    return sparse_latents(N, P, K)


@pytest.fixture(scope="module")
def latents(f_npk: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> LatentsSet:
    return written(tmp_path_factory.mktemp("latents"), f_npk)


@pytest.mark.parametrize("block_events", [1, 500, 1 << 22])
def test_the_pass_counts_and_ranks_as_the_definition(
    f_npk: np.ndarray, latents: LatentsSet, block_events: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey_module, "BLOCK_ACTIVE", block_events)
    found = survey(latents, 6)
    fires_npk = f_npk > 0
    assert (found.count_k == fires_npk.sum((0, 1))).all()
    assert (found.n_images_k == fires_npk.any(1).sum(0)).all()
    np.testing.assert_allclose(found.sum_k, f_npk.sum((0, 1), dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.frequency_k, fires_npk.mean((0, 1)))
    max_nk = f_npk.max(1)
    for k in range(K):
        order = sorted(range(N), key=lambda n: (-max_nk[n, k], n))
        expected = [n for n in order if max_nk[n, k] > 0][:6]
        assert found.top_images(k, 6) == expected
        assert found.top_value_km[k, : len(expected)].tolist() == max_nk[expected, k].tolist()


def test_histograms_and_examples(f_npk: np.ndarray, latents: LatentsSet) -> None:
    found = survey(latents, 3)
    edges = [lower_edge(b) for b in range(N_BINS + 1)]
    max_nk = f_npk.max(1)
    for k in (0, 1, 7, K - 1):
        values = f_npk[..., k][f_npk[..., k] > 0]
        assert found.hist_kb[k].tolist() == np.histogram(values, edges)[0].tolist()
        tops = max_nk[:, k][max_nk[:, k] > 0]
        assert found.image_hist_kb[k].tolist() == np.histogram(tops, edges)[0].tolist()
        for place in np.flatnonzero(found.image_hist_kb[k]):
            value = max_nk[found.example_kb[k, place], k]
            assert edges[place] <= value < edges[place + 1]
        assert (found.example_kb[k][found.image_hist_kb[k] == 0] == -1).all()


def test_examples_down_the_range_are_near_their_quantiles_and_differ(tmp_path: Path) -> None:
    f_npk = np.zeros((400, 2, 1), np.float32)
    f_npk[:, 1, 0] = np.random.default_rng(0).permutation(np.linspace(1, 60, 400))
    found = survey(written(tmp_path, f_npk), 5)
    top = set(found.top_images(0, 5))
    spread = found.spread_images(0, top)
    images = [image for _, image in spread]
    assert len({*images, *top}) == len(images) + 5
    values = f_npk[:, 1, 0]
    for quantile, image in spread:
        share_below = float((values < values[image]).mean())
        assert abs(share_below - quantile) < 0.15  # a bin is a quarter of an octave
    assert [image for _, image in found.spread_images(0, top)] == images


def test_the_seed_decides_the_examples_and_nothing_else(latents: LatentsSet) -> None:
    one, again, other = survey(latents, 3, seed=1), survey(latents, 3, seed=1), survey(latents, 3, seed=2)
    assert (one.example_kb == again.example_kb).all()
    assert (one.example_kb != other.example_kb).any()
    assert (one.top_image_km == other.top_image_km).all()


def test_heat_is_that_of_the_files(f_npk: np.ndarray, latents: LatentsSet) -> None:
    rng = np.random.default_rng(0)
    latent, image = np.divmod(rng.permutation(K * N)[:200], N)
    heat = activation_maps(latents, ImageIndex(latents), latent, image)
    for pair in range(200):
        patch_e, value_e = heat.of(pair)
        values_p = f_npk[image[pair], :, latent[pair]]
        assert patch_e.tolist() == np.flatnonzero(values_p > 0).tolist()
        assert value_e.tolist() == values_p[values_p > 0].tolist()


def test_near_misses_do_not_fire_and_are_the_likest(f_npk: np.ndarray, latents: LatentsSet) -> None:
    chosen = [0, 5, 10]
    max_nk = f_npk.max(1)
    pairs = []
    for k in chosen:
        images = np.argsort(-max_nk[:, k], kind="stable")[:2]
        pairs.append([(int(n), int(np.argmax(f_npk[n, :, k]))) for n in images if max_nk[n, k] > 0])
    found = near_misses(latents, ImageIndex(latents), chosen, pairs, 4)
    for k, images, top in zip(chosen, found, pairs, strict=True):
        template = np.zeros(K)
        for n, p in top:
            code = f_npk[n, p].astype(np.float64)
            template += code / np.linalg.norm(code)
        template[k] = 0
        template /= np.linalg.norm(template)
        norms = np.linalg.norm(f_npk.astype(np.float64), axis=2)
        likeness = (f_npk @ template / np.where(norms > 0, norms, 1)).max(1)
        likeness[max_nk[:, k] > 0] = 0
        assert images == np.argsort(-likeness, kind="stable")[:4].tolist()


def test_random_choice_keeps_to_its_ranges(f_npk: np.ndarray, latents: LatentsSet) -> None:
    found = survey(latents, 3)
    with np.errstate(divide="ignore"):
        frequency = np.log10(found.frequency_k)
    middle = float(np.median(frequency[np.isfinite(frequency)]))
    chosen = LatentSelection(n_random=10, log_frequency=(middle, 0.0), seed=3).choose(found)
    assert 0 < len(chosen) <= 10
    assert all(frequency[k] >= middle for k in chosen)
    assert chosen != LatentSelection(n_random=10, log_frequency=(middle, 0.0), seed=4).choose(found)
    assert K - 1 not in LatentSelection(n_random=K).choose(found)  # it never fires
    with pytest.raises(UserError, match="no latent is within the ranges"):
        LatentSelection(n_random=3, log_value=(7.0, 8.0)).choose(found)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 60), st.integers(1, 8), st.integers(1, 20), st.integers(0, 1000))
def test_nearest_rows(k: int, d: int, n: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(k, d)).astype(np.float32)
    vectors[seed % k] = 0
    nearest, cosine = nearest_rows(vectors, n)
    norm = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = (vectors / np.where(norm > 0, norm, 1)).astype(np.float64)
    expected = unit @ unit.T
    np.fill_diagonal(expected, -np.inf)
    assert nearest.shape == (k, min(n, k - 1))
    for i in range(k):
        assert i not in nearest[i]
        assert len(set(nearest[i].tolist())) == len(nearest[i])
        np.testing.assert_allclose(cosine[i], np.sort(expected[i])[::-1][: nearest.shape[1]], atol=1e-5)


def test_seriation_puts_blocks_together() -> None:
    rng = np.random.default_rng(0)
    block = rng.permutation(np.repeat(np.arange(4), 6))
    columns = rng.random((50, 4))[:, block] + 0.01 * rng.random((50, 24))
    columns[:, 5] = 1.0  # never varies: correlated with nothing
    order = seriate(columns)
    assert sorted(order.tolist()) == list(range(24))
    assert order[-1] == 5
    assert np.count_nonzero(np.diff(block[order[:-1]])) == 3


def test_latents_that_tell_groups_apart(f_npk: np.ndarray, tmp_path: Path) -> None:
    made = f_npk.copy()
    made[::4, 0, 21] = 9  # fires at the first group's images alone
    made[np.arange(N) % 4 != 0, :, 21] = 0
    latents = written(tmp_path, made)
    groups = group_images("class", latents.paths, None, None)
    assert groups.names == [f"{i}.Kind_{i}" for i in range(4)]
    assert (np.diff(groups.group_n[groups.order]) >= 0).all()
    max_nk = made.max(1).astype(np.float64)
    share = np.full(K, -1.0)
    for k in range(K):
        total = ((max_nk[:, k] - max_nk[:, k].mean()) ** 2).sum()
        means = np.array([max_nk[groups.group_n == g, k].mean() for g in range(4)])
        sizes = np.bincount(groups.group_n)
        if total > 0:
            share[k] = (sizes * (means - max_nk[:, k].mean()) ** 2).sum() / total
        if (max_nk[:, k] > 0).sum() < 3:
            share[k] -= 1
    expected = np.argsort(-share, kind="stable")[:9]
    assert separating_latents(latents, groups, 9) == sorted(expected.tolist())
    assert 21 in expected
    matrix = heat_matrix(latents, groups, None, 9)
    assert sorted(matrix.latents.tolist()) == sorted(expected.tolist())
    np.testing.assert_array_equal(matrix.value_mn, max_nk[np.ix_(matrix.images, matrix.latents)].T)


def test_groups_by_genus_species_and_column(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "class_scientific_names.csv").write_text(
        "class_id,cub_class,genus_species\n"
        "1,1.Fish_Crow,Corvus_ossifragus\n2,2.Laysan_Albatross,\n3,3.American_Crow,Corvus_brachyrhynchos\n"
    )
    paths = [f"images/{name}/a.jpg" for name in ("1.Fish_Crow", "2.Laysan_Albatross", "3.American_Crow")]
    species = group_images("species", paths, root, None)
    assert [species.names[g] for g in species.group_n] == [
        "Corvus ossifragus",
        "Laysan Albatross",
        "Corvus brachyrhynchos",
    ]
    genus = group_images("genus", paths, root, None)
    assert genus.names == ["(Albatross)", "Corvus"]
    assert genus.order.tolist() == [1, 2, 0]  # within the genus by species
    table = tmp_path / "t.csv"
    table.write_text("path,habitat\n" + "\n".join(f"{p},{h}" for p, h in zip(paths, "yxy", strict=True)))
    column: Groups = group_images("habitat", paths, None, table)
    assert (column.names, column.order.tolist()) == (["x", "y"], [1, 0, 2])
    for by, where, what in [
        ("habitats", table, "did you mean habitat"),
        ("genus", None, "no such file"),
        ("colour", None, "expected class, species or genus"),
    ]:
        with pytest.raises(UserError, match=what):
            group_images(by, paths, tmp_path, where)
