"""Where traits come from: CUB-200-2011 and its certainties, folders, pairs, patch labels."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

NAMES = ["has_bill::hooked", "has_wing::red"]


def table_of(done) -> pd.DataFrame:
    assert done.returncode == 0, done.stderr
    return pd.read_csv(io.StringIO(done.stdout))


@pytest.fixture(scope="module")
def cub(new_shards, tmp_path_factory):
    """30 images in CUB-200-2011's layout; the answers, image by image: attribute, is_present, certainty."""
    root = tmp_path_factory.mktemp("cub") / "CUB"
    (root / "attributes").mkdir(parents=True)
    rng = np.random.default_rng(0)
    present, sure = rng.integers(0, 2, (30, 2)), rng.integers(1, 5, (30, 2))
    present[sure == 1] = 0
    present[(rng.random((30, 2)) < 0.5) & (sure >= 3)] = 0
    present[[0, 20]], sure[[0, 20]] = 1, 4
    names = [f"{1 + i % 3:03d}.Bird/{i}.jpg" for i in range(30)]
    (root / "images.txt").write_text("".join(f"{i + 1} {name}\n" for i, name in enumerate(names)))
    (root / "image_class_labels.txt").write_text("".join(f"{i + 1} {1 + i % 3}\n" for i in range(30)))
    (root / "train_test_split.txt").write_text("".join(f"{i + 1} {int(i < 18)}\n" for i in range(30)))
    (root / "attributes" / "attributes.txt").write_text(
        "".join(f"{t + 1} {n}\n" for t, n in enumerate(NAMES))
    )
    lines = [f"{i + 1} {t + 1} {present[i, t]} {sure[i, t]} 1.5\n" for i in range(30) for t in range(2)]
    (root / "attributes" / "image_attribute_labels.txt").write_text("".join(lines))
    acts = rng.standard_normal((30, 3, 4)).astype(np.float32)
    paths = [f"images/{name}" for name in names]
    target = np.arange(30) % 3
    folders = [
        new_shards(root.parent / split, {3: acts[rows]}, paths[rows], target=target[rows])
        for split, rows in (("train", slice(18)), ("test", slice(18, None)))
    ]
    options = ["--train", folders[0], "--test", folders[1]]
    return root, options, present, sure, acts, target


@pytest.mark.parametrize("certainty", ["3,4", "4", "2,3,4"])
@pytest.mark.parametrize("drop", [False, True])
def test_certainty_and_what_is_not_visible(cub, score_traits, certainty, drop) -> None:
    root, options, present, sure, _, _ = cub
    extra = ["--drop-not-visible"] if drop else []
    found = table_of(
        score_traits(*options, "--traits", root, "--certainty", certainty, *extra, "--scorer", "units")
    )
    labels = (present == 1) & np.isin(sure, [int(c) for c in certainty.split(",")])
    known = sure[18:] != 1 if drop else np.ones((12, 2), bool)
    assert found.trait.tolist() == NAMES
    assert found.n_test.tolist() == known.sum(0).tolist()
    assert found.n_pos.tolist() == (labels[18:] & known).sum(0).tolist()


def test_images_that_are_left_out_do_not_count(cub, score_traits) -> None:
    root, options, present, sure, acts, _ = cub
    found = table_of(score_traits(*options, "--traits", root, "--drop-not-visible", "--scorer", "units"))
    labels, images_nk = (present == 1) & (sure >= 3), acts.max(1)
    for t, row in found.iterrows():
        train, test = (np.flatnonzero(sure[:, t] != 1) for _ in range(2))
        train, test = train[train < 18], test[test >= 18]
        best = max(average_precision_score(labels[train, t], images_nk[train, k]) for k in range(4))
        assert row.ap_train == pytest.approx(best, abs=1e-12)
        expected = average_precision_score(labels[test, t], images_nk[test, int(row.prototype)])
        assert row.ap == pytest.approx(expected, abs=1e-12)


