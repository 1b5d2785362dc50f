"""Small files of edits: effects.csv with doses and controls of one's choice, and a folder as `edit_files` writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from edit_files import EditedSet, edit_file, write_edits

from saetools.files.edit_tables import CONTROLS, DRAWN, EFFECT_COLUMNS, MEASURES, NONE, SHARES
from saetools.files.formats import EDIT_EFFECTS, EDIT_PREDICTIONS
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


def small_set(tokens: str = "patches", link: str = "softmax") -> EditedSet:
    """5 images, of which the last has a smaller grid, and 20 latents."""
    draw = np.random.default_rng(0)
    grid_n2 = np.array([[3, 4]] * 4 + [[2, 4]])
    value_npk = np.where(
        (np.arange(12) < grid_n2.prod(1)[:, None])[..., None], draw.normal(size=(5, 12, 20)), 0
    )
    label = draw.integers(-1, 3, (5, 12)) if tokens == "patches" else draw.integers(-1, 3, 5)
    if link == "logistic":
        label = draw.integers(-1, 2, (5, 3))
    return EditedSet(
        [f"images/{i}.jpg" for i in range(5)], grid_n2, value_npk, label, ["sky", "car", "tree"], "5" * 32,
        {"size": [30, 40]}, tokens, link,
    )  # fmt: skip


def write_small_edits(folder: Path, tokens: str = "patches", link: str = "softmax") -> Path:
    """All files of edits of two latents."""
    return write_edits(folder, [(3, "car"), (17, "tree")], small_set(tokens, link))


def write_predictions(path: Path, settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Path:
    write_npz(path, Provenance.of(EDIT_PREDICTIONS, "edit-latents", dict(settings)), arrays)
    return path


def predictions(
    latent: int, target: str, tokens: str = "patches", link: str = "softmax"
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Settings and arrays of one file."""
    return edit_file(latent, target, small_set(tokens, link), np.random.default_rng(latent))
