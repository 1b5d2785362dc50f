"""A folder as edit-latents writes it, of made-up numbers: effects.csv, fidelity.csv and predictions-NNN.npz."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from saetools.files.edit_tables import (
    CONTROLS,
    DRAWN,
    EFFECT_COLUMNS,
    FIDELITY_COLUMNS,
    INPUTS,
    MEASURES,
    NONE,
    SHARES,
)
from saetools.files.formats import EDIT_EFFECTS, EDIT_FIDELITY, EDIT_PREDICTIONS
from saetools.files.npz import write_npz
from saetools.files.provenance import Provenance
from saetools.files.tables import write_csv

AMOUNTS = (-2.0, 0.0, 1.0, 2.0)
SETTINGS = {"operation": "scale", "model": "timm/test", "layer": 8, "scorer": "0123456789abcdef" * 2, "head": "model",
            "where": "firing"}  # fmt: skip


def effects_table(
    pairs: Sequence[tuple[int, str]],
    amounts: Sequence[float] = AMOUNTS,
    controls: Sequence[str] = CONTROLS,
    operation: str = "scale",
    seed: int = 0,
) -> pd.DataFrame:
    """A row for each pair, amount and control: the latent itself does more the further its amount is from 1."""
    draw = np.random.default_rng(seed)
    rows = []
    for latent, target in pairs:
        for amount in amounts:
            for control in controls:
                drawn = 3 if control.startswith("random") else 1
                away = 2.0 if control == "reconstruction" else abs(amount - 1)
                dose = np.tanh(away / 2) * (0.9 if control == NONE else 0.25)
                row: dict[str, Any] = {
                    "latent": latent, "target": target, "operation": operation, "amount": amount, "control": control,
                    "draws": drawn, "images": 40, "patches": 900, "relative_change": abs(amount - 1) / 10,
                }  # fmt: skip
                for name in MEASURES:
                    scale = {"target_changed": 1.0, "target_logit": -6.0}.get(name, 0.2)
                    steady = control == "reconstruction"  # the same at all amounts
                    value = scale * dose * (0.8 if steady else draw.uniform(0.7, 1.0))
                    width = draw.uniform(0.01, 0.06)
                    row |= {name: value, f"{name}_low": value - width, f"{name}_high": value + width}
                    if name in SHARES:
                        row[f"{name}_low"] = max(0.0, value - width)
                for name in DRAWN:
                    spread = 0.2 * abs(row[name]) * (drawn > 1)
                    row |= {f"{name}_draw_min": row[name] - spread, f"{name}_draw_max": row[name] + spread}
                rows.append(row)
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def write_effects(path: Path, table: pd.DataFrame, settings: Mapping[str, Any] = SETTINGS) -> Path:
    write_csv(path, table, Provenance.of(EDIT_EFFECTS, "edit-latents", dict(settings)))
    return path


def fidelity_table() -> pd.DataFrame:
    rows = []
    for number, name in enumerate(INPUTS):
        row: dict[str, Any] = {"input": name, "images": 40, "rows": 400}
        measured = {"accuracy": 0.9 - number / 5, "cross_entropy": 0.3 + number}
        if name == "reconstruction":
            measured["ce_recovered"] = 0.9
        for column, value in measured.items():
            row |= {column: value, f"{column}_low": value - 0.05, f"{column}_high": value + 0.05}
        rows.append(row)
    return pd.DataFrame(rows, columns=FIDELITY_COLUMNS)


def predictions(
    latent: int, target: str, tokens: str = "patches", link: str = "softmax", seed: int = 0
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and arrays of one file: 5 images, of which the last has a smaller grid."""
    draw = np.random.default_rng([seed, latent])
    names, controls = ["sky", "car", "tree"], [NONE, "random-direction", "diff-means"]
    n, p, c, k, a = 5, 12, len(names), len(controls), len(AMOUNTS)
    settings = {
        **SETTINGS, "latent": latent, "target": target, "amounts": list(AMOUNTS), "controls": controls,
        "names": names, "link": link, "tokens": tokens, "preprocess": {"size": [30, 40]},
    }  # fmt: skip
    grid = np.array([[3, 4]] * (n - 1) + [[2, 4]], np.int16)
    is_patch = np.arange(p) < grid.prod(1)[:, None]
    value = np.where(is_patch, np.maximum(draw.normal(size=(n, p)), 0), 0).astype(np.float16)
    arrays = {
        "path": np.array([f"images/{i}.jpg" for i in range(n)]),
        "digest": np.array([f"{i:032x}" for i in range(n)]),
        "grid": grid,
        "value": value,
        "edited": value > 0,
    }
    if tokens == "patches":
        arrays["label"] = np.where(is_patch, draw.integers(-1, c, (n, p)), -1).astype(np.int16)
        arrays["before"] = np.where(is_patch, draw.integers(0, c, (n, p)), -1).astype(np.int16)
        arrays["after"] = np.where(is_patch, draw.integers(0, c, (k, a, n, p)), -1).astype(np.int16)
        return settings, arrays
    classes = draw.integers(-1, c, n).astype(np.int16)
    arrays["label"] = classes if link == "softmax" else draw.integers(-1, 2, (n, c)).astype(np.int8)
    arrays["before"] = draw.normal(size=(n, c)).astype(np.float32)
    arrays["after"] = draw.normal(size=(k, a, n, c)).astype(np.float32)
    return settings, arrays


def write_predictions(path: Path, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    write_npz(path, Provenance.of(EDIT_PREDICTIONS, "edit-latents", dict(settings)), arrays)
    return path


def write_edits(folder: Path, tokens: str = "patches", link: str = "softmax") -> Path:
    """Two pairs of latent and target, and all three kinds of files."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(3, "car"), (17, "tree")]
    write_effects(folder / "effects.csv", effects_table(pairs))
    settings = {name: value for name, value in SETTINGS.items() if name not in ("operation", "where")}
    provenance = Provenance.of(EDIT_FIDELITY, "edit-latents", settings)
    write_csv(folder / "fidelity.csv", fidelity_table(), provenance)
    for number, (latent, target) in enumerate(pairs):
        path = folder / f"predictions-{number:03}.npz"
        write_predictions(path, *predictions(latent, target, tokens, link))
    return folder
