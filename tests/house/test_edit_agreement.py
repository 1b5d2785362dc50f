"""Edits of latents against birds drawn again: a network in which the right answer is known, and the script itself."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from processes import BIN
from torch import nn

from saetools.scorers.head import Head
from saetools.scorers.sae import SAE, SAEConfig
from saetools.vision.cut_models import CutModel, CutState

BIRDS = Path(__file__).parents[2] / "examples" / "birds"
N, P, D, C = 300, 6, 4, 120
TARGET = 7


@pytest.fixture
def agreement(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BIRDS))
    return importlib.import_module("agreement")


@pytest.fixture
def compare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BIRDS))
    return importlib.import_module("compare_edits")


def test_measures_are_those_of_numpy(agreement):
    rng = np.random.default_rng(0)
    edit, redrawn = rng.normal(size=(40, 9)), rng.normal(size=(40, 9))
    redrawn += 0.5 * edit
    intended = rng.random((40, 9)) < 0.2
    counts = rng.multinomial(40, np.full(40, 1 / 40), size=3).astype(float)
    found = agreement.agreement(edit, redrawn, intended, 2, counts)
    for r, count in enumerate(counts.astype(int)):
        rows = np.repeat(np.arange(40), count)
        e, d, counted = edit[rows], redrawn[rows], ~intended[rows]
        others = [c for c in range(9) if c != 2]
        means = [[one[counted[:, c], c].mean() for c in others] for one in (e, d)]
        assert found["r_images"][r] == pytest.approx(np.corrcoef(e[:, 2], d[:, 2])[0, 1])
        assert found["r_attributes"][r] == pytest.approx(np.corrcoef(*means)[0, 1])
        assert found["direction"][r] == pytest.approx((e[:, 2] * d[:, 2] > 0).mean())
        assert found["ratio"][r] == pytest.approx(e[:, 2].mean() / d[:, 2].mean())


def test_nothing_agrees_with_nothing(agreement):
    rng = np.random.default_rng(0)
    redrawn, intended, weights = rng.normal(size=(30, 5)), np.zeros((30, 5), bool), np.ones((1, 30))
    nothing = agreement.agreement(np.zeros((30, 5)), redrawn, intended, 1, weights)
    assert {name: float(value[0]) for name, value in nothing.items()} == dict.fromkeys(
        agreement.MEASURES, 0.0
    )
    undrawn = agreement.agreement(redrawn, np.zeros((30, 5)), intended, 1, weights)
    assert np.isnan(undrawn["r_images"]).all()
    assert np.isnan(undrawn["r_attributes"]).all()
    assert undrawn["direction"] == 0


def test_intervals_cover_what_they_should(agreement):
    """Of pairs with a correlation of 0.5, intervals over images contain it about 95 times in 100."""
    rng, inside = np.random.default_rng(0), 0
    for seed in range(100):
        e = rng.normal(size=(60, 2))
        d = 0.5 * e + np.sqrt(0.75) * rng.normal(size=(60, 2))
        weights = agreement.resampled(60, 200, seed)
        assert (weights[0] == 1).all()
        assert (weights.sum(1) == 60).all()
        measures = agreement.agreement(e, d, np.zeros((60, 2), bool), 0, weights)
        value, low, high = agreement.interval(measures["r_images"])
        assert low < value < high
        inside += low < 0.5 < high
    assert 86 <= inside <= 99


class Plain(nn.Module):
    """A network of blocks that hand on what they get: tokens are 4 numbers of a patch."""

    num_prefix_tokens = 0

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Identity()
        self.blocks = nn.Sequential(nn.Identity(), nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.patch_embed(x))


def direction(k: int) -> torch.Tensor:
    return torch.eye(D)[k][None]


@pytest.fixture
def world(compare) -> tuple[object, SAE, object]:
    """N birds with the attribute, in direction 0 of some patch, and N redrawn without it; direction 1 varies by itself.

    Each of C heads reads both directions with weights of its own; the target's weight of direction 0 is 1.
    """
    rng = np.random.default_rng(0)
    before = np.zeros((N, P, D), np.float32)
    patch = rng.integers(P, size=(2, N))
    before[np.arange(N), patch[0], 0] = rng.uniform(0.5, 2, N)
    before[np.arange(N), patch[1], 1] = rng.uniform(0.5, 2, N)
    after = before.copy()
    after[..., 0] = 0
    weight = rng.normal(size=(C, D))
    weight[TARGET, :2] = 1
    head = Head(
        torch.from_numpy(weight), torch.zeros(C, dtype=torch.float64), [f"t{c}" for c in range(C)], "logistic",
        "mean", {"layer": 1}, 1.0, None,
    )  # fmt: skip
    zero = torch.zeros(D)
    sae = SAE(
        SAEConfig(D, D, "relu", None), W_enc=torch.eye(D), b_enc=zero, W_dec=torch.eye(D), b_dec=zero,
        threshold=None, mean=zero, scale=1.0,
    )  # fmt: skip
    tokens = torch.from_numpy(np.concatenate([before, after]))
    state = CutState(tokens, 0, tokens[:1], tokens[:1])
    numbers = np.arange(N)
    columns = np.full(N, TARGET)
    pairs = compare.Pairs(
        [f"{i}.jpg" for i in range(2 * N)], np.concatenate([numbers, numbers + N]),
        np.concatenate([numbers + N, numbers]), np.concatenate([np.full(N, -1), columns]),
        np.concatenate([columns, np.full(N, -1)]),
    )  # fmt: skip
    network = compare.Network(CutModel(Plain(), 0), head, np.ones(C))
    return network, sae, compare.Pictures(pairs, state, network.logits(state, np.arange(2 * N)))


def measures(found: dict[str, dict[str, np.ndarray]], name: str) -> list[float]:
    return [float(found[name][one][0]) for one in ("r_images", "r_attributes", "direction", "ratio")]


def test_the_latent_that_is_the_attribute_agrees_and_another_does_not(compare, world):
    network, sae, pictures = world
    right = compare.Attribute(TARGET, 0, 0.0, {})
    found = compare.compare(network, sae, pictures, right, "removed", 20)
    for name in ("latent", "latent-redrawn", "all-redrawn"):
        assert measures(found, name) == pytest.approx([1, 1, 1, 1], abs=1e-4)
    wrong = compare.compare(network, sae, pictures, compare.Attribute(TARGET, 1, 0.0, {}), "removed", 20)
    r_images, r_attributes, same_sign, _ = measures(wrong, "latent")
    assert abs(r_images) < 0.2
    assert abs(r_attributes) < 0.3
    assert same_sign == 1  # the target reads direction 1 too, so the sign alone tells nothing
    silent = compare.compare(network, sae, pictures, compare.Attribute(TARGET, 3, 0.0, {}), "removed", 20)
    assert measures(silent, "latent") == measures(silent, "latent-redrawn") == [0, 0, 0, 0]
    assert measures(silent, "all-redrawn") == pytest.approx([1, 1, 1, 1], abs=1e-4)


def test_r_images_alone_does_not_tell_directions_apart(compare, world):
    """A control moves a patch as far as the latent's edit does: behind a linear rest its effect varies alike."""
    network, sae, pictures = world
    controls = {"probe": 3 * direction(0), "random-direction": torch.cat([direction(1), -direction(1)])}
    found = compare.compare(
        network, sae, pictures, compare.Attribute(TARGET, 0, 0.0, controls), "removed", 20
    )
    assert measures(found, "probe") == pytest.approx([1, 1, 1, 1], abs=1e-4)
    r_images, _, same_sign, ratio = measures(found, "random-direction")
    assert (r_images, same_sign, ratio) == pytest.approx((0, 0.5, 0), abs=1e-4)  # the mean of 1 and -1
    one = compare.Attribute(TARGET, 0, 0.0, {"random-direction": direction(1)})
    r_images, r_attributes, same_sign, _ = measures(
        compare.compare(network, sae, pictures, one, "removed", 20), "random-direction"
    )
    assert r_images == pytest.approx(1, abs=1e-4)
    assert same_sign == 1
    assert abs(r_attributes) < 0.3


