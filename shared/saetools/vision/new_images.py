"""From Python: a vision model that records new images, an SAE's latents of them, and a latent's heat on an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saetools.errors import UsageError, UserError
from saetools.vision.heat import with_heat
from saetools.vision.pictures import open_picture
from saetools.vision.preprocess import Preprocess

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from saetools.latents.reader import LatentsSet
    from saetools.scorers.sae import SAE
    from saetools.vision.models import VisionModel
    from saetools.vision.pictures import Picture


def load_model(
    name: str,
    *,
    weights: str | Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    grid: int | None = None,
    device: str = "auto",
    precision: str = "float32",
) -> VisionModel:
    """A frozen vision model, `timm/NAME` or `open_clip/NAME/PRETRAINED`, with its own preprocessing.

    weights: a local file (.safetensors, .pth) in place of the published weights; mean, std: of the normalisation, in
    place of the model's; grid: so many patches, in the grid nearest to each image's aspect; precision: float32, float16
    or bfloat16. Raises UserError as dump-acts does, which has the same options.
    """
    from saetools.compute.devices import choose_device
    from saetools.vision import models

    path = None if weights is None else Path(weights)
    if path is not None and not path.is_file():
        raise UserError(f"{path}: no such file; expected the weights of {name}")
    if precision not in models.PRECISIONS:
        raise UsageError(f"`precision` {precision}: expected one of {', '.join(models.PRECISIONS)}")
    outline = models.outline_model(name, weights=path, mean=mean, std=std, native=grid)
    return models.load_model(outline, weights=path, device=choose_device(device), precision=precision)


def encode_image(
    images: Picture | Sequence[Picture], model: VisionModel, sae: SAE, *, layer: int | None = None
) -> torch.Tensor:
    """The latents of an image {P, S}, or of a list of images {n, P, S}: recorded and encoded.

    layer: where the SAE does not say which it was trained on. Raises UserError where it was trained on another model,
    weights, preprocessing or layer.
    """
    import torch

    from saetools.vision.edits import layer_of

    acts_npd = model.record(images, layer_of(sae, model, layer)).to(sae.W_enc)
    with torch.no_grad():
        f_nps = sae.encode(acts_npd)
    return f_nps if isinstance(images, list | tuple) else f_nps[0]


def overlay(
    image: Picture,
    heat: torch.Tensor | np.ndarray,
    model: VisionModel | LatentsSet,
    *,
    largest: float | None = None,
) -> Image:
    """The image as the model saw it, with the heat of one latent over it, in the colours of render-visuals.

    heat: values {P} or {rows, columns} of the patches; 0 and less leaves a patch as it is. model: the model that
    recorded the image, or the latents that the values are from. largest: the value drawn in the last colour (the
    image's own largest): give the latent's largest of all images to compare images.
    """
    from PIL import Image as pil

    from saetools.vision.models import VisionModel

    if isinstance(model, VisionModel):
        preprocess = model.outline.preprocess
    else:
        preprocess = Preprocess.from_settings(model.header.source["preprocess"])
    pixels = preprocess.pixels(open_picture(image, preprocess))
    heat_p = np.asarray(heat.detach().cpu() if hasattr(heat, "detach") else heat, np.float32)
    if heat_p.ndim == 1:  # square patches
        height, width, _ = pixels.shape
        rows = max(round(math.sqrt(heat_p.size * height / width)), 1)
        if heat_p.size % rows:
            raise UsageError(
                f"`heat`: {heat_p.size} values make no grid on {height} x {width} pixels; give {{rows, columns}}"
            )
        heat_p = heat_p.reshape(rows, -1)
    return pil.fromarray(with_heat(pixels, heat_p, float(heat_p.max()) if largest is None else largest))
