"""Latents changed inside a network: against the network itself, float64, and its own gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from open_clip.transformer import VisionTransformer
from torch import nn

import saetools as st
from saetools.errors import UsageError, UserError
from saetools.files.formats import SCORERS
from saetools.files.provenance import Provenance
from saetools.scorers.file import with_origin
from saetools.scorers.record import TrainedScorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.vision.cut_models import CutModel, blocks_of
from saetools.vision.edits import OPERATIONS, Operation, edit, latent_change
from saetools.vision.models import VisionModel

D, S, LAYER = 64, 96, 1
SMALL = {"embed_dim": D, "depth": 4, "num_heads": 4, "num_classes": 7}


def vit() -> nn.Module:
    return timm.create_model("vit_tiny_patch16_224", img_size=64, **SMALL)


def dinov2_with_registers() -> nn.Module:
    return timm.create_model("vit_small_patch14_reg4_dinov2", img_size=56, **SMALL)


def siglip() -> nn.Module:
    return timm.create_model("vit_base_patch16_siglip_224", img_size=64, **SMALL)


def eva_with_rope() -> nn.Module:
    return timm.create_model("eva02_tiny_patch14_224", img_size=56, **SMALL)


def clip() -> nn.Module:
    return VisionTransformer(
        image_size=64, patch_size=16, width=D, layers=4, heads=4, mlp_ratio=2, output_dim=7
    )


def clip_tokens_first() -> nn.Module:
    tower = clip()
    for part in (tower.transformer, *tower.transformer.resblocks):
        if hasattr(part, "batch_first"):
            part.batch_first = False
    for block in tower.transformer.resblocks:
        block.attn.batch_first = False
    return tower


MODELS: dict[str, Callable[[], nn.Module]] = {
    f.__name__: f for f in (vit, dinov2_with_registers, siglip, eva_with_rope, clip, clip_tokens_first)
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    made = MODELS[request.param]().eval().requires_grad_(False)
    for block in blocks_of(made):  # at the start some blocks add almost nothing
        for weight in block.parameters():
            weight.mul_(1.5)
    return made


@pytest.fixture
def images(model: nn.Module) -> torch.Tensor:
    edge = 56 if any(size == 14 for size in edges(model)) else 64
    return torch.randn(3, 3, edge, edge, generator=torch.Generator().manual_seed(1))


def edges(model: nn.Module) -> tuple[int, ...]:
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    return first.kernel_size


@pytest.fixture(scope="module")
def sae() -> SAE:
    draw = torch.Generator().manual_seed(2)
    w_dec = nn.functional.normalize(torch.randn(S, D, generator=draw), dim=1)
    b_enc, b_dec = torch.randn(S, generator=draw) / 10, torch.randn(D, generator=draw) / 10
    return SAE(SAEConfig(D, S, "topk", 12), w_dec.T.contiguous(), b_enc, w_dec, b_dec,
               mean=torch.randn(D, generator=draw) / 10, scale=1.7)  # fmt: skip


def test_cut_anywhere_the_output_is_the_networks_own(model: nn.Module, images: torch.Tensor) -> None:
    whole = model(images)
    for layer in range(4):
        cut = CutModel(model, layer)
        state = cut.first(images)
        assert torch.equal(cut.rest(state), whole)
        assert torch.equal(cut.rest(state.with_patches(state.patches)), whole)
    assert state.patches.shape == (3, 16, D)
    assert torch.equal(model(images), whole)  # and the network is as it was
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_the_stream_between(model: nn.Module, images: torch.Tensor) -> None:
    """Block by block: what the next cut starts from."""
    cut = CutModel(model, 0)
    state = cut.first(images)
    for layer in range(4):
        assert torch.equal(cut.rest_until(state, layer), CutModel(model, layer).first(images).tokens)


def test_several_edits_at_once_are_those_one_by_one(model: nn.Module, images: torch.Tensor) -> None:
    cut = CutModel(model, LAYER)
    state = cut.first(images)
    others = [state.patches * (1 + i / 10) for i in range(4)]
    stacked = cut.rest(state.with_patches(torch.cat(others)))
    for other, found in zip(others, stacked.split(3), strict=True):
        alone = cut.rest(state.with_patches(other))
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found[2], stacked[0]) or other is others[0]


def test_patches_of_some_images_in_any_order(model: nn.Module, images: torch.Tensor) -> None:
    """Each has the prefix tokens of its own image, not of the one at its place."""
    cut = CutModel(model, LAYER)
    state = cut.first(images)
    rows = torch.tensor([2, 0, 2, 1, 2])
    some = state.with_patches(state.patches[rows], rows)
    assert torch.equal(some.tokens, state.tokens[rows])
    torch.testing.assert_close(cut.rest(some), model(images)[rows], rtol=1e-4, atol=1e-5)
    twice = state.with_patches(state.patches.repeat(2, 1, 1))
    assert torch.equal(twice.tokens, state.tokens.repeat(2, 1, 1))
    other = state.with_patches(state.patches[:1] * 2, torch.tensor([1]))
    assert torch.equal(other.patches, state.patches[:1] * 2)
    assert torch.equal(other.tokens[:, : cut.n_prefix], state.tokens[1:2, : cut.n_prefix])
    with pytest.raises(AssertionError):
        state.with_patches(state.patches[:2])


def test_an_edit_of_nothing_is_the_network_bit_for_bit(
    model: nn.Module, images: torch.Tensor, sae: SAE
) -> None:
    whole = model(images)
    with edit(model, sae, [3, 5], layer=LAYER, scale=1):
        assert torch.equal(model(images), whole)
    with edit(model, sae, 3, layer=LAYER, add=1e3, where=torch.zeros(3, 16, dtype=torch.bool)):
        assert torch.equal(model(images), whole)
    with edit(model, sae, list(range(S)), layer=LAYER, scale=-3):
        assert not torch.allclose(model(images), whole)
    assert torch.equal(model(images), whole)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("where", ["firing", "all"])
def test_the_formula_in_float64(sae: SAE, name: str, where: str) -> None:
    """decode(f') + (x - decode(f)), with the whole of f decoded twice."""
    x = torch.randn(2, 16, D, generator=torch.Generator().manual_seed(3)) * 2
    f, double = sae.encode(x), SAE(
        sae.config, *(w.double() for w in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)),
        mean=sae.mean.double(), scale=sae.scale,
    )  # fmt: skip
    latent = int((f > 0).sum((0, 1)).argmax())
    amount, largest = -2.0, 3.5
    there = (f[..., latent] > 0) if where == "firing" else torch.ones(2, 16, dtype=torch.bool)
    assert where == "all" or 0 < there.sum() < there.numel()
    f_new = f.double().clone()
    new = {"set": amount, "scale": amount * f_new[..., latent], "add": amount + f_new[..., latent],
           "times-max": amount * largest}[name]  # fmt: skip
    f_new[..., latent] = torch.where(there, torch.as_tensor(new), f_new[..., latent])
    expected = double.decode(f_new) + (x.double() - double.decode(f.double()))
    found = x + latent_change(sae, f, latent, Operation(name, amount), where, largest)
    assert (found.double() - expected).abs().max() < 1e-5


