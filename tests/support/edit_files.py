"""Folders as edit-latents writes them, with planted effects: effects.csv, fidelity.csv and kept predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saetools.files.formats import EDIT_EFFECTS, EDIT_FIDELITY, EDIT_PREDICTIONS
from saetools.files.npz import write_npz
from saetools.files.provenance import Provenance
from saetools.files.tables import write_csv

MEASURES = ("target_changed", "other_changed", "target_logit", "other_logits", "kl",
            "accuracy_before", "accuracy_after")  # fmt: skip
OF_DRAWS = ("target_changed", "other_changed", "target_logit")
KEY = ("latent", "target", "operation", "amount", "control", "draws", "images", "patches", "relative_change")
COLUMNS = [
    *KEY,
    *(f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high")),
    *(f"{measure}_draw_{end}" for measure in OF_DRAWS for end in ("min", "max")),
]
# How much of what the latent does each control does.
STRENGTH = {
    "none": 1.0, "random-direction": 0.08, "random-latent": 0.15,
    "diff-means": 0.8, "probe": 0.6, "reconstruction": 0.05,
}  # fmt: skip


@dataclass(frozen=True)
class EditedSet:
    """What the edits of a folder have in common. value_npk {N, P, K}: the latents; label: {N, P} or {N} of classes,
    {N, C} of traits."""

    paths: Sequence[str]
    grid_n2: np.ndarray
    value_npk: np.ndarray
    label: np.ndarray
    names: Sequence[str]
    scorer: str
    preprocess: Mapping[str, Any]
    tokens: str = "patches"
    link: str = "softmax"
    operation: str = "scale"
    amounts: Sequence[float] = (-2.0, -1.0, 0.0, 1.0, 2.0)
    controls: Sequence[str] = ("none", "random-direction", "random-latent", "diff-means")
    model: str = "timm/test"
    layer: int = 3
    digests: Sequence[str] | None = None
    more: Mapping[str, Any] = field(default_factory=dict)  # settings to write in place of the right ones


def write_edits(folder: Path, pairs: Sequence[tuple[int, str]], of: EditedSet, seed: int = 0) -> Path:
    """Edits of (latent, target): patches or images of the target become others as far as the amount is from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for number, (latent, target) in enumerate(pairs):
        settings, arrays = edit_file(latent, target, of, rng)
        provenance = Provenance.of(EDIT_PREDICTIONS, "edit-latents", {**settings, **of.more})
        write_npz(folder / f"predictions-{number:03d}.npz", provenance, arrays)
        rows += _effects(latent, target, of, arrays)
    effects = pd.DataFrame(rows, columns=COLUMNS)
    write_csv(folder / "effects.csv", effects, Provenance.of(EDIT_EFFECTS, "edit-latents", {}))
    write_csv(folder / "fidelity.csv", _fidelity(), Provenance.of(EDIT_FIDELITY, "edit-latents", {}))
    return folder


