"""render-visuals page --edits as files: what is in the chunks, how large they are, and which edits are refused."""

from __future__ import annotations

import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from edit_files import EditedSet, write_edits
from in_process import runner
from pictured_latents import CROPPED, write_images, write_pictured
from PIL import Image
from processes import error_lines

from render_visuals.cli import app
from saetools.latents.edit_predictions import read_edit_predictions
from saetools.vision.pictures import picture_digest

N, P, K = 12, 16, 20
NAMES = ["road", "car", "tree", "sky"]
PAIRS = [(3, "car"), (7, "tree"), (3, "sky")]
SCORER = "5" * 32
render = runner("render-visuals", app)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str], np.ndarray]:
    """A folder with images, and latents of all but the last four; the paths; and the latents {N, P, K}."""
    folder = tmp_path_factory.mktemp("made")
    paths = write_images(folder / "root", [(44, 40)] * N)
    rng = np.random.default_rng(0)
    f_npk = (rng.lognormal(0, 0.5, (N, P, K)) * (rng.random((N, P, K)) < 0.4)).astype(np.float32)
    write_pictured(folder / "latents", f_npk[:-4], paths[:-4], [(4, 4)] * (N - 4), CROPPED, scorer=SCORER)
    return folder, paths, f_npk


def edited_set(made: tuple[Path, list[str], np.ndarray], **changes: Any) -> EditedSet:
    """The last eight images: four that the page shows anyway, and four others."""
    folder, paths, f_npk = made
    digests = []
    for path in paths[4:]:
        with Image.open(folder / "root" / path) as image:
            digests.append(picture_digest(image.convert("RGB")))
    label = np.random.default_rng(1).integers(-1, len(NAMES), (N - 4, P))
    of = EditedSet(
        paths[4:], np.full((N - 4, 2), 4), f_npk[4:], label, NAMES, SCORER, CROPPED.to_settings(),
        amounts=(2.0, 0.0, -1.5), controls=("probe", "none", "random-direction"), digests=digests,
    )  # fmt: skip
    return replace(of, **changes)


def page(
    made: tuple[Path, list[str], np.ndarray], edits: Path, out: Path, *options: Any, code: int = 0
) -> str:
    folder = made[0]
    return render(
        "page", folder / "latents", "--images", folder / "root", "--edits", edits, "--out", out, "--workers", 1,
        *options, code=code,
    ).stderr  # fmt: skip


def read_chunk(site: Path, name: str) -> Any:
    text = (site / "data" / f"{name}.js").read_text()
    found = re.fullmatch(r'saetools\.put\("([^"]+)",(.*)\);\n', text, re.DOTALL)
    assert found is not None and found[1] == name

    def array(value: dict[str, Any]) -> Any:
        packed = value.keys() == {"t", "b"}
        return np.frombuffer(base64.b64decode(value["b"]), f"<{value['t']}") if packed else value

    return json.loads(found[2], object_hook=array)


def test_patches_in_the_chunks(made: tuple[Path, list[str], np.ndarray], tmp_path: Path) -> None:
    write_edits(tmp_path / "edits", PAIRS, edited_set(made))
    page(made, tmp_path / "edits", tmp_path / "site")
    about = read_chunk(tmp_path / "site", "about")["edits"]
    amounts, controls = [-1.5, 0.0, 2.0], ["none", "random-direction", "probe"]
    assert about == {"pairs": [list(pair) for pair in PAIRS], "amounts": amounts, "n_images": 8}
    common = read_chunk(tmp_path / "site", "edits")
    assert (common["amounts"], common["controls"], common["names"]) == (amounts, controls, NAMES)
    assert common["path"] == made[1][4:] and common["on_page"] == [4, 5, 6, 7, -1, -1, -1, -1]
    for file in common["file"]:
        with Image.open(tmp_path / "site" / file) as image:
            assert image.size == (32, 32)
    effects = pd.read_csv(tmp_path / "edits/effects.csv")
    for i, (latent, target) in enumerate(PAIRS):
        known = read_edit_predictions(tmp_path / f"edits/predictions-{i:03d}.npz")
        chunk = read_chunk(tmp_path / "site", f"edits/{i:04d}")
        assert chunk["before"].dtype == np.uint8
        np.testing.assert_array_equal(chunk["before"].reshape(8, P), known.before_n)
        np.testing.assert_array_equal(chunk["edited"].reshape(8, P), known.edited_np)
        np.testing.assert_array_equal(chunk["value"].reshape(8, P), known.value_np)
        np.testing.assert_array_equal(chunk["label"].reshape(8, P), known.label_n % 256)
        after = chunk["after"].reshape(3, 3, 8, P)
        for k, control in enumerate(controls):
            for a, amount in enumerate(amounts):
                mine = known.after_kan[known.controls.index(control), known.amounts.index(amount)]
                np.testing.assert_array_equal(after[k, a], mine)
                row = effects.query(
                    f"latent == {latent} and target == '{target}' and amount == {amount} and control == '{control}'"
                )
                for name, column in common["effects"].items():
                    expected = np.float32(row[name].iloc[0])
                    np.testing.assert_array_equal(column.reshape(3, 3, 3)[i, k, a], expected)


