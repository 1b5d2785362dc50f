"""Small sets of images with latents on them, for tests of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from saetools.files.formats import LATENTS
from saetools.files.provenance import Provenance
from saetools.latents.header import LatentsHeader, latents_name
from saetools.latents.writer import new_latents
from saetools.shards.header import Examples
from saetools.vision.preprocess import Preprocess

# A centre crop: images are made 40 pixels high or wide, of which the model sees the middle 32 x 32 as 4 x 4 patches.
CROPPED = Preprocess([32, 32], [40, 40], "shortest", "bicubic", [0.5] * 3, [0.5] * 3)
# Native grids: always 32 patches of 8 x 8 pixels.
NATIVE = Preprocess([0, 0], [0, 0], "squash", "bilinear", [0.5] * 3, [0.5] * 3, native=(32, 8))


def write_images(root: Path, sizes: Sequence[tuple[int, int]], classes: int = 2) -> list[str]:
    """Smooth coloured noise of sizes (width, height), as PNG in class folders; returns paths relative to root."""
    paths = []
    for number, (width, height) in enumerate(sizes):
        noise = np.random.default_rng(number).integers(0, 256, (5, 7, 3), np.uint8)
        path = (
            Path("images")
            / f"{number % classes:03d}.Kind_{'ABCDEFGH'[number % classes]}"
            / f"{number:04d}.png"
        )
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC).save(root / path)
        paths.append(path.as_posix())
    return paths


def write_pictured(
    folder: Path,
    f_npk: np.ndarray,
    paths: Sequence[str],
    grids: Sequence[tuple[int, int]],
    preprocess: Preprocess,
    *,
    labels_np: np.ndarray | None = None,
    scorer: str = "5" * 32,
    n_shards: int = 2,
    sizes: Sequence[tuple[int, int]] | None = None,
    class_names: Sequence[str] | None = None,
) -> Path:
    """Latents {N, P, K} of these images, every value above 0 of them; sizes: (width, height), where known.

    Images are of the classes 0 and 1 in turn, or of these.
    """
    number = {name: i for i, name in enumerate(dict.fromkeys(class_names or []))}
    n_images, n_patches, n_latents = f_npk.shape
    folder.mkdir(parents=True, exist_ok=True)
    source: dict[str, Any] = {"model": "timm/test", "preprocess": preprocess.to_settings()}
    for index, rows in enumerate(np.array_split(np.arange(n_images), n_shards)):
        header = LatentsHeader(
            scorer, "sae", n_latents, n_patches, 3, source, 0.0, None, n_images, index, n_shards
        )
        examples = Examples(
            np.array([paths[row] for row in rows], object),
            rows,
            np.array([row % 2 if class_names is None else number[class_names[row]] for row in rows]),
            np.array([grids[row] for row in rows], np.int16).reshape(-1, 2),
            None if sizes is None else np.array([sizes[row][::-1] for row in rows]),
            class_name=None if class_names is None else np.array([class_names[row] for row in rows], object),
        )
        f_bk = f_npk[rows].reshape(-1, n_latents)
        at = np.nonzero(f_bk > 0)
        labels = None if labels_np is None else labels_np[rows]
        target = folder / latents_name(index)
        with new_latents(
            target, header, Provenance.of(LATENTS, "encode-acts", {}), examples, labels
        ) as writer:
            writer.append((f_bk > 0).sum(axis=1), at[1].astype(np.int32), f_bk[at].astype(np.float32))
    return folder


def sparse_latents(
    n_images: int, n_patches: int, n_latents: int, seed: int = 0, share: float = 0.15
) -> np.ndarray:
    """{N, P, K} with that share of values above 0; every fifth latent fires in few images, the last one never."""
    rng = np.random.default_rng(seed)
    shape = (n_images, n_patches, n_latents)
    f_npk = rng.lognormal(0, 0.7, shape) * (rng.random(shape) < share)
    f_npk[3:, :, ::5] = 0
    f_npk[:, :, -1] = 0
    return f_npk.astype(np.float32)
