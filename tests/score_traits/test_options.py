"""Options of score-traits that change what is compared: layers, seeds, pools, the cache, intervals, null."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score

from saetools.metrics.bootstrap import (
    debiased_average_precision,
    effective_positives,
    logit_interval,
)


def table_of(done) -> pd.DataFrame:
    assert done.returncode == 0, done.stderr
    return pd.read_csv(io.StringIO(done.stdout))


def test_lists_of_layers_and_seeds_are_the_single_runs_together(birds, score_traits) -> None:
    specs = ["--scorer", "random:6", "--scorer", "pca:2", "--scorer", "linear", "--n-train", "10,all"]
    together = table_of(score_traits(*birds.options, *specs, "--layer", "5,3", "--repeats", 2, "--seed", 4))
    singles = [
        table_of(score_traits(*birds.options, *specs, "--layer", layer, "--seed", seed))
        for layer in (5, 3)
        for seed in (4, 5)
    ]
    by = ["layer", "scorer", "seed", "n_train", "trait"]
    pd.testing.assert_frame_equal(
        together.sort_values(by, ignore_index=True),
        pd.concat(singles).sort_values(by, ignore_index=True),
        check_dtype=False,
    )
    assert list(dict.fromkeys(together.layer)) == [5, 3]
    first, second = (together[(together.scorer == "random") & (together.seed == seed)].ap for seed in (4, 5))
    assert list(first) != list(second)


def test_a_scorer_file_stands_at_its_own_layer(birds, score_traits, tmp_path) -> None:
    saved = tmp_path / "saved"
    score_traits(*birds.options, "--layer", "5", "--scorer", "pca:2", "--save-scorer", saved)
    path = saved / "layer5-pca-2.h5"
    found = table_of(score_traits(*birds.options, "--layer", "3,5", "--scorer", "const", "--scorer", path))
    assert set(found[found.scorer == "pca"].layer) == {5}
    assert set(found[found.scorer == "pca"].checkpoint) == {str(path)}
    assert set(found[found.scorer == "const"].layer) == {3, 5}


@pytest.mark.parametrize("pool", ["max", "mean", "topk-mean:2"])
def test_units_under_each_pool(birds, score_traits, pool) -> None:
    """The model's own neurons are the activations themselves, so every number is known."""
    acts = np.sort(birds.acts[5].astype(np.float64), axis=1)
    m = {"max": 1, "mean": 4}.get(pool, 2)
    images_nk = acts[:, 4 - m :].mean(1)
    found = table_of(score_traits(*birds.options, "--layer", 5, "--scorer", "units", "--pool", pool))
    for trait, row in found.iterrows():
        labels = birds.labels_nt[:, trait]
        on_train = [average_precision_score(labels[:60], images_nk[:60, k]) for k in range(6)]
        assert row.ap_train == pytest.approx(max(on_train), abs=1e-9)
        expected = average_precision_score(labels[60:], images_nk[60:, int(row.prototype)])
        assert row.ap == pytest.approx(expected, abs=1e-9)


def test_many_small_blocks_change_nothing(birds, score_traits) -> None:
    command = [*birds.options, "--layer", 3, "--scorer", "random:40", "--scorer", "linear", "--bootstrap", 20]
    plenty, little = (table_of(score_traits(*command, "--memory", size)) for size in ("2GB", "2kB"))
    pd.testing.assert_frame_equal(plenty, little)


