"""An SAE as a PyTorch module: gradients, hooks, devices and types, copies, and files with their records."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saetools.errors import UserError
from saetools.files.formats import SCORERS
from saetools.files.provenance import Provenance
from saetools.scorers.baselines import Linear
from saetools.scorers.file import load_sae, load_scorer
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import SAE, SAEConfig, as_scorer

D, S, K = 5, 9, 3
ACTIVATIONS = ("relu", "topk", "batchtopk", "jumprelu")
NAMES = ("W_enc", "b_enc", "W_dec", "b_dec")


def small_sae(activation: str = "topk", dtype: torch.dtype = torch.float32) -> SAE:
    draw = torch.Generator().manual_seed(3)
    w = {
        name: torch.randn(shape, generator=draw).to(dtype)
        for name, shape in zip(NAMES, ((D, S), (S,), (S, D), (D,)), strict=True)
    }
    threshold = torch.rand(S, generator=draw).to(dtype) if activation in ("batchtopk", "jumprelu") else None
    config = SAEConfig(D, S, activation, K if "topk" in activation else None)
    return SAE(config, **w, threshold=threshold, mean=torch.randn(D, generator=draw).to(dtype), scale=2.5)


def tokens(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, D, generator=torch.Generator().manual_seed(4)).to(dtype) * 3


def formula(sae: SAE, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """f and x_hat, from the definition, in the type of the weights."""
    z = ((x - sae.mean) / sae.scale - sae.b_dec) @ sae.W_enc + sae.b_enc
    if sae.config.activation == "topk":
        kept = z >= z.sort(dim=-1, descending=True).values[..., K - 1 : K]
    else:
        kept = z > (0 if sae.threshold is None else sae.threshold)
    f = torch.where(kept & (z > 0), z, 0.0)
    return f, (f @ sae.W_dec + sae.b_dec) * sae.scale + sae.mean


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradients_are_those_of_the_formula_in_float64(activation: str) -> None:
    sae, plain = small_sae(activation).requires_grad_(), small_sae(activation, torch.float64).requires_grad_()
    x, x64 = tokens(20).requires_grad_(), tokens(20, dtype=torch.float64).requires_grad_()
    weight = torch.randn(20, S)
    f = sae.encode(x)
    ((sae.decode(f) - x).square().sum() + (weight * f).sum()).backward()
    f64, x_hat64 = formula(plain, x64)
    ((x_hat64 - x64).square().sum() + (weight.double() * f64).sum()).backward()
    for name in NAMES:
        mine, expected = getattr(sae, name).grad, getattr(plain, name).grad
        torch.testing.assert_close(mine.double(), expected, rtol=1e-4, atol=1e-3, msg=name)
        assert expected.abs().max() > 0
    torch.testing.assert_close(x.grad.double(), x64.grad, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_frozen_weights_pass_gradients_on_to_the_input(activation: str) -> None:
    sae, x = small_sae(activation, torch.float64), tokens(6, dtype=torch.float64).requires_grad_()
    sae(x).square().sum().backward()
    plain = x.detach().clone().requires_grad_()
    formula(sae, plain)[1].square().sum().backward()
    torch.testing.assert_close(x.grad, plain.grad)
    assert not any(parameter.requires_grad for parameter in sae.parameters())


def test_call_is_the_reconstruction_of_tokens_in_any_arrangement() -> None:
    sae, x = small_sae(), tokens(2, 7)
    f = sae.encode(x)
    assert f.shape == (2, 7, S) and sae(x).shape == x.shape
    torch.testing.assert_close(f.view(14, S), sae.encode(x.view(14, D)), rtol=0, atol=0)
    torch.testing.assert_close(sae(x), sae.decode(f), rtol=0, atol=0)
    assert sae.encode(x[0, 0]).shape == (S,)
    torch.testing.assert_close(as_scorer(sae)(x[0]), f[0], rtol=0, atol=0)


def test_hooks_see_the_reconstruction_and_can_change_it() -> None:
    sae, x, seen = small_sae(), tokens(4), []
    sae.register_forward_hook(lambda module, given, found: seen.append((module, given[0], found)))
    sae.register_forward_hook(lambda _module, _given, found: found + 1)
    changed = sae(x)
    assert seen[0][0] is sae and seen[0][1] is x
    torch.testing.assert_close(changed, seen[0][2] + 1)


@pytest.mark.parametrize("activation", ["topk", "jumprelu"])
def test_state_dict_carries_everything_into_another_sae(activation: str) -> None:
    sae, x = small_sae(activation), tokens(8)
    zeros = [torch.zeros_like(getattr(sae, name)) for name in NAMES]
    other = SAE(sae.config, *zeros, None if sae.threshold is None else torch.zeros(S))
    before = other(x)
    other.load_state_dict(sae.state_dict())
    torch.testing.assert_close(other(x), sae(x), rtol=0, atol=0)
    assert other.scale == 2.5 and not torch.equal(before, sae(x))


def test_weights_that_change_after_a_first_call_count() -> None:
    """What is kept from call to call is made again."""
    x = tokens(8)

    def check(sae: SAE) -> None:
        torch.testing.assert_close(sae.encode(x), formula(sae, x)[0], rtol=1e-4, atol=1e-5)

    sae = small_sae("relu")
    check(sae)
    sae.W_enc.mul_(2)
    check(sae)
    sae.W_enc.data = sae.W_enc.data.flip(1)
    check(sae)
    sae.b_dec = torch.nn.Parameter(torch.ones(D))
    check(sae)
    sae.mean.zero_()
    check(sae)
    sae.scale = 0.5
    check(sae)
    sae.requires_grad_()
    torch.optim.SGD(sae.parameters(), lr=0.01).zero_grad()
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.01)
    before = (sae(x) - x).square().mean()
    before.backward()
    optimizer.step()
    with torch.no_grad():
        check(sae)
        assert (sae(x) - x).square().mean() < before
    with torch.inference_mode():
        inner = copy.deepcopy(sae)
        check(inner)
        inner.W_enc.mul_(3)
        check(inner)


def test_types_and_copies(tmp_path: Path) -> None:
    sae, x = small_sae("jumprelu"), tokens(8)
    expected = sae(x)
    copied = copy.deepcopy(sae)
    torch.save(sae, tmp_path / "module.pt")
    loaded = torch.load(tmp_path / "module.pt", weights_only=False)
    for one in (copied, loaded):
        torch.testing.assert_close(one(x), expected, rtol=0, atol=0)
    copied.W_enc.zero_()
    torch.testing.assert_close(sae(x), expected, rtol=0, atol=0)
    assert sae.to(torch.float64) is sae
    torch.testing.assert_close(sae(x.double()).float(), expected, rtol=1e-5, atol=1e-5)
    assert sae.half().W_dec.dtype == sae.mean.dtype == torch.float16


def saved(path: Path, sae: SAE) -> TrainedScorer:
    provenance = Provenance.of(SCORERS, "train-sae", {"lr": 0.1}, ["shard-uid"])
    trained_on = {"model": "timm/test", "layer": 7, "tokens": 1234}
    found = TrainedScorer("sae", sae, provenance, trained_on, {"l0": 2.0}, torch.rand(S))
    save_scorer(path, found)
    return found


def test_a_copy_says_what_it_was_trained_on(tmp_path: Path) -> None:
    saved(tmp_path / "sae.h5", small_sae())
    made, sae = load_scorer(tmp_path / "sae.h5"), load_sae(str(tmp_path / "sae.h5"))
    assert repr(sae) == "SAE(topk, d_model=5, d_sae=9, k=3, trained on layer 7 of timm/test, 1,234 tokens)"
    sae.save(str(tmp_path / "copy.h5"))
    copied = load_scorer(tmp_path / "copy.h5")
    assert (copied.provenance, copied.trained_on, copied.evaluation) == (
        made.provenance,
        made.trained_on,
        {"l0": 2.0},
    )
    torch.testing.assert_close(copied.frequency_s, made.frequency_s)
    torch.testing.assert_close(copied.scorer.W_enc, made.scorer.W_enc)


def test_changed_weights_have_a_uid_of_their_own(tmp_path: Path) -> None:
    made = saved(tmp_path / "sae.h5", small_sae())
    sae = load_sae(tmp_path / "sae.h5")
    sae.b_enc.data[0] += 1
    sae.save(tmp_path / "changed.h5")
    changed = load_scorer(tmp_path / "changed.h5")
    assert changed.provenance.uid != made.provenance.uid and changed.provenance.tool == "saetools"
    assert changed.provenance.settings == {"lr": 0.1, "changed_from": made.provenance.uid}
    assert changed.provenance.parents == ["shard-uid"]
    assert changed.trained_on == {"model": "timm/test", "layer": 7}
    assert changed.evaluation == {} and changed.frequency_s is None
    small_sae("relu").save(tmp_path / "own.h5")
    assert load_scorer(tmp_path / "own.h5").provenance.settings == {"activation": "relu", "sparsity": None}
    assert repr(load_sae(tmp_path / "own.h5")) == "SAE(relu, d_model=5, d_sae=9)"


def test_other_scorers_are_no_sae(tmp_path: Path) -> None:
    path = tmp_path / "random.h5"
    provenance = Provenance.of(SCORERS, "score-traits", {})
    save_scorer(path, TrainedScorer("random", Linear(torch.ones(3, D)), provenance, {}))
    with pytest.raises(UserError, match="found a scorer of kind 'random', expected an SAE; use load_scorer"):
        load_sae(path)


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = []

    def fetch(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "sae.h5")

    saved(tmp_path / "sae.h5", small_sae())
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    assert load_sae("hf://owner/birds/layer-7/sae.h5").config.d_sae == S
    assert asked == [("owner/birds", "layer-7/sae.h5")]
    with pytest.raises(UserError, match=r"expected cfg\.json and sae_weights"):
        load_sae("hf://owner/birds/layer-7")
    assert asked[1:] == [
        ("owner/birds", "layer-7/cfg.json"),
        ("owner/birds", "layer-7/sae_weights.safetensors"),
    ]

    def fail(*_: str) -> str:
        raise RuntimeError("a client of HTTP raises what it likes")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(UserError, match=r"could not be downloaded \(a client of HTTP"):
        load_sae("hf://owner/birds/sae.h5")
    with pytest.raises(UserError, match="expected hf://OWNER/NAME/FILE"):
        load_sae("hf://owner")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        load_sae("hf://owner/birds/sae.h5")


def test_the_hub_without_a_network(tmp_path: Path) -> None:
    code = (
        "from saetools.scorers.hub import download; from saetools.errors import UserError\n"
        "try: download('hf://owner/birds/sae.h5')\n"
        "except UserError as error: print(error)"
    )
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.startswith("hf://owner/birds/sae.h5: it could not be downloaded (")
    assert found.stdout.count("\n") == 1
