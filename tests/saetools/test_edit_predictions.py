"""Kept predictions of edits: read as they were written, refused where something is amiss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edit_files import EditedSet, edit_file

from saetools.errors import UserError
from saetools.files.formats import EDIT_PREDICTIONS
from saetools.files.npz import write_npz
from saetools.files.provenance import Provenance
from saetools.latents.edit_predictions import read_edit_predictions

NAMES = ["road", "car", "tree"]
Change = Callable[[dict[str, Any], dict[str, np.ndarray]], Any]


def edited_set(tokens: str = "patches", link: str = "softmax") -> EditedSet:
    rng = np.random.default_rng(0)
    grid_n2 = np.array([[2, 3], [2, 2], [1, 6], [3, 2]])
    label = {"patches": rng.integers(-1, 3, (4, 6)), "softmax": np.array([0, 1, -1, 2])}
    label["logistic"] = rng.integers(-1, 2, (4, 3))
    return EditedSet(
        [f"images/{i}.png" for i in range(4)], grid_n2, rng.random((4, 6, 5)) - 0.3,
        label[tokens if tokens == "patches" else link], NAMES, "5" * 32, {"size": [32, 32]}, tokens, link,
    )  # fmt: skip


def write(path: Path, of: EditedSet, change: Change = lambda *_: None) -> dict[str, np.ndarray]:
    settings, arrays = edit_file(2, "car", of, np.random.default_rng(1))
    change(settings, arrays)
    write_npz(path, Provenance.of(EDIT_PREDICTIONS, "edit-latents", settings), arrays)
    return arrays


@pytest.mark.parametrize(
    ("tokens", "link"), [("patches", "softmax"), ("image", "softmax"), ("image", "logistic")]
)
def test_read_as_written(tmp_path: Path, tokens: str, link: str) -> None:
    of = edited_set(tokens, link)
    arrays = write(tmp_path / "p.npz", of)
    found = read_edit_predictions(tmp_path / "p.npz")
    assert (found.latent, found.target, found.operation, found.tokens, found.link) == (
        2, "car", "scale", tokens, link,
    )  # fmt: skip
    assert (found.amounts, found.controls, found.names) == (list(of.amounts), list(of.controls), NAMES)
    assert (found.model, found.layer, found.scorer, found.where) == ("timm/test", 3, "5" * 32, "firing")
    assert found.preprocess == {"size": [32, 32]}
    assert found.path == list(of.paths) and len(found) == 4 and found.digest == [""] * 4
    for mine, name in ((found.value_np, "value"), (found.edited_np, "edited"), (found.label_n, "label"),
                       (found.before_n, "before"), (found.after_kan, "after"), (found.grid_n2, "grid")):  # fmt: skip
        np.testing.assert_array_equal(mine, arrays[name])


def put(name: str, where: Any, value: Any) -> Change:
    return lambda _, arrays: arrays[name].__setitem__(where, value)


def has(name: str, value: Any) -> Change:
    return lambda settings, _: settings.update({name: value})


def array(name: str, make: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda _, arrays: arrays.update({name: make(arrays[name])})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda settings, _: settings.pop("where"), "its settings have no 'where'"),
        (lambda _, arrays: arrays.pop("edited"), "it has no array 'edited'"),
        (has("latent", -3), "its setting 'latent' is '-3'"),
        (has("latent", True), "its setting 'latent'"),
        (has("layer", "11"), "its setting 'layer'"),
        (has("target", "bus"), "its setting 'target' is 'bus'"),
        (has("operation", "multiply"), "its setting 'operation' is 'multiply'"),
        (has("link", 3), "its setting 'link'"),
        (has("tokens", "cls"), "its setting 'tokens'"),
        (has("names", []), "its setting 'names'"),
        (has("names", "car"), "its setting 'names'"),
        (has("controls", ["probe"]), "its setting 'controls'"),
        (has("controls", [["none"]]), "its setting 'controls'"),
        (has("amounts", [1.0, "2"]), "its setting 'amounts'"),
        (has("amounts", [1.0, 10**400]), "its setting 'amounts'"),
        (has("amounts", [1.0, 1]), "its setting 'amounts'"),
        (has("amounts", [1.0, 2.0]), "its array 'after' has the shape (4, 5, 4, 6), expected (4, 2, 4, 6)"),
        (has("preprocess", None), "its setting 'preprocess'"),
        (array("value", lambda a: a[:, :5]), "its array 'edited' has the shape (4, 6), expected (4, 5)"),
        (array("grid", lambda a: a[:3]), "its array 'grid' has the shape (3, 2), expected (4, 2)"),
        (array("before", lambda a: a.astype(float)), "its array 'before' is of type float64"),
        (array("label", lambda a: a[0]), "its array 'label' has the shape (6,)"),
        (array("after", lambda a: a[:, :, :, None]), "its array 'after' has the shape"),
        (put("grid", 0, [4, 2]), "its grids"),
        (put("grid", 0, [0, 2]), "its grids"),
        (put("path", 1, "images/0.png"), "an image is in it twice"),
        (put("edited", (1, 5), True), "patches outside of an image are edited"),
        (put("value", (0, 0), np.nan), "its array 'value' has values that are no numbers"),
        (put("label", (0, 0), 3), "its labels are -1 to 3, expected -1 to 2"),
        (put("before", (0, 0), -1), "its array 'before' has classes"),
        (put("after", (1, 2, 0, 0), 3), "its array 'after' has classes that are none of its 3 names"),
    ],
)
def test_what_is_amiss_is_refused(tmp_path: Path, change: Change, says: str) -> None:
    path = tmp_path / "p.npz"
    write(path, edited_set(), change)
    with pytest.raises(UserError) as raised:
        read_edit_predictions(path)
    assert str(raised.value).startswith(f"{path}: {says}")
    assert str(raised.value).endswith("write it again with edit-latents --keep N")


def test_logits_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "p.npz", edited_set("image"), put("after", (1, 0, 0, 0), np.inf))
    with pytest.raises(UserError, match="its array 'after' has logits that are no finite numbers"):
        read_edit_predictions(tmp_path / "p.npz")
    write(tmp_path / "p.npz", edited_set("image", "logistic"), put("label", (0, 0), 2))
    with pytest.raises(UserError, match="expected -1 to 1"):
        read_edit_predictions(tmp_path / "p.npz")
    with pytest.raises(UserError, match="no such file; expected saetools-edit-predictions"):
        read_edit_predictions(tmp_path / "none.npz")
    write(tmp_path / "p.npz", replace(edited_set(), names=["road", "car", "tree"]))
    read_edit_predictions(tmp_path / "p.npz")
