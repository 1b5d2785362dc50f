"""What is read from the end of a cut model: a fitted head, the network's own classifier, or names in CLIP's words.

    logits = W t + b                                       fitted: t the class token, mean or patches of a block
    logits = the network's own                             model: of timm, with its classifier
    logits = exp(scale) cos(image, text) (+ bias)          zero-shot: of open_clip, a text for every class

Zero-shot after Radford et al. 2021, section 3.1, with one text for a class; the bias is SigLIP's (Zhai et al. 2023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from saetools.compute.devices import float64_device, in_float64
from saetools.errors import UserError
from saetools.files.user_csv import read_user_text
from saetools.scorers.head import Head, check_head_fits, load_head
from saetools.vision.cut_models import CutModel, CutState

if TYPE_CHECKING:
    from saetools.vision.models import VisionModel

MODEL, ZERO_SHOT = "model", "zero-shot:"
TEMPLATE = "a photo of a {}."
TEXTS_AT_ONCE = 64


class EditHead(Protocol):
    """Logits of C classes or traits from a cut model.

    link: softmax (one class a row) or logistic (each by itself). per_patch: a row for each patch, or one for the image.
    layer: the block that is read; None for the end of the network. reads: what is read, in words.
    """

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def link(self) -> str: ...
    @property
    def per_patch(self) -> bool: ...
    @property
    def layer(self) -> int | None: ...
    @property
    def reads(self) -> str: ...

    def logits(self, cut: CutModel, state: CutState) -> torch.Tensor:
        """{b, R, C} of the images of a state, float32 or float64; R = P patches or 1. Gradients flow."""


@dataclass(frozen=True)
class FittedHead:
    """A head of fit-heads on the tokens of a block; logits in float64."""

    head: Head

    @property
    def names(self) -> Sequence[str]:
        return self.head.names

    @property
    def link(self) -> str:
        return self.head.link

    @property
    def per_patch(self) -> bool:
        return self.head.tokens == "patches"

    @property
    def layer(self) -> int:
        return self.head.layer

    @property
    def reads(self) -> str:
        what = {"cls": "the class token", "mean": "the mean of the patches", "patches": "the patches"}
        return f"{what[self.head.tokens]} of block {self.layer}"

    def logits(self, cut: CutModel, state: CutState) -> torch.Tensor:
        """{b, P, C} of patches, else {b, 1, C}."""
        tokens = cut.rest_until(state, self.layer)
        if self.head.tokens == "cls":
            return self.head(in_float64(tokens[:, :1]))
        patches = in_float64(tokens[:, state.n_prefix :])
        return self.head(patches if self.per_patch else patches.mean(1, keepdim=True))


@dataclass(frozen=True)
class ModelHead:
    """The network's own classifier. network: the whole of it; its blocks are those of the model that is cut."""

    network: nn.Module
    names: Sequence[str]
    link: str = "softmax"
    per_patch: bool = False
    layer: None = None
    reads: str = "what the network's own classifier pools after the last block"

    def logits(self, cut: CutModel, state: CutState) -> torch.Tensor:
        """{b, 1, C}, as the whole network gives them."""
        return CutModel(self.network, cut.layer).rest(state).float()[:, None]


@dataclass(frozen=True)
class ZeroShotHead:
    """The cosine of an image with the text of each class. text_ce: {C, E} float32, of norm 1; scale, bias: numbers."""

    text_ce: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None
    names: Sequence[str]
    link: str = "softmax"
    per_patch: bool = False
    layer: None = None
    reads: str = "what the image tower pools after its last block"

    def logits(self, cut: CutModel, state: CutState) -> torch.Tensor:
        """{b, 1, C} float32, the products too where the model computes in half precision."""
        found: Any = cut.rest(state)
        image_be = found[0] if isinstance(found, tuple) else found  # CoCa's tower gives its tokens too
        with torch.autocast(image_be.device.type, enabled=False):
            image_be = nn.functional.normalize(image_be.float(), dim=-1)
            logits = self.scale * image_be @ self.text_ce.T
            return (logits if self.bias is None else logits + self.bias)[:, None]


