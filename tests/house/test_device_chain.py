"""The tools from images to probes with `--device cuda`, on a fake device, beside the same commands on the CPU."""

from __future__ import annotations

import contextlib
from concurrent.futures import Future
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from fake_device import FakeDevice
from in_process import runner
from scipy import sparse
from small_shards import clustered_acts, write_shards
from tiny_models import VIT, make_folder, save_timm_weights

from dump_acts.cli import app as dump_app
from encode_acts.cli import app as encode_app
from fit_heads.cli import app as heads_app
from fit_probes.cli import app as probes_app
from saetools.scorers.file import load_scorer
from saetools.shards.reader import open_shards
from score_traits.cli import app as score_app
from train_sae.cli import app as train_app
from train_sae.resuming import state_path
from train_sae.steps.torch_step import TorchStep

dump = runner("dump-acts", dump_app)
train = runner("train-sae", train_app)
encode = runner("encode-acts", encode_app)
score = runner("score-traits", score_app)
fit = runner("fit-probes", probes_app)
fit_heads = runner("fit-heads", heads_app)


class InTurn:
    """A thread pool without threads: a fake device is one thread's."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def submit(self, work, *arguments):
        future: Future = Future()
        try:
            future.set_result(work(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, wait: bool) -> None: ...


@contextlib.contextmanager
def fake_device(kind: str):
    """--device cuda (or mps) is a fake one."""
    with (
        mock.patch("saetools.compute.devices.choose_device", torch.device),
        mock.patch("dump_acts.storing.ThreadPoolExecutor", InTurn),
        FakeDevice(kind) as fake,
    ):
        yield fake


@pytest.fixture(params=["cuda", "mps"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def acts(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of training and test shards, both with patch labels."""
    root = tmp_path_factory.mktemp("acts")
    folders = []
    for name, n, seed in (("train", 40, 0), ("test", 30, 1)):
        values = clustered_acts(n, seed=seed)
        paths = [f"{name}/{i}.png" for i in range(n)]
        labels = (values[:, :, 0] > 3).astype(np.uint16) + (values[:, :, 1] > 3)
        write_shards(root / name, values, paths=paths, labels_np=labels)
        folders.append(root / name)
    names = [f"{name}/{i}.png" for name, n in (("train", 40), ("test", 30)) for i in range(n)]
    table = pd.DataFrame({"path": names})
    table["bright"] = np.arange(len(table)) % 3 == 0
    table["red"] = np.arange(len(table)) % 4 == 1
    table.astype({"bright": int, "red": int}).to_csv(root / "traits.csv", index=False)
    return folders[0], folders[1]


def recorded(folder: Path, layer: int) -> np.ndarray:
    return torch.cat([shard.patches(layer) for shard in open_shards([folder]).shards]).numpy()


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        (["--precision", "float32", "--dtype", "float32"], 1e-6),
        (["--precision", "float32", "--dtype", "int8"], 1e-6),
        (["--precision", "bfloat16", "--dtype", "bfloat16"], 0.05),
        (["--dtype", "float16"], 0.02),  # --precision auto is float16 on cuda
    ],
    ids=["float32", "int8", "bfloat16", "auto"],
)
def test_dump_acts_of_timm(tmp_path, options, tolerance):
    images = make_folder(tmp_path / "set", {"ant": 3})
    weights = save_timm_weights(tmp_path / "vit.pth")
    command = [images, "--model", VIT, "--layers", "1,4", "--weights", weights, "--workers", 0, "--cls",
               "--batch-size", 2]  # fmt: skip
    dump(
        *command, "--precision", "float32", "--dtype", "float32", "--device", "cpu", "--out", tmp_path / "cpu"
    )
    with fake_device("cuda") as fake:
        dump(*command, *options, "--device", "cuda", "--out", tmp_path / "cuda")
        copies = [wait for wait in fake.waits if wait != "_to_copy to the device"]
    assert set(copies) == {"_to_copy to the host"}  # what is stored, and nothing before
    if "int8" in options:
        dump(*command, *options, "--device", "cpu", "--out", tmp_path / "cpu8")
        np.testing.assert_allclose(recorded(tmp_path / "cuda", 4), recorded(tmp_path / "cpu8", 4), atol=1e-6)
        return
    for layer in (1, 4):
        expected, found = recorded(tmp_path / "cpu", layer), recorded(tmp_path / "cuda", layer)
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_dump_acts_of_open_clip(tmp_path):
    images = make_folder(tmp_path / "set", {"ant": 2})
    torch.manual_seed(0)
    model, _, _ = open_clip.create_model_and_transforms("ViT-S-32", pretrained=None)
    torch.save(model.visual.state_dict(), tmp_path / "clip.pt")
    command = [images, "--model", "open_clip/ViT-S-32", "--layers", "2", "--weights", tmp_path / "clip.pt",
               "--workers", 0, "--dtype", "float32", "--batch-size", 2]  # fmt: skip
    dump(*command, "--device", "cpu", "--out", tmp_path / "cpu")
    expected = recorded(tmp_path / "cpu", 2)
    for precision, tolerance in (("float32", 1e-5), ("float16", 0.02)):
        with fake_device("cuda"):
            dump(*command, "--precision", precision, "--device", "cuda", "--out", tmp_path / precision)
        found = recorded(tmp_path / precision, 2)
        assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


