"""Vision models by name, from timm and open_clip, and the residual stream inside them.

`forward_intermediates` of both libraries gives the output of a block before the final norm; width,
patch grid, class token and preprocessing come from the model, never from the user.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from saetools.errors import UserError
from saetools.vision.pictures import open_picture
from saetools.vision.preprocess import Preprocess, native_grid
from saetools.vision.weights import digest_weights

if TYPE_CHECKING:
    from saetools.vision.pictures import Picture

BLOCK_HOOK = "output of the block (residual stream), before the final norm"
MAP_HOOK = "output of the stage (feature map), its cells as patches"
RECORDED_AT_ONCE = 32  # images in one pass through the model
# auto: half precision where it is faster. Sums of the residual stream stay in float32 in each.
PRECISIONS = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class LayerShape:
    """rows x columns patches of width d_model; stride: pixels from one patch to the next."""

    rows: int
    columns: int
    d_model: int
    stride: int

    @property
    def n_patches(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True)
class Outline:
    """What is known of a model before its weights are there.

    shapes: of every layer, by number; with a native grid, rows and columns are one example's.
    token_format: how its library hands out patches, NLC (a transformer) or NCHW (feature maps).
    """

    name: str
    preprocess: Preprocess
    shapes: Mapping[int, LayerShape]
    has_cls: bool
    token_format: str

    @property
    def n_layers(self) -> int:
        return len(self.shapes)

    @property
    def hook(self) -> str:
        return BLOCK_HOOK if self.token_format == "NLC" else MAP_HOOK

    def resolve_layers(self, layers: Sequence[int]) -> list[int]:
        """0-based layers, ascending, each once, for layers that may count from the end; raises UserError."""
        for layer in layers:
            if not -self.n_layers <= layer < self.n_layers:
                raise UserError(
                    f"{self.name}: it has no layer {layer}; its {self.n_layers} blocks are 0 to"
                    f" {self.n_layers - 1}, or -{self.n_layers} to -1 from the end"
                )
        return sorted({layer % self.n_layers for layer in layers})


@dataclass(frozen=True)
class LayerActs:
    """One layer's activations of a batch: patches {b, P, D}, cls {b, D} or None, grid (rows, columns)."""

    patches: torch.Tensor
    cls: torch.Tensor | None
    grid: tuple[int, int]


