"""The example data set: reproducible, in CUB's layout with CUB's quirks, and recognised by its own small model."""

import filecmp
import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BIRDS = Path(__file__).parents[2] / "examples" / "birds"
COUNT = 4  # images per species in these tests


def make(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BIRDS / "make_birds.py"), str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "birds"
    assert make(out, "--count", str(COUNT)).returncode == 0
    return out


@pytest.fixture(scope="module")
def answers(birds: Path) -> np.ndarray:
    """{lines, 4}: image, attribute, is_present, certainty."""
    return np.array([row[:4] for row in table(birds / "attributes/image_attribute_labels.txt")], int)


def test_same_seed_gives_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder, seed in zip(folders, "001", strict=True):
        assert make(folder, "--seed", seed, "--count", "2").returncode == 0
    files = [str(p.relative_to(folders[0])) for p in folders[0].rglob("*") if p.is_file()]
    assert len(files) > 2 * 48
    same, different, missing = filecmp.cmpfiles(folders[0], folders[1], files, shallow=False)
    assert sorted(same) == sorted(files)
    assert not different
    assert not missing
    pictures = [name for name in files if name.endswith(".jpg")]
    assert filecmp.cmpfiles(folders[0], folders[2], pictures, shallow=False)[0] == []


def test_what_is_there_is_left_alone(birds: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in birds.rglob("*")}
    again = make(birds, "--count", str(COUNT))
    assert again.returncode == 0
    assert "nothing to do" in again.stderr
    other = make(birds, "--count", str(COUNT), "--seed", "1")
    assert other.returncode == 1
    assert "'seed': 0" in other.stderr
    assert before == {p: p.stat().st_mtime_ns for p in birds.rglob("*")}
    (tmp_path / "mine").mkdir()
    foreign = make(tmp_path / "mine")
    assert foreign.returncode == 1
    assert "holds something else" in foreign.stderr
    assert [p.name for p in birds.parent.iterdir()] == [birds.name]


def test_layout_is_that_of_cub(birds: Path) -> None:
    images = table(birds / "images.txt")
    classes = table(birds / "classes.txt")
    assert [int(row[0]) for row in images] == list(range(1, 24 * COUNT + 1))
    assert [int(row[0]) for row in classes] == list(range(1, 25))
    for (_, name), (_, label) in zip(images, table(birds / "image_class_labels.txt"), strict=True):
        folder, file = name.split("/")
        assert folder == classes[int(label) - 1][1]
        assert re.fullmatch(r"\d{3}\.(\w+)", folder)
        assert file.startswith(folder[4:])
        assert (birds / "images" / name).is_file()
    split = [int(row[1]) for row in table(birds / "train_test_split.txt")]
    assert np.reshape(split, (24, COUNT)).sum(1).tolist() == [COUNT // 2] * 24
    assert len(table(birds / "parts/part_locs.txt")) == 15 * len(images)
    genera = [
        line.split(",")[2].split()[0]
        for line in (birds / "class_scientific_names.csv").read_text().splitlines()
    ]
    assert len(set(genera[1:])) == 10


def test_every_image_has_an_answer_for_every_attribute(birds: Path, answers: np.ndarray) -> None:
    names = table(birds / "attributes/attributes.txt")
    assert [int(row[0]) for row in names] == list(range(1, len(names) + 1))
    assert all(re.fullmatch(r"has_\w+::\S+", name) for _, name in names)
    assert answers[:, :2].tolist() == [
        [i, t] for i in range(1, 24 * COUNT + 1) for t in range(1, len(names) + 1)
    ]
    percent = np.loadtxt(birds / "attributes/class_attribute_labels_continuous.txt")
    assert percent.shape == (24, len(names))
    seen = (answers[:, 3] > 1).reshape(24, COUNT, -1)
    present = (answers[:, 2] == 1).reshape(24, COUNT, -1) & seen
    np.testing.assert_allclose(percent, 100 * present.sum(1) / np.maximum(seen.sum(1), 1), rtol=1e-9)


def test_quirks_of_the_official_files_are_there(birds: Path, answers: np.ndarray) -> None:
    fields = [len(row) for row in table(birds / "attributes/image_attribute_labels.txt")]
    assert set(fields) == {5, 6, 7}
    assert sum(n > 5 for n in fields) < 50
    assert set(answers[:, 3]) == {1, 2, 3, 4}
    assert set(answers[:, 2]) == {0, 1}
    assert ((answers[:, 2] == 1) & (answers[:, 3] < 3)).any()  # so that a reader must look at the certainty


def test_traits_are_as_common_as_in_cub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BIRDS))
    annotations, drawing = importlib.import_module("annotations"), importlib.import_module("drawing")
    rng = np.random.default_rng(0)
    drawn = [
        annotations.annotate(drawing.draw_bird(0, species, i), rng) for species in range(24) for i in range(6)
    ]
    true_nt = np.array([a.present_t for a in drawn], bool) & (np.array([a.certainty_t for a in drawn]) >= 3)
    assert 0.10 < true_nt.mean() < 0.20
    assert true_nt.shape[1] == len(annotations.ATTRIBUTES) >= 60
    positives_t = true_nt.sum(0)
    assert (positives_t > 0).mean() > 0.97
    assert positives_t.min() <= 3  # some are rare
    assert positives_t.max() > 0.3 * len(drawn)  # and some common


