"""fit-heads as a program: what it writes and prints, labels that are missing, bad input, damaged heads."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from broken_files import contents
from edited_files import edit_hdf5
from formats_page import names, table
from in_process import runner
from processes import BIN, Tool, error_lines
from scipy import special
from sklearn import metrics
from small_shards import clustered_acts, write_shards
from written_files import digests

import saetools as st
from check_files.checking import check_file
from fit_heads.cli import app
from saetools.errors import UserError
from saetools.files.provenance import Provenance
from saetools.scorers.head import ARRAYS, check_head_fits, load_head
from saetools.shards.reader import open_shards

fit_heads = runner("fit-heads", app)
N = {"train": 60, "test": 40}


class Case:
    """Shards of two splits with targets (some -1, some of one split alone), patch labels, class tokens; traits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.acts, self.cls, self.targets, self.labels, self.traits = {}, {}, {}, {}, {}
        rows = []
        for seed, (split, n) in enumerate(N.items()):
            rng = np.random.default_rng(seed)
            acts = clustered_acts(n, seed=seed).astype(np.float32)
            means = acts.mean(1)
            self.acts[split], self.cls[split] = (
                acts,
                (means + 0.1 * rng.normal(size=means.shape)).astype(np.float32),
            )
            targets = means[:, :3].argmax(1)
            targets[:4] = -1
            targets[4:6] = 7 if split == "train" else 5  # 7 is in train alone, 5 in test
            labels = acts[..., :4].argmax(2).astype(np.uint16)
            labels[rng.random(labels.shape) < 0.1] = 65535
            labels[0] = 65535
            labels[1, :3] = 11
            traits = (means[:, 4:7] > np.median(means[:, 4:7], axis=0)).astype(float)
            traits[rng.random(traits.shape) < 0.2] = np.nan
            traits[:5] = np.nan
            traits = np.hstack([traits, np.ones((n, 1))])  # one that all images have
            self.targets[split], self.labels[split], self.traits[split] = targets, labels, traits
            paths = [f"{split}/{i}.jpg" for i in range(n)]
            write_shards(folder / split, acts, paths=paths, targets=targets, labels_np=labels, cls_nd=self.cls[split],
                         layers=(2, 3))  # fmt: skip
            for path, cells in zip(paths, traits, strict=True):
                rows.append([path, *("" if np.isnan(c) else int(c) for c in cells)])
        self.table = folder / "traits.csv"
        pd.DataFrame(rows, columns=["path", "red", "long", "spotted", "alive"]).to_csv(
            self.table, index=False
        )
        self.splits = ["--train", folder / "train", "--test", folder / "test"]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def heads(case: Case, tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A head of each kind, by the program; what it said is beside it."""
    folder = tmp_path_factory.mktemp("heads")
    options = {
        "cls": ["--labels", "target", "--tokens", "cls"],
        "mean": ["--labels", "target"],
        "patches": ["--labels", "patch", "--ignore", "11"],
        "traits": ["--labels", case.table, "--layer", 2],
    }
    for name, chosen in options.items():
        done = tool("fit-heads", *case.splits, *chosen, "--folds", 3, "--out", folder / f"{name}.h5")
        assert done.stdout == f"{folder / name}.h5\n"
        (folder / f"{name}.txt").write_text(done.stderr)
    return {name: folder / f"{name}.h5" for name in options}


def said(heads: dict[str, Path], name: str) -> str:
    return heads[name].with_suffix(".txt").read_text()


@pytest.mark.parametrize("tokens", ["cls", "mean"])
def test_classes_of_images(case: Case, heads: dict[str, Path], tokens: str) -> None:
    head = load_head(heads[tokens])
    assert (head.link, head.tokens, head.layer) == ("softmax", tokens, 3)  # the last that was recorded
    assert head.names == ["0", "1", "2", "7"] and head.arrays["label"].tolist() == [0, 1, 2, 7]
    target_n = case.targets["train"]
    assert head.arrays["train_rows"].tolist() == [(target_n == c).sum() for c in (0, 1, 2, 7)]
    x_nd = 2 * (case.cls["test"] if tokens == "cls" else case.acts["test"].mean(1, dtype=np.float64))
    target_n = case.targets["test"]
    kept = np.isin(target_n, [0, 1, 2])
    p_nc = head.probabilities(torch.from_numpy(x_nd[kept]).double()).numpy()
    true = target_n[kept]
    scores = head.evaluation["head"]
    assert scores["accuracy"] == pytest.approx(metrics.accuracy_score(true, p_nc.argmax(1)))
    assert scores["log_loss"] == pytest.approx(metrics.log_loss(true, p_nc, labels=range(4)))
    recall_c = metrics.recall_score(true, p_nc.argmax(1), labels=[0, 1, 2], average=None)
    assert scores["mean_class_accuracy"] == pytest.approx(recall_c.mean())
    np.testing.assert_allclose(head.arrays["class_accuracy"], [*recall_c, np.nan])
    assert (scores["n_rows"], scores["n_classes"], scores["n_left_out"]) == (kept.sum(), 3, 2)
    assert scores["accuracy"] > 0.7 and "mean_iou" not in scores
    text = said(heads, tokens)
    assert (
        "1 of 5 classes have no training image, so the head does not have them: 5; their 2 test images are"
        in text
    )
    assert "1 of 4 classes have no test image, and no part in the means: 7" in text
    assert f"{scores['accuracy']:.3f}" in text and "L2 0." in text


def test_controls(case: Case, heads: dict[str, Path]) -> None:
    found = load_head(heads["mean"]).evaluation
    train_n, test_n = case.targets["train"], case.targets["test"]
    train_n, test_n = train_n[train_n >= 0], test_n[np.isin(test_n, [0, 1, 2])]
    share_c = np.array([(train_n == c).mean() for c in (0, 1, 2, 7)])
    assert found["prior"]["log_loss"] == pytest.approx(-np.log(share_c[test_n]).mean())
    assert found["prior"]["accuracy"] == pytest.approx((test_n == share_c.argmax()).mean())
    assert found["prior"]["mean_class_accuracy"] == pytest.approx(1 / 3)
    assert found["shuffled"]["accuracy"] < found["head"]["accuracy"] - 0.2
    assert found["shuffled"]["log_loss"] > found["head"]["log_loss"]


def test_patches(case: Case, heads: dict[str, Path]) -> None:
    head = load_head(heads["patches"])
    assert (head.link, head.tokens, head.names) == ("softmax", "patches", ["0", "1", "2", "3"])
    label_np = case.labels["test"].astype(int)
    kept = label_np < 4
    logits = head(torch.from_numpy(2 * case.acts["test"])).numpy()
    assert logits.shape == (40, 9, 4)
    true, say = label_np[kept], logits[kept].argmax(1)
    scores = head.evaluation["head"]
    iou_c = metrics.jaccard_score(true, say, average=None)
    assert scores["mean_iou"] == pytest.approx(iou_c.mean())
    np.testing.assert_allclose(head.arrays["iou"], iou_c)
    assert scores["accuracy"] == pytest.approx((true == say).mean()) and scores["n_rows"] == kept.sum()
    assert scores["log_loss"] == pytest.approx(
        metrics.log_loss(true, special.softmax(logits[kept], axis=1), labels=range(4))
    )
    assert "mean IoU" in said(heads, "patches")


def test_traits(case: Case, heads: dict[str, Path]) -> None:
    """Of layer 2, which holds half of layer 3."""
    head = load_head(heads["traits"])
    assert (head.link, head.tokens, head.layer) == ("logistic", "mean", 2)
    assert head.names == ["red", "long", "spotted"] and head.arrays["label"].tolist() == [-1, -1, -1]
    assert "1 of 4 traits are left out, which all training images have, or none: alive" in said(
        heads, "traits"
    )
    x_nd, y_nc = case.acts["test"].mean(1, dtype=np.float64), case.traits["test"][:, :3]
    p_nc = head.probabilities(torch.from_numpy(x_nd)).numpy()
    columns = [(y_nc[k, c], p_nc[k, c]) for c in range(3) for k in [~np.isnan(y_nc[:, c])]]
    scores = head.evaluation["head"]
    assert scores["accuracy"] == pytest.approx(np.mean([((p > 0.5) == y).mean() for y, p in columns]))
    assert scores["log_loss"] == pytest.approx(np.mean([metrics.log_loss(y, p) for y, p in columns]))
    assert scores["mean_class_accuracy"] == pytest.approx(
        np.mean([metrics.balanced_accuracy_score(y, p > 0.5) for y, p in columns])
    )
    known = ~np.isnan(case.traits["train"][:, :3])
    assert head.arrays["train_rows"].tolist() == known.sum(0).tolist()


def test_labels_of_test_images_choose_nothing(case: Case, heads: dict[str, Path], tmp_path: Path) -> None:
    """Other test labels, and other test images: the same head to the last bit, with other scores."""
    head = load_head(heads["mean"])
    write_shards(tmp_path / "test", case.acts["test"][::-1], paths=[f"o/{i}" for i in range(40)],
                 targets=np.arange(40) % 3, layers=(2, 3))  # fmt: skip
    out = tmp_path / "h.h5"
    fit_heads("--train", case.folder / "train", "--test", tmp_path / "test", "--labels", "target", "--folds", 3,
              "--out", out)  # fmt: skip
    other = load_head(out)
    assert torch.equal(other.weight, head.weight) and torch.equal(other.bias, head.bias)
    assert other.l2 == head.l2 and other.evaluation["head"]["accuracy"] < head.evaluation["head"]["accuracy"]


def test_a_second_run_returns_the_file(case: Case, heads: dict[str, Path], tool: Tool) -> None:
    command = [
        "fit-heads",
        *case.splits,
        "--labels",
        "target",
        "--tokens",
        "cls",
        "--folds",
        3,
        "--out",
        heads["cls"],
    ]
    before = contents(heads["cls"].parent)
    done = tool(*command)
    assert "cross-validation" not in done.stderr and "| head " in done.stderr
    err = error_lines(tool(*command, "--seed", 1, code=1))
    assert "it was made with other settings: seed: 0 against 1" in err and "--out" in err
    assert contents(heads["cls"].parent) == before


def test_equal_commands_write_equal_bytes(case: Case, heads: dict[str, Path], tmp_path: Path) -> None:
    """Also from one shard instead of two, and with the rows on disk; but for rounding, in any order of the images."""
    fit_heads(*case.splits, "--labels", "patch", "--ignore", "11", "--folds", 3, "--memory", "1kB", "--out",
              tmp_path / "patches.h5")  # fmt: skip
    (tmp_path / "one").mkdir()
    shutil.copy(heads["patches"], tmp_path / "one")
    assert digests(tmp_path / "one", []) == digests(tmp_path, [], [tmp_path / "patches.h5"])
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_from_python(case: Case, heads: dict[str, Path]) -> None:
    head = st.fit_heads(case.folder / "train", case.folder / "test", case.table, layer=2, folds=3)
    written = st.load_head(heads["traits"])
    assert torch.equal(head.weight, written.weight)
    assert repr(written) == f"Head(3 traits, mean of layer 2 of timm/test, l2={written.l2:g})"
    assert written.evaluation == head.evaluation


def test_one_strength_is_not_chosen(case: Case, tmp_path: Path) -> None:
    done = fit_heads(*case.splits, "--labels", "target", "--l2", "0.5", "--out", tmp_path / "h.h5")
    head = load_head(tmp_path / "h.h5")
    assert head.l2 == 0.5 and np.isnan(head.arrays["cv_log_loss"]).all()
    assert "tried" not in done.stderr
    done = fit_heads(*case.splits, "--labels", "target", "--l2", "30,100", "--out", tmp_path / "few.h5")
    assert "the best L2 is the smallest that was tried; try more with --l2" in done.stderr


def test_names(case: Case, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("sky\nroad\n")
    fit_heads(*case.splits, "--labels", "patch", "--class-names", tmp_path / "names.txt", "--ignore", "3,11", "--l2",
              "0.1", "--out", tmp_path / "h.h5")  # fmt: skip
    assert load_head(tmp_path / "h.h5").names == ["sky", "road", "2"]


BAD = {
    "patches of classes": (["--labels", "target", "--tokens", "patches"], 2, "use --tokens cls or mean"),
    "means of patch labels": (["--labels", "patch", "--tokens", "mean"], 2, "use --tokens patches"),
    "other tokens": (["--labels", "target", "--tokens", "clss"], 2, "expected one of cls, mean, patches"),
    "no such layer": (["--labels", "target", "--layer", 9], 1, "it holds no layer 9, only [2, 3]"),
    "no strength": (["--labels", "target", "--l2", "0,1"], 2, "--l2 0,1: expected numbers above 0"),
    "NaN": (["--labels", "target", "--l2", "nan"], 2, "--l2 nan"),
    "too many folds": (["--labels", "target", "--folds", 99], 1, "--folds 99: only 56 training images"),
    "one class": (
        ["--labels", "patch", "--ignore", "0,1,2,11"],
        1,
        "found training labels of 1 classes ('3')",
    ),
    "nothing": (["--labels", "patch", "--ignore", "0,1,2,3,11"], 1, "every row's label is ignored"),
    "names of a table": (["--labels", "{table}", "--class-names", "{table}"], 2, "--class-names"),
    "ignored of a table": (["--labels", "{table}", "--ignore", "1"], 1, "--ignore"),
    "a table of numbers": (["--labels", "{soft}"], 1, "between 0 and 1; a head needs 0, 1 or nothing"),
    "traits that none has": (["--labels", "{none}"], 1, "no trait that some training images have and others"),
    "no such table": (["--labels", "{out}/no.csv"], 1, "no.csv: no such file"),
    "memory": (["--labels", "target", "--memory", "much"], 2, "--memory much"),
    "seed": (["--labels", "target", "--seed", "-1"], 2, "--seed -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_fitted(name: str, case: Case, tool: Tool, tmp_path: Path) -> None:
    options, code, words = BAD[name]
    table = pd.read_csv(case.table)
    table.assign(red=0.25).to_csv(case.folder / "soft.csv", index=False)
    table.assign(red=0, long=1, spotted=np.nan).to_csv(case.folder / "none.csv", index=False)
    places = {
        "table": case.table,
        "soft": case.folder / "soft.csv",
        "none": case.folder / "none.csv",
        "out": tmp_path,
    }
    given = [str(option).format(**places) for option in options]
    run = (
        tool
        if name in ("patches of classes", "one class")
        else lambda _name, *rest, code: fit_heads(*rest, code=code)
    )
    done = run("fit-heads", *case.splits, *given, "--out", tmp_path / "h.h5", code=code)
    assert words in error_lines(done), done.stderr
    assert not list(tmp_path.iterdir())


def test_shards_that_do_not_fit(case: Case, tmp_path: Path) -> None:
    acts = clustered_acts(20, seed=5)
    target = np.arange(20) % 3
    of = ["--labels", "target", "--out", tmp_path / "h.h5"]
    train = case.folder / "train"
    write_shards(tmp_path / "model", acts, paths=[f"m/{i}" for i in range(20)], targets=target, model="timm/other",
                 layers=(2, 3))  # fmt: skip
    err = error_lines(fit_heads("--train", train, "--test", tmp_path / "model", *of, code=1))
    assert "recorded differently" in err and "model: 'timm/test' against 'timm/other'" in err
    err = error_lines(fit_heads("--train", train, "--test", train, *of, code=1))
    assert "60 images are in --train and --test" in err
    write_shards(tmp_path / "plain", acts, paths=[f"p/{i}" for i in range(20)], targets=target)
    plain = ["--train", train, "--test", tmp_path / "plain", "--layer", 3]
    err = error_lines(fit_heads(*plain, *of, "--tokens", "cls", code=1))
    assert f"{tmp_path / 'plain'}" in err and "it holds no class token; record it with dump-acts --cls" in err
    err = error_lines(fit_heads(*plain, "--labels", "patch", *of[2:], code=1))
    assert "it has no patch labels" in err
    err = error_lines(fit_heads("--train", train, "--test", tmp_path / "plain", *of, "--layer", 2, code=1))
    assert "it holds no layer 2" in err
    write_shards(
        tmp_path / "other", acts, paths=[f"q/{i}" for i in range(20)], targets=[5] * 20, layers=(2, 3)
    )
    err = error_lines(fit_heads("--train", train, "--test", tmp_path / "other", *of, code=1))
    assert "no test image has a label that training images have" in err
    assert not (tmp_path / "h.h5").exists()


def test_a_head_of_other_activations_is_refused(case: Case, heads: dict[str, Path]) -> None:
    path, head = heads["mean"], load_head(heads["mean"])
    source = open_shards(case.folder / "test").header.source()
    check_head_fits(head, path, source, 3, "mean")
    check_head_fits(head, path, source)
    for words, other in (
        ("layer: 3 against 2", (source, 2, "mean")),
        ("tokens: 'mean' against 'cls'", (source, 3, "cls")),
        ("model: 'timm/test' against 'timm/x'", ({**source, "model": "timm/x"}, 3, "mean")),
        ("weights: ", ({**source, "weights": "1" * 64}, 3, "mean")),
        ("preprocess: ", ({**source, "preprocess": {}}, 3, "mean")),
    ):
        with pytest.raises(UserError, match=f"mean.h5: the head was fitted on other activations: {words}"):
            check_head_fits(head, path, *other)


BROKEN = {
    "no bias": (lambda file: file.__delitem__("bias"), "bias"),
    "no names": (lambda file: file.__delitem__("class"), "class"),
    "a name too few": (
        lambda file: (lambda names: (file.__delitem__("class"), file.create_dataset("class", data=names)))(
            file["class"][:-1]
        ),
        "for 3 classes; expected",
    ),
    "NaN": (lambda file: file["weight"].__setitem__((0, 0), np.nan), "/weight holds NaN or infinite values"),
    "no rows": (lambda file: file.__delitem__("train_rows"), "train_rows"),
    "a shape": (
        lambda file: (file.__delitem__("label"), file.create_dataset("label", data=[1, 2])),
        "/label has shape (2,), expected (4,)",
    ),
    "link": (
        lambda file: file.attrs.__setitem__("link", "probit"),
        "its link is 'probit', expected one of softmax",
    ),
    "tokens": (lambda file: file.attrs.__setitem__("tokens", "all"), "its tokens is 'all'"),
    "no l2": (lambda file: file.attrs.__delitem__("l2"), "the attribute 'l2' is missing"),
    "version": (lambda file: file.attrs.__setitem__("format_version", 2), "found version 2 of saetools-head"),
    "format": (
        lambda file: file.attrs.__setitem__("format", "saetools-scorer"),
        "expected format 'saetools-head'",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_heads(fault: str, heads: dict[str, Path], tmp_path: Path) -> None:
    """Though their seals are right; check-files refuses them too."""
    change, words = BROKEN[fault]
    path = Path(shutil.copy(heads["cls"], tmp_path))
    with edit_hdf5(path) as file:
        change(file)
    with pytest.raises(UserError) as error:
        load_head(path)
    assert str(path) in str(error.value) and words in str(error.value)
    with pytest.raises(UserError):
        check_file(path, deep=True)


def test_check_files_says_what_it_is(heads: dict[str, Path], tool: Tool) -> None:
    done = tool("check-files", heads["patches"])
    assert "ok, head of 4 classes, patches of layer 3" in done.stdout


def test_a_scorer_is_no_head(heads: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="expected format 'saetools-scorer'"):
        st.load_scorer(heads["cls"])


def test_the_format_is_documented(heads: dict[str, Path]) -> None:
    for name in ("cls", "patches"):
        with h5py.File(heads[name]) as file:
            assert set(file.attrs) == names("head attributes") | set(Provenance.__dataclass_fields__)
            rows = {row[0].removeprefix("/"): row[1:] for row in table("head data sets")}
            assert set(rows) == {"weight", "bias", "class", *ARRAYS}
            assert set(file) == set(rows) - (set() if name == "patches" else {"iou"})
            c, d = file["weight"].shape
            sizes = {"C": c, "D": d, "L": len(file["cv_l2"])}
            for item, dataset in file.items():
                shape, dtype = rows[item][:2]
                assert dataset.shape == tuple(sizes[axis] for axis in shape.split(", "))
                assert (dtype == "UTF-8") == (dataset.dtype == object)
                assert dtype == "UTF-8" or dataset.dtype.name == dtype


def test_it_is_a_command() -> None:
    assert (BIN / "fit-heads").is_file()
