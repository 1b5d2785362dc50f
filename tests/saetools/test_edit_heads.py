"""Heads at the end of a cut model: against the un-hooked network bit for bit, and float64; what is refused."""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from fake_device import FakeDevice
from timm.models import generate_default_cfgs, register_model
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from saetools.errors import UserError
from saetools.files.formats import HEADS
from saetools.files.provenance import Provenance
from saetools.scorers.head import ARRAYS, Head, save_head
from saetools.vision import open_clip_models, timm_models
from saetools.vision.cut_models import CutModel
from saetools.vision.heads import (
    EditHead,
    ZeroShotHead,
    check_reaches,
    fitted_head,
    model_head,
    open_head,
    read_zero_shot_names,
)
from saetools.vision.models import VisionModel, load_model, outline_model

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2}
# name of the architecture, and in what it is not a plain ViT with a class token; the classifiers of the weights
ARCHITECTURES: dict[str, tuple[dict[str, Any], Any]] = {
    "heads_vit": ({}, "head"),
    "heads_average": ({"class_token": False, "global_pool": "avg", "reg_tokens": 4}, "head"),
    "heads_dinov2": ({"reg_tokens": 4, "no_embed_class": True, "init_values": 1.0}, "head"),
    "heads_siglip": ({"class_token": False, "global_pool": "map"}, "head"),
    "heads_distilled": ({}, ("head", "head_dist")),
}
REACHED_AT_THE_END = {"heads_average", "heads_siglip"}
C = 7


def register(name: str, file: Path | None = None, n_classes: int = C) -> None:
    """Make timm know a small architecture, with published weights in a file."""
    options, classifier = ARCHITECTURES[name]
    kind = VisionTransformerDistilled if name == "heads_distilled" else VisionTransformer

    def create(pretrained: bool = False, **given: Any) -> nn.Module:
        return timm.models.build_model_with_cfg(kind, name, pretrained, **{**SMALL, **options, **given})

    create.__name__ = name
    config = {
        "input_size": (3, 32, 32),
        "classifier": classifier,
        "num_classes": n_classes,
        "first_conv": "patch_embed.proj",
    }
    module: Any = sys.modules[__name__]
    module.default_cfgs = generate_default_cfgs({f"{name}.small": {**config, "file": file and str(file)}})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a second time the first is overwritten
        register_model(create)


@pytest.fixture(autouse=True, scope="module")
def _register() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[__name__], "__all__", [], raising=False)
        patch.setattr(sys.modules[__name__], "default_cfgs", {}, raising=False)
        for name in ARCHITECTURES:
            register(name)
        yield


def shaken(network: nn.Module) -> nn.Module:
    """Random weights in every place, also where a network starts with zeros."""
    generator = torch.Generator().manual_seed(0)
    for value in network.state_dict().values():
        value += 0.2 * torch.randn(value.shape, generator=generator)
    return network.eval().requires_grad_(False)  # gradients would choose other kernels


class Whole:
    """A network with its classifier, its weights in a file, and the model that dump-acts loads from them."""

    def __init__(self, folder: Path, name: str, n_classes: int = C) -> None:
        torch.manual_seed(0)
        self.network = shaken(timm.create_model(name, num_classes=n_classes))
        self.weights = folder / f"{name}-{n_classes}.pth"
        torch.save(self.network.state_dict(), self.weights)
        self.model = self.load()

    def load(self, **options: Any) -> VisionModel:
        name = f"timm/{self.network.pretrained_cfg['architecture']}"
        outline = outline_model(name, weights=self.weights, native=options.pop("native", None))
        return load_model(outline, weights=self.weights, device=torch.device("cpu"), **options)


@pytest.fixture(params=ARCHITECTURES)
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> Whole:
    return Whole(tmp_path, request.param)


@pytest.fixture
def vit(tmp_path: Path) -> Whole:
    return Whole(tmp_path, "heads_vit")