def test_the_cache_is_used_and_keyed_by_content(birds, score_traits, tmp_path, monkeypatch) -> None:
    """A second run with one scorer added fits and scores that one alone; the table is as without a cache."""
    from score_traits import scores

    scored, fitted = [], []
    plain_pass, plain_fit = scores.score_shards, scores.fit

    def counting_pass(shards, scorings, *rest):
        scored.append(len(scorings))
        plain_pass(shards, scorings, *rest)

    def counting_fit(spec, *rest):
        fitted.append(spec.text)
        return plain_fit(spec, *rest)

    monkeypatch.setattr(scores, "score_shards", counting_pass)
    monkeypatch.setattr(scores, "fit", counting_fit)
    cache = ["--cache", tmp_path / "cache"]
    command = [*birds.options, "--layer", "3,5", "--scorer", "random:6", "--scorer", "units"]
    first = table_of(score_traits(*command, *cache))
    assert (scored, fitted) == ([4, 4], ["random:6", "random:6"])  # one pass over each split for all of them
    scored.clear()
    fitted.clear()
    more = table_of(score_traits(*command, "--scorer", "kmeans:3", "--scorer", "linear", *cache))
    assert (scored, fitted) == ([2, 2], ["kmeans:3", "kmeans:3"])
    scored.clear()
    assert table_of(score_traits(*command, *cache)).equals(first)
    assert scored == []
    assert table_of(score_traits(*command)).equals(first)
    both = more[more.scorer.isin(["random", "units"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(both, first, check_dtype=False)
    scored.clear()
    score_traits(*command, *cache, "--pool", "mean")
    score_traits(*command, *cache, "--seed", 1)
    assert scored == [4, 4, 2, 2]  # another pool scores everything anew, another seed only what is drawn


@pytest.mark.parametrize("by", ["image", "class"])
def test_intervals_are_made_of_resampled_test_images(birds, score_traits, by) -> None:
    """Image i is of class i % 5: by class, eight images are drawn together."""
    options = [*birds.options, "--layer", 5, "--scorer", "units", "--bootstrap", 300, "--bootstrap-by", by]
    found = table_of(score_traits(*options))
    images_nk = birds.acts[5].max(1)[60:].astype(np.float32)
    labels = birds.labels_nt[60:]
    group = np.arange(40) % 5 if by == "class" else np.arange(40)
    n = group.max() + 1
    counts = np.random.default_rng([0, 3]).multinomial(n, np.full(n, 1 / n), size=300)[:, group]
    scores = images_nk[:, found.prototype]
    (ap,) = debiased_average_precision(scores, labels, np.ones((1, 40), int))
    resampled = debiased_average_precision(scores, labels, counts)
    per_group = np.array([np.bincount(group[has]) for has in labels.T], dtype=object)
    groups = np.array([p.sum() ** 2 / (p**2).sum() for p in per_group], float)
    n_pos = effective_positives(ap, labels.sum(0), groups, resampled)
    assert (n_pos == labels.sum(0)).all() == (by == "image")
    low, high = logit_interval(ap, n_pos)
    np.testing.assert_allclose(found.ap_low, low, rtol=1e-9)
    np.testing.assert_allclose(found.ap_high, high, rtol=1e-9)
    means = np.nanmean(resampled, axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    bias = means.mean() - ap.mean()
    assert found.map_low.iloc[0] == pytest.approx(min(low - bias, 2 * ap.mean() - high))
    assert found.map_high.iloc[0] == pytest.approx(max(high - bias, 2 * ap.mean() - low))
    assert (found.ap_low < found.ap_high).all()
    assert found.map_low.nunique() == 1


def test_null_is_what_shuffled_labels_reach(birds, score_traits) -> None:
    """Layer 5 holds noise: its null is about the prevalence. Layer 3's is far below what true labels reach."""
    specs = ["--scorer", "units", "--scorer", "linear", "--null", 40]
    found = table_of(score_traits(*birds.options, "--layer", "3,5", *specs))
    for (layer, _), rows in found.groupby(["layer", "scorer"]):
        assert rows.null_map.nunique() == 1
        mean, high = rows.null_map.iloc[0], rows.null_map_95.iloc[0]
        assert mean < high
        if layer == 3:
            assert mean < rows.ap.mean() - 0.3
        else:
            assert mean == pytest.approx(rows.prevalence.mean(), abs=0.09)


def test_summary_over_seeds_and_groups(birds, score_traits) -> None:
    done = score_traits(
        *(*birds.options, "--layer", 3, "--scorer", "random:6", "--n-train", "20,all", "--repeats", 3),
        *("--summary", "--per-group", "--bootstrap", 10, "--null", 2),
    )
    found = table_of(done)
    means = found[found.n_train == 20].groupby("seed").ap.mean()
    (line,) = (
        line
        for line in done.stderr.splitlines()
        if line.startswith("| random") and "|           20 |" in line
    )
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[4] == "3"
    assert cells[5] == f"{means.mean():.3f}"
    assert float(cells[6]) == pytest.approx(means.std(), abs=6e-4)
    by_group = found[found.n_train == 60].groupby(found.trait.str.partition("::")[0]).ap.mean()
    shown = {
        cells[4]: float(cells[6])
        for cells in (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in done.stderr.splitlines()
            if "has_" in line
        )
    }
    assert shown == pytest.approx(by_group.to_dict(), abs=6e-4)
    assert list(shown.values()) == sorted(shown.values(), reverse=True)


def test_formats_page_names_the_columns_that_options_add(birds, score_traits, tmp_path) -> None:
    from formats_page import table as table_in_page

    pairs = tmp_path / "pairs.csv"
    pairs.write_text("1,2\n")
    done = score_traits(
        *("--train", birds.train, "--test", birds.test, "--pairs", pairs, "--layer", 3),
        *("--scorer", "units", "--bootstrap", 5, "--null", 2),
    )
    plain = [row[0] for row in table_in_page("ap columns")]
    assert list(table_of(done).columns) == plain + [row[0] for row in table_in_page("optional ap columns")]


def test_image_scores_are_as_the_formats_page_says(birds, score_traits, tmp_path) -> None:
    import h5py

    cache = tmp_path / "cache"
    score_traits(*birds.options, "--layer", 3, "--scorer", "random:9", "--cache", cache)
    scorer, *scores = sorted(cache.iterdir())
    assert scorer.name.startswith("scorer-random-")
    sizes = set()
    for path in scores:
        with h5py.File(path) as file:
            assert file.attrs["format"] == "saetools-image-scores"
            assert file.attrs["n_prototypes"] == 9
            assert set(pd.read_json(io.StringIO(file.attrs["settings"]), typ="series").index) == {
                "activations",
                "scorer",
                "pool",
                "device",
            }
            sizes.add(file["scores"].shape)
    assert sizes == {(1, 60, 9), (1, 40, 9)}
