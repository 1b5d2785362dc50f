"""The image towers of open_clip: loading, and the outputs of their blocks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch

from saetools.errors import UserError, near_names
from saetools.vision import timm_models
from saetools.vision.preprocess import Preprocess
from saetools.vision.weights import fit_weights, read_weights

MODIFIED_RESNET_STRIDES = (4, 4, 8, 16, 32)  # CLIP's ResNets: the stem and four stages


def check_name(name: str, weights: Path | None) -> None:
    """Raise UserError, offering near names, unless open_clip has such a model and weights."""
    _parse(name, weights)


def create(name: str, *, published: bool, any_grid: bool) -> torch.nn.Module:  # noqa: ARG001
    """The image tower, with its published weights or with random ones.

    any_grid: of no use to it; its transformers take one size only, and its convolutions any.
    """
    model, tag_config = _create(name, published)
    visual = model.visual
    if not hasattr(visual, "forward_intermediates"):
        raise UserError(
            f"open_clip/{name}: its image tower has no forward_intermediates; choose another model"
        )
    config = {**open_clip.get_model_preprocess_cfg(model)}
    config.update({key: tag_config[key] for key in config.keys() & tag_config.keys()})
    visual.preprocess_config = config
    return visual


def load_file(module: torch.nn.Module, weights: Path, name: str) -> None:
    """Put the weights of a local file, of a whole CLIP or of its image tower, into the image tower."""
    state = read_weights(weights)
    if any(key.startswith("visual.") for key in state):
        state = {
            key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")
        }
    fit_weights(module, state, weights, f"open_clip/{name}")


def create_clip(name: str, weights: Path | None) -> torch.nn.Module:
    """The image and the text tower, with their published weights or those of a local file; raises UserError."""
    model, _ = _create(name, published=weights is None)
    if weights is not None:
        state = read_weights(weights)
        if not any(key.startswith("visual.") for key in state):
            raise UserError(
                f"{weights}: it holds an image tower alone; zero-shot needs the text tower too: give the weights of the"
                f" whole open_clip/{name}, or fit a head with fit-heads"
            )
        fit_weights(model, state, weights, f"open_clip/{name}")
    return model.eval().requires_grad_(False)


def tokenize(name: str, texts: Sequence[str]) -> torch.Tensor:
    """Texts as the text tower takes them, {n, T}; raises UserError where the tokenizer cannot be had."""
    try:
        return open_clip.get_tokenizer(_split(name)[0])(list(texts))
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"open_clip/{name}: the tokenizer of its text tower could not be had ({first_line}); it is one of Hugging"
            " Face: `pip install transformers sentencepiece` and check the network, or fit a head with fit-heads"
        ) from error


def preprocess(module: torch.nn.Module) -> Preprocess:
    """Its evaluation preprocessing."""
    config: Any = module.preprocess_config
    return _preprocess(config)


def strides(module: torch.nn.Module) -> list[int]:
    """Pixels from one patch to the next, of every block (of a convolutional network: stage)."""
    visual: Any = module
    if hasattr(visual, "trunk"):  # an image tower that is a timm model
        return timm_models.strides(visual.trunk)
    if hasattr(visual, "transformer"):
        return [int(visual.patch_size[0])] * len(visual.transformer.resblocks)
    return list(MODIFIED_RESNET_STRIDES)


def n_registers(module: torch.nn.Module) -> int:
    """Prefix tokens that are no class token."""
    trunk = getattr(module, "trunk", None)
    return 0 if trunk is None else timm_models.n_registers(trunk)


def intermediates(
    module: torch.nn.Module, images: torch.Tensor, layers: list[int], token_format: str
) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
    """Per layer, patches as token_format says (NLC: {b, P, D}; NCHW: {b, D, rows, columns}), and prefix
    tokens {b, n, D} or None.
    """
    if hasattr(module, "trunk"):
        trunk: Any = module.trunk
        return timm_models.intermediates(trunk, images, layers, token_format)
    forward: Any = module.forward_intermediates
    found = forward(
        images,
        indices=layers,
        stop_early=True,
        normalize_intermediates=False,
        intermediates_only=True,
        output_fmt=token_format,
        output_extra_tokens=True,
    )
    patches = found["image_intermediates"]
    prefix = found.get("image_intermediates_prefix") or [None] * len(patches)
    return list(zip(patches, prefix, strict=True))


def _split(name: str) -> tuple[str, str | None]:
    """Architecture and tag of the weights."""
    if name.startswith("hf-hub:"):
        return name, None
    architecture, _, tag = name.partition("/")
    return architecture, tag or None


def _parse(name: str, weights: Path | None) -> None:
    architecture, tag = _split(name)
    if name.startswith("hf-hub:"):
        return
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
            f" {', '.join(tags) or '(none are published)'}, or a local file as `weights`"
        )


def _create(name: str, published: bool) -> tuple[Any, dict[str, Any]]:
    """Both towers, and what is known of the weights."""
    architecture, tag = _split(name)
    tag_config = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    if not published:
        logging.disable(logging.WARNING)  # open_clip warns that the weights are random, as was asked for
    try:
        model = open_clip.create_model(
            architecture,
            pretrained=tag if published else None,
            load_weights=published,
            device=torch.empty(
                0
            ).device,  # of `with torch.device(...)` too, which older versions of torch do not report
            # open_clip only warns where the weights were trained with the other GELU
            force_quick_gelu=bool(tag_config.get("quick_gelu", False)),
        )
        return model, tag_config
    except (OSError, RuntimeError) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"open_clip/{architecture}: its published configuration or weights could not be downloaded"
            f" ({first_line}); check the network, or give a local file as `weights`"
        ) from error
    finally:
        logging.disable(logging.NOTSET)


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