def test_masks_fit_their_images_and_hold_named_parts(birds: Path) -> None:
    names = (birds / "segmentations/classes.txt").read_text().split()
    assert names[0] == "background"
    boxes = np.array(table(birds / "bounding_boxes.txt"), float)[:, 1:]
    seen: set[int] = set()
    for (_, name), (x, y, w, h) in zip(table(birds / "images.txt"), boxes, strict=True):
        mask = Image.open(birds / "segmentations" / name.replace(".jpg", ".png"))
        with Image.open(birds / "images" / name) as image:
            assert image.size == mask.size
            assert image.width != image.height
        assert mask.mode == "P"
        ids_hw = np.asarray(mask)
        assert ids_hw.max() < len(names)
        rows, columns = np.nonzero(ids_hw)
        assert (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) == (x, y, w, h)
        assert 0.02 < (ids_hw > 0).mean() < 0.6
        seen |= set(np.unique(ids_hw).tolist())
    assert seen == set(range(len(names)))


def test_visible_landmarks_lie_on_or_beside_the_bird(birds: Path) -> None:
    locations = np.array(table(birds / "parts/part_locs.txt"), float)
    assert (locations[locations[:, 4] == 0, 2:4] == 0).all()
    boxes = np.array(table(birds / "bounding_boxes.txt"), float)
    visible = locations[locations[:, 4] == 1]
    box = boxes[visible[:, 0].astype(int) - 1]
    assert (visible[:, 2:4] >= box[:, 1:3] - 4).all()
    assert (visible[:, 2:4] <= box[:, 1:3] + box[:, 3:5] + 4).all()
    assert 6 < len(visible) / len(boxes) < 13


def test_committed_weights_recognise_the_species(birds: Path) -> None:
    import timm
    import torch
    from safetensors.torch import load_file

    readme = (BIRDS / "README.md").read_text()
    architecture = re.search(r"timm/(\w+)", readme)
    stated = re.search(r"test images \| ([\d.]+)", readme)
    assert architecture is not None
    assert stated is not None
    model = timm.create_model(architecture[1], num_classes=24)
    model.load_state_dict(load_file(BIRDS / "vit.safetensors"), strict=True)
    model.eval()
    config = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**config, is_training=False)
    names = [row[1] for row in table(birds / "images.txt")]
    labels = np.repeat(np.arange(24), COUNT)
    images = torch.stack([transform(Image.open(birds / "images" / name).convert("RGB")) for name in names])
    with torch.inference_mode():
        guesses = model(images).argmax(1).numpy()
    assert (guesses == labels).mean() > float(stated[1]) - 0.05


def test_csvs_of_part_masks_hold_the_images_of_each_split(birds):
    split = dict(table(birds / "train_test_split.txt"))
    for side, name in (("1", "train"), ("0", "test")):
        expected = [
            [f"images/{path}", str(int(c) - 1), f"segmentations/{path.removesuffix('.jpg')}.png"]
            for (image, path), (_, c) in zip(
                table(birds / "images.txt"), table(birds / "image_class_labels.txt"), strict=True
            )
            if split[image] == side
        ]
        lines = (birds / f"parts-{name}.csv").read_text().splitlines()
        assert lines[0] == "path,target,mask"
        assert [line.split(",") for line in lines[1:]] == expected
        assert all((birds / mask).is_file() for _, _, mask in expected)