SAES = {
    "topk": ["--activation", "topk", "--k", 4],
    "batchtopk": ["--activation", "batchtopk", "--k", 4],
    "relu": ["--activation", "relu", "--l1", "1e-2", "--objective", "matryoshka", "--n-prefixes", 3],
    "jumprelu": ["--activation", "jumprelu", "--l0", "1e-3", "--optimizer", "muon"],
    "aux": ["--activation", "topk", "--k", 2, "--aux-k", 8, "--dead-after", 512],
}
SMALL = ["--d-sae", 32, "--batch-size", 64, "--tokens", 1024, "--log-every", 5]


@pytest.mark.parametrize("sae", SAES)
def test_train_sae(acts, saes, tmp_path, sae, kind):
    command = [acts[0], "--val", acts[1], *SMALL, *SAES[sae]]
    if (sae, kind) == ("batchtopk", "cuda"):
        command.append("--autocast")
    with fake_device(kind):
        train(*command, "--device", kind, "--out", tmp_path / "there.h5")
    expected, found = load_scorer(saes[sae]), load_scorer(tmp_path / "there.h5")
    for name, value in expected.evaluation.items():
        assert found.evaluation[name] == pytest.approx(value, rel=0.05, abs=0.02), name
    rows = [
        pd.read_csv(path) for path in (saes[sae].with_suffix(".metrics.csv"), tmp_path / "there.metrics.csv")
    ]
    assert list(rows[0]) == list(rows[1])
    for name in ("loss", "nmse", "l0", "decoder_norm"):
        np.testing.assert_allclose(rows[1][name], rows[0][name], rtol=0.03, atol=0.01, err_msg=name)


class Stopped(Exception):
    """In place of a signal."""


def test_train_sae_goes_on(acts, tmp_path):
    """The state is saved between two askings, at steps 32 and 64, for the latents that may be dead."""
    command = [acts[0], "--val", acts[1], *SMALL, *SAES["aux"], "--tokens", 64 * 48, "--d-sae", 128,
               "--dead-after", 2200, "--device", "cuda"]  # fmt: skip
    step, listed = TorchStep._latents_that_may_be_dead, {}

    def noted(self):
        found = step(self)
        listed[self.step_count] = None if found is None else found.tolist()
        if self.step_count == stop_at:
            raise Stopped
        return found

    with fake_device("cuda"), mock.patch.object(TorchStep, "_latents_that_may_be_dead", noted):
        stop_at = None
        train(*command, "--out", tmp_path / "whole.h5")
        expected, listed = listed, {}
        stop_at = 40
        with pytest.raises(Stopped):
            train(*command, "--checkpoint-every", 37, "--out", tmp_path / "parts.h5")
        with h5py.File(state_path(tmp_path / "parts.h5")) as state:
            assert state["step/may_be_dead"][:].tolist() == expected[37]
        stop_at, listed = None, {}
        train(*command, "--checkpoint-every", 37, "--out", tmp_path / "parts.h5")
    assert 0 < len(expected[37]) < 128
    assert listed == {step: found for step, found in expected.items() if step >= 37}
    with h5py.File(tmp_path / "whole.h5") as whole, h5py.File(tmp_path / "parts.h5") as parts:
        for name in whole:
            np.testing.assert_array_equal(parts[name], whole[name], err_msg=name)


@pytest.fixture(scope="module")
def saes(acts, tmp_path_factory) -> dict[str, Path]:
    """One SAE of each activation, trained on the CPU."""
    folder = tmp_path_factory.mktemp("saes")
    for name, options in SAES.items():
        train(acts[0], "--val", acts[1], *SMALL, *options, "--device", "cpu", "--out", folder / f"{name}.h5")
    return {name: folder / f"{name}.h5" for name in SAES}


def dense(folder: Path) -> np.ndarray:
    return sparse.vstack([sparse.load_npz(path) for path in sorted(folder.glob("*.npz"))]).toarray()