def test_small_amounts_move_logits_by_the_gradient(model: nn.Module, images: torch.Tensor, sae: SAE) -> None:
    """The change of every logit, over the amount, is autograd's derivative along the edit."""
    model, images = model.double(), images.double()
    cut = CutModel(model, LAYER)
    state = cut.first(images)
    f = sae.encode(state.patches.float()).double()
    latent = int((f > 0).sum((0, 1)).argmax())
    direction = latent_change(sae, f, latent, Operation("add", 1.0)).double()

    def logits(amount: torch.Tensor) -> torch.Tensor:
        return cut.rest(state.with_patches(state.patches + amount * direction))

    slope = torch.autograd.functional.jacobian(logits, torch.zeros((), dtype=torch.float64))
    assert (slope.abs() > 1e-6).all()
    change = latent_change(sae, f, latent, Operation("add", 1e-4)).double()
    with_edit = cut.rest(state.with_patches(state.patches + change))
    torch.testing.assert_close((with_edit - cut.rest(state)) / 1e-4, slope, rtol=0.01, atol=1e-6)


def test_prefix_tokens_are_left_alone(model: nn.Module, images: torch.Tensor, sae: SAE) -> None:
    cut = CutModel(model, LAYER)
    seen = {}
    handle = blocks_of(model)[LAYER].register_forward_hook(lambda *found: seen.setdefault("before", found[2]))
    with edit(model, sae, 3, layer=LAYER, add=50.0, where="all"):
        later = blocks_of(model)[LAYER].register_forward_hook(
            lambda *found: seen.setdefault("after", found[2])
        )
        model(images)
    for hook in (handle, later):
        hook.remove()
    moved = (cut.batch_first(seen["after"]) - cut.batch_first(seen["before"])).abs().amax(2)
    assert (moved[:, : cut.n_prefix] == 0).all()
    assert (moved[:, cut.n_prefix :] > 0).all()
    assert cut.n_prefix == moved.shape[1] - 16


def test_what_cannot_be_edited_is_said(sae: SAE) -> None:
    tower = vit().eval()
    for wrong, words in (
        ({"latents": S}, "the SAE has latents 0 to 95"),
        ({"latents": 0, "add": 1.0}, "expected one of `set`, `scale` and `add`"),
        ({"latents": 0, "where": "here"}, "expected firing, all"),
    ):
        options = {"layer": 1, "scale": 2.0, **wrong}
        with pytest.raises(UsageError, match=words), edit(tower, sae, **options):
            tower(torch.zeros(1, 3, 64, 64))
    with pytest.raises(UsageError, match="`layer`"), edit(tower, sae, 0, scale=0):
        pass
    with pytest.raises(UserError, match="blocks 0 to 3"), edit(tower, sae, 0, layer=4, scale=0):
        pass
    with pytest.raises(UserError, match="no list of equal blocks"):
        CutModel(timm.create_model("test_resnet"), 0)
    half = tower.half()
    state = CutModel(half, 1).first(torch.zeros(1, 3, 64, 64).half())
    with pytest.raises(UserError, match="not finite as float16; lower the amount"):
        state.with_patches(state.patches.float() + 1e6)