def test_grids_that_differ_and_many_classes(made: tuple[Path, list[str], np.ndarray], tmp_path: Path) -> None:
    """Beyond an image's grid there is no class, also where classes need two bytes."""
    names = [f"class {i}" for i in range(300)]
    grid_n2 = np.array([[4, 4], [2, 3], [4, 4], [1, 1], [3, 3], [4, 2], [4, 4], [2, 2]])
    label = np.random.default_rng(0).integers(0, 300, (8, P))
    of = edited_set(made, names=names, grid_n2=grid_n2, label=label)
    write_edits(tmp_path / "edits", [(3, "class 299")], of)
    page(made, tmp_path / "edits", tmp_path / "site")
    chunk = read_chunk(tmp_path / "site", "edits/0000")
    known = read_edit_predictions(tmp_path / "edits/predictions-000.npz")
    inside = np.arange(P) < grid_n2.prod(1)[:, None]
    before = chunk["before"].reshape(8, P)
    assert before.dtype == np.uint16 and before[inside].max() > 255
    np.testing.assert_array_equal(before[inside], known.before_n[inside])
    assert (before[~inside] == 65535).all() and (chunk["value"].reshape(8, P)[~inside] == 0).all()


@pytest.mark.parametrize("link", ["softmax", "logistic"])
def test_probabilities_in_the_chunks(
    made: tuple[Path, list[str], np.ndarray], tmp_path: Path, link: str
) -> None:
    """Against the plain formulas: the classes that matter are there, with their probabilities."""
    names = [f"kind {i}" for i in range(40)]
    rng = np.random.default_rng(2)
    label = rng.integers(-1, 40, 8) if link == "softmax" else rng.integers(-1, 2, (8, 40))
    write_edits(
        tmp_path / "edits",
        [(3, "kind 5")],
        edited_set(made, names=names, label=label, tokens="image", link=link),
    )
    page(made, tmp_path / "edits", tmp_path / "site")
    chunk = read_chunk(tmp_path / "site", "edits/0000")
    known = read_edit_predictions(tmp_path / "edits/predictions-000.npz")
    order_k, order_a = [1, 2, 0], [2, 1, 0]
    after = known.after_kan[order_k][:, order_a].astype(float)
    before = known.before_n.astype(float)

    def p(logits: np.ndarray) -> np.ndarray:
        if link == "logistic":
            return 1 / (1 + np.exp(-logits))
        return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)

    kept_after = chunk["after"].reshape(3, 3, -1)
    for n in range(8):
        here = slice(chunk["ptr"][n], chunk["ptr"][n + 1])
        classes = chunk["class"][here]
        np.testing.assert_allclose(chunk["before"][here], p(before)[n, classes], rtol=1e-3, atol=1e-7)
        np.testing.assert_allclose(kept_after[:, :, here], p(after)[:, :, n, classes], rtol=1e-3, atol=1e-7)
        assert 5 in classes
        for k in range(3):
            for a in range(3):
                change = np.abs(p(after)[k, a, n] - p(before)[n])
                assert np.delete(change, classes).max(initial=0) <= np.sort(change)[-5]
                now = chunk["predicted_after"].reshape(3, 3, 8)[k, a, n]
                if link == "softmax":
                    assert now == after[k, a, n].argmax() and now in classes
                else:
                    turned = (after[k, a, n] > 0) != (before[n] > 0)
                    assert now == (after[k, a, n, 5] > 0)
                    assert chunk["turned"].reshape(3, 3, 8)[k, a, n] == turned.sum() - turned[5]
    label_n = label if link == "softmax" else label[:, 5]
    np.testing.assert_array_equal(chunk["label"], label_n % 256)


