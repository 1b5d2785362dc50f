"""The table of docs/models.md: architectures of many families, recorded as a forward hook sees them.

After a change, `UPDATE_DOCS=1 pytest tests/dump_acts/test_architectures.py` writes the table anew.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch

from saetools.vision.models import VisionModel, _family, outline_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
HEAD = "| family | model | layers | of them | patches | width | prefix tokens | preprocessing |"
HEAD += "\n|---|---|---|---|---|---|---|---|"

# family, model, its block's place in the module with {} for its number, layer that is compared
ARCHITECTURES = [
    ("ViT", "timm/test_vit", "blocks.{}", 3),
    ("ViT", "timm/vit_tiny_patch16_224", "blocks.{}", 11),
    ("ViT with registers, no class token", "timm/vit_little_patch16_reg4_gap_256", "blocks.{}", 2),
    ("DeiT, distilled", "timm/deit_tiny_distilled_patch16_224", "blocks.{}", 5),
    ("DINOv2", "timm/vit_small_patch14_dinov2", "blocks.{}", 1),
    ("DINOv2 with registers", "timm/vit_small_patch14_reg4_dinov2", "blocks.{}", 11),
    ("DINOv3", "timm/vit_small_patch16_dinov3", "blocks.{}", 11),
    ("SigLIP 2", "timm/vit_base_patch32_siglip_256", "blocks.{}", 1),
    ("EVA-02", "timm/eva02_tiny_patch14_224", "blocks.{}", 11),
    ("PE", "timm/vit_pe_core_tiny_patch16_384", "blocks.{}", 4),
    ("BEiT v2", "timm/beitv2_base_patch16_224", "blocks.{}", 0),
    ("CLIP", "open_clip/ViT-S-32", "transformer.resblocks.{}", 7),
    ("CLIP", "open_clip/RN50", "layer{}", 2),
    ("ResNet", "timm/resnet18", "layer{}", 4),
    ("ConvNeXt", "timm/test_convnext", "stages.{}", 2),
    ("EfficientNet", "timm/test_efficientnet", "", 3),
    ("RegNet", "timm/regnety_002", "s{}", 4),
    ("Swin", "timm/swin_tiny_patch4_window7_224", "layers.{}", 1),
    ("MaxViT", "timm/test_maxvit", "", 4),
]


BEGIN, END = "<!-- table: models -->\n", "\n<!-- end -->"
UPDATE = bool(os.environ.get("UPDATE_DOCS"))


@pytest.fixture(scope="module")
def rows() -> Iterator[dict[str, str]]:
    """Row of the table by model; with UPDATE_DOCS they are written into the page, once all are known."""
    found: dict[str, str] = {}
    yield found
    if UPDATE:
        assert len(found) == len(ARCHITECTURES), "run all tests of this file to write the table"
        before, rest = PAGE.read_text().split(BEGIN)
        table = "\n".join([HEAD, *(found[name] for _, name, _, _ in ARCHITECTURES)])
        PAGE.write_text(before + BEGIN + table + END + rest.split(END)[1])


def table_of_the_page() -> list[str]:
    return PAGE.read_text().split(BEGIN)[1].split(END)[0].splitlines()


@pytest.mark.parametrize(
    ("family", "name", "block", "layer"), ARCHITECTURES, ids=[a[1] for a in ARCHITECTURES]
)
def test_recorded_tensor_is_what_a_hook_on_the_block_sees(
    family: str, name: str, block: str, layer: int, rows: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library, short = _family(name)
    if name.startswith("timm/") and not timm.is_model(short):
        pytest.skip(f"this version of timm has no {short}")
    monkeypatch.setattr(library, "check_name", lambda *_: None)  # random weights do for this
    torch.manual_seed(0)
    outline = outline_model(name)
    module = library.create(short, published=False, any_grid=False)
    model = VisionModel(outline, module, torch.device("cpu"))
    seen: list[torch.Tensor] = []
    place = block.format(layer) if block else module.feature_info[layer]["module"]
    module.get_submodule(place).register_forward_hook(lambda _m, _i, output: seen.append(output))

    height, width = outline.preprocess.size
    pixels = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8)
    found = model.acts(pixels, [layer])[layer]

    shape = outline.shapes[layer]
    assert found.grid == (shape.rows, shape.columns)
    assert found.patches.shape == (2, shape.n_patches, shape.d_model)
    assert found.patches.std() > 0
    expected = seen[0]
    n_prefix = 0
    if expected.ndim == 3:  # tokens, those before the patches are a class token and registers
        n_prefix = expected.shape[1] - shape.n_patches
        if outline.has_cls:
            assert found.cls is not None
            torch.testing.assert_close(found.cls, expected[:, 0])
        expected = expected[:, n_prefix:]
    elif expected.shape[1] == shape.d_model:  # a feature map {b, D, rows, columns}
        expected = expected.flatten(2).transpose(1, 2)
    else:  # {b, rows, columns, D}
        expected = expected.flatten(1, 2)
    torch.testing.assert_close(found.patches, expected)
    assert outline.has_cls == (n_prefix > library.n_registers(module))

    depth = "blocks" if outline.token_format == "NLC" else "stages"
    tokens = (
        "none" if not n_prefix else f"{n_prefix}, {'class token first' if outline.has_cls else 'registers'}"
    )
    how = outline.preprocess
    rows[name] = (
        f"| {family} | `{name}` | {outline.n_layers} {depth} | {layer} | {shape.rows} x {shape.columns}"
        f" | {shape.d_model} | {tokens} | {how.resize_mode} {how.resize[0]}, centre {how.size[0]} |"
    )
    assert UPDATE or rows[name] in table_of_the_page()


def test_the_page_lists_these_architectures_in_order() -> None:
    assert len({family for family, *_ in ARCHITECTURES}) >= 8
    head, rule, *table = table_of_the_page()
    assert f"{head}\n{rule}" == HEAD
    assert [row.split(" | ")[1] for row in table] == [f"`{name}`" for _, name, _, _ in ARCHITECTURES]
