"""The image towers of open_clip: loading, and the outputs of their blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import open_clip
import torch

from dump_acts.weights_file import fit_weights, read_weights
from saetools.errors import UserError, near_names
from saetools.preprocess import Preprocess


def load(name: str, weights: Path | None) -> tuple[torch.nn.Module, Preprocess, int]:
    """The image tower of NAME/PRETRAINED or hf-hub:OWNER/NAME, its preprocessing, its number of blocks."""
    architecture, tag = _parse(name, weights)
    tag_config = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    model = _create(architecture, tag, tag_config, weights)
    config = {**open_clip.get_model_preprocess_cfg(model)}
    config.update({key: tag_config[key] for key in config.keys() & tag_config.keys()})
    if weights is not None:
        state = read_weights(weights)
        if any(key.startswith("visual.") for key in state):  # a whole CLIP; else the image tower alone
            state = {
                key.removeprefix("visual."): value
                for key, value in state.items()
                if key.startswith("visual.")
            }
        fit_weights(model.visual, state, weights, f"open_clip/{name}")
    return model.visual, _preprocess(config), _n_blocks(model.visual, f"open_clip/{name}")


def intermediates(
    module: torch.nn.Module, images: torch.Tensor, layers: list[int]
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Per layer, patches {b, D, rows, columns} and prefix tokens {b, n, D} or None."""
    found = module.forward_intermediates(  # type: ignore[operator]
        images,
        indices=layers,
        stop_early=True,
        normalize_intermediates=False,
        intermediates_only=True,
        output_fmt="NCHW",
        output_extra_tokens=True,
    )
    patches = found["image_intermediates"]
    prefix = found.get("image_intermediates_prefix") or [None] * len(patches)
    return list(zip(patches, prefix, strict=True))


def _parse(name: str, weights: Path | None) -> tuple[str, str | None]:
    if name.startswith("hf-hub:"):
        return name, None
    architecture, _, tag = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise UserError(
            f"open_clip/{name}: open_clip has no model {architecture!r}{near_names(architecture, known)}"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag and tag not in tags:
        raise UserError(
            f"open_clip/{name}: open_clip knows no weights {tag!r} of {architecture}"
            f"{near_names(tag, tags)}; known are {', '.join(tags) or 'none'}"
        )
    if not tag and weights is None:
        raise UserError(
            f"open_clip/{name}: which weights? give open_clip/{architecture}/PRETRAINED with one of"
            f" {', '.join(tags) or '(none are published)'}, or a local file with --weights"
        )
    return architecture, tag or None


def _create(architecture: str, tag: str | None, tag_config: dict[str, Any], weights: Path | None) -> Any:
    try:
        return open_clip.create_model(
            architecture,
            pretrained=tag if weights is None else None,
            load_weights=weights is None,
            # open_clip only warns where the weights were trained with the other GELU
            force_quick_gelu=bool(tag_config.get("quick_gelu", False)),
        )
    except (OSError, RuntimeError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"open_clip/{architecture}: its published configuration or weights could not be had"
            f" ({first_line}); check the network, or give a local file with --weights"
        ) from error


def _n_blocks(visual: Any, name: str) -> int:
    if not hasattr(visual, "forward_intermediates"):
        raise UserError(f"{name}: its image tower has no forward_intermediates; choose another model")
    if hasattr(visual, "trunk"):  # an image tower that is a timm model
        return len(visual.trunk.feature_info)
    if hasattr(visual, "transformer"):
        return len(visual.transformer.resblocks)
    return len(visual.forward_intermediates(torch.zeros(1, 3, 224, 224))["image_intermediates"])


def _preprocess(config: dict[str, Any]) -> Preprocess:
    """open_clip's evaluation transform (image_transform), said in our words."""
    size = config["size"]
    size = [size, size] if isinstance(size, int) else list(size)
    mode = config.get("resize_mode") or "shortest"
    fill = config.get("fill_color") or 0
    return Preprocess(
        size=size,
        resize=size,
        resize_mode=mode,
        interpolation=config.get("interpolation") or "bicubic",
        mean=list(config["mean"]),
        std=list(config["std"]),
        fill=[fill] * 3 if isinstance(fill, int) else list(fill),
    )
