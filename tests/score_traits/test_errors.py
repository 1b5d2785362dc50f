"""What score-traits says about input that does not fit, and with which exit code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from saetools.files.formats import SCORERS
from saetools.files.provenance import Provenance
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.shards.reader import open_shards


def refused(done, code: int, *words: str) -> None:
    """One error of one to three lines, nothing on stdout, no traceback."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    lines = done.stderr.splitlines()
    assert sum(line.startswith("score-traits: error: ") for line in lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index("score-traits: error: ") :]
    assert len(message.splitlines()) <= 3
    for word in words:
        assert word in message


def scorer_file(path: Path, birds, *, width: int = 6, **trained_on: object) -> Path:
    source = {**open_shards([birds.train]).header.source(), "layer": 3, **trained_on}
    config = SAEConfig(width, 4, "relu")
    sae = SAE(config, torch.ones(width, 4), torch.zeros(4), torch.ones(4, width), torch.zeros(width))
    save_scorer(path, TrainedScorer("sae", sae, Provenance.of(SCORERS, "a test", {}), source))
    return path


@pytest.fixture
def options(birds) -> list[object]:
    return [*birds.options, "--layer", 3]


def test_a_table_of_other_images(birds, score_traits, tmp_path) -> None:
    table = tmp_path / "other.csv"
    table.write_text("path,red\nelsewhere/1.png,1\n")
    done = score_traits(
        *("--train", birds.train, "--test", birds.test, "--traits", table, "--layer", 3, "--scorer", "const")
    )
    refused(done, 1, str(table), birds.paths[0], "elsewhere/1.png")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name,red\na.png,1\n", "'name'"),
        ("path,red\na.png,maybe\n", "line 2, trait 'red' holds 'maybe'"),
        ("path,red\na.png,1\na.png,0\n", "'a.png' has two rows"),
        ("", "not a CSV file"),
        ("path,red,big\na.png,1\n", "line 2 has 2 fields, the header 3"),
        ("path,red\na.png,1\nb.png,1,0\n", "line 3 has 3 fields, the header 2"),
        ("path,red\na.png,1,0\nb.png,1,0\n", "line 2 has 3 fields, the header 2"),  # pandas: an index
        ("path,red,red\na.png,1,0\n", "two columns are called 'red'"),
        ("path,red,\na.png,1,0\n", "column 3 has no name"),
        ("path|red\na.png|1\n", "its columns are 'path|red'"),
        ("path,red\n", "has a header but no rows"),
        ('path,red\na.png,1\n"b.png,0\n', "in the row from line 3 on"),
    ],
)
def test_a_broken_table(birds, score_traits, tmp_path, text, words) -> None:
    table = tmp_path / "broken.csv"
    table.write_text(text)
    done = score_traits(
        *("--train", birds.train, "--test", birds.test, "--traits", table, "--layer", 3, "--scorer", "const")
    )
    refused(done, 1, str(table), words)


def test_a_scorer_of_another_width(birds, options, score_traits, tmp_path) -> None:
    path = scorer_file(tmp_path / "wide.h5", birds, width=7)
    refused(score_traits(*options, "--scorer", path), 1, str(path), "width 7", "width is 6")


def test_a_scorer_of_another_layer(birds, options, score_traits, tmp_path) -> None:
    path = scorer_file(tmp_path / "deep.h5", birds, layer=5)
    refused(score_traits(*options, "--scorer", path), 1, str(path), "layer: 5 against 3")


def test_a_scorer_of_another_model(birds, options, score_traits, tmp_path) -> None:
    path = scorer_file(tmp_path / "other.h5", birds, model="timm/another")
    refused(score_traits(*options, "--scorer", path), 1, str(path), "timm/another")


def test_a_scorer_that_is_broken(birds, options, score_traits, tmp_path) -> None:
    path = tmp_path / "not.h5"
    path.write_bytes(b"neither HDF5 nor anything else")
    refused(score_traits(*options, "--scorer", path), 1, str(path))


def test_the_same_images_in_train_and_test(birds, score_traits, new_shards, tmp_path) -> None:
    both = new_shards(
        tmp_path / "both",
        {layer: acts[59:] for layer, acts in birds.acts.items()},
        birds.paths[59:],
    )
    done = score_traits(
        *("--train", birds.train, "--test", both, "--traits", birds.table, "--layer", 3, "--scorer", "const")
    )
    refused(done, 1, "1 images are in --train and --test", repr(birds.paths[59]))


def test_shards_of_two_models(birds, score_traits, new_shards, tmp_path) -> None:
    other = new_shards(tmp_path / "other", {3: np.zeros((2, 4, 6))}, ["a", "b"], model="timm/another")
    done = score_traits(
        *("--train", birds.train, "--test", other, "--traits", birds.table, "--layer", 3, "--scorer", "const")
    )
    refused(done, 1, "timm/another", "timm/made-by-hand")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scorer", "nothing"], "--scorer nothing"),
        (["--scorer", "random:0"], "random:0"),
        (["--scorer", "const", "--n-train", "10,few"], "--n-train"),
        ([], "--scorer"),
    ],
)
def test_wrong_usage(options, score_traits, arguments, words) -> None:
    refused(score_traits(*options, *arguments), 2, words)


def test_exit_codes_of_the_process(options, score_traits_process) -> None:
    refused(score_traits_process(*options, "--scorer", "nothing"), 2, "--scorer nothing")
    refused(score_traits_process(*options, "--scorer", "random:241"), 1, "only 240 patches")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scorer", "const", "--n-train", "61"], "hold 60 images"),
        (["--scorer", "random:241"], "only 240 patches"),
        (["--scorer", "const", "--pool", "topk-mean:5"], "4 patches"),
        (["--scorer", "const", "--layer", "4"], "no layer 4"),
        (["--scorer", "const", "--device", "cuda:99"], "cuda:99"),
    ],
)
def test_more_than_there_is(options, score_traits, arguments, words) -> None:
    refused(score_traits(*options, *arguments), 1, words)


def test_bootstrap_by_class_needs_traits_that_several_classes_can_have(birds, score_traits, tmp_path) -> None:
    shards = ["--train", birds.train, "--test", birds.test, "--layer", 3, "--scorer", "units"]
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("1,2\n")
    by_class = ["--bootstrap", 5, "--bootstrap-by", "class"]
    for traits in (["--traits", "target"], ["--pairs", pairs]):
        refused(score_traits(*shards, *traits, *by_class), 2, "--bootstrap-by class", "--bootstrap-by image")
    done = score_traits(*shards, "--traits", birds.table, "--bootstrap-by", "class")
    refused(done, 2, "--bootstrap-by class", "--bootstrap R")
    done = score_traits(*shards, "--traits", birds.table, "--bootstrap", 5, "--bootstrap-by", "bird")
    refused(done, 2, "--bootstrap-by bird", "expected one of image, class")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (np.where(np.arange(40) % 4 == 0, -1, 2), ["10 test images have no class", "'test/0/60.png'"]),
        (np.full(40, 2), ["all test images are of one class"]),
    ],
)
def test_bootstrap_by_class_needs_the_classes(
    birds, new_shards, score_traits, tmp_path, target, words
) -> None:
    test = new_shards(
        tmp_path / "test", {3: birds.acts[3][60:], 5: birds.acts[5][60:]}, birds.paths[60:], target=target
    )
    options = ["--train", birds.train, "--test", test, "--traits", birds.table, "--layer", 3]
    done = score_traits(*options, "--scorer", "units", "--bootstrap", 5, "--bootstrap-by", "class")
    refused(done, 1, str(test), "--bootstrap-by class", *words)