def test_a_table_read_without_is_present_is_refused(cub, score_traits, tmp_path) -> None:
    """Every answered question taken as yes: the mistake that once gave a mAP of 0.86."""
    root, options, _, sure, _, _ = cub
    wrong = tmp_path / "CUB"
    (wrong / "attributes").mkdir(parents=True)
    for name in ("images.txt", "image_class_labels.txt", "train_test_split.txt", "attributes/attributes.txt"):
        (wrong / name).write_text((root / name).read_text())
    lines = [f"{i + 1} {t + 1} 1 {max(3, sure[i, t])} 1.5\n" for i in range(30) for t in range(2)]
    (wrong / "attributes" / "image_attribute_labels.txt").write_text("".join(lines))
    done = score_traits(*options, "--traits", wrong, "--scorer", "const", "--scorer", "units")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        "--scorer const: the mean prevalence of the traits in the test images is 1.000, over one half"
        in done.stderr
    )
    assert "is_present ignored" in done.stderr
    warned = score_traits(*options, "--traits", wrong, "--scorer", "units")
    assert warned.returncode == 0
    assert "warning: the mean prevalence" in warned.stderr


def test_common_traits_of_a_table_keep_their_control(cub, score_traits, tmp_path) -> None:
    """Three of four specimens may have a red band: that is warned of, and const says what chance reaches."""
    root, options, *_ = cub
    names = [line.split()[1] for line in (root / "images.txt").read_text().splitlines()]
    rows = [f"images/{name},{'no' if i % 4 == 0 else 'yes'}" for i, name in enumerate(names)]
    (tmp_path / "traits.csv").write_text("\n".join(["path,band", *rows]) + "\n")
    done = score_traits(*options, "--traits", tmp_path / "traits.csv", "--scorer", "const")
    assert done.returncode == 0, done.stderr
    row = table_of(done).iloc[0]
    assert row.ap == row.prevalence > 0.5
    assert "warning: the mean prevalence of the traits in the test images is 0.75" in done.stderr


def test_folders_are_each_class_against_the_rest(cub, score_traits) -> None:
    _, options, _, _, acts, target = cub
    found = table_of(score_traits(*options, "--traits", "target", "--scorer", "units"))
    assert found.trait.tolist() == ["001.Bird", "002.Bird", "003.Bird"]
    for c, row in found.iterrows():
        best = max(average_precision_score(target[:18] == c, acts.max(1)[:18, k]) for k in range(4))
        assert row.ap_train == pytest.approx(best, abs=1e-12)


def test_pairs(cub, score_traits, tmp_path) -> None:
    """A against B: only their images count; the threshold is that of the best F1 on train."""
    _, options, _, _, acts, target = cub
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("001.Bird,003.Bird\n\n003.Bird,001.Bird\n")
    found = table_of(score_traits(*options, "--pairs", pairs, "--scorer", "units", "--scorer", "const"))
    assert found.trait[:2].tolist() == ["001.Bird against 003.Bird", "003.Bird against 001.Bird"]
    images_nk = acts.max(1)
    train, test = (np.flatnonzero(target != 1) for _ in range(2))
    train, test = train[train < 18], test[test >= 18]
    for (_, row), positive in zip(found[:2].iterrows(), (0, 2), strict=True):
        y_train, y_test = target[train] == positive, target[test] == positive
        aps = [average_precision_score(y_train, images_nk[train, k]) for k in range(4)]
        k = int(row.prototype)
        assert (k, row.n_test, row.n_pos) == (np.argmax(aps), 8, 4)
        assert row.ap == pytest.approx(average_precision_score(y_test, images_nk[test, k]), abs=1e-12)
        candidates = sorted(images_nk[train, k], reverse=True)
        scores = [f1_score(y_train, images_nk[train, k] >= c) for c in candidates]
        assert row.threshold == pytest.approx(candidates[int(np.argmax(scores))])
        predicted = images_nk[test, k] >= candidates[int(np.argmax(scores))]
        assert row.f1 == pytest.approx(f1_score(y_test, predicted, zero_division=0))
        assert row.recall == pytest.approx(recall_score(y_test, predicted))
        assert row.precision == pytest.approx(
            precision_score(y_test, predicted, zero_division=np.nan), nan_ok=True
        )
    assert found[2:].f1.tolist() == pytest.approx([2 / 3, 2 / 3])  # const takes all: precision 1/2, recall 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "001.Bird,004.Bird\n",
            "line 1 names the class '004.Bird', which the shards do not have; did you mean",
        ),
        ("001.Bird\n", "line 1 holds ['001.Bird'], expected two"),
        ("001.Bird,001.Bird\n", "expected two different class names"),
        ("", "expected two class names"),
        ("001.Bird,002.Bird\n001.Bird\n", "line 2 holds ['001.Bird'], expected two"),
        ("001.Bird,002.Bird,\n", "line 1 holds"),
    ],
)
def test_broken_pairs(cub, score_traits, tmp_path, text, words) -> None:
    _, options, *_ = cub
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(text)
    done = score_traits(*options, "--pairs", pairs, "--scorer", "const")
    assert (done.returncode, done.stdout) == (1, "")
    assert words in done.stderr


