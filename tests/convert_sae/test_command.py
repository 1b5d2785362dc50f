"""Checkpoints of other libraries: read, converted there and back, and refused where they are not understood."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from in_process import runner
from processes import Tool, error_lines
from small_shards import write_shards

from convert_sae.cli import app
from saetools.errors import UserError
from saetools.log import logger
from saetools.scorers.compatibility import check_scorer_fits
from saetools.scorers.file import load_scorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.scorers.saelens import write_saelens
from saetools.scorers.saev import read_saev, write_saev
from saetools.shards.reader import Shard

HERE = Path(__file__).parent
SAEV = sorted((HERE / "saev_checkpoints").glob("*.pt"))
SAELENS = sorted(path.parent for path in (HERE / "saelens_folders").glob("*/cfg.json"))
FOREIGN = [*SAEV, *SAELENS]
convert = runner("convert-sae", app)


def expected(path: Path) -> dict[str, torch.Tensor]:
    recorded = path / "expected.npz" if path.is_dir() else path.with_suffix(".npz")
    return {name: torch.from_numpy(value) for name, value in np.load(recorded).items()}


def assert_reproduces(path: Path, recorded: dict[str, torch.Tensor]) -> None:
    sae = load_scorer(path).scorer
    f_bs = sae.encode(recorded["x"])
    torch.testing.assert_close(f_bs, recorded["f_x"], atol=1e-5, rtol=0)
    torch.testing.assert_close(sae.decode(f_bs), recorded["x_hat"], atol=1e-5, rtol=0)


def test_the_files_are_there() -> None:
    assert len(SAEV) == 5
    assert len(SAELENS) == 6


@pytest.mark.parametrize("path", FOREIGN, ids=lambda path: path.name)
def test_what_was_recorded_is_reproduced(path: Path) -> None:
    recorded = expected(path)
    assert recorded["f_x"].count_nonzero() > 0
    assert_reproduces(path, recorded)


@pytest.mark.parametrize("path", FOREIGN, ids=lambda path: path.name)
def test_there_and_back(path: Path, tmp_path: Path) -> None:
    """To ours, to saev's newest schema, to SAELens, and from both back to ours."""
    if path.name == "jumprelu":
        targets = ["ours.h5", "lens", "back-from-lens.h5"]
    else:
        targets = ["ours.h5", "newest.pt", "back-from-saev.h5", "lens", "back-from-lens.h5"]
    source = path
    for target in targets:
        done = convert(source, tmp_path / target)
        assert done.stdout == f"{tmp_path / target}\n"
        assert_reproduces(tmp_path / target, expected(path))
        source = tmp_path / target
    if (tmp_path / "newest.pt").exists():
        header = json.loads((tmp_path / "newest.pt").read_bytes().partition(b"\n")[0])
        assert header["schema"] == 5


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu"])
def test_input_normalisation_is_folded_in(activation: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    d, s = 12, 40
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    threshold = 0.3 + 0.2 * torch.rand(s, generator=generator) if activation == "jumprelu" else None
    threshold = torch.full((s,), 0.4) if activation == "batchtopk" else threshold
    k = 5 if "topk" in activation else None
    weights = draw(d, s), draw(s), draw(s, d), draw(d)
    sae = SAE(SAEConfig(d, s, activation, k), *weights, threshold, mean=3 + draw(d), scale=2.5)
    x_bd = 3 + 2 * draw(200, d)
    f_bs = sae.encode(x_bd)
    write_saelens(tmp_path / "lens", sae, {})
    converted = [load_scorer(tmp_path / "lens").scorer]
    if activation != "jumprelu":
        write_saev(tmp_path / "sae.pt", sae)
        converted.append(load_scorer(tmp_path / "sae.pt").scorer)
    for other in converted:
        torch.testing.assert_close(other.encode(x_bd), f_bs, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(other.decode(f_bs), sae.decode(f_bs), atol=5e-5, rtol=1e-5)


def test_the_real_saelens_reads_what_we_write(tmp_path: Path) -> None:
    sae_lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed; `make test-slow` has it")
    for path in FOREIGN:
        recorded, folder = expected(path), tmp_path / path.name
        known = {
            "saetools": {"trained_on": {"model": "timm/test", "layer": 3, "tokens": None}, "uid": "0" * 32}
        }
        write_saelens(folder, load_scorer(path).scorer, known)
        theirs = sae_lens.SAE.load_from_disk(folder)
        with torch.no_grad():
            f_bs = theirs.encode(recorded["x"])
            torch.testing.assert_close(f_bs, recorded["f_x"], atol=1e-5, rtol=0)
            torch.testing.assert_close(theirs.decode(f_bs), recorded["x_hat"], atol=1e-5, rtol=0)


def test_an_old_saelens_folder_names_topk_by_its_activation_function(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(HERE / "saelens_folders" / "topk", folder)
    cfg = json.loads((folder / "cfg.json").read_text())
    old = {
        "architecture": "standard",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": cfg.pop("k")},
    }
    (folder / "cfg.json").write_text(json.dumps(cfg | old))
    assert_reproduces(folder, expected(folder))


def test_schema_2_that_subtracted_after_all(tmp_path: Path) -> None:
    """The weights of a file that sees x - b_dec, under a header that says x: --centred puts it right."""
    source = HERE / "saev_checkpoints" / "schema1b-topk.pt"
    _, _, state = source.read_bytes().partition(b"\n")
    activation = {"cls": "TopK", "params": {"top_k": 4}}
    header = {"schema": 2, "cfg": {"d_vit": 16, "exp_factor": 2, "activation": activation}}
    (tmp_path / "two.pt").write_bytes(json.dumps(header).encode() + b"\n" + state)
    convert(tmp_path / "two.pt", tmp_path / "wrong.h5")
    with pytest.raises(AssertionError):
        assert_reproduces(tmp_path / "wrong.h5", expected(source))
    convert(tmp_path / "two.pt", tmp_path / "right.h5", "--centred")
    assert_reproduces(tmp_path / "right.h5", expected(source))
    convert(source, tmp_path / "other.h5", "--not-centred")
    with pytest.raises(AssertionError):
        assert_reproduces(tmp_path / "other.h5", expected(source))


def test_batchtopk_without_its_threshold(tmp_path: Path) -> None:
    _, _, state = (HERE / "saev_checkpoints" / "schema3-topk.pt").read_bytes().partition(b"\n")
    activation = {"cls": "BatchTopK", "params": {"top_k": 4}}
    header = {"schema": 3, "cfg": {"d_model": 16, "exp_factor": 2, "activation": activation}}
    source = tmp_path / "batch.pt"
    source.write_bytes(json.dumps(header).encode() + b"\n" + state)
    said = error_lines(convert(source, tmp_path / "no.h5", code=1))
    assert "has no threshold" in said and "--as-topk" in said
    convert(source, tmp_path / "topk.h5", "--as-topk")
    assert_reproduces(tmp_path / "topk.h5", expected(HERE / "saev_checkpoints" / "schema3-topk.pt"))
    convert(source, tmp_path / "threshold.h5", "--threshold", 0.5)
    f_bs = load_scorer(tmp_path / "threshold.h5").scorer.encode(torch.randn(300, 16))
    assert f_bs[f_bs > 0].min() > 0.5


def test_what_it_was_trained_on(tmp_path: Path) -> None:
    acts = write_shards(tmp_path / "acts", np.zeros((4, 3, 16), np.float32), n_shards=1)
    convert(SAEV[0], tmp_path / "sae.h5", "--acts", acts[0], "--layer", 3)
    trained_on = load_scorer(tmp_path / "sae.h5").trained_on
    assert (trained_on["model"], trained_on["layer"]) == ("timm/test", 3)
    wide = write_shards(tmp_path / "wide", np.zeros((4, 3, 17), np.float32), n_shards=1)
    assert "width" in error_lines(convert(SAEV[0], tmp_path / "no.h5", "--acts", wide[0], code=1))


def test_a_saelens_export_says_what_it_was_trained_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    acts = write_shards(tmp_path / "acts", np.zeros((4, 3, 16), np.float32), n_shards=1)
    convert(SAEV[0], tmp_path / "sae.h5", "--acts", acts[0], "--layer", 3)
    convert(tmp_path / "sae.h5", tmp_path / "lens")
    ours, back = load_scorer(tmp_path / "sae.h5"), load_scorer(tmp_path / "lens")
    shard = Shard(acts[0])
    assert (
        dict(back.trained_on)
        == dict(ours.trained_on)
        == {"tokens": None, "layer": 3, **shard.header.source()}
    )
    told = json.loads((tmp_path / "lens" / "cfg.json").read_text())["metadata"]["saetools"]
    assert told["uid"] == ours.provenance.uid
    check_scorer_fits(back, tmp_path / "lens", shard, 3)
    assert "does not say what it was trained on" not in caplog.text
    other = write_shards(tmp_path / "other", np.zeros((4, 3, 16), np.float32), n_shards=1, model="timm/else")
    with pytest.raises(UserError, match="it was trained on other activations"):
        check_scorer_fits(back, tmp_path / "lens", Shard(other[0]), 3)
    convert(tmp_path / "lens", tmp_path / "back.h5")
    assert dict(load_scorer(tmp_path / "back.h5").trained_on) == dict(ours.trained_on)


@pytest.mark.parametrize("metadata", [None, {}, {"sae_lens_version": "6.0", "model_name": "gpt2"}])
def test_a_folder_that_saelens_made_does_not_say(
    metadata: dict[str, str] | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logger, "propagate", True)  # a command that ran in this process has turned it off
    folder = tmp_path / "lens"
    shutil.copytree(HERE / "saelens_folders" / "topk", folder)
    cfg = json.loads((folder / "cfg.json").read_text())
    cfg.pop("metadata", None)
    (folder / "cfg.json").write_text(json.dumps(cfg if metadata is None else {**cfg, "metadata": metadata}))
    found = load_scorer(folder)
    assert found.trained_on == {}
    acts = write_shards(tmp_path / "acts", np.zeros((4, 3, found.d_model), np.float32), n_shards=1)
    check_scorer_fits(found, folder, Shard(acts[0]), 3)
    assert "does not say what it was trained on" in caplog.text


def test_broken_words_on_training_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "lens"
    shutil.copytree(HERE / "saelens_folders" / "topk", folder)
    cfg = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(
        json.dumps({**cfg, "metadata": {"saetools": {"trained_on": {"model": "x"}}}})
    )
    said = error_lines(convert(folder, tmp_path / "out.h5", code=1))
    assert "cfg.json: its metadata says 'saetools'" in said
    assert "convert the SAE again" in said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nowhere.pt", "out.h5"], 1, "no such file"),
        (["broken.pt", "out.h5"], 1, "found no line of JSON"),
        (["later.pt", "out.h5"], 1, "found schema 9"),
        (["swish.pt", "out.h5"], 1, "unknown activation 'Swish'"),
        (["short.pt", "out.h5"], 1, "W_enc has shape (16, 32), but its settings say (16, 48)"),
        (["lens", "out.pt"], 1, "no JumpReLU with a threshold for each latent"),
        (["gated", "out.h5"], 1, "architecture 'gated'"),
        (["scaled", "out.h5"], 1, "normalize_activations is 'layer_norm'"),
        (["empty", "out.h5"], 1, "expected cfg.json and sae_weights.safetensors"),
        (["lens", "there.h5"], 1, "it exists already"),
        (["lens", "out.h5", "--centred"], 2, "they are for saev checkpoints"),
        (["lens", "out.h5", "--layer", "3"], 2, "--layer: it is the layer of --acts"),
        (["ok.pt", "out.pt", "--acts", "there.h5"], 2, "--acts"),
        (["ok.pt", "out.h5", "--threshold", "1", "--as-topk"], 2, "give only one of them"),
    ],
)
def test_what_is_refused(
    arguments: list[str], code: int, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, _, state = (HERE / "saev_checkpoints" / "schema5-topk.pt").read_bytes().partition(b"\n")
    header = json.loads(first)
    Path("ok.pt").write_bytes(first + b"\n" + state)
    Path("broken.pt").write_bytes(state)
    Path("later.pt").write_bytes(json.dumps(header | {"schema": 9}).encode() + b"\n" + state)
    swish = header["cfg"] | {"activation": {"cls": "Swish", "params": {}}}
    Path("swish.pt").write_bytes(json.dumps(header | {"cfg": swish}).encode() + b"\n" + state)
    short = header["cfg"] | {"d_sae": 48}
    Path("short.pt").write_bytes(json.dumps(header | {"cfg": short}).encode() + b"\n" + state)
    for name, change in (
        ("lens", {}),
        ("gated", {"architecture": "gated"}),
        ("scaled", {"normalize_activations": "layer_norm"}),
    ):
        shutil.copytree(HERE / "saelens_folders" / "jumprelu", name)
        cfg = json.loads(Path(name, "cfg.json").read_text())
        Path(name, "cfg.json").write_text(json.dumps(cfg | change))
    Path("empty").mkdir()
    Path("there.h5").touch()
    assert said in error_lines(convert(*arguments, code=code))
    assert not Path("out.h5").exists() and not Path("out.pt").exists()


def test_as_a_program(tool: Tool, tmp_path: Path) -> None:
    out = tmp_path / "sae.h5"
    done = tool("convert-sae", SAEV[0], out)
    assert done.stdout == f"{out}\n"
    assert "relu, 32 latents of width 16" in done.stderr
    assert read_saev(SAEV[0]).provenance.uid in load_scorer(out).provenance.parents
