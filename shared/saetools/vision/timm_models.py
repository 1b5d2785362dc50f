"""Models of timm: loading, and the outputs of their blocks."""

from __future__ import annotations

import inspect
import math
from collections import Counter
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
    module = _create(name, published, any_grid, n_classes=0)
    if not hasattr(module, "forward_intermediates"):
        raise UserError(
            f"timm/{name}: this architecture has no forward_intermediates in timm {timm.__version__};"
            " choose another, or update timm"
        )
    return module


def load_file(module: torch.nn.Module, weights: Path, name: str) -> None:
    """Put the weights of a local file into the model."""
    fit_weights(module, read_weights(weights), weights, f"timm/{name}", ignore=_classifiers(module))


def create_with_classifier(
    name: str, body: torch.nn.Module, weights: Path | None, *, any_grid: bool
) -> torch.nn.Module:
    """The network of `create` with its classifier as well, both of the published weights or of a local file.

    body: as `create` gives it. Raises UserError where the weights have no classifier.
    """
    if weights is None:
        module = _create(name, published=True, any_grid=any_grid, n_classes=None)
        if module.num_classes > 0:
            return module
        found = f"timm/{name}: its published weights have"
    else:
        state = read_weights(weights)
        sizes = {len(state[key]) for part in _classifiers(body) if (key := f"{part}.weight") in state}
        if len(sizes) == 1:
            module = _create(name, published=False, any_grid=any_grid, n_classes=sizes.pop())
            fit_weights(module, state, weights, f"timm/{name}")
            return module
        found = f"{weights}: these weights of timm/{name} have"
    raise UserError(f"{found} no classifier; fit one with fit-heads, and give its file as `head`")


def class_names(module: torch.nn.Module) -> list[str]:
    """Names of the classes of a network with its classifier: timm's words for ImageNet, otherwise 0, 1, ...

    Where timm has several words for a class, the first; where several classes share it, the synset is added.
    """
    subset = timm.data.infer_imagenet_subset(module)
    if subset is None:
        return [str(number) for number in range(int(module.num_classes))]  # type: ignore[arg-type]
    info = timm.data.ImageNetInfo(subset)
    words = [description.split(",")[0] for description in info.label_descriptions()]
    shared = Counter(words)
    return [
        word if shared[word] == 1 else f"{word} ({synset})"
        for word, synset in zip(words, info.label_names(), strict=True)
    ]


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


def _classifiers(module: Any) -> tuple[str, ...]:
    """The names of its last layers, one or (of distilled networks) two."""
    found = module.pretrained_cfg.get("classifier") or ()
    return (found,) if isinstance(found, str) else tuple(found)


def _create(name: str, published: bool, any_grid: bool, n_classes: int | None) -> Any:
    """n_classes: None for as many as the published weights have."""
    options: dict[str, Any] = {"dynamic_img_size": True} if any_grid else {}
    try:
        return timm.create_model(name, pretrained=published, num_classes=n_classes, **options)
    except TypeError:
        if not any_grid:
            raise
        return _create(name, published, False, n_classes)  # an architecture that does not know the option
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