def pictures(height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randint(
        0, 256, (3, height, width, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


# ---- the network's own classifier


def test_the_classifier_gives_the_whole_networks_logits_bit_for_bit(whole: Whole) -> None:
    images = whole.model.inputs(pictures())
    expected = whole.network(images)
    assert expected.shape == (3, C) and expected.std() > 0.1
    for layer in range(3):
        cut = CutModel(whole.model.module, layer)
        head = open_head("model", whole.model, cut, whole.weights)
        state = cut.first(images)
        found = head.logits(cut, state)
        assert found.dtype == torch.float32 and torch.equal(found[:, 0], expected)
        some = torch.tensor([2, 0])
        changed = head.logits(cut, state.with_patches(state.patches[some] * 1.5, some))
        assert changed.shape == (2, 1, C)
    assert (head.link, head.per_patch, head.layer) == ("softmax", False, None)
    assert list(head.names) == [str(i) for i in range(C)]


def test_what_dump_acts_records_and_its_digest_stay(whole: Whole) -> None:
    before = whole.model.acts(pictures(), [0, 2])
    digest = whole.model.weights
    head = model_head(whole.model, whole.weights)
    after, anew = whole.model.acts(pictures(), [0, 2]), whole.load()
    assert all(torch.equal(before[layer].patches, after[layer].patches) for layer in (0, 2))
    assert digest == whole.model.weights == anew.weights
    assert whole.model.module(whole.model.inputs(pictures())).shape == (
        3,
        32,
    )  # as it was, without a classifier
    # one copy of the blocks in memory, and what hooks on them do is seen from both
    assert all(a is b for a, b in zip(head.network.blocks, whole.model.module.blocks, strict=True))


def test_with_a_native_grid(vit: Whole) -> None:
    model = vit.load(native=24)
    images = model.inputs(pictures(32, 48))
    cut = CutModel(model.module, 1)
    head = open_head("model", model, cut, vit.weights)
    network = timm.create_model("heads_vit", num_classes=C, dynamic_img_size=True).eval()
    network.load_state_dict(vit.network.state_dict())
    assert torch.equal(head.logits(cut, cut.first(images))[:, 0], network(images))


def test_in_half_precision_it_computes_as_the_network_does(vit: Whole) -> None:
    model = vit.load(precision="bfloat16")
    images = model.inputs(pictures())
    cut = CutModel(model.module, 1)
    head = open_head("model", model, cut, vit.weights)
    with model.computing():
        found = head.logits(cut, cut.first(images))[:, 0]
        expected = vit.network(images)
    assert expected.dtype == torch.bfloat16 and found.dtype == torch.float32
    assert torch.equal(found, expected.float())
    assert not torch.equal(found, vit.network(images))
    with torch.no_grad():
        patches = model.acts(pictures(), [1])[1].patches
    with model.computing():
        assert torch.equal(cut.first(images).patches, patches)


def test_published_weights(tmp_path: Path) -> None:
    made = Whole(tmp_path, "heads_vit")
    register("heads_vit", made.weights)
    outline = outline_model("timm/heads_vit.small")
    model = load_model(outline, weights=None, device=torch.device("cpu"))
    assert model.weights == made.model.weights
    cut = CutModel(model.module, 1)
    images = model.inputs(pictures())
    found = open_head("model", model, cut, None).logits(cut, cut.first(images))
    assert torch.equal(found[:, 0], made.network(images))
    bare = tmp_path / "bare.pth"
    torch.save(made.model.module.state_dict(), bare)
    register("heads_vit", bare, n_classes=0)
    model = load_model(outline, weights=None, device=torch.device("cpu"))
    with pytest.raises(
        UserError, match=r"heads_vit.small: its published weights have no classifier; fit one"
    ):
        open_head("model", model, cut, None)
    register("heads_vit")


def test_names_of_classes(vit: Whole, tmp_path: Path) -> None:
    names = [f"bird {i}" for i in range(C)]
    assert list(model_head(vit.model, vit.weights, names).names) == names
    with pytest.raises(UserError, match=f"6 names for the {C} classes of the classifier of timm/heads_vit"):
        model_head(vit.model, vit.weights, names[1:])
    with pytest.raises(UserError, match="'bird 1' is there twice"):
        model_head(vit.model, vit.weights, ["bird 1", *names[1:]])
    imagenet = Whole(tmp_path, "heads_vit", 1000)
    found = model_head(imagenet.model, imagenet.weights).names
    assert found[:2] == ["tench", "goldfish"]
    assert [found[134], found[517]] == ["crane (n02012849)", "crane (n03126707)"]
    for n_classes in (1000, 11221, 11821, 21841, 21843):
        network = nn.Module()
        network.num_classes = n_classes  # type: ignore[assignment]
        assert len(set(timm_models.class_names(network))) == n_classes


def test_weights_without_a_classifier_or_of_another_model(vit: Whole, tmp_path: Path) -> None:
    bare = tmp_path / "bare.pth"
    torch.save({k: v for k, v in vit.network.state_dict().items() if "head." not in k}, bare)
    with pytest.raises(
        UserError,
        match=r"bare.pth: these weights of timm/heads_vit have no classifier; fit one with fit-heads",
    ):
        model_head(vit.model, bare)
    other = tmp_path / "other.pth"
    state = vit.network.state_dict()
    torch.save({**state, "blocks.1.attn.qkv.bias": state["blocks.1.attn.qkv.bias"] + 1e-3}, other)
    with pytest.raises(
        UserError, match=r"other.pth: blocks.1.attn.qkv.bias is another than in the edited model"
    ):
        model_head(vit.model, other)
    del state["head.bias"]
    torch.save(state, other)
    with pytest.raises(UserError, match=r"1 tensors are missing, for example head.bias"):
        model_head(vit.model, other)


# ---- zero-shot

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TOWER = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
CLIPS: dict[str, dict[str, Any]] = {
    "heads-clip": {"embed_dim": 24, "vision_cfg": TOWER, "text_cfg": TEXT},
    "heads-sigmoid": {
        "embed_dim": 32, "init_logit_bias": -10, "custom_text": True,
        "vision_cfg": {"image_size": 32, "timm_model_name": "heads_siglip", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {**TEXT, "no_causal_mask": True, "proj_bias": True, "pool_type": "last"},
    },
    "heads-coca": {
        "embed_dim": 32, "custom_text": True,
        "vision_cfg": {**TOWER, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        "text_cfg": {**TEXT, "context_length": 76, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {**TEXT, "context_length": 76, "attn_pooler_heads": 2},
    },
}  # fmt: skip
NAMES = ["car", "building", "tree", "pedestrian"]


class WholeClip:
    """Both towers, their weights in a file, and the model that dump-acts loads from them."""

    def __init__(self, folder: Path, name: str) -> None:
        (folder / f"{name}.json").write_text(json.dumps(CLIPS[name]))
        open_clip.add_model_config(folder / f"{name}.json")
        torch.manual_seed(0)
        self.name, self.clip = name, shaken(open_clip.create_model(name))
        self.weights, self.names = folder / "clip.pth", folder / "names.txt"
        torch.save(self.clip.state_dict(), self.weights)
        self.names.write_text("\n".join(NAMES) + "\n")
        self.model = self.load()

    def load(self, **options: Any) -> VisionModel:
        outline = outline_model(f"open_clip/{self.name}", weights=self.weights)
        return load_model(outline, weights=self.weights, device=torch.device("cpu"), **options)

    def head(self, template: str = "a photo of a {}.") -> EditHead:
        cut = CutModel(self.model.module, 1)
        return open_head(f"zero-shot:{self.names}", self.model, cut, self.weights, template=template)


@pytest.fixture
def clip(tmp_path: Path) -> WholeClip:
    return WholeClip(tmp_path, "heads-clip")


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("template", ["a photo of a {}.", "{} in a street, {}!"])
def test_zero_shot_is_the_whole_clip(tmp_path: Path, name: str, template: str) -> None:
    whole = WholeClip(tmp_path, name)
    images, clip = whole.model.inputs(pictures()), whole.clip
    texts = open_clip.get_tokenizer(name)([template.replace("{}", n) for n in NAMES])
    head = whole.head(template)
    image_be, text_ce = clip.encode_image(images, normalize=False), clip.encode_text(texts, normalize=False)
    own = (
        clip.logit_scale.exp()
        * nn.functional.normalize(image_be, dim=-1)
        @ nn.functional.normalize(text_ce, dim=-1).T
    )
    own = own if clip.logit_bias is None else own + clip.logit_bias
    assert own.std() > 0.1
    image_be, text_ce = image_be.double(), text_ce.double()
    cosine = (image_be @ text_ce.T) / image_be.norm(dim=1)[:, None] / text_ce.norm(dim=1)
    expected = clip.logit_scale.double().exp() * cosine + (
        0 if clip.logit_bias is None else clip.logit_bias.double()
    )
    assert (clip.logit_bias is None) == (name != "heads-sigmoid")
    for layer in range(3):
        cut = CutModel(whole.model.module, layer)
        found = head.logits(cut, cut.first(images))
        assert found.shape == (3, 1, len(NAMES)) and found.dtype == torch.float32
        assert torch.equal(found[:, 0], own)
        assert (found[:, 0].double() - expected).abs().max() < 1e-5 * expected.abs().max()
    assert (list(head.names), head.link, head.per_patch, head.layer) == (NAMES, "softmax", False, None)


def test_cosines_are_of_float32_in_half_precision_too(clip: WholeClip) -> None:
    model, head = clip.load(precision="bfloat16"), clip.head()
    assert isinstance(head, ZeroShotHead)
    cut, images = CutModel(model.module, 1), model.inputs(pictures())
    with model.computing():
        image_be = cut.rest(cut.first(images))
        found = head.logits(cut, cut.first(images))
    assert image_be.dtype == torch.bfloat16 and found.dtype == torch.float32
    unit = nn.functional.normalize(image_be.double(), dim=1)
    expected = head.scale.double() * unit @ head.text_ce.double().T
    assert (found[:, 0].double() - expected).abs().max() < 1e-5


def test_many_texts_are_those_one_by_one(clip: WholeClip) -> None:
    names = [f"bird number {i}" for i in range(150)]
    clip.names.write_text("\n".join(names))
    head = clip.head()
    assert isinstance(head, ZeroShotHead)
    tokens = open_clip.get_tokenizer(clip.name)([f"a photo of a {name}." for name in names])
    expected = torch.cat([clip.clip.encode_text(token[None], normalize=True) for token in tokens])
    torch.testing.assert_close(head.text_ce, expected.detach(), rtol=1e-4, atol=1e-5)


def test_zero_shot_needs_both_towers_of_the_same_weights(clip: WholeClip, vit: Whole, tmp_path: Path) -> None:
    cut = CutModel(clip.model.module, 1)
    spec = f"zero-shot:{clip.names}"
    tower = tmp_path / "tower.pth"
    torch.save(clip.clip.visual.state_dict(), tower)
    with pytest.raises(
        UserError, match=r"tower.pth: it holds an image tower alone; zero-shot needs the text tower too"
    ):
        open_head(spec, clip.model, cut, tower)
    state = clip.clip.state_dict()
    torch.save({**state, "visual.proj": state["visual.proj"] * 2}, tower)
    with pytest.raises(
        UserError, match=r"tower.pth: proj is another than in the edited model; give the weights"
    ):
        open_head(spec, clip.model, cut, tower)
    with pytest.raises(
        UserError, match="timm/heads_vit: models of timm have no text tower, which zero-shot needs"
    ):
        open_head(spec, vit.model, CutModel(vit.model.module, 1), vit.weights)
    with pytest.raises(
        UserError, match=r"CLIP has no classifier of its own; choose 'zero-shot:NAMES.txt', or fit"
    ):
        open_head("model", clip.model, cut, clip.weights)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"names.txt: it has no class name"),
        ("\n \n", r"names.txt: it has no class name"),
        ("car\n\ntree\n", r"names.txt: line 2 is empty; expected a class name on each line"),
        ("car\ntree\ncar\n", r"names.txt: 'car' is there twice"),
        ("car\na photo of a {}\n", r"names.txt: line 2: 'a photo of a {}' has {}; expected names alone"),
        ("Crane\ncrane\n", r"'Crane' and 'crane' are the same to the tokenizer of open_clip/heads-clip"),
        (f"{'bird ' * 90}a\n{'bird ' * 90}b\n", r"are the same to the tokenizer .*77 tokens at most; shorten them"),
        (None, r"names.txt: .*expected class names, one a line"),
    ],
)  # fmt: skip
def test_names_that_are_refused(clip: WholeClip, text: str | None, words: str) -> None:
    clip.names.unlink() if text is None else clip.names.write_text(text)
    with pytest.raises(UserError, match=words):
        clip.head()


def test_names_as_people_save_them(clip: WholeClip) -> None:
    clip.names.write_bytes(b"\xef\xbb\xbfcar \r\n Bell tower\r\n\r\n")
    assert read_zero_shot_names(clip.names) == ["car", "Bell tower"]
    with pytest.raises(UserError, match=r"`template` 'a photo': it has no \{\} for the name"):
        clip.head("a photo")


def test_a_tokenizer_that_cannot_be_had(clip: WholeClip, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_name: str) -> Callable[..., torch.Tensor]:
        raise ModuleNotFoundError("No module named 'transformers'")

    monkeypatch.setattr(open_clip_models.open_clip, "get_tokenizer", absent)
    with pytest.raises(
        UserError, match=r"tokenizer of its text tower could not be had .No module named 'transformers'"
    ):
        clip.head()


# ---- fitted heads


def made_head(model: VisionModel, tokens: str, layer: int, link: str = "softmax", n_classes: int = 4) -> Head:
    draw = torch.Generator().manual_seed(5)
    width = model.outline.shapes[layer].d_model
    return Head(
        torch.randn(n_classes, width, generator=draw, dtype=torch.float64),
        torch.randn(n_classes, generator=draw, dtype=torch.float64),
        [f"class {i}" for i in range(n_classes)],
        link,
        tokens,
        {**model.source(), "layer": layer},
        0.1,
        Provenance.of(HEADS, "fit-heads", {}),
        {name: np.zeros(3 if axis == "L" else n_classes, kind) for name, (axis, kind) in ARRAYS.items()},
    )


@pytest.mark.parametrize("tokens", ["cls", "mean", "patches"])
@pytest.mark.parametrize("link", ["softmax", "logistic"])
def test_a_fitted_head_by_hand(vit: Whole, tmp_path: Path, tokens: str, link: str) -> None:
    """W t + b in float64, with t what a hook on the block of the un-hooked network saw."""
    made = made_head(vit.model, tokens, 1, link)
    save_head(tmp_path / "head.h5", made)
    images = vit.model.inputs(pictures())
    seen: list[torch.Tensor] = []
    hook = vit.network.get_submodule("blocks.1").register_forward_hook(lambda *found: seen.append(found[2]))
    vit.network(images)
    hook.remove()
    x = seen[0].double()
    t = {"cls": x[:, :1], "mean": x[:, 1:].mean(1, keepdim=True), "patches": x[:, 1:]}[tokens]
    expected = torch.einsum("brd,cd->brc", t, made.weight) + made.bias
    for layer in (0, 1):
        cut = CutModel(vit.model.module, layer)
        head = open_head(str(tmp_path / "head.h5"), vit.model, cut, vit.weights)
        found = head.logits(cut, cut.first(images))
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert (head.link, head.layer, list(head.names)) == (link, 1, [f"class {i}" for i in range(4)])
    assert head.per_patch == (tokens == "patches") and found.shape[1] == (16 if head.per_patch else 1)


def test_the_class_token_stands_before_registers(tmp_path: Path) -> None:
    whole = Whole(tmp_path, "heads_dinov2")
    cut, images = CutModel(whole.model.module, 0), whole.model.inputs(pictures())
    recorded = whole.model.acts(pictures(), [2])[2]
    for tokens, t in (("cls", recorded.cls), ("mean", recorded.patches.double().mean(1))):
        made = made_head(whole.model, tokens, 2)
        found = fitted_head(made, tmp_path / "head.h5", cut).logits(cut, cut.first(images))
        torch.testing.assert_close(found[:, 0], made(t), rtol=1e-6, atol=1e-6)


def test_a_fitted_head_of_another_model_layer_or_token(vit: Whole, tmp_path: Path) -> None:
    cut, made, path = CutModel(vit.model.module, 1), made_head(vit.model, "mean", 1), tmp_path / "head.h5"
    save_head(path, replace(made, trained_on={**made.trained_on, "weights": "0" * 64}))
    with pytest.raises(UserError, match=r"head.h5: the head was fitted on other activations: .*weights"):
        open_head(str(path), vit.model, cut, vit.weights)
    with pytest.raises(
        UserError, match=r"absent.h5: no such file; expected a head of fit-heads, 'model', or 'zero-shot:"
    ):
        open_head(str(tmp_path / "absent.h5"), vit.model, cut, vit.weights)
    with pytest.raises(UserError, match=r"head.h5: the head reads block 9, but the model has blocks 0 to 2"):
        fitted_head(replace(made, trained_on={**made.trained_on, "layer": 9}), path, cut)
    siglip = Whole(tmp_path, "heads_siglip")
    with pytest.raises(UserError, match=r"head.h5: the head reads the class token, but the model has none"):
        fitted_head(replace(made, tokens="cls"), path, CutModel(siglip.model.module, 1))


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_heads_are_where_the_model_is(vit: Whole, clip: WholeClip, tmp_path: Path, kind: str) -> None:
    """On a device that raises where devices are mixed, and (mps) where anything is float64."""
    save_head(tmp_path / "head.h5", made_head(vit.model, "mean", 2))
    specs: list[tuple[Whole | WholeClip, str]] = [
        (vit, "model"),
        (vit, str(tmp_path / "head.h5")),
        (clip, f"zero-shot:{clip.names}"),
    ]
    for whole, spec in specs:
        found = []
        for device in ("cpu", kind):
            with FakeDevice(kind) if device == kind else contextlib.nullcontext(), torch.no_grad():
                model, images = whole.load(), whole.model.inputs(pictures()).to(device)
                model.module.to(device)
                model.device = torch.device(device)
                cut = CutModel(model.module, 1)
                state = cut.first(images)
                some = torch.tensor([2, 0]).to(device)
                changed = state.with_patches(state.patches[some] * 2, some)
                found.append(open_head(spec, model, cut, whole.weights).logits(cut, changed).cpu().numpy())
        np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)


# ---- can an edit reach the head?


@pytest.mark.parametrize("tokens", ["cls", "mean", "patches"])
def test_which_fitted_heads_an_edit_reaches(vit: Whole, tmp_path: Path, tokens: str) -> None:
    """The rule by layer and tokens is what gradients say, where the network can be run at all."""
    images = vit.model.inputs(pictures()[:1])
    for edited in range(3):
        for read in range(3):
            cut = CutModel(vit.model.module, edited)
            head = fitted_head(made_head(vit.model, tokens, read), tmp_path / "head.h5", cut)
            reached = False
            if read >= edited:
                state = cut.first(images)
                patches = state.patches.requires_grad_()
                gradient = torch.autograd.grad(
                    head.logits(cut, state.with_patches(patches)).pow(2).sum(), patches, allow_unused=True
                )[0]
                reached = gradient is not None and bool((gradient != 0).any())
            assert reached == (read > edited or (read == edited and tokens != "cls"))
            if reached:
                check_reaches(head, cut, images, "head.h5")
                continue
            with pytest.raises(UserError) as raised:
                check_reaches(head, cut, images, "head.h5")
            what = {"cls": "the class token", "mean": "the mean of the patches", "patches": "the patches"}[
                tokens
            ]
            said = str(raised.value)
            assert said.startswith(
                f"head.h5: it reads {what} of block {read}, which the patches of block {edited}"
            )
            assert (
                "edit an earlier block" in said
                and "the mean or the patches of that block or of a later one" in said
            )


def test_where_an_edit_reaches_the_networks_own_classifier(whole: Whole) -> None:
    name = whole.network.pretrained_cfg["architecture"]
    images = whole.model.inputs(pictures()[:1])
    head = model_head(whole.model, whole.weights)
    with torch.inference_mode():  # as the engine runs it
        for layer in (0, 1):
            check_reaches(head, CutModel(whole.model.module, layer), images, "model")
        last = CutModel(whole.model.module, 2)
        if name in REACHED_AT_THE_END:
            check_reaches(head, last, images, "model")
        else:
            with pytest.raises(
                UserError, match=r"model: it reads what the network's own classifier pools after the last"
            ):
                check_reaches(head, last, images, "model")


@pytest.mark.parametrize("name", CLIPS)
def test_where_an_edit_reaches_zero_shot(tmp_path: Path, name: str) -> None:
    whole = WholeClip(tmp_path, name)
    head, images = whole.head(), whole.model.inputs(pictures()[:1])
    check_reaches(head, CutModel(whole.model.module, 1), images, "zero-shot")
    last = CutModel(whole.model.module, 2)
    if name != "heads-clip":
        check_reaches(head, last, images, "zero-shot")
        return
    with pytest.raises(UserError, match="which the patches of block 2 cannot reach any more"):
        check_reaches(head, last, images, "zero-shot")


def test_small_gradients_are_not_lost_in_half_precision(vit: Whole) -> None:
    """In float16 they would be 0, and the head refused."""
    head = model_head(vit.model, vit.weights)
    with torch.no_grad():
        for value in (head.network.head.weight, head.network.head.bias):
            value.mul_(1e-9)
    images = vit.model.inputs(pictures()[:1])
    with torch.autocast("cpu", torch.float16):
        check_reaches(head, CutModel(vit.model.module, 1), images, "model")


def test_the_real_vit(real_data: Path) -> None:
    weights = real_data / "vit_tiny_patch16_224.safetensors"
    model = load_model(
        outline_model("timm/vit_tiny_patch16_224", weights=weights),
        weights=weights,
        device=torch.device("cpu"),
    )
    network = timm.create_model("vit_tiny_patch16_224").eval().requires_grad_(False)
    timm.models.load_checkpoint(network, str(weights))
    images, cut = model.inputs(pictures(224, 224)), CutModel(model.module, 8)
    head = open_head("model", model, cut, weights)
    assert torch.equal(head.logits(cut, cut.first(images))[:, 0], network(images))
    assert len(head.names) == 1000 and head.names[1] == "goldfish"
    check_reaches(head, CutModel(model.module, 10), images[:1], "model")
    with pytest.raises(UserError, match="the patches of block 11 cannot reach"):
        check_reaches(head, CutModel(model.module, 11), images[:1], "model")