class VisionModel:
    """A frozen model with its weights on a device.

    weights: SHA-256 over parameters and buffers. precision: float32, float16 or bfloat16.
    """

    def __init__(
        self, outline: Outline, module: torch.nn.Module, device: torch.device, precision: str = "float32"
    ) -> None:
        self.outline, self.device, self.precision = outline, device, precision
        self.weights = digest_weights(module)
        self.module = module.eval().requires_grad_(False).to(device)
        self._family, _ = _family(outline.name)
        self._mean = torch.tensor(outline.preprocess.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(outline.preprocess.std, device=device).view(1, 3, 1, 1)

    def __repr__(self) -> str:
        preprocess, shapes = self.outline.preprocess, self.outline.shapes.values()
        last = self.outline.shapes[self.outline.n_layers - 1]
        size = "native grid" if preprocess.native else " x ".join(map(str, preprocess.size)) + " pixels"
        depth = f"{len(shapes)} layers, the last {last.n_patches} patches x {last.d_model}"
        return f"VisionModel({self.outline.name}, {size}, {depth}, {self.precision} on {self.device})"

    def source(self) -> dict[str, Any]:
        """What must agree between activations that are used together (see `ShardHeader.source`)."""
        outline = self.outline
        return {
            "model": outline.name,
            "weights": self.weights,
            "hook": outline.hook,
            "preprocess": outline.preprocess.to_settings(),
        }

    def record(self, images: Picture | Sequence[Picture], layer: int = -1) -> torch.Tensor:
        """Activations float32 {n, P, D} of images, on the CPU; one image gives n = 1.

        images: paths, PIL images or pixels uint8 {H, W, 3}, preprocessed as the model asks for. Shards hold the
        same values in the type they are stored in. Raises UserError for what is no image.
        """
        (layer,) = self.outline.resolve_layers([layer])
        given: Sequence[Any] = images if isinstance(images, list | tuple) else [images]
        found, preprocess = [], self.outline.preprocess
        for start in range(0, len(given), RECORDED_AT_ONCE):
            pixels = [
                torch.from_numpy(np.array(preprocess.pixels(open_picture(image, preprocess))))
                for image in given[start : start + RECORDED_AT_ONCE]
            ]
            alike = len({one.shape for one in pixels}) == 1  # with native grids, images differ in size
            for batch in [torch.stack(pixels)] if alike else [one[None] for one in pixels]:
                found.append(self.acts(batch, [layer])[layer].patches.float().cpu())
        return torch.cat(found)

    def inputs(self, pixels_bhwc: torch.Tensor) -> torch.Tensor:
        """What the module takes, {b, 3, height, width} on its device, for uint8 pixels {b, height, width, 3}."""
        images = pixels_bhwc.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
        return ((images - self._mean) / self._std).contiguous()

    def computing(self) -> contextlib.AbstractContextManager[object]:
        """In this block the module computes in the model's precision."""
        dtype = PRECISIONS[self.precision]
        return contextlib.nullcontext() if dtype is None else torch.autocast(self.device.type, dtype)

    @torch.inference_mode()
    def acts(self, pixels_bhwc: torch.Tensor, layers: Sequence[int]) -> dict[int, LayerActs]:
        """The activations of layers (0-based, ascending) for uint8 pixels {b, height, width, 3}."""
        images, token_format = self.inputs(pixels_bhwc), self.outline.token_format
        with self.computing():
            found = self._family.intermediates(self.module, images, list(layers), token_format)
        acts = {}
        for layer, (patches, prefix_bnd) in zip(layers, found, strict=True):
            shape = self.outline.shapes[layer]
            if token_format == "NCHW":
                grid = (patches.shape[2], patches.shape[3])
                patches = patches.flatten(2).transpose(1, 2)
            else:
                grid = (images.shape[2] // shape.stride, images.shape[3] // shape.stride)
            cls = prefix_bnd[:, 0] if self.outline.has_cls else None
            acts[layer] = LayerActs(patches, cls, grid)
        return acts


def outline_model(
    name: str,
    *,
    weights: Path | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    native: int | None = None,
    layers: Sequence[int] = (-1,),
) -> Outline:
    """What `timm/NAME` or `open_clip/NAME/PRETRAINED` is, without its weights and without computing.

    mean, std: in place of the configuration's normalisation. native: patches of every image, in the grid
    that distorts its aspect least; they are those of the deepest of `layers`.
    Raises UserError for an unknown name (offering near ones), or a model that takes no other grid.
    """
    family, short = _family(name)
    family.check_name(short, weights)
    any_grid = native is not None
    try:
        with torch.device("meta"):  # tensors that have shapes and no values
            module = family.create(short, published=False, any_grid=any_grid).eval()
    except NotImplementedError:  # a RegNet, made of values that older versions of torch lack there
        module = family.create(short, published=False, any_grid=any_grid).eval().to("meta")
    preprocess = family.preprocess(module)
    strides = family.strides(module)
    token_format = _token_format(family, module, preprocess.size)
    shapes, has_cls = _shapes(family, module, preprocess.size, strides)
    outline = Outline(name, preprocess, shapes, has_cls, token_format)
    if native is not None:
        edge = max(strides[layer] for layer in outline.resolve_layers(layers))
        preprocess = replace(preprocess, native=[native, edge])
        for width in (1, 2):  # two grids, so that one of them is not the model's own
            rows, columns = native_grid(native, 1, width)
            try:
                shapes, _ = _shapes(family, module, [rows * edge, columns * edge], strides)
            except (AssertionError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"{name}: it does not take a grid of {rows} x {columns} patches of {edge} pixels"
                    f" ({str(error).splitlines()[0] if str(error) else type(error).__name__});"
                    " leave `grid` out, or take a model of timm with position embeddings that can be interpolated"
                ) from error
    mean, std = mean or preprocess.mean, std or preprocess.std
    preprocess = replace(preprocess, mean=list(mean), std=list(std))
    return replace(outline, preprocess=preprocess, shapes=shapes)


def load_model(
    outline: Outline, *, weights: Path | None, device: torch.device, precision: str = "float32"
) -> VisionModel:
    """Load the weights of a model: the published ones, or those of a local file.

    Raises UserError for weights of another model, or no network.
    """
    family, short = _family(outline.name)
    any_grid = outline.preprocess.native is not None
    module = family.create(short, published=weights is None, any_grid=any_grid)
    if weights is not None:
        family.load_file(module, weights, short)
    return VisionModel(outline, module, device, precision)


def _family(name: str) -> tuple[ModuleType, str]:
    """The module for a model's library, imported only when it is asked for, and the name in that library."""
    from saetools.vision import timm_models

    library, _, short = name.partition("/")
    if library == "timm" and short:
        return timm_models, short
    if library == "open_clip" and short:
        from saetools.vision import open_clip_models

        return open_clip_models, short
    near = timm_models.near_models(name)
    raise UserError(f"{name}: unknown model; expected timm/NAME or open_clip/NAME/PRETRAINED{near}")


@torch.inference_mode()
def _shapes(
    family: ModuleType, module: torch.nn.Module, size: Sequence[int], strides: Sequence[int]
) -> tuple[dict[int, LayerShape], bool]:
    """The shape of every layer, and whether there is a class token."""
    found = family.intermediates(
        module, torch.zeros(1, 3, *size, device="meta"), list(range(len(strides))), "NCHW"
    )
    prefix_bnd = found[0][1]
    return {
        layer: LayerShape(patches.shape[2], patches.shape[3], patches.shape[1], strides[layer])
        for layer, (patches, _) in enumerate(found)
    }, prefix_bnd is not None and prefix_bnd.shape[1] > family.n_registers(module)


@torch.inference_mode()
def _token_format(family: ModuleType, module: torch.nn.Module, size: Sequence[int]) -> str:
    try:
        family.intermediates(module, torch.zeros(1, 3, *size, device="meta"), [0], "NLC")
    except AssertionError:  # how both libraries say that they do not have it
        return "NCHW"
    return "NLC"