def open_head(
    spec: str,
    model: VisionModel,
    cut: CutModel,
    weights: Path | None,
    class_names: Sequence[str] = (),
    template: str = TEMPLATE,
) -> EditHead:
    """The head that `spec` names: a file of fit-heads, `model`, or `zero-shot:NAMES.txt` with a class name a line.

    cut: of `model`, which was loaded from `weights` (None: the published ones). class_names: of `model`, in place of
    timm's. template: the text of a class of zero-shot, {} its name. Raises UserError for a head of another model.
    """
    if spec == MODEL:
        return model_head(model, weights, class_names)
    if spec.startswith(ZERO_SHOT):
        return zero_shot_head(model, weights, read_zero_shot_names(Path(spec[len(ZERO_SHOT) :])), template)
    path = Path(spec)
    if not path.exists():
        raise UserError(
            f"{path}: no such file; expected a head of fit-heads, {MODEL!r}, or '{ZERO_SHOT}NAMES.txt'"
        )
    head = load_head(path)
    check_head_fits(head, path, model.source())
    return fitted_head(head, path, cut)


def fitted_head(head: Head, path: Path, cut: CutModel) -> FittedHead:
    """A head of fit-heads, on the device of the model; raises UserError for a block or token that it does not have."""
    if head.layer >= len(cut.blocks):
        raise UserError(
            f"{path}: the head reads block {head.layer}, but the model has blocks 0 to {len(cut.blocks) - 1};"
            " give the head of this model"
        )
    if head.tokens == "cls" and cut.n_prefix == 0:
        raise UserError(
            f"{path}: the head reads the class token, but the model has none; fit one with `--tokens mean`"
        )
    return FittedHead(head.to(float64_device(next(cut.module.parameters()).device)))


def model_head(model: VisionModel, weights: Path | None, class_names: Sequence[str] = ()) -> ModelHead:
    """The classifier that a model of timm was published with, or that a local file of its weights has.

    class_names: one for each class, else timm's words for ImageNet, else 0, 1, ... Raises UserError for a model or
    weights without a classifier, or other weights than the model's.
    """
    from saetools.vision import timm_models

    name = model.outline.name
    library, _, short = name.partition("/")
    if library != "timm":
        raise UserError(
            f"{name}: CLIP has no classifier of its own; choose '{ZERO_SHOT}NAMES.txt', or fit a head with fit-heads"
        )
    any_grid = model.outline.preprocess.native is not None
    network: Any = timm_models.create_with_classifier(short, model.module, weights, any_grid=any_grid)
    _check_same_weights(network, model, weights)
    network.blocks = model.module.blocks  # the same, not twice in memory
    network = network.eval().requires_grad_(False).to(model.device)
    names = list(class_names) or timm_models.class_names(network)
    if len(names) != network.num_classes:
        raise UserError(
            f"`class_names`: {len(names)} names for the {network.num_classes} classes of the classifier of {name};"
            " give one a line, in its order"
        )
    _check_distinct(names, "`class_names`")
    return ModelHead(network, names)


