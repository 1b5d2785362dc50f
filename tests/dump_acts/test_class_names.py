"""Names of classes, from the images to the tables: folders, text in a list of images, a file of names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import runner
from PIL import Image
from processes import error_lines
from tiny_models import VIT, random_image, save_timm_weights

from audit_latents.cli import app as audit_app
from dump_acts.cli import app
from encode_acts.cli import app as encode_app
from fit_probes.cli import app as fit_app
from saetools.latents.reader import open_latents
from saetools.shards.reader import open_shards
from saetools.vision.image_sets import list_images
from score_traits.cli import app as score_app

dump, encode = runner("dump-acts", app), runner("encode-acts", encode_app)
fit, audit = runner("fit-probes", fit_app), runner("audit-latents", audit_app)
score = runner("score-traits", score_app)
NAMES = {"train": ["kéa", "kéa", "owl", "owl", "ant", "ant"], "test": ["owl", "kéa", "owl", "kéa", "bee"]}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lists of train and test with names; test has another class first, and none of `ant`."""
    root = tmp_path_factory.mktemp("named")
    weights = save_timm_weights(root / "vit.pth")
    for seed, (split, names) in enumerate(NAMES.items()):
        lines = ["path;target;mask"]
        for i, name in enumerate([*names, ""]):
            random_image(10 * seed + i, 64, 64).save(root / f"{split}-{i}.png")
            Image.fromarray(np.full((64, 64), i % 3, np.uint8)).save(root / f"mask-{split}-{i}.png")
            lines.append(f"{split}-{i}.png;{name};mask-{split}-{i}.png")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
        dump(root / f"{split}.csv", "--model", VIT, "--layers", 0, "--weights", weights, "--out", root / split,
             "--workers", 0, "--device", "cpu", "--images-per-shard", 3)  # fmt: skip
    return root


def test_text_targets_are_recorded(recorded: Path) -> None:
    train, test = (open_shards([recorded / split]) for split in NAMES)
    assert [name for each in train.examples for name in each.class_name] == [*NAMES["train"], ""]
    assert train.frame()["class"].fillna("none").tolist() == [*NAMES["train"], "none"]
    assert np.concatenate([each.target for each in train.examples]).tolist() == [1, 1, 2, 2, 0, 0, -1]
    assert np.concatenate([each.target for each in test.examples]).tolist() == [2, 1, 2, 1, 0, -1]


def test_classes_of_two_lists_are_compared_by_name(recorded: Path, tmp_path: Path) -> None:
    """`ant` of train and `bee` of test have the number 0: they are two classes. Tables hold names."""
    for split in NAMES:
        encode(recorded / split, "--scorer", "units", "--out", tmp_path / split)
        files = open_latents([tmp_path / split]).files
        assert [name for file in files for name in file.examples.class_name] == [*NAMES[split], ""]
    latents = ("--train", tmp_path / "train", "--test", tmp_path / "test")
    done = fit(*latents, "--labels", "target", "--out", tmp_path / "probes")
    classes = pd.read_csv(tmp_path / "probes/probes.csv").set_index("class")
    assert classes["n_pos_train"].to_dict() == {"ant": 2, "kéa": 2, "owl": 2, "bee": 0}
    assert classes["n_pos"].to_dict() == {"ant": 0, "kéa": 2, "owl": 2, "bee": 1}
    assert "images are compared by their classes' names" in done.stderr
    assert "no positive row in the training latents: bee" in done.stderr
    done = score("--train", recorded / "train", "--test", recorded / "test", "--scorer", "units",
                "--traits", "target", code=1)  # fmt: skip
    assert "2 images have no class" in done.stderr  # the last of each list


def test_names_for_patch_labels(recorded: Path, tmp_path: Path) -> None:
    """A name a line, the first for 0; labels beyond stay numbers. Other names are other settings."""
    (tmp_path / "names.txt").write_text("sky\nbird\n")
    named = ("--class-names", tmp_path / "names.txt")
    for split in NAMES:
        encode(recorded / split, "--scorer", "units", "--out", tmp_path / split)
    latents = ("--train", tmp_path / "train", "--test", tmp_path / "test")
    out = ("--out", tmp_path / "probes")
    fit(*latents, *named, *out)
    assert pd.read_csv(tmp_path / "probes/probes.csv")["class"].tolist() == ["sky", "bird", "2"]
    assert "settings" in error_lines(fit(*latents, *out, code=1))
    fit(*latents, "--out", tmp_path / "plain")
    assert pd.read_csv(tmp_path / "plain/probes.csv")["class"].tolist() == [0, 1, 2]
    settings = json.loads((tmp_path / "plain/probes.csv.json").read_text())["settings"]
    assert "class_names" not in settings  # a second run of an earlier version's
    shards = ("--train", recorded / "train", "--test", recorded / "test", "--scorer", "units")
    done = score(*shards, "--patch-traits", *named)
    assert [line.split(",")[6] for line in done.stdout.splitlines()] == ["trait", "sky", "bird", "label 2"]
    done = audit(*latents, "--labels", "target", *named, "--budgets", 2, "--null", 2,
                "--bootstrap", 2, "--tau", 0.9, "--out", tmp_path / "audit")  # fmt: skip
    ranking = pd.read_csv(tmp_path / "audit/ranking.csv", dtype=str)
    assert set(ranking["found_in"]) <= {"sky", "bird", "2"} and set(ranking["asked_by"]) <= {
        "ant",
        "kéa",
        "owl",
    }
    (tmp_path / "names.txt").write_text("sky\nsky\n")
    assert "two of the labels are called 'sky'" in error_lines(fit(*latents, *named, "--out",
                                                                    tmp_path / "twice", code=1))  # fmt: skip
    table = tmp_path / "table.csv"
    table.write_text(
        "path,red\n" + "".join(f"{split}-{i}.png,{i % 2}\n" for split in NAMES for i in range(7))
    )
    done = fit(*latents, *named, "--labels", table, "--out", tmp_path / "none", code=2)
    assert "the columns of a table have names" in done.stderr


def test_absolute_paths_below_the_list(tmp_path: Path) -> None:
    """They become relative, as they are recorded; also where the list is reached by a link."""
    (tmp_path / "data").mkdir()
    for name in ("1.png", "m.png"):
        (tmp_path / "data" / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for written, read in (("data", "data"), ("link", "link"), ("data", "link")):
        table = tmp_path / read / "list.csv"
        table.write_text(f"path,mask\n{tmp_path}/{written}/1.png,{tmp_path}/{written}/m.png\n")
        images = list_images(table, "auto", None)
        assert (images.path, images.mask) == (["1.png"], ["m.png"])


def test_names_of_folders_and_other_names_of_a_list(tmp_path: Path) -> None:
    for path in ("owl/1.png", "ant/2.png", "3.png"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).touch()
    images = list_images(tmp_path, "auto", None)
    assert dict(zip(images.path, images.class_name, strict=True)) == {
        "3.png": "",
        "ant/2.png": "ant",
        "owl/1.png": "owl",
    }
    digests = set()
    for names in (("1", "2"), ("a", "b"), ("x", "y")):  # of the same order, so of the same numbers
        (tmp_path / "list.csv").write_text(f"path,target\nant/2.png,{names[0]}\nowl/1.png,{names[1]}\n")
        digests.add(list_images(tmp_path / "list.csv", "auto", None).digest())
    assert len(digests) == 3
