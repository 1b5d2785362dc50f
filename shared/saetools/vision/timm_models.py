"""Models of timm: loading, and the outputs of their blocks."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import timm
import torch

from saetools.errors import UserError, near_names
from saetools.vision.preprocess import Preprocess
from saetools.vision.weights import fit_weights, read_weights


def near_models(name: str) -> str:
    """'; did you mean timm/NAME?', or similar names, for a name without its library; else ''."""
    if timm.is_model(name.partition(".")[0]):
        return f"; did you mean timm/{name}?"
    import open_clip

    others = [f"open_clip/{model}/{weights}" for model, weights in open_clip.list_pretrained()]
    return near_names(name, [*(f"timm/{model}" for model in timm.list_models()), *others])


def check_name(name: str, weights: Path | None) -> None:
    """Raise UserError, offering near names, unless timm has such a model."""
    if not timm.is_model(name.split(".")[0]):
        known = timm.list_models() + timm.list_pretrained()
        raise UserError(f"timm/{name}: timm has no model of this name{near_names(name, known)}")
    tags = timm.list_pretrained(name.split(".")[0] + ".*")
    if "." in name and name not in tags:
        raise UserError(f"timm/{name}: timm knows no such weights; known are {', '.join(tags) or 'none'}")
    if weights is None and not tags:
        raise UserError(f"timm/{name}: no weights of it are published; give a local file as `weights`")


def create(name: str, *, published: bool, any_grid: bool) -> torch.nn.Module:
    """The model without its classifier, with its published weights or with random ones.

    any_grid: it should take images of other sizes than its own, where its architecture can.
    """
    module = _create(name, published, {"dynamic_img_size": True} if any_grid else {})
    if not hasattr(module, "forward_intermediates"):
        raise UserError(
            f"timm/{name}: this architecture has no forward_intermediates in timm {timm.__version__};"
            " choose another, or update timm"
        )
    return module


def load_file(module: torch.nn.Module, weights: Path, name: str) -> None:
    """Put the weights of a local file into the model."""
    classifier = module.pretrained_cfg.get("classifier") or ()  # type: ignore[operator, union-attr]
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    fit_weights(module, read_weights(weights), weights, f"timm/{name}", ignore=heads)


def preprocess(module: torch.nn.Module) -> Preprocess:
    """Its evaluation preprocessing."""
    return _preprocess(timm.data.resolve_model_data_config(module))


def strides(module: torch.nn.Module) -> list[int]:
    """Pixels from one patch to the next, of every block (of a convolutional network: stage)."""
    return [int(info["reduction"]) for info in module.feature_info]  # type: ignore[union-attr]


def n_registers(module: torch.nn.Module) -> int:
    """Prefix tokens that are no class token."""
    return int(getattr(module, "num_reg_tokens", 0))


def intermediates(
    module: torch.nn.Module, images: torch.Tensor, layers: list[int], token_format: str
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Per layer, patches as token_format says (NLC: {b, P, D}; NCHW: {b, D, rows, columns}), and prefix
    tokens {b, n, D} or None.
    """
    forward: Any = module.forward_intermediates
    has_prefix = "return_prefix_tokens" in inspect.signature(forward).parameters
    found = forward(
        images,
        indices=layers,
        norm=False,
        stop_early=True,
        output_fmt=token_format,
        intermediates_only=True,
        **({"return_prefix_tokens": True} if has_prefix else {}),
    )
    return [item if isinstance(item, tuple) else (item, None) for item in found]


def _create(name: str, published: bool, options: dict[str, Any]) -> Any:
    try:
        return timm.create_model(name, pretrained=published, num_classes=0, **options)
    except TypeError:
        if not options:
            raise
        return _create(name, published, {})  # an architecture that does not know the option
    except (OSError, RuntimeError) as error:
        if not published:
            raise
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"timm/{name}: its published weights could not be downloaded ({first_line});"
            " check the network, or give a local file as `weights`"
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
