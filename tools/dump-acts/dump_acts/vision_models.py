"""Vision models by name, from timm and open_clip, and the residual stream inside them.

`forward_intermediates` of both libraries gives the output of a block before the final norm; width,
patch grid, class token and preprocessing come from the model, never from the user.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from dump_acts import open_clip_models, timm_models
from saetools.errors import UserError
from saetools.preprocess import Preprocess

HOOK = "output of the block (residual stream), before the final norm"


@dataclass(frozen=True)
class LayerActs:
    """One layer's activations of a batch: patches {b, P, D}, cls {b, D} or None."""

    patches: torch.Tensor
    cls: torch.Tensor | None


class VisionModel:
    """A frozen model on a device.

    name, weights (SHA-256 over parameters and buffers), preprocess, n_layers; grid (rows, columns) of
    patches, d_model and has_cls are measured on one empty image.
    """

    def __init__(
        self, name: str, module: torch.nn.Module, preprocess: Preprocess, n_layers: int, device: torch.device
    ) -> None:
        self.name, self.preprocess, self.n_layers, self.device = name, preprocess, n_layers, device
        self.weights = _digest(module)
        self._module = module.eval().requires_grad_(False).to(device)
        self._family = open_clip_models if name.startswith("open_clip/") else timm_models
        self._mean = torch.tensor(preprocess.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess.std, device=device).view(1, 3, 1, 1)
        probe, prefix = self._intermediates(torch.zeros(1, 3, *preprocess.size, device=device), [0])[0]
        self.grid = (probe.shape[2], probe.shape[3])
        self.d_model = probe.shape[1]
        self.has_cls = prefix is not None and prefix.shape[1] > 0

    @property
    def n_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def resolve_layers(self, layers: Sequence[int]) -> list[int]:
        """0-based layers, ascending, each once, for layers that may count from the end; raises UserError."""
        for layer in layers:
            if not -self.n_layers <= layer < self.n_layers:
                raise UserError(
                    f"{self.name}: it has no layer {layer}; its {self.n_layers} blocks are 0 to"
                    f" {self.n_layers - 1}, or -{self.n_layers} to -1 from the end"
                )
        return sorted({layer % self.n_layers for layer in layers})

    @torch.inference_mode()
    def acts(self, pixels_bhwc: torch.Tensor, layers: Sequence[int]) -> dict[int, LayerActs]:
        """The activations of layers (0-based, ascending) for uint8 pixels {b, height, width, 3}."""
        images = pixels_bhwc.to(self.device).permute(0, 3, 1, 2).float() / 255
        images = ((images - self._mean) / self._std).contiguous()
        return {
            layer: LayerActs(
                patches_bdhw.flatten(2).transpose(1, 2), prefix_bnd[:, 0] if prefix_bnd is not None else None
            )
            for layer, (patches_bdhw, prefix_bnd) in zip(
                layers, self._intermediates(images, layers), strict=True
            )
        }

    @torch.inference_mode()
    def _intermediates(
        self, images: torch.Tensor, layers: Sequence[int]
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Per layer, patches {b, D, rows, columns} and prefix tokens {b, n, D} or None."""
        return self._family.intermediates(self._module, images, list(layers))


def load_model(
    name: str,
    *,
    weights: Path | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    device: torch.device,
) -> VisionModel:
    """Load `timm/NAME` or `open_clip/NAME/PRETRAINED`.

    weights: a local file in place of the published weights; the configuration stays the name's.
    mean, std: in place of the configuration's normalisation.
    Raises UserError for an unknown name (offering near ones), weights of another model, or no network.
    """
    library, _, rest = name.partition("/")
    if weights is not None and not weights.is_file():
        raise UserError(f"{weights}: no such file; expected the weights of {name}")
    if library == "timm" and rest:
        module, preprocess, n_layers = timm_models.load(rest, weights)
    elif library == "open_clip" and rest:
        module, preprocess, n_layers = open_clip_models.load(rest, weights)
    else:
        raise UserError(f"{name}: unknown model; expected timm/NAME or open_clip/NAME/PRETRAINED")
    preprocess = replace(
        preprocess,
        mean=preprocess.mean if mean is None else list(mean),
        std=preprocess.std if std is None else list(std),
    )
    return VisionModel(name, module, preprocess, n_layers, device)


def _digest(module: torch.nn.Module) -> str:
    """SHA-256 over the names and float32 bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.float() if tensor.is_floating_point() else tensor
        digest.update(name.encode() + b"\0")
        digest.update(values.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()
