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
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from saetools.errors import UsageError, UserError
from saetools.vision.cut_models import CutModel

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
    latents: int | Sequence[int],
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
    where: `firing` patches, `all`, or a mask bool {b, P}. Gradients flow. Raises UsageError for what is not there.
    """
    given = {
        name: value for name, value in (("set", set), ("scale", scale), ("add", add)) if value is not None
    }
    if len(given) != 1:
        raise UsageError("expected one of `set`, `scale` and `add`")
    ((name, amount),) = given.items()
    operation, chosen = Operation(name, amount), [latents] if isinstance(latents, int) else list(latents)
    for latent in chosen:
        if not 0 <= latent < sae.n_prototypes:
            raise UsageError(f"latent {latent}: the SAE has latents 0 to {sae.n_prototypes - 1}")
    module: Any = model if isinstance(model, nn.Module) else model.module
    at = sae.trained_on.get("layer", layer) if layer is None else layer
    if at is None:
        raise UsageError("`layer`: the SAE does not say which layer it was trained on; give its number")
    cut = CutModel(module, int(at))

    def edited(_module: nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        tokens = cut.batch_first(output)
        patches_bpd = tokens[:, cut.n_prefix :].float()
        if patches_bpd.shape[-1] != sae.d_model:
            raise UserError(
                f"block {at} has width {patches_bpd.shape[-1]}, the SAE {sae.d_model}; choose its layer"
            )
        f_bps = sae.encode(patches_bpd)
        changes = [latent_change(sae, f_bps, latent, operation, where) for latent in chosen]
        state_bpd = patches_bpd + torch.stack(changes).sum(0)
        return cut.batch_first(torch.cat([tokens[:, : cut.n_prefix], state_bpd.to(tokens.dtype)], 1))

    handle = cut.blocks[cut.layer].register_forward_hook(edited)
    try:
        yield
    finally:
        handle.remove()
