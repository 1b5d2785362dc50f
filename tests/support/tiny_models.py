"""Vision models with random weights in files, small enough to run in a test, and images to show them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

VIT = "timm/test_vit"  # width 64, 6 blocks, 160 x 160 pixels, 10 x 10 patches


def save_timm_weights(path: Path, name: str = "test_vit", seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = timm.create_model(name, pretrained=False)
    torch.save(model.state_dict(), path)
    return path


def random_image(seed: int, height: int = 60, width: int = 80) -> Image.Image:
    """Smooth random colours: a picture that survives JPEG and resizing."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def make_folder(root: Path, classes: dict[str, int], *, seed: int = 0) -> Path:
    """Images of different sizes in class folders, `{"ant": 3}` for three of one class."""
    for class_name, count in classes.items():
        (root / class_name).mkdir(parents=True)
        for i in range(count):
            seed += 1
            random_image(seed, 50 + seed % 40, 60 + seed % 70).save(root / class_name / f"{i:03d}.jpg")
    return root