def test_adding_gives_every_image_the_same(compare, world):
    network, sae, pictures = world
    found = compare.compare(network, sae, pictures, compare.Attribute(TARGET, 0, 0.2, {}), "added", 20)
    r_images, r_attributes, same_sign, ratio = measures(found, "latent")
    assert (r_images, r_attributes, same_sign) == pytest.approx((0, 1, 1), abs=1e-4)
    redrawn = pictures.state.patches[:N, :, 0].mean(1)
    assert ratio == pytest.approx(0.2 / float(redrawn.mean()), rel=1e-3)
    assert compare.follows(pictures, "added", TARGET) == compare.follows(pictures, "removed", TARGET) == 1


def test_an_attribute_is_what_training_images_say(compare, world):
    _, sae, pictures = world
    x = pictures.state.patches
    has = np.zeros((2 * N, C), bool)
    has[:N, TARGET] = True
    known = np.ones((2 * N, C), bool)
    training = compare.Training(x, has, known)
    (one,) = training.attributes(sae, {TARGET: 0}, world[0].head, 2, 0)
    assert one.amount == pytest.approx(float(x[:N, :, 0].mean()), rel=1e-5)
    torch.testing.assert_close(one.controls["diff-means"][0], torch.tensor([one.amount, 0, 0, 0]))
    torch.testing.assert_close(one.controls["probe"][0].double(), world[0].head.weight[TARGET])
    assert one.controls["random-latent"].tolist() == direction(1).tolist()  # the only other that fires
    known[: N // 2] = False  # an unknown image counts on neither side
    (half,) = training.attributes(sae, {TARGET: 0}, world[0].head, 2, 0)
    assert half.amount == pytest.approx(float(x[N // 2 : N, :, 0].mean()), rel=1e-5)


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("edits")
    weights = BIRDS / "vit.safetensors"
    model = ["--model", "timm/test_vit2", "--weights", weights, "--layers", "5,7", "--workers", "0"]
    birds, saes = root / "birds", root / "saes/seed={seed}.h5"
    sides = ["--train", root / "acts/train", "--test", root / "acts/test"]
    commands: list[Sequence[object]] = [
        [sys.executable, BIRDS / "make_birds.py", birds, "--count", 6],
        [sys.executable, BIRDS / "make_pairs.py", root / "pairs", "--birds", birds, "--pairs", 4],
        *([BIN / "dump-acts", birds, "--split", side, *model, "--out", root / "acts" / side]
          for side in ("train", "test")),
        [BIN / "train-sae", root / "acts/train", "--layer", 5, "--d-sae", 128, "--k", 8, "--tokens", "40k",
         "--grid", "seed=0,1", "--out", root / "saes"],
        [BIN / "score-traits", *sides, "--traits", birds, "--layer", 5, "--scorer", saes,
         "--scorer", f"untrained:{saes}", "--repeats", 2, "--out", root / "ap.csv"],
        *([BIN / "fit-heads", *sides, "--labels", birds, "--layer", layer, "--l2", "0.1",
           "--out", root / f"layer{layer}.h5"] for layer in (5, 7)),
    ]  # fmt: skip
    for command in commands:
        done = run(*command)
        assert done.returncode == 0, done.stderr
    return root


def compare_in(root: Path, out: Path, **other: Path) -> subprocess.CompletedProcess[str]:
    options = {
        "train": root / "acts/train", "traits": root / "birds", "table": root / "ap.csv",
        "sae": root / "saes/seed={seed}.h5", "seeds": "0,1", "head": root / "layer7.h5",
        "probe": root / "layer5.h5", "model": "timm/test_vit2", "weights": BIRDS / "vit.safetensors", "out": out,
        "least": 3, "draws": 2, "resamples": 20,
    } | other  # fmt: skip
    pairs = options.pop("pairs", root / "pairs")
    command = [sys.executable, BIRDS / "compare_edits.py", pairs]
    return run(*command, *(text for name, value in options.items() for text in (f"--{name}", value)))


@pytest.mark.slow
def test_the_tables_of_the_drawn_birds(folder, tmp_path):
    done = compare_in(folder, tmp_path / "edits.csv")
    assert done.returncode == 0, done.stderr
    # two summaries of two changes, and the heads of three tables
    assert done.stdout.count("| latent ") == 4 + 3
    rows = pd.read_csv(tmp_path / "edits.csv")
    assert set(rows.control) == {
        "latent",
        "untrained",
        "random-latent",
        "random-direction",
        "diff-means",
        "probe",
        "latent-redrawn",
        "untrained-redrawn",
        "all-redrawn",
        "untrained-all-redrawn",
    }
    assert set(rows.seed) == {0, 1}
    assert set(rows.change) == {"removed", "added"}
    assert rows.attribute.nunique() >= 10
    assert rows[["r_images", "r_attributes"]].abs().max().max() <= 1
    # Labels of test images are not looked at
    labels = folder / "birds/attributes/image_attribute_labels.txt"
    lines, split = (path.read_text().splitlines() for path in (labels, folder / "birds/train_test_split.txt"))
    test = {line.split()[0] for line in split if line.split()[1] == "0"}
    changed = [
        " ".join([*line.split()[:2], "0", *line.split()[3:]]) if line.split()[0] in test else line
        for line in lines
    ]
    try:
        labels.write_text("\n".join(changed) + "\n")
        assert compare_in(folder, tmp_path / "again.csv").returncode == 0
    finally:
        labels.write_text("\n".join(lines) + "\n")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "edits.csv").read_bytes()


@pytest.mark.slow
def test_what_does_not_fit_is_refused(folder, tmp_path):
    swapped = compare_in(folder, tmp_path / "no.csv", head=folder / "layer5.h5", probe=folder / "layer7.h5")
    assert swapped.returncode == 1
    assert "probe at the layer of the SAEs" in swapped.stderr
    seen = compare_in(folder, tmp_path / "no.csv", train=folder / "acts/test")
    assert seen.returncode == 1
    assert "draw pairs of test images" in seen.stderr
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    (pairs / "pairs.csv").write_text("before,after,added,removed\na.jpg,b.jpg,has_hat::red,\n")
    unknown = compare_in(folder, tmp_path / "no.csv", pairs=pairs)
    assert unknown.returncode == 1
    assert "has_hat::red" in unknown.stderr
    assert not (tmp_path / "no.csv").exists()
