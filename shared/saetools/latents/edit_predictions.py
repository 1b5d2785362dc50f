"""What edits of a latent did to the predictions of some images: `saetools-edit-predictions` of docs/formats.md.

One file for each latent and target. Sizes: N images, P patches of the largest grid, C classes, K controls (`none`, the
latent's own edit, is one of them), A amounts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saetools.errors import UserError
from saetools.files.formats import EDIT_PREDICTIONS
from saetools.files.npz import read_npz
from saetools.files.provenance import Provenance

PATCHES, IMAGE = "patches", "image"
LOGISTIC = "logistic"
NONE = "none"  # the control that is none: the latent's own edit
UNKNOWN = -1  # a label that is not known, and what is beyond an image's grid
WORDS = ("target", "operation", "model", "scorer", "head", "where")
LISTS = ("amounts", "controls", "names")
CHOICES = {
    "operation": ("set", "scale", "add", "times-max"),
    "link": ("softmax", LOGISTIC),
    "tokens": (PATCHES, IMAGE),
}

# array -> (kind of its type, shape); of the last three the shape depends on `tokens` and `link`, see `_expected`
COMMON: Mapping[str, tuple[str, str]] = {
    "path": ("U", "N"),
    "digest": ("U", "N"),
    "grid": ("i", "N,2"),
    "value": ("f", "N,P"),
    "edited": ("b", "N,P"),
}


@dataclass(frozen=True)
class EditPredictions:
    """One latent's edits for one target, on the images that were kept.

    path {N}, digest {N} (of the picture, empty where it was not recorded), grid_n2 (rows and columns of patches)
    value_np float16: the latent before the edit. edited_np bool: the patches where it was edited
    tokens `patches`: label_n {N, P} (-1 unknown), before_n {N, P} and after_kan {K, A, N, P}: the predicted class,
        -1 beyond an image's grid
    tokens `image`: label_n {N} of classes or {N, C} of traits (-1 unknown), before_n {N, C} and after_kan
        {K, A, N, C}: logits
    """

    latent: int
    target: str
    operation: str
    amounts: list[float]
    controls: list[str]
    names: list[str]
    link: str
    tokens: str
    model: str
    layer: int
    scorer: str
    head: str
    preprocess: Mapping[str, Any]
    where: str
    provenance: Provenance
    path: list[str]
    digest: list[str]
    grid_n2: np.ndarray
    value_np: np.ndarray
    edited_np: np.ndarray
    label_n: np.ndarray
    before_n: np.ndarray
    after_kan: np.ndarray

    def __len__(self) -> int:
        return len(self.path)


def read_edit_predictions(path: Path) -> EditPredictions:
    """Read a file of kept predictions; raises UserError where it is broken, or of another format or version."""
    provenance, arrays = read_npz(path, EDIT_PREDICTIONS)
    settings = _settings(provenance.settings, path)
    sizes = {"C": len(settings["names"]), "K": len(settings["controls"]), "A": len(settings["amounts"])}
    for name, (kind, shape) in _expected(settings["tokens"], settings["link"]).items():
        if name not in arrays:
            raise _broken(path, f"it has no array {name!r}")
        _check_array(path, name, arrays[name], kind, shape.split(","), sizes)
    _check_values(path, settings, arrays)
    return EditPredictions(
        **settings,
        provenance=provenance,
        path=[str(one) for one in arrays["path"]],
        digest=[str(one) for one in arrays["digest"]],
        grid_n2=arrays["grid"].astype(np.int64),
        value_np=arrays["value"],
        edited_np=arrays["edited"],
        label_n=arrays["label"],
        before_n=arrays["before"],
        after_kan=arrays["after"],
    )


def _broken(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}; write it again with {EDIT_PREDICTIONS.made_by} --keep N")


def _settings(found: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings that EditPredictions has, checked."""
    wanted = ("latent", "layer", "preprocess", *LISTS, *WORDS, *CHOICES)
    if missing := [name for name in wanted if name not in found]:
        raise _broken(path, f"its settings have no {missing[0]!r}")
    right = {name: isinstance(found[name], str) for name in WORDS}
    right |= {name: _is_whole(found[name]) for name in ("latent", "layer")}
    right |= {name: isinstance(found[name], list) and len(found[name]) > 0 for name in LISTS}
    right["preprocess"] = isinstance(found["preprocess"], dict)
    right |= {name: found[name] in known for name, known in CHOICES.items() if isinstance(found[name], str)}
    right["amounts"] = right["amounts"] and all(map(_is_number, found["amounts"]))
    for name in ("names", "controls"):
        right[name] = right[name] and all(isinstance(one, str) for one in found[name])
    right["controls"] = right["controls"] and NONE in found["controls"]
    right["target"] = right["names"] and found["target"] in found["names"]
    for name in ("amounts", "controls"):
        right[name] = right[name] and len(set(found[name])) == len(found[name])
    if wrong := [name for name in wanted if not right.get(name, False)]:
        raise _broken(path, f"its setting {wrong[0]!r} is {str(found[wrong[0]])[:60]!r}, which is none")
    return {name: found[name] for name in dict.fromkeys(wanted)}


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    whole = isinstance(value, int | float) and not isinstance(value, bool)
    return whole and abs(value) <= sys.float_info.max


