"""docs/own-images.md: its commands run as they stand, on images that people would have; and so does its sweep."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageDraw
from processes import BIN

ROOT = Path(__file__).resolve().parents[2]
MODEL = f"timm/test_vit2 --weights {shlex.quote(str(ROOT / 'examples/birds/vit.safetensors'))}"


def page_commands() -> str:
    text = (ROOT / "docs/own-images.md").read_text()
    return text.split("<!-- commands -->\n```bash\n")[1].split("```")[0]


def draw(root: Path, n: int = 160) -> Path:
    """Wings on paper beside a ruler: photos/, masks/ (1 and 3 are wings, 2 the ruler; every second one is RGB),
    specimens.csv with further columns, marks.csv with semicolons, absolute paths and a missing row.
    """
    rng = np.random.default_rng(0)
    for folder in ("photos", "masks"):
        (root / folder).mkdir(parents=True)
    specimens, marks = [], []
    for i in range(n):
        species, red = ("erato", "sara", "cydno")[i % 3], bool(rng.random() < 0.5)
        picture, mask = Image.new("RGB", (180, 150), (205, 205, 200)), Image.new("L", (180, 150))
        pen, mask_pen = ImageDraw.Draw(picture), ImageDraw.Draw(mask)
        for value, box in ((1, (20, 10, 90, 90)), (3, (92, 10, 160, 90)), (2, (10, 125, 150, 140))):
            mask_pen.rectangle(box, fill=value)
            pen.rectangle(box, fill=(250, 250, 235) if value == 2 else (40, 30 + 40 * (i % 3), 40))
        if red:
            pen.rectangle((40, 25, 75, 75), fill=(210, 40, 35))
        noisy = np.asarray(picture) + rng.normal(0, 6, (150, 180, 3))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(root / f"photos/{i:03d}.jpg", quality=92)
        (mask.convert("RGB") if i % 2 else mask).save(root / f"masks/{i:03d}.png")
        split = "test" if i % 4 == 0 else "train"
        specimens.append([f"photos/{i:03d}.jpg", species, f"masks/{i:03d}.png", "f", split])
        marks.append([root.resolve() / f"photos/{i:03d}.jpg", "yes" if red else "no", "J. M."])
    with (root / "specimens.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "target", "mask", "sex", "split"], *specimens])
    with (root / "marks.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=";").writerows([["path", "red mark", "observer"], *marks[1:]])
    return root


def bash(commands: str, folder: Path) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def with_settings(commands: str, **settings: str) -> str:
    """The commands with other values in their first lines."""
    for name, value in settings.items():
        commands, n = re.subn(
            rf"(?m)^((?:\w+=\S+ )*){name}=\S+", rf"\g<1>{name}={shlex.quote(value)}", commands
        )
        assert n == 1, name
    return commands


def check_outcome(
    folder: Path, done: subprocess.CompletedProcess[str], trait: str, classes: set[str]
) -> None:
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(folder / "ap.csv")
    assert set(table["scorer"]) == {"const", "random", "kmeans", "untrained", "sae"}
    best = table[table["trait"] == trait].set_index("scorer")["ap"]
    assert best["sae"] > best["const"] + 0.3  # the mark is drawn so that it cannot be missed
    assert set(pd.read_csv(folder / "probes/probes.csv")["class"]) == classes
    assert (folder / "page/index.html").is_file()
    assert f"| sae       | {trait}" in done.stderr


@pytest.mark.slow
def test_from_a_list_of_images_with_masks(tmp_path: Path) -> None:
    data = draw(tmp_path / "data")
    settings = {"images": str(data / "specimens.csv"), "traits": str(data / "marks.csv"), "layer": "7"}
    commands = with_settings(page_commands(), **settings).replace(
        "model=timm/vit_tiny_patch16_224", "model='MODEL'"
    )
    commands = commands.replace("MODEL", MODEL).replace("--per-trait", "--per-trait --missing-rows unknown")
    foreground = "--patch-label prefer-foreground --background 0,2"
    commands = commands.replace("--split-validation 0.25", f"--split-validation 0.25 {foreground}")
    commands = commands.replace("train-sae acts", "train-sae --exclude-labels 0,2 acts")
    done = bash(commands, tmp_path / "out")
    check_outcome(tmp_path / "out", done, "red mark", {"erato", "sara", "cydno"})
    assert "the best latent of each class has an AP of" in done.stderr


@pytest.mark.slow
def test_from_folders_of_classes_that_are_the_traits(tmp_path: Path) -> None:
    data = draw(tmp_path / "data")
    for row in pd.read_csv(data / "specimens.csv").itertuples():
        folder = tmp_path / "set" / row.split / row.target
        folder.mkdir(parents=True, exist_ok=True)
        (data / row.path).rename(folder / Path(row.path).name)
    commands = with_settings(page_commands(), images=str(tmp_path / "set"), traits="target", layer="7")
    commands = commands.replace("model=timm/vit_tiny_patch16_224", "model='MODEL'").replace("MODEL", MODEL)
    commands = commands.replace("in train validation;", "in train validation test;")
    commands = commands.replace("--out sae.h5", "--out sae.h5 --tokens 200k")
    commands = commands.replace("acts/validation --traits", "acts/test --traits")
    commands = commands.replace("latents/validation", "latents/test")
    check_outcome(tmp_path / "out", bash(commands, tmp_path / "out"), "sara", {"erato", "sara", "cydno"})


@pytest.mark.slow
def test_the_sweep_takes_the_list_too(tmp_path: Path) -> None:
    data = draw(tmp_path / "data")
    settings = {
        "images": data / "specimens.csv",
        "traits": data / "marks.csv",
        "missing_rows": "unknown",
        "model": "timm/test_vit2",
        "weights": ROOT / "examples/birds/vit.safetensors",
        "mean": "0.5,0.5,0.5",
        "std": "0.5,0.5,0.5",
        "patch_label": "prefer-foreground",
        "background": "0,2",
        "layers": "[7]",
        "baselines": "[const]",
        "d_sae": "128",
        "ks": "[8]",
        "tokens": "20k",
    }
    flags = " ".join(f"--set {shlex.quote(f'{name}={value}')}" for name, value in settings.items())
    make = f"expand-sweep {ROOT}/sweeps/own-images.yml {flags} --make > sweep.mk; make -f sweep.mk"
    done = bash(make, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    acts = tmp_path / "out/out/sweeps/own-images/acts"
    assert sorted(path.name for path in acts.iterdir() if path.is_dir()) == ["test", "train", "validation"]
    table = pd.read_csv(tmp_path / "out/out/sweeps/own-images/table-validation.csv")
    assert set(table["scorer"]) == {"const", "sae"}