def test_made_again_and_without(made: tuple[Path, list[str], np.ndarray], tmp_path: Path) -> None:
    """Again: nothing. Other edits: written anew. Without: neither chunks nor their images are left."""
    edits, site = tmp_path / "edits", tmp_path / "site"
    write_edits(edits, PAIRS, edited_set(made))
    page(made, edits, site)
    before = {path: path.stat().st_mtime_ns for path in site.rglob("*")}
    assert len(list(site.glob("images/edits/*.jpg"))) == 4
    page(made, edits, site)
    assert {path: path.stat().st_mtime_ns for path in site.rglob("*")} == before
    write_edits(edits, PAIRS, edited_set(made), seed=5)
    page(made, edits, site)
    known = read_edit_predictions(edits / "predictions-000.npz")
    np.testing.assert_array_equal(read_chunk(site, "edits/0000")["before"].reshape(8, P), known.before_n)
    folder = made[0]
    render("page", folder / "latents", "--images", folder / "root", "--out", site, "--workers", 1)
    assert read_chunk(site, "about")["edits"] is None
    assert not (site / "data/edits.js").exists() and not list(site.glob("images/edits/*.jpg"))


def test_another_picture_under_its_name_is_refused(
    made: tuple[Path, list[str], np.ndarray], tmp_path: Path
) -> None:
    folder, paths, _ = made
    write_edits(tmp_path / "edits", PAIRS, edited_set(made))
    shutil.copytree(folder / "root", tmp_path / "root")
    Image.new("RGB", (44, 40)).save(tmp_path / "root" / paths[-1])
    done = render(
        "page", folder / "latents", "--images", tmp_path / "root", "--edits", tmp_path / "edits",
        "--out", tmp_path / "site", code=1,
    )  # fmt: skip
    assert f"{tmp_path / 'root' / paths[-1]}: it is not the picture that" in done.stderr
    (tmp_path / "root" / paths[-1]).unlink()
    done = render(
        "page", folder / "latents", "--images", tmp_path / "root", "--edits", tmp_path / "edits",
        "--out", tmp_path / "site", code=1,
    )  # fmt: skip
    assert "no such file" in done.stderr and "give --images the root" in done.stderr
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (
            {"scorer": "6" * 32},
            f"its edits are of other latents than LATENTS: scorer: '{SCORER}' against '6666",
        ),
        ({"model": "timm/other"}, "model: 'timm/test' against 'timm/other'"),
        ({"layer": 4}, "layer: 3 against 4"),
        ({"preprocess": {"size": [64, 64]}}, "of other latents than LATENTS: preprocess: "),
        ({"latent": K}, f"its latent is {K}, but these are 0 to {K - 1}"),
        ({"tokens": "cls"}, "its setting 'tokens' is 'cls'"),
    ],
)
def test_edits_of_something_else_are_refused(
    made: tuple[Path, list[str], np.ndarray], tmp_path: Path, more: dict[str, Any], says: str
) -> None:
    write_edits(tmp_path / "edits", PAIRS, edited_set(made, more=more))
    stderr = page(made, tmp_path / "edits", tmp_path / "site", code=1)
    stderr = stderr.replace(str(made[0] / "latents/latents-000000.npz"), "LATENTS")
    assert f"render-visuals: error: {tmp_path / 'edits/predictions-000.npz'}: " in stderr
    assert says in stderr
    assert not (tmp_path / "site").exists()


