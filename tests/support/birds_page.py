"""A page of the drawn birds whose latents are known: each is a part of a bird in a colour, read from picture and mask.

Nothing is trained, so that it takes seconds and is the same on every machine.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from edit_files import EditedSet, write_edits
from in_process import runner
from pictured_latents import write_pictured
from PIL import Image

from render_visuals.cli import app
from saetools.files.formats import AP_TABLE, SCORERS
from saetools.files.provenance import Provenance
from saetools.files.tables import write_csv
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.vision.preprocess import Preprocess

ROOT = Path(__file__).resolve().parents[2]
PER_CLASS, SIDE, PIXELS = 3, 14, 224
SQUASHED = Preprocess([PIXELS, PIXELS], [PIXELS, PIXELS], "squash", "bilinear", [0.5] * 3, [0.5] * 3)
COLOURS = {
    "black": (40, 38, 40), "white": (235, 232, 225), "red": (190, 60, 45), "yellow": (225, 190, 70),
    "brown": (125, 90, 60), "blue": (80, 120, 175),
}  # fmt: skip
EVERYWHERE, DEAD = 12, 1  # latents of no part: in scattered patches; never active
N_IMAGES, N_LATENTS = 24 * PER_CLASS, 12 * len(COLOURS) + EVERYWHERE + DEAD
DEAD_LATENT = N_LATENTS - 1
EDITED = (15, 27, 59)  # latents
UID = "b" * 32  # of the SAE

render = runner("render-visuals", app)


def write_birds_page(folder: Path) -> Path:
    """Write birds, latents, an AP table and a random SAE into the folder, and the page of them; returns its folder."""
    birds = folder / "birds"
    command = [sys.executable, str(ROOT / "examples/birds/make_birds.py"), str(birds)]
    subprocess.run([*command, "--count", str(PER_CLASS)], check=True, capture_output=True)
    paths = [f"images/{line.split()[1]}" for line in (birds / "images.txt").read_text().splitlines()]
    parts = (birds / "segmentations/classes.txt").read_text().split()
    f_npk, labels_np = planted_latents(birds, paths, len(parts))
    grids = [(SIDE, SIDE)] * len(paths)
    write_pictured(folder / "latents", f_npk, paths, grids, SQUASHED, labels_np=labels_np, scorer=UID)
    weights = torch.randn(8, N_LATENTS, generator=torch.Generator().manual_seed(0))
    config, zeros = SAEConfig(8, N_LATENTS, "relu", 0), torch.zeros
    sae = SAE(config, weights, zeros(N_LATENTS), weights.T.contiguous(), zeros(8))
    source = {"model": "timm/test", "weights": "0" * 64, "hook": "test", "preprocess": SQUASHED.to_settings()}
    provenance = replace(Provenance.of(SCORERS, "test", {}), uid=UID)
    save_scorer(folder / "sae.h5", TrainedScorer("sae", sae, provenance, {**source, "layer": 3}))
    write_ap_table(folder / "ap.csv", parts)
    write_planted_edits(folder / "edits", f_npk, labels_np, paths, parts)
    options = ["--scorer", folder / "sae.h5", "--table", folder / "ap.csv", "--top", 12, "--workers", 1]
    options += ["--edits", folder / "edits"]
    options += ["--label-names", birds / "segmentations/classes.txt", "--title", "Drawn birds"]
    render("page", folder / "latents", "--images", birds, *options, "--out", folder / "site")
    return folder / "site"


def planted_latents(birds: Path, paths: list[str], n_parts: int) -> tuple[np.ndarray, np.ndarray]:
    """(latents {N, P, K}, patch labels {N, P}): share of the patch that is the part, if the part has the colour there.

    Rounded, with a little of each image's own, so that another rounding of the drawing changes no order.
    """
    colours_c3 = np.array(list(COLOURS.values()), float)
    rng = np.random.default_rng(0)
    n_known = (n_parts - 1) * len(COLOURS)
    f_npk = np.zeros((len(paths), SIDE * SIDE, n_known + EVERYWHERE + DEAD), np.float32)
    labels_np = np.zeros(f_npk.shape[:2], np.uint16)
    for n, path in enumerate(paths):
        with Image.open(birds / path) as image:
            rgb_p3 = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), float)
        colour_p = ((rgb_p3.reshape(-1, 1, 3) - colours_c3) ** 2).sum(2).argmin(1)
        mask = birds / path.replace("images/", "segmentations/", 1).replace(".jpg", ".png")
        with Image.open(mask) as image:
            part_hw = np.asarray(image)
        share_mp = np.stack([_share(part_hw == part) for part in range(n_parts)])
        labels_np[n] = share_mp.argmax(0)
        own = 1 + 0.3 * rng.random(f_npk.shape[2])
        for part in range(1, n_parts):
            for colour in range(len(COLOURS)):
                value_p = np.round(8 * share_mp[part]) / 8 * (colour_p == colour)
                k = (part - 1) * len(COLOURS) + colour
                f_npk[n, :, k] = 4 * value_p * own[k]
        some_pk = rng.random((SIDE * SIDE, EVERYWHERE)) < 0.002 * np.arange(1, EVERYWHERE + 1)
        f_npk[n, :, n_known:-DEAD] = some_pk * rng.lognormal(0, 0.5, some_pk.shape)
    return f_npk, labels_np


def _share(part_hw: np.ndarray) -> np.ndarray:
    """The share of each patch that is True, {P}."""
    picture = Image.fromarray(part_hw.astype(np.float32))
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()


def write_planted_edits(
    folder: Path, f_npk: np.ndarray, labels_np: np.ndarray, paths: list[str], parts: list[str]
) -> None:
    """Edits of EDITED latents, as of a head that names the part in each patch, on every third image."""
    some = slice(0, None, PER_CLASS)
    grid_n2 = np.full((len(paths[some]), 2), SIDE)
    labels = labels_np[some].astype(np.int16)
    of = EditedSet(paths[some], grid_n2, f_npk[some], labels, parts, UID, SQUASHED.to_settings())
    write_edits(folder, [(k, parts[1 + k // len(COLOURS)]) for k in EDITED], of)


def write_ap_table(path: Path, parts: list[str]) -> None:
    columns = ["scorer", "n_prototypes", "layer", "n_train", "trait", "prototype", "ap", "prevalence"]
    rows = []
    for part, name in enumerate(parts[1:]):
        for colour, word in enumerate(COLOURS):
            k = part * len(COLOURS) + colour
            ap = 0.35 + 0.6 * ((7 * k) % 72) / 72
            rows.append(["sae", N_LATENTS, 3, 48, f"has_{name}_color::{word}", k, ap, 0.05 + 0.01 * colour])
    write_csv(path, pd.DataFrame(rows, columns=columns), Provenance.of(AP_TABLE, "score-traits", {}))
