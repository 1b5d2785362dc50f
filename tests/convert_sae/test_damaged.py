"""Checkpoints of other libraries with a fault: an error of ours, or the same numbers; never others, nor a traceback."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_process import runner
from processes import Tool, error_lines, run_on_a_full_disk

from convert_sae.cli import app
from saetools.errors import UserError
from saetools.files.torch_files import load_torch
from saetools.scorers.file import load_scorer
from saetools.scorers.sae import SAE, SAEConfig, sae_digest
from saetools.scorers.saelens import write_saelens
from saetools.scorers.saev import write_saev
from saetools.vision.weights import read_weights

HERE = Path(__file__).parent
convert = runner("convert-sae", app)


def sae_of(activation: str = "topk") -> SAE:
    draw = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=draw) for shape in ((12, 40), (40,), (40, 12), (12,))]
    return SAE(SAEConfig(12, 40, activation, 5 if activation == "topk" else None), *weights)


def outcome(path: Path) -> str:
    """'refused', or the digest of all that decides what the SAE computes, and of what it was trained on."""
    try:
        found = load_scorer(path)
    except UserError as error:
        assert len(str(error).splitlines()) <= 3
        return "refused"
    assert isinstance(found.scorer, SAE)
    return sae_digest(found.scorer) + json.dumps(dict(found.trained_on))


def mutate(content: bytes, draw: np.random.Generator) -> bytes:
    """One to three bytes changed, or some cut out, or zeroed; half of the time near the start."""
    spoilt = bytearray(content)
    at = int(draw.integers(len(content) if draw.random() < 0.5 else min(len(content), 600)))
    kind = draw.integers(4)
    if kind == 0:
        del spoilt[at:]
    elif kind == 1:
        spoilt[at : at + 64] = bytes(len(spoilt[at : at + 64]))
    else:
        for place in {at, *draw.integers(len(content), size=int(draw.integers(3))).tolist()}:
            spoilt[place] ^= 1 << int(draw.integers(8))
    return bytes(spoilt)


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_no_damage_to_what_we_write_gives_other_numbers(activation: str, tmp_path: Path) -> None:
    known = {"saetools": {"trained_on": {n: n for n in ("model", "weights", "hook", "preprocess", "layer")}}}
    write_saev(tmp_path / "sae.pt", sae_of(activation))
    write_saelens(tmp_path / "lens", sae_of(activation), known)
    draw = np.random.default_rng(1)
    refused = 0
    for path, inside in (("sae.pt", ""), ("lens", "sae_weights.safetensors"), ("lens", "cfg.json")):
        same = outcome(tmp_path / path)
        file = tmp_path / path / inside if inside else tmp_path / path
        sound = file.read_bytes()
        for _ in range(150):
            file.write_bytes(mutate(sound, draw))
            found = outcome(tmp_path / path)
            # Without its key `metadata` a folder is one that SAELens made, with the same numbers
            assert found in (same, "refused") or (inside == "cfg.json" and found.startswith(same[:64]))
            refused += found == "refused"
        file.write_bytes(sound)
    assert refused > 300


@pytest.mark.parametrize("name", ["legacy-relu", "schema1b-topk", "schema5-batchtopk"])
def test_tensors_of_the_saev_library_are_checked(name: str, tmp_path: Path) -> None:
    """By the CRC-32 of the zip archive, which torch does not compare."""
    head, _, state = (HERE / "saev_checkpoints" / f"{name}.pt").read_bytes().partition(b"\n")
    path = tmp_path / "sae.pt"
    shutil.copy(HERE / "saev_checkpoints" / f"{name}.pt", path)
    same, draw, refused = outcome(path), np.random.default_rng(2), 0
    for _ in range(100):
        path.write_bytes(head + b"\n" + mutate(state, draw))
        found = outcome(path)
        assert found in (same, "refused")
        refused += found == "refused"
    assert refused > 50


def test_a_digest_or_a_number_of_the_header_changed(tmp_path: Path) -> None:
    write_saev(tmp_path / "sae.pt", sae_of())
    content = (tmp_path / "sae.pt").read_bytes()
    (tmp_path / "sae.pt").write_bytes(content.replace(b'"top_k": 5', b'"top_k": 7'))
    with pytest.raises(UserError, match="its digest differs"):
        load_scorer(tmp_path / "sae.pt")
    write_saelens(tmp_path / "lens", sae_of(), {})
    config = tmp_path / "lens" / "cfg.json"
    config.write_text(config.read_text().replace('"k": 5', '"k": 7'))
    with pytest.raises(UserError, match="not those that convert-sae wrote"):
        load_scorer(tmp_path / "lens")
    cfg = json.loads(config.read_text())
    del cfg["metadata"]["saetools"]["digest"]
    config.write_text(json.dumps(cfg))
    found = load_scorer(tmp_path / "lens").scorer
    assert isinstance(found, SAE)
    assert found.config.k == 7


def test_files_without_digests_are_read_as_before(tmp_path: Path) -> None:
    write_saev(tmp_path / "sae.pt", sae_of())
    line, _, state = (tmp_path / "sae.pt").read_bytes().partition(b"\n")
    header = json.loads(line)
    same = outcome(tmp_path / "sae.pt")
    del header["saetools"]
    (tmp_path / "sae.pt").write_bytes(json.dumps(header).encode() + b"\n" + state)
    assert outcome(tmp_path / "sae.pt") == same


Change = Callable[[dict[str, Any]], object]
HEADERS: dict[str, Change | bytes] = {
    "a list": b"[]",
    "nested": b"[" * 100_000 + b"]" * 100_000,
    "a huge number": b'{"schema": ' + b"9" * 5000 + b"}",
    "not UTF-8": b'{"schema": "\xff\xfe"}',
    "no cfg": lambda header: header.pop("cfg"),
    "cfg a list": lambda header: header.update(cfg=[1]),
    "schema a word": lambda header: header.update(schema="five"),
    "schema a list": lambda header: header.update(schema=[5]),
    "schema negative": lambda header: header.update(schema=-1),
    "d_model a word": lambda header: header["cfg"].update(d_model="16"),
    "d_model negative": lambda header: header["cfg"].update(d_model=-16),
    "d_model a fraction": lambda header: header["cfg"].update(d_model=16.0),
    "d_model true": lambda header: header["cfg"].update(d_model=True),
    "d_model huge": lambda header: header["cfg"].update(d_model=10**30),
    "d_sae a list": lambda header: header["cfg"].update(d_sae=[32]),
    "no sizes": lambda header: [header["cfg"].pop(name) for name in ("d_model", "d_sae")],
    "activation a word": lambda header: header["cfg"].update(activation="topk"),
    "no activation": lambda header: header["cfg"].pop("activation"),
    "class a list": lambda header: header["cfg"]["activation"].update(cls=["TopK"]),
    "parameters a word": lambda header: header["cfg"]["activation"].update(params="k"),
    "k a word": lambda header: header["cfg"]["activation"]["params"].update(top_k="4"),
    "k infinite": lambda header: header["cfg"]["activation"]["params"].update(top_k=float("inf")),
    "k 0": lambda header: header["cfg"]["activation"]["params"].update(top_k=0),
    "no k": lambda header: header["cfg"]["activation"]["params"].pop("top_k"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HEADERS)
def test_malformed_headers_are_named(kind: str, tmp_path: Path) -> None:
    line, _, state = (HERE / "saev_checkpoints" / "schema5-topk.pt").read_bytes().partition(b"\n")
    change = HEADERS[kind]
    if callable(change):
        header = json.loads(line)
        change(header)
        change = json.dumps(header).encode()
    (tmp_path / "sae.pt").write_bytes(change + b"\n" + state)
    said = error_lines(convert(tmp_path / "sae.pt", tmp_path / "out.h5", code=1))
    assert f"{tmp_path / 'sae.pt'}: " in said
    assert not (tmp_path / "out.h5").exists()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


STATES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a list": list,
    "keys of numbers": lambda state: {1: state["W_enc"], "a": state["b_enc"]},
    "missing": lambda state: {name: value for name, value in state.items() if name != "W_enc"},
    "integers": lambda state: {**state, "W_enc": state["W_enc"].long()},
    "complex": lambda state: {**state, "W_enc": state["W_enc"].to(torch.complex64)},
    "sparse": lambda state: {**state, "W_enc": state["W_enc"].to_sparse()},
    "no tensor": lambda state: {**state, "W_enc": 3.0},
    "NaN": lambda state: {**state, "b_dec": state["b_dec"] * float("nan")},
    "one number stretched": lambda state: {**state, "W_enc": torch.zeros(1, 1).expand(16, 32)},
    "meta": lambda state: {**state, "W_enc": state["W_enc"].to("meta")},
    "code": lambda state: {**state, "W_enc": Evil()},
}


@pytest.mark.parametrize("kind", STATES)
def test_malformed_tensors_are_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line, _, rest = (HERE / "saev_checkpoints" / "schema5-topk.pt").read_bytes().partition(b"\n")
    state = STATES[kind](torch.load(io.BytesIO(rest), weights_only=True))
    content = io.BytesIO()
    torch.save(state, content)
    Path("sae.pt").write_bytes(line + b"\n" + content.getvalue())
    assert "sae.pt: " in error_lines(convert("sae.pt", "out.h5", code=1))
    assert not Path("evil").exists() and not Path("out.h5").exists()


CONFIGS: dict[str, Change | bytes] = {
    "a list": b"[]",
    "nested": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "not UTF-8": b"\xff\xff",
    "empty": b"",
    "no d_in": lambda cfg: cfg.pop("d_in"),
    "d_sae a word": lambda cfg: cfg.update(d_sae="32"),
    "d_in a list": lambda cfg: cfg.update(d_in=[16]),
    "no k": lambda cfg: cfg.pop("k"),
    "no architecture": lambda cfg: cfg.pop("architecture"),
    "architecture a list": lambda cfg: cfg.update(architecture=["topk"]),
    "centred a word": lambda cfg: cfg.update(apply_b_dec_to_input="false"),
    "normalised by a list": lambda cfg: cfg.update(normalize_activations=["none"]),
    "keywords a list": lambda cfg: cfg.update(
        architecture="standard", activation_fn="topk", activation_fn_kwargs=[1]
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_malformed_saelens_settings_are_named(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "lens"
    shutil.copytree(HERE / "saelens_folders" / "topk", folder)
    change = CONFIGS[kind]
    if callable(change):
        cfg = json.loads((folder / "cfg.json").read_text())
        change(cfg)
        change = json.dumps(cfg).encode()
    (folder / "cfg.json").write_bytes(change)
    assert f"{folder}: " in error_lines(convert(folder, tmp_path / "out.h5", code=1))


@pytest.mark.parametrize(
    "start", [b"", b"\xff" * 8, b"\x10" + bytes(7), b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{}"]
)
def test_malformed_safetensors_are_named(start: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "lens"
    shutil.copytree(HERE / "saelens_folders" / "topk", folder)
    (folder / "sae_weights.safetensors").write_bytes(start)
    assert f"{folder}" in error_lines(convert(folder, tmp_path / "out.h5", code=1))
    (tmp_path / "w.safetensors").write_bytes(start)
    if start[:1] != b"\x02" or start[8:] != b"{}":
        with pytest.raises(UserError, match=r"w\.safetensors: not a safetensors file"):
            read_weights(tmp_path / "w.safetensors")


def test_weights_of_a_vision_model_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.arange(1000.0)}, path)
    assert torch.equal(read_weights(path)["a"], torch.arange(1000.0))
    spoilt = bytearray(path.read_bytes())
    spoilt[spoilt.index(np.arange(1000, dtype="<f4")[500:510].tobytes())] ^= 64
    path.write_bytes(spoilt)
    with pytest.raises(UserError, match="is damaged"):
        read_weights(path)
    torch.save({"a": torch.arange(1000.0)}, path)
    spoilt = bytearray(path.read_bytes())
    spoilt[spoilt.rindex(b"PK\x01\x02", 0, spoilt.rindex(b"/data/0")) + 38] |= (
        0x10  # says that it is a folder
    )
    path.write_bytes(spoilt)
    with pytest.raises(UserError, match="its list of contents is damaged"):
        read_weights(path)
    torch.save({"a": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=False)  # as before torch 1.6
    assert torch.equal(read_weights(path)["a"], torch.arange(1000.0))
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(UserError, match="a FIFO"):
        read_weights(tmp_path / "pipe.pth")


def test_files_that_torch_saved_without_checksums_are_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(compute_crc32=False)
    try:
        torch.save({"a": torch.arange(10.0)}, tmp_path / "w.pth")
    finally:
        torch.serialization.set_crc32_options(compute_crc32=True)
    with (tmp_path / "w.pth").open("rb") as file:
        assert torch.equal(load_torch(tmp_path / "w.pth", file)["a"], torch.arange(10.0))


@pytest.mark.parametrize("out", ["sae.pt", "lens", "deep/er/lens", "sae.h5"])
def test_a_full_disk_leaves_nothing_behind(out: str, tool: Tool, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    d, s = 64, 2048
    big = SAE(SAEConfig(d, s, "relu"), torch.ones(d, s), torch.ones(s), torch.ones(s, d), torch.ones(d))
    big.save(tmp_path / "big.h5")
    done = run_on_a_full_disk(100_000, "convert-sae", tmp_path / "big.h5", tmp_path / out)
    assert done.returncode == 1, done.stderr
    assert "free some space" in error_lines(done)
    assert [path.name for path in tmp_path.rglob("*") if path.name not in ("deep", "er")] == ["big.h5"]
    tool("convert-sae", tmp_path / "big.h5", tmp_path / out)
    assert load_scorer(tmp_path / out).d_model == d


def test_odd_files_in_place_of_an_sae(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "gone.pt").symlink_to("nothing")
    (tmp_path / "folder.pt").mkdir()
    (tmp_path / "lens").mkdir()
    os.mkfifo(tmp_path / "lens" / "cfg.json")
    for name, says in (
        ("pipe.pt", "a FIFO"),
        ("gone.pt", "a link to a file that does not exist"),
        ("folder.pt", "expected cfg.json"),
        ("lens", "a FIFO"),
    ):
        assert says in error_lines(convert(tmp_path / name, tmp_path / "out.h5", code=1))
    assert "--threshold nan" in error_lines(
        convert(tmp_path / "pipe.pt", tmp_path / "out.h5", "--threshold", "nan", code=2)
    )


def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    write_saelens(tmp_path / "sae", sae_of(), {})
    config = tmp_path / "sae" / "cfg.json"
    config.write_text(config.read_text().replace('"d_in": 12,', '"d_in": 13,\n "d_in": 12,'))
    with pytest.raises(UserError, match=r"cfg\.json is not JSON .a name in it is there twice"):
        load_scorer(tmp_path / "sae")