ENCODED: list[tuple[str, list[object]]] = [
    ("topk", []), ("batchtopk", []), ("relu", []), ("jumprelu", []), ("topk", ["--top", 2]),
    ("relu", ["--threshold", 0.5]), ("units", ["--threshold=-inf"]), ("kmeans", []), ("kmeans", ["--top", 1]),
    ("pca", ["--threshold=-inf"]),
]  # fmt: skip


def test_encode_acts(acts, saes, baselines, tmp_path, kind):
    for scorer, options in ENCODED:
        name = " ".join(map(str, [scorer, *options]))
        path = scorer if scorer == "units" else saes.get(scorer) or baselines / f"{scorer}.h5"
        encode(acts[1], "--scorer", path, *options, "--device", "cpu", "--out", tmp_path / name / "cpu")
        with fake_device(kind):
            encode(acts[1], "--scorer", path, *options, "--device", kind, "--out", tmp_path / name / "there")
        expected, found = (dense(tmp_path / name / place) for place in ("cpu", "there"))
        assert np.count_nonzero(expected), name
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=name)


SCORERS = ("const", "units", "units-both", "linear", "random:8", "random-centred:8", "kmeans:6", "pca:5",
           "pca-both:4", "untrained:32:4")  # fmt: skip


@pytest.fixture(scope="module")
def baselines(acts, tmp_path_factory) -> Path:
    """Files of the scorers that score-traits makes, on the CPU: random.h5, kmeans.h5, ..."""
    folder = tmp_path_factory.mktemp("baselines")
    made = ["random:8", "kmeans:6", "pca:5", "linear"]
    traits = ["--traits", acts[0].parent / "traits.csv"]
    scored(acts, made, "cpu", folder / "t.csv", [*traits, "--save-scorer", folder / "saved"])
    for path in (folder / "saved").glob("*.h5"):
        path.rename(folder / f"{path.stem.split('-')[1]}.h5")
    return folder


def scored(acts, scorers, device, out, options=()) -> pd.DataFrame:
    asked = [part for scorer in scorers for part in ("--scorer", scorer)]
    score(
        "--train",
        acts[0],
        "--test",
        acts[1],
        "--layer",
        3,
        *asked,
        "--device",
        device,
        "--out",
        out,
        *options,
    )
    return pd.read_csv(out)


@pytest.mark.parametrize("pool", ["max", "mean", "topk-mean:3", "patches"])
def test_score_traits(acts, saes, tmp_path, pool, kind):
    scorers = [*SCORERS, *(path for name, path in saes.items() if name != "aux")]
    options = ["--pool", pool, "--traits", acts[0].parent / "traits.csv"]
    if pool == "patches":
        options = ["--patch-traits"]
    expected = scored(acts, scorers, "cpu", tmp_path / "cpu.csv", options)
    with fake_device(kind):
        found = scored(acts, scorers, kind, tmp_path / "there.csv", options)
    assert set(expected.scorer) >= {name.split(":")[0] for name in SCORERS} | {"sae"}
    pd.testing.assert_series_equal(found.scorer, expected.scorer)
    for name in ("ap", "ap_train", "prevalence"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


@pytest.mark.parametrize("labels", ["patch", "traits"])
def test_fit_heads(acts, tmp_path, labels, kind):
    table = acts[0].parent / "traits.csv" if labels == "traits" else labels
    command = ["--train", acts[0], "--test", acts[1], "--labels", table, "--l2", "1e-1,1e-2", "--folds", 2]
    fit_heads(*command, "--device", "cpu", "--out", tmp_path / "cpu.h5")
    with fake_device(kind):
        fit_heads(*command, "--device", kind, "--out", tmp_path / "there.h5")
    with h5py.File(tmp_path / "cpu.h5") as expected, h5py.File(tmp_path / "there.h5") as found:
        for name in ("weight", "bias", "cv_log_loss", "class_accuracy"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, atol=1e-7, err_msg=name)


def test_fit_probes(acts, saes, tmp_path):
    for folder, name in zip(acts, ("train", "test"), strict=True):
        encode(folder, "--scorer", saes["relu"], "--device", "cpu", "--out", tmp_path / name)
    command = ["--train", tmp_path / "train", "--test", tmp_path / "test"]
    fit(*command, "--device", "cpu", "--out", tmp_path / "cpu")
    with fake_device("cuda"):
        fit(*command, "--device", "cuda", "--out", tmp_path / "cuda")
    expected, found = (np.load(tmp_path / name / "probes.npz") for name in ("cpu", "cuda"))
    assert expected["converged"].all()
    for name in ("weight", "bias", "loss"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-7)
