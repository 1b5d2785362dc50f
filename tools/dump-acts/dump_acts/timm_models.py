"""Models of timm: loading, and the outputs of their blocks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import timm
import torch

from dump_acts.weights_file import fit_weights, read_weights
from saetools.errors import UserError, near_names
from saetools.preprocess import Preprocess


def load(name: str, weights: Path | None) -> tuple[torch.nn.Module, Preprocess, int]:
    """The model without its classifier, its evaluation preprocessing, and its number of blocks."""
    if not timm.is_model(name.split(".")[0]):
        known = timm.list_models() + timm.list_pretrained()
        raise UserError(f"timm/{name}: timm has no model of this name{near_names(name, known)}")
    if "." in name and name not in timm.list_pretrained(name.split(".")[0] + ".*"):
        tags = timm.list_pretrained(name.split(".")[0] + ".*")
        raise UserError(f"timm/{name}: timm knows no such weights; known are {', '.join(tags) or 'none'}")
    module = _create(name, weights)
    if not hasattr(module, "forward_intermediates"):
        raise UserError(
            f"timm/{name}: this architecture has no forward_intermediates in timm {timm.__version__};"
            " choose another, or update timm"
        )
    if weights is not None:
        classifier = module.pretrained_cfg.get("classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        fit_weights(module, read_weights(weights), weights, f"timm/{name}", ignore=heads)
    return module, _preprocess(timm.data.resolve_model_data_config(module)), len(module.feature_info)


def intermediates(
    module: torch.nn.Module, images: torch.Tensor, layers: list[int]
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Per layer, patches {b, D, rows, columns} and prefix tokens {b, n, D} or None."""
    found = module.forward_intermediates(  # type: ignore[operator]
        images,
        indices=layers,
        return_prefix_tokens=True,
        norm=False,
        stop_early=True,
        output_fmt="NCHW",
        intermediates_only=True,
    )
    return [item if isinstance(item, tuple) else (item, None) for item in found]


def _create(name: str, weights: Path | None) -> Any:
    try:
        return timm.create_model(name, pretrained=weights is None, num_classes=0)
    except (OSError, RuntimeError) as error:
        if weights is not None:
            raise
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"timm/{name}: its published weights could not be had ({first_line});"
            " check the network, or give a local file with --weights"
        ) from error


def _preprocess(config: dict[str, Any]) -> Preprocess:
    """timm's evaluation transform (transforms_imagenet_eval), said in our words."""
    size = list(config["input_size"][1:])
    modes = {"center": "shortest", "squash": "squash", "border": "longest"}
    mode = modes[config.get("crop_mode") or "center"]
    return Preprocess(
        size=size,
        resize=[math.floor(edge / (config.get("crop_pct") or 0.875)) for edge in size],
        resize_mode=mode,
        interpolation=config["interpolation"],
        mean=list(config["mean"]),
        std=list(config["std"]),
        fill=[round(255 * value) for value in config["mean"]] if mode == "longest" else [0, 0, 0],
    )