def _expected(tokens: str, link: str) -> dict[str, tuple[str, str]]:
    if tokens == PATCHES:
        return {**COMMON, "label": ("i", "N,P"), "before": ("i", "N,P"), "after": ("i", "K,A,N,P")}
    label = "N,C" if link == LOGISTIC else "N"
    return {**COMMON, "label": ("i", label), "before": ("f", "N,C"), "after": ("f", "K,A,N,C")}


def _check_array(
    path: Path, name: str, array: np.ndarray, kind: str, shape: list[str], sizes: dict[str, int]
) -> None:
    """Raise UserError unless the array is of the kind and shape; a size that is not known yet is learned from it."""
    if array.dtype.kind != kind:
        raise _broken(path, f"its array {name!r} is of type {array.dtype}")
    if array.ndim == len(shape):
        for letter, size in zip(shape, array.shape, strict=True):
            sizes.setdefault(letter, int(letter) if letter.isdigit() else size)
    expected = tuple(sizes.get(letter, 0) for letter in shape)
    if array.shape != expected:
        letters = " x ".join(shape)
        raise _broken(
            path, f"its array {name!r} has the shape {array.shape}, expected {expected} ({letters})"
        )


def _check_values(path: Path, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    n_classes, grid_n2 = len(settings["names"]), arrays["grid"].astype(np.int64)
    n_patches = arrays["value"].shape[1]
    if not len(grid_n2) or grid_n2.min() < 1 or grid_n2.prod(1).max() > n_patches:
        raise _broken(path, f"its grids are not those of images of 1 to {n_patches} patches")
    if len(set(arrays["path"].tolist())) != len(arrays["path"]):
        raise _broken(path, "an image is in it twice")
    inside_np = np.arange(n_patches) < grid_n2.prod(1)[:, None]
    if arrays["edited"][~inside_np].any():
        raise _broken(path, "patches outside of an image are edited")
    if not np.isfinite(arrays["value"].astype(np.float32)[inside_np]).all():
        raise _broken(path, "its array 'value' has values that are no numbers")
    highest = 1 if settings["tokens"] == IMAGE and settings["link"] == LOGISTIC else n_classes - 1
    label = arrays["label"][inside_np] if settings["tokens"] == PATCHES else arrays["label"]
    if label.size and not (label.min() >= UNKNOWN and label.max() <= highest):
        raise _broken(path, f"its labels are {label.min()} to {label.max()}, expected -1 to {highest}")
    for name in ("before", "after"):
        found = arrays[name]
        if settings["tokens"] == IMAGE:
            if not np.isfinite(found).all():
                raise _broken(path, f"its array {name!r} has logits that are no finite numbers")
            continue
        inside = found[..., inside_np]
        if not (inside.min() >= 0 and inside.max() < n_classes):
            raise _broken(path, f"its array {name!r} has classes that are none of its {n_classes} names")
