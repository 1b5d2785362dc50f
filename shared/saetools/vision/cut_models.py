"""A vision transformer cut after a block: run once up to the cut, and from there as often as wanted.

The network's own code runs on either side. Before the cut its blocks are replaced, for the time of a call, by ones that
hand on what is stored; so position embeddings, masks, norms, pooling and heads of every architecture stay as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from saetools.errors import UserError


def blocks_of(module: nn.Module) -> Sequence[nn.Module]:
    """The blocks of an image tower of timm or open_clip; raises UserError where it is no plain transformer."""
    inner: Any = getattr(module, "trunk", module)
    blocks: Any = getattr(inner, "blocks", None)
    if blocks is None and hasattr(inner, "transformer"):
        blocks = getattr(inner.transformer, "resblocks", None)
    info = getattr(inner, "feature_info", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or (
        info is not None and len(info) != len(blocks)
    ):
        raise UserError(
            f"{type(inner).__name__}: no list of equal blocks; expected a vision transformer of timm or open_clip,"
            " such as timm/vit_base_patch16_224"
        )
    return list(blocks)


@dataclass(frozen=True)
class CutState:
    """Images at the cut: the residual stream after the block.

    tokens {b, T, D}: prefix tokens (class token, registers), then patches. images {b, 3, H, W} and embedded, the output
    of the patch embedding, are what the network asks for the shapes of when it goes on.
    """

    tokens: torch.Tensor
    n_prefix: int
    images: torch.Tensor
    embedded: torch.Tensor

    @property
    def patches(self) -> torch.Tensor:
        """{b, P, D}"""
        return self.tokens[:, self.n_prefix :]

    def with_patches(self, patches: torch.Tensor, rows: torch.Tensor | None = None) -> CutState:
        """The same images with other patches {m, P, D}; prefix tokens stay.

        rows {m}: whose patches they are, an image in any order and as often as wanted; None: those of all images, once
        or several times one after the other. Raises UserError where a value is beyond the range of the stream's type.
        """
        if rows is None:
            rows = torch.arange(len(patches), device=patches.device) % len(self.tokens)
            assert len(patches) % len(self.tokens) == 0, (patches.shape, self.tokens.shape)
        assert rows.shape == patches.shape[:1], (rows.shape, patches.shape)
        in_stream = in_stream_type(patches, self.tokens.dtype)
        prefix = self.tokens[rows.to(self.tokens.device), : self.n_prefix]
        expanded = [t[:1].expand(len(patches), *t.shape[1:]) for t in (self.images, self.embedded)]
        return replace(
            self, tokens=torch.cat([prefix, in_stream], 1), images=expanded[0], embedded=expanded[1]
        )


def in_stream_type(patches: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Edited patches in the type of the residual stream; raises UserError where a value is beyond its range."""
    in_stream = patches.to(dtype)
    ends = torch.stack([in_stream.amin(), in_stream.amax()])  # NaN where one is: faster than isfinite of all
    if not bool(torch.isfinite(ends).all()):
        raise UserError(
            f"an edited patch is not finite as {str(dtype).removeprefix('torch.')};"
            " lower the amount, or run the model in float32"
        )
    return in_stream


class CutModel:
    """`first(images)` runs to the output of block `layer` (0-based), `rest(state)` from there.

    module: an image tower of timm or open_clip, in evaluation mode. Raises UserError for other architectures, and for
    a layer that it does not have.
    """

    def __init__(self, module: nn.Module, layer: int) -> None:
        self.module, self.layer = module, layer
        self.blocks = blocks_of(module)
        inner: Any = getattr(module, "trunk", module)
        if not 0 <= layer < len(self.blocks):
            raise UserError(f"layer {layer}: the model has blocks 0 to {len(self.blocks) - 1}")
        self._embedding: nn.Module = inner.patch_embed if hasattr(inner, "patch_embed") else inner.conv1
        self.n_prefix = int(getattr(inner, "num_prefix_tokens", 1))
        # open_clip's transformers of before batch_first: {T, b, D}
        self._tokens_first = not getattr(getattr(inner, "transformer", None), "batch_first", True)

    def first(self, images: torch.Tensor) -> CutState:
        """images {b, 3, H, W}, normalised."""
        kept: dict[str, torch.Tensor] = {}
        embed = self._embedding.forward

        def keep(*args: Any, **options: Any) -> torch.Tensor:
            kept["embedded"] = embed(*args, **options)
            return kept["embedded"]

        with _forwards({self._embedding: keep}):
            tokens = self._until(self.layer, images)
        return CutState(tokens, self.n_prefix, images, kept["embedded"])

    def rest(self, state: CutState) -> torch.Tensor:
        """What the module returns for the images of a state."""
        with self._from_state(state):
            return self.module(state.images)

    def rest_until(self, state: CutState, layer: int) -> torch.Tensor:
        """The residual stream {b, T, D} after a later block (or this one) for the images of a state."""
        if layer == self.layer:
            return state.tokens
        assert self.layer < layer < len(self.blocks), layer
        with self._from_state(state):
            return self._until(layer, state.images)

    def batch_first(self, tokens: torch.Tensor) -> torch.Tensor:
        """{b, T, D} of what a block takes and gives, and the other way round."""
        return tokens.transpose(0, 1) if self._tokens_first else tokens

    def _from_state(self, state: CutState) -> contextlib.AbstractContextManager[None]:
        tokens = self.batch_first(state.tokens)
        forwards: dict[nn.Module, Callable[..., torch.Tensor]] = {
            block: lambda x, *_, **__: x for block in self.blocks[: self.layer]
        }
        forwards[self.blocks[self.layer]] = lambda *_, **__: tokens
        forwards[self._embedding] = lambda *_, **__: state.embedded
        return _forwards(forwards)

    def _until(self, layer: int, images: torch.Tensor) -> torch.Tensor:
        """The output {b, T, D} of a block, without computing what comes after it."""
        block = self.blocks[layer]
        compute = block.forward

        def stop(*args: Any, **options: Any) -> torch.Tensor:
            raise _Reached(compute(*args, **options))

        try:
            with _forwards({block: stop}):
                self.module(images)
        except _Reached as reached:
            return self.batch_first(reached.tokens)
        raise UserError(f"{type(self.module).__name__}: its forward pass does not reach block {layer}")


class _Reached(Exception):
    def __init__(self, tokens: torch.Tensor) -> None:
        super().__init__()
        self.tokens = tokens


@contextlib.contextmanager
def _forwards(forwards: Mapping[nn.Module, Callable[..., torch.Tensor]]) -> Iterator[None]:
    """Let modules compute something else in this block; hooks of theirs still run."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, own in before.items():
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own