VIT = Path(__file__).resolve().parents[2] / "examples/birds/vit.safetensors"


@pytest.fixture(scope="module")
def live() -> VisionModel:
    """The model of the example, as a notebook loads it."""
    return st.load_model("timm/test_vit2", weights=VIT, device="cpu")


@pytest.fixture
def known(live: VisionModel, sae: SAE) -> SAE:
    """The same SAE, which says that it is of this model's layer 3."""
    return trained_on(live, sae)


def trained_on(live: VisionModel, sae: SAE, **changed: object) -> SAE:
    same = SAE(sae.config, *(w.clone() for w in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)), mean=sae.mean,
               scale=sae.scale)  # fmt: skip
    source = {**live.source(), "layer": 3, **changed}
    return with_origin(TrainedScorer("sae", same, Provenance.of(SCORERS, "train-sae", {}), source))


def n_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_what_a_model_records_is_edited_in_the_block(live: VisionModel, known: SAE) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (160, 160, 3)).astype(np.uint8)
    x, later = live.record(pixels, layer=3), live.record(pixels, layer=7)
    f = known.encode(x)
    latent = f.sum((0, 1)).argmax()
    with st.edit(live, known, latent, scale=-2):
        found, after = live.record(pixels, layer=3), live.record(pixels, layer=7)
        assert torch.equal(live.record(pixels, layer=2), live.record(pixels, layer=2))
    torch.testing.assert_close(found, x + latent_change(known, f, int(latent), Operation("scale", -2.0)))
    assert not torch.allclose(after, later)
    assert n_hooks(live.module) == 0
    assert torch.equal(live.record(pixels, layer=7), later)
    other = int(f.sum((0, 1)).argsort()[-2])
    with st.edit(live, known, [int(latent), other, other], set=0.0):  # each once
        found = live.record(pixels, layer=3)
    both = sum(latent_change(known, f, one, Operation("set", 0.0)) for one in (int(latent), other))
    torch.testing.assert_close(found, x + both)


def test_gradients_flow_through_a_live_edit(sae: SAE) -> None:
    """Those of the edited network: its difference quotient."""
    torch.manual_seed(0)
    tower, double = vit().eval().requires_grad_(False).double(), copy.deepcopy(sae).double()
    for block in tower.blocks:
        for weight in block.parameters():
            weight.mul_(1.5)
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    (plain,) = torch.autograd.grad(tower(images)[0, 0], images)
    with edit(tower, double, list(range(S)), layer=1, scale=2.0):
        (edited,) = torch.autograd.grad(tower(images)[0, 0], images)
        step = torch.randn_like(images) * 1e-6
        quotient = (tower(images + step) - tower(images - step))[0, 0] / 2
    torch.testing.assert_close((edited * step).sum(), quotient.detach(), rtol=1e-4, atol=0)
    assert (edited - plain).norm() > 1e-3 * plain.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_an_edit_of_nothing_in_every_type(sae: SAE, dtype: torch.dtype) -> None:
    tower = vit().eval().to(dtype)
    images = torch.randn(2, 3, 64, 64).to(dtype)
    whole = tower(images)
    with edit(tower, sae, [3, 5], layer=1, scale=1):
        assert torch.equal(tower(images), whole)
    mask = torch.zeros(16, dtype=torch.bool)
    with edit(tower, sae, 3, layer=1, set=5.0, where=mask):
        assert torch.equal(tower(images), whole)


def test_nothing_is_left_after_an_error(live: VisionModel, known: SAE, sae: SAE) -> None:
    tower = vit().eval()
    images = torch.zeros(2, 3, 64, 64)
    with pytest.raises(KeyError), edit(tower, sae, 3, layer=1, scale=0.0):
        raise KeyError
    assert n_hooks(tower) == 0
    ones = torch.ones(2, 16, dtype=torch.bool)
    for where, says in (
        (ones[:1], r"bool \(1, 16\); expected bool \(2, 16\)"),
        (ones.float(), "torch.float32"),
    ):
        with pytest.raises(UsageError, match=says), edit(tower, sae, 3, layer=1, scale=0.0, where=where):
            tower(images)
        assert n_hooks(tower) == 0
    half = vit().eval().half()
    with (
        pytest.raises(UserError, match="not finite as float16; lower the amount"),
        edit(half, sae, 3, layer=1, add=1e6, where="all"),
    ):
        half(images.half())
    assert n_hooks(half) == 0
    for latents in ([], 1.5, [True], [0, S]):
        with pytest.raises(UsageError, match="latent"), edit(tower, sae, latents, layer=1, scale=0.0):
            pass
    with pytest.raises(UserError, match="layer: 3 against 4"), edit(live, known, 0, layer=4, scale=0.0):
        pass
    other = trained_on(live, sae, weights="0" * 64)
    with (
        pytest.raises(UserError, match="other activations than the model gives: weights"),
        edit(live, other, 0, scale=0.0),
    ):
        pass
    assert n_hooks(live.module) == 0