def edit_file(
    latent: int, target: str, of: EditedSet, rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and arrays of one file of predictions."""
    settings = {
        "latent": latent, "target": target, "operation": of.operation, "amounts": list(of.amounts),
        "controls": list(of.controls), "names": list(of.names), "link": of.link, "tokens": of.tokens,
        "model": of.model, "layer": of.layer, "scorer": of.scorer, "head": "head.h5",
        "preprocess": dict(of.preprocess), "where": "firing",
    }  # fmt: skip
    value_np = of.value_npk[:, :, latent].astype(np.float16)
    n_images, n_patches = value_np.shape
    inside_np = np.arange(n_patches) < of.grid_n2.prod(1)[:, None]
    edited_np = (value_np > 0) & inside_np
    c = list(of.names).index(target)
    predict = _patches if of.tokens == "patches" else _logits
    before, after = predict(of, c, edited_np, inside_np, rng)
    digest = np.array([""] * n_images if of.digests is None else list(of.digests))
    return settings, {
        "path": np.array(list(of.paths)), "digest": digest, "grid": of.grid_n2.astype(np.int16), "value": value_np,
        "edited": edited_np, "before": before, "after": after,
        "label": of.label.astype(np.int8 if of.tokens == "image" and of.link == "logistic" else np.int16),
    }  # fmt: skip


def _away(amount: float) -> float:
    """How strong an edit of this amount is, 0 to 1; scaling by 1 changes nothing."""
    return min(abs(amount - 1) / 3, 1.0)


def _patches(
    of: EditedSet, c: int, edited_np: np.ndarray, inside_np: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    n_classes = len(of.names)
    mistaken_np = rng.random(of.label.shape) < 0.04
    before_np = np.where(mistaken_np | (of.label < 0), rng.integers(n_classes, size=of.label.shape), of.label)
    other_np = (before_np + 1 + rng.integers(n_classes - 1, size=of.label.shape)) % n_classes
    draw_np = rng.random(of.label.shape)
    after = np.empty((len(of.controls), len(of.amounts), *before_np.shape), np.int16)
    for k, control in enumerate(of.controls):
        for a, amount in enumerate(of.amounts):
            mine = draw_np if control == "none" else rng.random(of.label.shape)
            chance = STRENGTH[control] * _away(amount) * np.where(before_np == c, 0.95, 0.12)
            chance = np.where(edited_np, chance, 0.01 * STRENGTH[control] * _away(amount))
            after[k, a] = np.where(mine < chance, other_np, before_np)
    return np.where(inside_np, before_np, -1).astype(np.int16), np.where(inside_np, after, -1).astype(
        np.int16
    )


def _logits(
    of: EditedSet, c: int, edited_np: np.ndarray, inside_np: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    n_images, n_classes = len(of.paths), len(of.names)
    right = of.label == 1 if of.link == "logistic" else of.label[:, None] == np.arange(n_classes)
    before_nc = (
        4.0 * right - (2.0 if of.link == "logistic" else 0.0) + rng.normal(0, 0.7, (n_images, n_classes))
    )
    share_n = edited_np.sum(1) / np.maximum(inside_np.sum(1), 1)
    after = np.empty((len(of.controls), len(of.amounts), n_images, n_classes))
    for k, control in enumerate(of.controls):
        direction_c = rng.normal(0, 0.4, n_classes)
        if control in ("none", "diff-means", "probe"):
            direction_c[c] = 5
        for a, amount in enumerate(of.amounts):
            moved_n = STRENGTH[control] * (amount - 1) * np.minimum(12 * share_n, 1) / 2
            after[k, a] = before_nc + moved_n[:, None] * direction_c
    return before_nc.astype(np.float32), after.astype(np.float32)


def _effects(
    latent: int, target: str, of: EditedSet, arrays: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Rows of effects.csv as the kept images have them, with made-up intervals."""
    c, patches = list(of.names).index(target), of.tokens == "patches"
    before, after = arrays["before"], arrays["after"]
    logistic = not patches and of.link == "logistic"
    was = before if patches else before > 0 if logistic else before.argmax(1)
    valid = was >= 0 if patches else np.ones(was.shape, bool)
    of_target = np.broadcast_to(np.arange(len(of.names)) == c, was.shape) if logistic else was == c
    rows = []
    for k, control in enumerate(of.controls):
        for a, amount in enumerate(of.amounts):
            now = after[k, a] if patches else after[k, a] > 0 if logistic else after[k, a].argmax(1)
            row: dict[str, Any] = {
                "latent": latent, "target": target, "operation": of.operation, "amount": amount, "control": control,
                "draws": 3 if control.startswith("random") else 1, "images": int(arrays["edited"].any(1).sum()),
                "patches": int(arrays["edited"].sum()), "relative_change": 0.1 * STRENGTH["none"] * _away(amount),
            }  # fmt: skip
            shift = 0.0 if patches else float((after[k, a] - before)[:, c].mean())
            found = {
                "target_changed": _share(of_target & valid & (was > 0 if logistic else valid), was != now),
                "other_changed": _share(~of_target & valid, was != now),
                "target_logit": -3 * STRENGTH[control] * _away(amount) if patches else shift,
                "other_logits": 0.1 * STRENGTH[control] * _away(amount),
                "kl": 0.5 * STRENGTH[control] * _away(amount),
                "accuracy_before": 0.9,
                "accuracy_after": 0.9 - 0.1 * STRENGTH[control] * _away(amount),
            }
            for name, value in found.items():
                low, high = value - 0.1 * abs(value), value + 0.1 * abs(value)
                row |= {name: value, f"{name}_low": low, f"{name}_high": min(high, 1) if high > 0 else high}
                if name in OF_DRAWS:
                    wide = 0.3 * abs(value) if row["draws"] > 1 else 0.0
                    row |= {f"{name}_draw_min": value - wide, f"{name}_draw_max": value + wide}
            rows.append(row)
    return rows


def _share(of: np.ndarray, changed: np.ndarray) -> float:
    return float((of & changed).sum() / of.sum()) if of.any() else float("nan")


def _fidelity() -> pd.DataFrame:
    names = ["accuracy", "cross_entropy", "ce_recovered"]
    rows = []
    for place, one in enumerate(("x", "reconstruction", "mean", "zero")):
        row: dict[str, Any] = {"input": one, "images": 40, "rows": 40}
        for name in names:
            value = 0.9 - 0.2 * place if name != "ce_recovered" or one == "reconstruction" else np.nan
            row |= {name: value, f"{name}_low": value - 0.01, f"{name}_high": value + 0.01}
        rows.append(row)
    return pd.DataFrame(rows)