def test_images_without_a_class(birds, new_shards, score_traits, tmp_path) -> None:
    other = new_shards(
        tmp_path / "other", {layer: a[60:] for layer, a in birds.acts.items()}, birds.paths[60:]
    )
    done = score_traits(
        *("--train", birds.train, "--test", other, "--traits", "target", "--layer", 3, "--scorer", "const")
    )
    assert done.returncode == 1
    assert "40 images have no class" in done.stderr


def test_classes_without_folder_names_are_numbered(birds, new_shards, score_traits, tmp_path) -> None:
    folders = [
        new_shards(
            tmp_path / split,
            {3: birds.acts[3][rows]},
            [f"{split}{i}.png" for i in range(50)],
            target=np.arange(50) % 2,
        )
        for split, rows in (("train", slice(50)), ("test", slice(50, None)))
    ]
    command = ["--train", folders[0], "--test", folders[1], "--traits", "target", "--scorer", "const"]
    assert table_of(score_traits(*command)).trait.tolist() == ["class 0", "class 1"]


def test_patch_traits(new_shards, score_traits, tmp_path) -> None:
    """Each label against the others, patch by patch; 65535 is left out; images are drawn, not patches."""
    rng = np.random.default_rng(1)
    acts = rng.standard_normal((20, 5, 3)).astype(np.float32)
    labels = rng.choice([2, 300, 65535], size=(20, 5), p=[0.3, 0.5, 0.2])
    labels[12, 0] = 7  # a label that no training patch has
    folders = [
        new_shards(
            tmp_path / split,
            {3: acts[rows]},
            [f"{split}{i}" for i in range(n)],
            labels=labels[rows],
            n_shards=2,
        )
        for split, rows, n in (("train", slice(12), 12), ("test", slice(12, None), 8))
    ]
    command = [
        "--train",
        folders[0],
        "--test",
        folders[1],
        "--patch-traits",
        "--scorer",
        "units",
        "--scorer",
        "linear",
    ]
    found = table_of(score_traits(*command, "--scorer", "const", "--n-train", "4,all", "--bootstrap", 20))
    assert found.trait[:2].tolist() == ["label 2", "label 300"]
    assert sorted(set(found.n_train)) == [4, 12]
    x, y = acts.reshape(-1, 3), labels.reshape(-1)
    train, test = np.flatnonzero(y[:60] != 65535), 60 + np.flatnonzero(y[60:] != 65535)
    units = found[(found.scorer == "units") & (found.n_train == 12)]
    for label, (_, row) in zip((2, 300), units.iterrows(), strict=True):
        aps = [average_precision_score(y[train] == label, x[train, k]) for k in range(3)]
        k = int(row.prototype)
        assert (k, row.n_test, row.n_pos) == (np.argmax(aps), len(test), (y[test] == label).sum())
        assert row.ap == pytest.approx(average_precision_score(y[test] == label, x[test, k]), abs=1e-12)
        assert row.ap_low < row.ap_high
    const = found[found.scorer == "const"]
    np.testing.assert_allclose(const.ap, const.prevalence, atol=1e-12)


def test_patch_traits_need_labels(birds, score_traits) -> None:
    done = score_traits(
        *("--train", birds.train, "--test", birds.test, "--layer", 3, "--patch-traits", "--scorer", "const")
    )
    assert done.returncode == 1
    assert "it has no patch labels" in done.stderr


@pytest.mark.parametrize("extra", [[], ["--traits", "target", "--patch-traits"]])
def test_one_source_of_traits(birds, score_traits, extra) -> None:
    done = score_traits("--train", birds.train, "--test", birds.test, "--scorer", "const", *extra)
    assert done.returncode == 2
    assert "one of --traits, --pairs and --patch-traits" in done.stderr


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (["--traits", "target", "--certainty", "4"], "need CUB-200-2011's folder"),
        (["--patch-traits", "--drop-not-visible"], "need CUB-200-2011's folder"),
        (["--traits", ".", "--certainty", "5"], "are 1 to 4"),
        (["--patch-traits", "--pool", "mean"], "not pooled"),
    ],
)
def test_options_that_would_do_nothing_are_refused(birds, score_traits, extra, words) -> None:
    done = score_traits("--train", birds.train, "--test", birds.test, "--scorer", "const", *extra)
    assert done.returncode == 2
    assert words in done.stderr
