"""Latents changed inside a network, patch by patch.

    x' = x + sum_s (f'_s - f_s) W_dec[s] * scale         with f = encode(x)

which is decode(f') + (x - decode(f)): what the SAE does not reconstruct stays as it is. f' is f, but for the latents
that are edited, in the patches where they are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from saetools.errors import UsageError, UserError
from saetools.scorers.compatibility import other_activations
from saetools.vision.cut_models import CutModel, in_stream_type

if TYPE_CHECKING:
    from saetools.scorers.sae import SAE
    from saetools.vision.models import VisionModel

FIRING, EVERYWHERE = "firing", "all"
OPERATIONS = ("set", "scale", "add", "times-max")


@dataclass(frozen=True)
class Operation:
    """What becomes of a latent's value f: set V: V; scale A: A f; add V: f + V; times-max A: A times its largest."""

    name: str
    amount: float

    def __post_init__(self) -> None:
        if self.name not in OPERATIONS:
            raise UsageError(f"operation {self.name!r}: expected one of {', '.join(OPERATIONS)}")
        if not math.isfinite(self.amount):
            raise UsageError(f"{self.name} {self.amount}: expected a finite number")

    def change(self, f: torch.Tensor, largest: float | None = None) -> torch.Tensor:
        """f' - f for values f of one latent, of any shape. largest: its largest value in training, for times-max."""
        if self.name == "scale":
            return (self.amount - 1) * f
        if self.name == "add":
            return torch.full_like(f, self.amount)
        if self.name == "times-max":
            if largest is None:
                raise UsageError(
                    "times-max: the largest training value of the latent is not known; use `set`"
                )
            return self.amount * largest - f
        return self.amount - f


def latent_change(
    sae: SAE,
    f_bps: torch.Tensor,
    latent: int,
    operation: Operation,
    where: str | torch.Tensor = FIRING,
    largest: float | None = None,
) -> torch.Tensor:
    """x' - x {b, P, D} of one latent's edit.

    f_bps: the latents {b, P, S} of x. where: `firing` (patches with a value above 0), `all`, or bool {b, P}.
    """
    f_bp = f_bps[..., latent]
    change_bp = operation.change(f_bp, largest)
    if isinstance(where, torch.Tensor):
        change_bp = change_bp * where
    elif where == FIRING:
        change_bp = change_bp * (f_bp > 0)
    elif where != EVERYWHERE:
        raise UsageError(f"where {where!r}: expected firing, all, or a mask of the patches")
    return change_bp[..., None] * (sae.W_dec[latent] * sae.scale)


@contextlib.contextmanager
def edit(
    model: VisionModel | nn.Module,
    sae: SAE,
    latents: int | Sequence[int] | torch.Tensor,
    *,
    layer: int | None = None,
    set: float | None = None,
    scale: float | None = None,
    add: float | None = None,
    where: str | torch.Tensor = FIRING,
) -> Iterator[None]:
    """Change latents of a live model: in this block every forward pass has them edited in its residual stream.

    model: of `load_model`, or an image tower of timm or open_clip; the class token and registers stay as they are.
    latents: one or several; one of set, scale, add: a number for each of them. layer: where the SAE does not say it.
    where: `firing` patches, `all`, or a mask bool {b, P}. Gradients flow. Within an edit of a block, another of the
    same block starts from the edited stream. Raises UsageError for what is not there, and UserError where the SAE was
    trained on other activations than the model gives, or an edited patch is beyond the range of the stream's type.
    """
    given = {
        name: value for name, value in (("set", set), ("scale", scale), ("add", add)) if value is not None
    }
    if len(given) != 1:
        raise UsageError("expected one of `set`, `scale` and `add`")
    ((name, amount),) = given.items()
    operation, chosen = Operation(name, amount), _numbers(latents, sae)
    at = layer_of(sae, model, layer)
    cut = CutModel(model if isinstance(model, nn.Module) else model.module, at)

    def edited(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        tokens = cut.batch_first(output)
        patches_bpd = tokens[:, cut.n_prefix :]
        if patches_bpd.shape[-1] != sae.d_model:
            raise UserError(
                f"block {at} has width {patches_bpd.shape[-1]}, the SAE {sae.d_model}; choose its layer"
            )
        with torch.autocast(tokens.device.type, enabled=False):  # as latents of recorded activations
            f_bps = sae.encode(patches_bpd.to(sae.W_dec))
            there = _mask(where, f_bps)
            changes = [latent_change(sae, f_bps, latent, operation, there) for latent in chosen]
            change_bpd = torch.stack(changes).sum(0)
            wide = torch.promote_types(tokens.dtype, change_bpd.dtype)
            state_bpd = patches_bpd.to(wide) + change_bpd.to(tokens.device, wide)
        in_stream = in_stream_type(state_bpd, tokens.dtype)
        return cut.batch_first(torch.cat([tokens[:, : cut.n_prefix], in_stream], 1))

    handle = cut.blocks[cut.layer].register_forward_hook(edited)
    try:
        yield
    finally:
        handle.remove()


def layer_of(sae: SAE, model: VisionModel | nn.Module, layer: int | None = None) -> int:
    """The layer of the SAE in this model, which is `layer` where the SAE does not say it.

    Raises UserError where it was trained on another model, weights, preprocessing or layer. Of a module these are not
    known.
    """
    at = sae.trained_on.get("layer") if layer is None else layer
    if at is None:
        raise UsageError("`layer`: the SAE does not say which layer it was trained on; give its number")
    if isinstance(model, nn.Module):
        return int(at)
    (at,) = model.outline.resolve_layers([at])
    if difference := other_activations(sae.trained_on, model.source(), at):
        raise UserError(
            f"the SAE was trained on other activations than the model gives: {difference}; load the model with the same"
            " weights and preprocessing, and choose the same layer"
        )
    return at


def _numbers(latents: int | Sequence[int] | torch.Tensor, sae: SAE) -> list[int]:
    """The latents, each once; raises UsageError for one that is not there."""
    if not isinstance(latents, torch.Tensor):
        latents = torch.as_tensor(latents)
    if not latents.numel() or latents.is_floating_point() or latents.dtype == torch.bool:
        raise UsageError(f"`latents`: expected the number of a latent, or several, not {latents.tolist()}")
    numbers = list(dict.fromkeys(latents.flatten().tolist()))
    if wrong := [latent for latent in numbers if not 0 <= latent < sae.n_prototypes]:
        raise UsageError(f"latent {wrong[0]}: the SAE has latents 0 to {sae.n_prototypes - 1}")
    return numbers


def _mask(where: str | torch.Tensor, f_bps: torch.Tensor) -> str | torch.Tensor:
    """`where`, a mask on the device of the latents; raises UsageError for one of another shape."""
    if not isinstance(where, torch.Tensor):
        return where
    if where.dtype != torch.bool or where.shape not in (f_bps.shape[:2], f_bps.shape[1:2]):
        raise UsageError(
            f"`where`: a mask {where.dtype} {tuple(where.shape)}; expected bool {tuple(f_bps.shape[:2])}, of images and"
            " patches"
        )
    return where.to(f_bps.device)