def zero_shot_head(
    model: VisionModel, weights: Path | None, names: Sequence[str], template: str = TEMPLATE
) -> ZeroShotHead:
    """Classes by name, through the text tower of a model of open_clip, which is run here, once, in float32.

    Raises UserError for a model or weights without a text tower, other weights than the model's, and names that are
    the same to the tokenizer.
    """
    library, _, short = model.outline.name.partition("/")
    if library != "open_clip":
        raise UserError(
            f"{model.outline.name}: models of timm have no text tower, which zero-shot needs; choose a model of"
            f" open_clip, fit a head with fit-heads, or use the model's own classifier, {MODEL!r}"
        )
    if "{}" not in template:
        raise UserError(
            f"`template` {template!r}: it has no {{}} for the name of the class, as in {TEMPLATE!r}"
        )
    _check_distinct(names, "zero-shot")
    from saetools.vision import open_clip_models

    tokens = open_clip_models.tokenize(short, [template.replace("{}", name) for name in names])
    first: dict[tuple[int, ...], str] = {}
    for name, row in zip(names, tokens.tolist(), strict=True):
        if (other := first.setdefault(tuple(row), name)) != name:
            raise UserError(
                f"zero-shot: {other!r} and {name!r} are the same to the tokenizer of {model.outline.name}, which sees"
                f" no capitals and {tokens.shape[1]} tokens at most; shorten them, or leave one out"
            )
    clip: Any = open_clip_models.create_clip(short, weights)
    _check_same_weights(clip.visual, model, weights)
    del clip.visual  # the model's is used; this one need not go to its device
    clip.to(model.device)
    with torch.no_grad():
        text_ce = torch.cat(
            [
                clip.encode_text(batch.to(model.device), normalize=True).float()
                for batch in tokens.split(TEXTS_AT_ONCE)
            ]
        )
    bias = getattr(clip, "logit_bias", None)
    return ZeroShotHead(text_ce, clip.logit_scale.exp(), bias, list(names))


def read_zero_shot_names(path: Path) -> list[str]:
    """Class names, one a line; raises UserError for none, an empty line in between, one twice, or one with {}."""
    lines = [line.strip() for line in read_user_text(path, "class names, one a line").rstrip().splitlines()]
    for number, name in enumerate(lines, 1):
        if not name:
            raise UserError(f"{path}: line {number} is empty; expected a class name on each line")
        if "{}" in name:
            raise UserError(
                f"{path}: line {number}: {name!r} has {{}}; expected names alone, which are put into the template"
            )
    _check_distinct(lines, str(path))
    return lines


def check_reaches(head: EditHead, cut: CutModel, images: torch.Tensor, where: str) -> None:
    """Raise UserError where no change of the patches at the cut can change the logits.

    images {b, 3, H, W}, normalised: one will do; they are run where what a network pools is not known otherwise: the
    gradient of the logits with respect to the patches is then exactly 0. where: what names the head in the message.
    """
    if isinstance(head, FittedHead):
        reached = head.layer > cut.layer or (head.layer == cut.layer and head.head.tokens != "cls")
    else:
        reached = _has_gradient(head, cut, images)
    if not reached:
        raise UserError(
            f"{where}: it reads {head.reads}, which the patches of block {cut.layer} cannot reach any more;\n"
            "edit an earlier block (`layer`, with an SAE of it), or fit a head on the mean or the patches of that"
            " block or of a later one"
        )


def _has_gradient(head: EditHead, cut: CutModel, images: torch.Tensor) -> bool:
    # in half precision small gradients become 0
    in_float32 = torch.autocast(images.device.type, enabled=False)
    with torch.inference_mode(False), torch.enable_grad(), in_float32:
        state = cut.first(images.clone())
        patches = state.patches.detach().requires_grad_()
        logits = head.logits(cut, state.with_patches(patches))
        # at random, so that logits whose sum is always the same do not cancel
        weight = torch.rand(logits.shape, generator=torch.Generator().manual_seed(0)).to(logits)
        (gradient,) = torch.autograd.grad((weight * logits).sum(), patches, allow_unused=True)
        return gradient is not None and bool((gradient != 0).any())


def _check_same_weights(network: nn.Module, model: VisionModel, weights: Path | None) -> None:
    """Raise UserError unless all tensors of the model are in a network that was loaded for its head."""
    mine, others = model.module.state_dict(), network.state_dict()
    differs = [
        key for key, value in mine.items() if key not in others or not torch.equal(value.cpu(), others[key])
    ]
    if differs:
        raise UserError(
            f"{weights or model.outline.name}: {differs[0]} is another than in the edited model; give the weights"
            " from which the activations were recorded"
        )


def _check_distinct(names: Sequence[str], what: str) -> None:
    if not names:
        raise UserError(f"{what}: it has no class name; expected one a line")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{what}: {twice[0]!r} is there twice; give each class a name of its own")
