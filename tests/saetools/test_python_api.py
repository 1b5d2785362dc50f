"""`import saetools as st`: what a notebook uses. docs/python.md shows it on real files, and is run by a test too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_latents import write_latents
from small_shards import write_shards

import saetools as st
from saetools.errors import UsageError, UserError
from saetools.files.formats import AP_TABLE, SCORERS
from saetools.files.provenance import Provenance
from saetools.files.tables import write_csv
from saetools.scorers.file import with_origin
from saetools.scorers.record import TrainedScorer
from saetools.scorers.sae import SAEConfig
from saetools.vision.heat import with_heat
from saetools.vision.models import VisionModel

VIT = Path(__file__).resolve().parents[2] / "examples/birds/vit.safetensors"


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_the_import_brings_nothing_heavy_and_the_names_are_there() -> None:
    code = "import sys, saetools as st; names = dir(st); print([n for n in st.__all__ if n not in names]); "
    code += "print([n for n in ('torch', 'numpy', 'pandas', 'typer', 'h5py', 'PIL') if n in sys.modules])"
    assert python(code).splitlines() == ["[]", "[]"]
    for name in st.__all__:
        assert callable(getattr(st, name))
    with pytest.raises(AttributeError, match="no attribute 'open_shard'"):
        _ = st.open_shard  # type: ignore[attr-defined]


def test_errors_and_tables_need_no_torch() -> None:
    code = "import sys, saetools as st; st.UserError; st.read_table; st.open_latents; print('torch' in sys.modules)"
    assert python(code) == "False"


def test_a_tool_that_is_not_installed_is_named() -> None:
    code = (
        "import sys; sys.modules['score_traits'] = None; sys.meta_path.insert(0, type('', (), {'find_spec': "
    )
    code += "staticmethod(lambda name, *_: (_ for _ in ()).throw(ModuleNotFoundError(name=name)) "
    code += (
        "if name == 'score_traits' else None)})()); del sys.modules['score_traits']; import saetools as st\n"
    )
    code += "try: st.score_traits\nexcept ImportError as error: print(error)"
    assert python(code).startswith(
        "saetools.score_traits is in the tool score-traits, which is not installed; "
    )


@pytest.fixture(scope="module")
def acts_npd() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(11, 4, 6)).astype(np.float32)


def test_shards(tmp_path: Path, acts_npd: np.ndarray) -> None:
    paths = write_shards(tmp_path / "acts", acts_npd, n_shards=3, layers=(3, 5))
    for given in (tmp_path / "acts", str(tmp_path / "acts"), list(map(str, paths)), [tmp_path / "acts"]):
        assert len(st.open_shards(given)) == 11
    acts = st.open_shards(str(tmp_path / "acts"))
    assert repr(acts) == (
        "ShardSet(timm/test, layers [3, 5], 11 images x 4 x 6 (patches x width), float32, 3 shards)"
    )
    np.testing.assert_array_equal(acts.read(layer=3), acts_npd)
    np.testing.assert_array_equal(acts.read(layer=5, images=slice(2, 9)), 2 * acts_npd[2:9])
    chosen = [9, 0, 4, 0, -1]
    np.testing.assert_array_equal(acts.read(layer=3, images=chosen), acts_npd[chosen])
    assert acts.read(3, 7).shape == (1, 4, 6)
    frame = acts.frame()
    assert list(frame.path) == acts.paths and list(frame["index"]) == list(range(11))
    assert list(frame.height) == [40 + i for i in range(11)]
    with pytest.raises(UserError, match="choose one by `layer`"):
        acts.read()


def test_latents(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    f_npk = rng.exponential(size=(9, 4, 7)).astype(np.float32) * (rng.random((9, 4, 7)) < 0.3)
    f_npk[:, :, 6] = 0
    f_npk[[2, 5], :, 0] = 8.0  # equal: the earlier image comes first
    folder = write_latents(tmp_path / "latents", f_npk, n_shards=2, targets=range(9))
    latents = st.open_latents(str(folder))
    assert len(latents) == 9
    assert repr(latents) == (
        "LatentsSet(7 latents of sae uid, layer 3 of m, 9 images x 4 patches,"
        f" {np.count_nonzero(f_npk)} active, 2 files)"
    )
    np.testing.assert_array_equal(latents.to_scipy().toarray(), f_npk.reshape(36, 7))
    np.testing.assert_array_equal(latents.image_max().toarray(), f_npk.max(axis=1))
    found = latents.top_images(0, 3)
    assert list(found.columns) == ["image", "path", "target", "value"]
    assert list(found.image[:2]) == [2, 5] and list(found.value[:2]) == [8.0, 8.0]
    best = np.sort(f_npk[:, :, 0].max(axis=1))[::-1]
    assert found.value[2] == best[2] and found.path[0] == "a/0002.jpg" and found.target[0] == 2
    assert len(latents.top_images(0, 100)) == np.count_nonzero(best)
    assert len(latents.top_images(6)) == 0
    for image in (0, 4, 5, 8):  # of either file
        np.testing.assert_array_equal(latents.heat(0, image), f_npk[image, :, 0].reshape(1, 4))
    for wrong in (lambda: latents.top_images(7), lambda: latents.heat(0, 9)):
        with pytest.raises(UserError, match=r"the (latents|images) are 0 to"):
            wrong()


def test_a_table_is_checked_against_its_sidecar(tmp_path: Path) -> None:
    import pandas as pd

    path, table = tmp_path / "ap.csv", pd.DataFrame({"trait": ["NA", "b"], "ap": [0.5, np.nan]})
    write_csv(path, table, Provenance.of(AP_TABLE, "score-traits", {"seed": 3}))
    found = st.read_table(str(path))
    pd.testing.assert_frame_equal(found, table)
    assert found.attrs["tool"] == "score-traits" and found.attrs["settings"] == {"seed": 3}
    path.write_text(path.read_text().replace("0.5", "0.9"))
    with pytest.raises(UserError, match=r"ap\.csv"):
        st.read_table(path)


@pytest.fixture(scope="module")
def model() -> VisionModel:
    return st.load_model("timm/test_vit2", weights=str(VIT), device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(2)
    for i, (height, width) in enumerate([(200, 180), (160, 260), (300, 300)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


def test_a_model_records_images_however_they_are_given(model: VisionModel, photos: list[Path]) -> None:
    assert repr(model) == (
        "VisionModel(timm/test_vit2, 160 x 160 pixels, 8 layers, the last 100 patches x 64, float32 on cpu)"
    )
    acts_npd = model.record(photos, layer=7)
    assert acts_npd.shape == (3, 100, 64) and acts_npd.dtype == torch.float32
    pixels = [torch.from_numpy(model.outline.preprocess.pixels(Image.open(photo)).copy()) for photo in photos]
    expected = model.acts(torch.stack(pixels), [7])[7].patches
    torch.testing.assert_close(acts_npd, expected)
    opened = [Image.open(photo) for photo in photos]
    for given in (opened, list(map(np.asarray, opened)), list(map(str, photos)), tuple(photos)):
        torch.testing.assert_close(model.record(given), expected)
    torch.testing.assert_close(model.record(photos[1], layer=-1), expected[1:2])
    acts_npd.requires_grad_()  # no inference tensor: gradients can flow from here
    (acts_npd * acts_npd).sum().backward()


def test_a_native_grid_takes_images_of_different_aspects(photos: list[Path]) -> None:
    model = st.load_model("timm/test_vit2", weights=VIT, grid=96, device="cpu")
    together = model.record(photos, layer=3)
    torch.testing.assert_close(together, torch.cat([model.record(photo, layer=3) for photo in photos]))
    heat = np.zeros(96, np.float32)
    heat[-1] = 1
    assert st.overlay(photos[1], heat, model).size == (12 * 16, 8 * 16)


def sae_of(model: VisionModel, **changed: object) -> st.SAE:
    d, s = 64, 20
    draw = torch.Generator().manual_seed(0)
    w_enc = torch.randn(d, s, generator=draw)
    sae = st.SAE(SAEConfig(d, s, "topk", 4), w_enc, torch.zeros(s), w_enc.T.contiguous(), torch.zeros(d))
    trained_on = {**model.source(), "layer": 7, "tokens": 9, **changed}
    return with_origin(TrainedScorer("sae", sae, Provenance.of(SCORERS, "train-sae", {}), trained_on))


def test_a_new_image_is_encoded_in_one_call(model: VisionModel, photos: list[Path]) -> None:
    sae = sae_of(model)
    expected = sae.encode(model.record(photos, layer=7))
    torch.testing.assert_close(st.encode_image(photos, model, sae), expected)
    torch.testing.assert_close(st.encode_image(photos[0], model, sae), expected[0])
    unknown = st.SAE(sae.config, sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
    torch.testing.assert_close(st.encode_image(photos[0], model, unknown, layer=7), expected[0])
    with pytest.raises(UsageError, match="`layer`: the SAE does not say which layer"):
        st.encode_image(photos[0], model, unknown)
    for change, said in (({"weights": "0"}, "weights"), ({"preprocess": {"size": [1, 1]}}, "preprocess")):
        with pytest.raises(UserError, match=f"trained on other activations than the model gives: {said}"):
            st.encode_image(photos[0], model, sae_of(model, **change))
    with pytest.raises(UserError, match="layer: 7 against 6"):
        st.encode_image(photos[0], model, sae, layer=6)


def test_an_overlay_is_the_drawing_of_render_visuals(model: VisionModel, photos: list[Path]) -> None:
    heat = torch.zeros(100)
    heat[[3, 40]] = torch.tensor([1.0, 4.0])
    pixels = model.outline.preprocess.pixels(Image.open(photos[0]))
    expected = with_heat(pixels, heat.numpy().reshape(10, 10), 4.0)
    found = st.overlay(photos[0], heat, model)
    assert isinstance(found, Image.Image)
    np.testing.assert_array_equal(np.asarray(found), expected)
    np.testing.assert_array_equal(np.asarray(st.overlay(photos[0], heat.view(10, 10), model)), expected)
    other = np.asarray(st.overlay(photos[0], heat, model, largest=40.0))
    np.testing.assert_array_equal(other, with_heat(pixels, heat.numpy().reshape(10, 10), 40.0))
    assert (np.asarray(found) != pixels).any(axis=2).sum() == 2 * 16 * 16
    with pytest.raises(UsageError, match="`heat`: 97 values make no grid"):
        st.overlay(photos[0], heat[:97], model)


def test_what_is_no_image_is_said(model: VisionModel, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no image")
    for given, said in (
        (tmp_path / "absent.png", "no such file; expected an image"),
        (tmp_path / "broken.png", "not an image that can be decoded"),
        (np.zeros((4, 4, 3)), "an array float64"),
    ):
        with pytest.raises(UserError, match=said):
            model.record(given)
    with pytest.raises(UserError, match="expected the weights of timm/test_vit2"):
        st.load_model("timm/test_vit2", weights=tmp_path / "absent.safetensors")
    with pytest.raises(UsageError, match="`precision` half"):
        st.load_model("timm/test_vit2", weights=VIT, precision="half")
