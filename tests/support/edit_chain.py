"""A small data set with masks through the whole chain: shards of three blocks, an SAE, heads, probes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from in_process import runner
from PIL import Image
from tiny_models import VIT, random_image, save_timm_weights

from dump_acts.cli import app as dump_app
from encode_acts.cli import app as encode_app
from fit_heads.cli import app as heads_app
from fit_probes.cli import app as probes_app
from train_sae.cli import app as train_app

N = {"train": 14, "test": 6}
LAYER, CLASSES = 2, 4


@dataclass(frozen=True)
class Chain:
    """Files of the chain, below a folder; `edit` is what all commands begin with."""

    folder: Path
    weights: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def edit(self) -> list[object]:
        return [
            *(self / "images", "--weights", self.weights, "--test", self / "acts/test", "--train", self / "acts/train"),
            *("--scorer", self / "sae.h5", "--resamples", 50),
        ]  # fmt: skip


def make_chain(folder: Path) -> Chain:
    weights = save_timm_weights(folder / "vit.pth")
    table = []
    for split, n in N.items():
        for kind in ("images", "annotations"):
            (folder / "images" / kind / split).mkdir(parents=True)
        for i in range(n):
            image = random_image(100 * (split == "test") + i, 60, 80)
            image.save(folder / "images/images" / split / f"{i:02d}.png")
            bright = np.asarray(image.convert("L"), int) // 64
            Image.fromarray(bright.astype(np.uint8)).save(
                folder / "images/annotations" / split / f"{i:02d}.png"
            )
            red, green, _ = np.asarray(image).mean((0, 1))
            table.append([f"images/{split}/{i:02d}.png", int(red > 128), int(green > red) if i else ""])
        dump = ["--model", VIT, "--weights", weights, "--layers", "2,4,5", "--cls", "--workers", 0]
        runner("dump-acts", dump_app)(
            folder / "images", "--split", split, *dump, "--out", folder / "acts" / split
        )
    pd.DataFrame(table, columns=["path", "red", "green"]).to_csv(folder / "traits.csv", index=False)
    acts = folder / "acts"
    splits = ["--train", acts / "train", "--test", acts / "test"]
    sae = ["--d-sae", 48, "--k", 4, "--tokens", "20k", "--lr", "3e-3", "--batch-size", 256, "--layer", LAYER]
    runner("train-sae", train_app)(acts / "train", *sae, "--out", folder / "sae.h5")
    fit = runner("fit-heads", heads_app)
    names = folder / "names.txt"
    names.write_text("".join(f"shade {i}\n" for i in range(CLASSES)))
    patches = ["--labels", "patch", "--l2", "1e-2", "--class-names", names]
    fit(*splits, *patches, "--layer", 5, "--out", folder / "patches.h5")
    fit(*splits, *patches, "--layer", LAYER, "--out", folder / "probe.h5")
    traits = ["--labels", folder / "traits.csv", "--l2", "1e-1"]
    for tokens in ("mean", "cls"):
        fit(*splits, *traits, "--layer", 5, "--tokens", tokens, "--out", folder / f"{tokens}.h5")
    fit(*splits, *traits, "--layer", LAYER, "--tokens", "cls", "--out", folder / "cls-here.h5")
    for split in N:
        runner("encode-acts", encode_app)(
            acts / split, "--layer", LAYER, "--scorer", folder / "sae.h5", "--out", folder / "latents" / split
        )
    latents = ["--train", folder / "latents/train", "--test", folder / "latents/test"]
    runner("fit-probes", probes_app)(
        *latents, "--labels", "patch", "--class-names", names, "--out", folder / "probes"
    )
    return Chain(folder, weights)