def test_folders_that_are_not_whole(
    made: tuple[Path, list[str], np.ndarray], tmp_path: Path, tool: Any
) -> None:
    """Exit code 1, and what to do; also as a real process."""
    edits = write_edits(tmp_path / "edits", PAIRS, edited_set(made))

    def refused(folder: Path) -> str:
        arguments = ("--images", made[0] / "root", "--edits", folder, "--out", tmp_path / "site")
        said = error_lines(render("page", made[0] / "latents", *arguments, code=1))
        assert not (tmp_path / "site").exists()
        return said

    process = tool("render-visuals", "page", made[0] / "latents", "--images", made[0] / "root", "--edits",
                   tmp_path / "none", "--out", tmp_path / "site", code=1)  # fmt: skip
    assert error_lines(process) == refused(tmp_path / "none")

    assert "no such folder; --edits is the folder that edit-latents wrote" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert (
        "it has no predictions-NNN.npz, which the page shows; run edit-latents again with --keep 40"
        in refused(tmp_path / "empty")
    )
    no_table = shutil.copytree(edits, tmp_path / "no-table")
    (no_table / "effects.csv").unlink()
    assert "effects.csv: no such file, but predictions-000.npz is there; run edit-latents again" in refused(
        no_table
    )
    # Of two runs: other amounts; the same edits on other images
    mixed = shutil.copytree(edits, tmp_path / "mixed")
    other = write_edits(tmp_path / "other", PAIRS, edited_set(made, amounts=(2.0, 0.0, -3.0)))
    shutil.copy(other / "predictions-001.npz", mixed)
    assert "predictions-001.npz: it is of another run than predictions-000.npz: amounts: " in refused(mixed)
    assert "it has no row of latent 3, target 'car', scale -1.5, control none" in refused_table(
        mixed, edits, other, refused
    )
    cut = shutil.copytree(edits, tmp_path / "cut")
    content = (cut / "predictions-002.npz").read_bytes()
    (cut / "predictions-002.npz").write_bytes(content[: len(content) // 2])
    assert "predictions-002.npz: " in refused(cut)


def refused_table(mixed: Path, edits: Path, other: Path, refused: Any) -> str:
    """The predictions of one run with the table of another."""
    for name in ("effects.csv", "effects.csv.json"):
        shutil.copy(other / name, mixed)
    shutil.copy(edits / "predictions-001.npz", mixed)
    return str(refused(mixed))


# --- size -----------------------------------------------------------------------------------------------


def test_a_page_of_32_edits_is_below_25_mb(tmp_path: Path) -> None:
    """40 images of 256 patches, 32 latents, 5 amounts, 3 controls beside the latent."""
    n, p, k = 40, 256, 32
    rng = np.random.default_rng(0)
    paths = write_images(tmp_path / "root", [(500, 400)] * n)
    preprocess = replace(CROPPED, size=[448, 448], resize=[448, 448])
    f_npk = (rng.random((n, p, k)) * (rng.random((n, p, k)) < 0.2)).astype(np.float32)
    write_pictured(tmp_path / "latents", f_npk, paths, [(16, 16)] * n, preprocess, scorer=SCORER)
    names = [f"class {i}" for i in range(150)]
    label = rng.integers(0, 150, (n, p))
    of = EditedSet(paths, np.full((n, 2), 16), f_npk, label, names, SCORER, preprocess.to_settings())
    assert (len(of.amounts), len(of.controls)) == (5, 4)
    write_edits(tmp_path / "edits", [(i, names[i]) for i in range(k)], of)
    render("page", tmp_path / "latents", "--images", tmp_path / "root", "--edits", tmp_path / "edits",
           "--out", tmp_path / "site")  # fmt: skip
    files = [path for path in (tmp_path / "site").rglob("*") if path.is_file()]
    assert len(list((tmp_path / "site/data/edits").iterdir())) == k
    assert sum(path.stat().st_size for path in files) < 25e6


def test_edits_of_a_head_of_1000_classes_are_below_25_mb(tmp_path: Path) -> None:
    """Only the classes that matter are kept: of each (latent, target) less than a 32nd."""
    rng = np.random.default_rng(0)
    n = 40
    paths = write_images(tmp_path / "root", [(44, 40)] * n)
    f_npk = (rng.random((n, P, 2)) * (rng.random((n, P, 2)) < 0.4)).astype(np.float32)
    write_pictured(tmp_path / "latents", f_npk, paths, [(4, 4)] * n, CROPPED, scorer=SCORER)
    names = [f"class {i}" for i in range(1000)]
    of = EditedSet(paths, np.full((n, 2), 4), f_npk, rng.integers(0, 1000, n), names, SCORER,
                   CROPPED.to_settings(), tokens="image")  # fmt: skip
    write_edits(tmp_path / "edits", [(0, "class 3")], of)
    render("page", tmp_path / "latents", "--images", tmp_path / "root", "--edits", tmp_path / "edits",
           "--out", tmp_path / "site")  # fmt: skip
    assert (tmp_path / "site/data/edits/0000.js").stat().st_size < 20e6 / 32
