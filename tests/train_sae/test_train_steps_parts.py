"""The parts of a training step: selection, prefixes, AuxK, thresholds, resuming, settings."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saetools.compute.kernels.selection import below_kth_largest
from saetools.compute.matmul import float32_matmul, float32_precision
from saetools.compute.threads import Workers, pieces_of_equal_work
from train_sae.steps import StepSettings, make_step
from train_sae.steps.cpu.cpu_step import SPARSE_BELOW
from train_sae.steps.cpu.prescreen import ScreenedAboveThreshold, ScreenedTopKSelector
from train_sae.steps.cpu.selection import (
    AboveThreshold,
    BatchTopKSelector,
    DeadSelector,
    EncoderChunks,
    TopKSelector,
)
from train_sae.steps.parameters import SAEParameters
from train_sae.steps.prefixes import draw_prefixes
from train_sae.steps.torch_step import TorchStep

B, D = 40, 16


def parameters_of(n_latents, seed=0, threshold=None, encoder_scale=1.0, bias=0.0):
    rng = np.random.default_rng(seed)
    decoder = rng.standard_normal((n_latents, D))
    decoder /= np.linalg.norm(decoder, axis=1, keepdims=True)
    theta_s = None if threshold is None else np.full(n_latents, threshold)
    bias_s = 0.1 * rng.standard_normal(n_latents) + bias
    return SAEParameters.from_arrays(encoder_scale * decoder, bias_s, decoder, np.zeros(D), theta_s)


def batch(seed, scale=1.0):
    return scale * torch.randn(B, D, generator=torch.Generator().manual_seed(seed))


def dense(active, n_latents):
    """The active latents as f {B, S} in float64."""
    f_bs = np.zeros((len(active.ptr_b) - 1, n_latents))
    token_e = np.repeat(np.arange(len(f_bs)), np.diff(active.ptr_b))
    assert len(set(zip(token_e, active.latent_a, strict=True))) == len(token_e)
    f_bs[token_e, active.latent_a] = active.f_a
    return f_bs


def exact(parameters, x_bd):
    return x_bd.double().numpy() @ parameters.enc_sd.double().numpy().T + parameters.b_enc_s.double().numpy()


@settings(max_examples=60, deadline=None)
@given(
    n_latents=st.sampled_from([1, 7, 64, 200, 1000, 1537]),
    share=st.floats(0, 1),
    levels=st.sampled_from([2, 5, 1000]),
    n_dead=st.integers(0, 20),
    seed=st.integers(0, 2**16),
)
def test_top_k_is_a_stable_sort(n_latents, share, levels, n_dead, seed):
    """Also with ties, blocks cut short, every k, negative values, and for AuxK's choice among some latents."""
    rng = np.random.default_rng(seed)
    k = 1 + int(share * (n_latents - 1))
    parameters = parameters_of(n_latents)
    parameters.enc_sd.zero_()
    parameters.b_enc_s.copy_(
        torch.from_numpy(rng.integers(-levels, levels // 4 + 1, n_latents).astype(np.float32))
    )
    z_s = parameters.b_enc_s.numpy()
    x_bd = batch(0)[:3]
    active = TopKSelector(parameters, k, 3, Workers()).select(x_bd)
    best = np.sort(np.argsort(-z_s, kind="stable")[:k])
    np.testing.assert_array_equal(active.latent_a.reshape(3, k), np.tile(best, (3, 1)))
    np.testing.assert_array_equal(active.f_a.reshape(3, k), np.tile(np.maximum(z_s[best], 0), (3, 1)))

    dead_s = np.zeros(n_latents, dtype=bool)
    dead_s[rng.permutation(n_latents)[:n_dead]] = True
    active = DeadSelector(parameters, k, True, 3, Workers()).select(x_bd, dead_s)
    assert (active is None) == (n_dead == 0)
    if active is not None:
        dead = np.flatnonzero(dead_s)
        best = np.sort(dead[np.argsort(-z_s[dead], kind="stable")[:k]])
        np.testing.assert_array_equal(active.latent_a.reshape(3, -1)[1], best)
        np.testing.assert_array_equal(active.f_a.reshape(3, -1)[1], z_s[best])


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=70),
    share=st.floats(0, 1),
)
def test_the_bound_below_the_kth_largest(values, share):
    """At least k reach it, whatever the values; and of plain ones few more."""
    k = 1 + int(share * (len(values) - 1))
    values = np.array(values, np.float32)
    assert (values >= below_kth_largest(values, len(values), k)).sum() >= k
    plain = np.random.default_rng(len(values)).standard_normal(400).astype(np.float32)
    assert (plain >= below_kth_largest(plain, 400, k)).sum() <= k + (k >> 4)


@pytest.mark.parametrize("case", ["plain", "common component", "long and short rows", "tail", "narrow"])
def test_screening_finds_the_same_latents(case):
    n_latents = {"tail": 2021, "narrow": 301}.get(case, 2048)
    k = 8 if case == "narrow" else 5
    parameters = parameters_of(n_latents)
    x_bd = batch(1)
    if case == "common component":
        parameters.enc_sd.sub_(
            parameters.enc_sd.mean(1, keepdim=True)
        )  # it reaches no latent, only the bound
        x_bd += 100
    if case == "long and short rows":
        parameters.enc_sd.mul_(torch.logspace(-3, 3, n_latents)[:, None])
    screened = ScreenedTopKSelector(parameters, k, B, Workers())
    found = dense(screened.select(x_bd), n_latents)
    expected = exact(parameters, x_bd)
    for z_s, f_s in zip(expected, found, strict=True):
        best = np.argsort(-z_s, kind="stable")[:k]
        assert set(np.flatnonzero(f_s)) == {s for s in best if z_s[s] > 0}
        np.testing.assert_allclose(f_s[best], np.maximum(z_s[best], 0), rtol=1e-4, atol=1e-5)
    if case == "common component":  # then all are candidates: screening must notice, and still be right
        assert screened.pause > 0
        np.testing.assert_allclose(dense(screened.select(x_bd), n_latents), found, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("n_latents", [2048, 128])
def test_screening_holds_where_every_rounding_errs_the_same_way(n_latents, monkeypatch):
    """Half of x is rounded down and half up by the most there is; the largest lose by all of it, others gain."""
    monkeypatch.setattr("train_sae.steps.cpu.prescreen.TOO_MANY", 2.0)
    k = 4
    down, up = 1 + 2.0**-8 - 2.0**-14, 1 + 2.0**-8 + 2.0**-14  # bfloat16 makes them 1 and 1 + 2^-7
    row_d = torch.tensor([down, up]).repeat_interleave(D // 2)
    sign_d = torch.tensor([1.0, -1.0]).repeat_interleave(D // 2)
    parameters = parameters_of(n_latents)
    parameters.enc_sd.zero_()
    parameters.b_enc_s.zero_()
    parameters.enc_sd[:k], parameters.enc_sd[k : 2 * k] = -sign_d * row_d, sign_d * row_d
    parameters.b_enc_s[:k], parameters.b_enc_s[k : 2 * k] = 10.0, 10.01
    x_bd = row_d.repeat(B, 1)
    rounded_bs = (x_bd.bfloat16() @ parameters.enc_sd.bfloat16().T).float() + parameters.b_enc_s
    assert rounded_bs[0, 0] > rounded_bs[0, k] + 0.2
    found = dense(ScreenedTopKSelector(parameters, k, B, Workers()).select(x_bd), n_latents)
    np.testing.assert_array_equal(np.flatnonzero(found[0]), range(k, 2 * k))
    np.testing.assert_allclose(found[:, k : 2 * k], exact(parameters, x_bd)[:, k : 2 * k], rtol=1e-6)

    selector = ScreenedAboveThreshold(parameters, B, Workers())
    cut_s = np.full(n_latents, 10.0, np.float32)
    assert selector.collect_screened(x_bd, cut_s, cut_s)
    found = dense(selector.buffer.of_tokens(B), n_latents)
    np.testing.assert_array_equal(np.flatnonzero(found[0]), np.flatnonzero(exact(parameters, x_bd)[0] > 10))


@pytest.mark.parametrize("above", [AboveThreshold, ScreenedAboveThreshold])
@pytest.mark.parametrize("n_latents", [130, 3000])
def test_batch_topk_is_the_largest_of_the_batch(n_latents, above, monkeypatch):
    """Also after a much larger and after a much smaller batch, and where few values are positive."""
    monkeypatch.setattr("train_sae.steps.cpu.prescreen.TOO_MANY", 0.1)
    monkeypatch.setattr("train_sae.steps.cpu.selection.CHUNK_BYTES", 64_000)  # several chunks of tokens
    k, decay = 4, 0.9
    parameters = parameters_of(n_latents)
    selector = BatchTopKSelector(above(parameters, B, Workers()), k, decay)
    total = weight = 0.0
    for seed, scale in enumerate([1.0, 1.0, 1.3, 20.0, 0.05, 1.0]):
        x_bd = batch(seed, scale)
        if seed == 5:
            parameters.b_enc_s.sub_(2.5 if n_latents == 130 else 3.3)
        z_bs = exact(parameters, x_bd)
        values = np.sort(z_bs[z_bs > 0])[::-1][: k * B]
        found = dense(selector.select(x_bd), n_latents)
        np.testing.assert_allclose(found, np.where(z_bs >= values[-1] - 1e-9, z_bs, 0), atol=1e-4)
        assert np.count_nonzero(found) == (k * B if seed < 5 else len(values)) > 0
        total, weight = decay * total + (1 - decay) * values[-1], decay * weight + 1 - decay
        assert selector.running[0] / selector.running[1] == pytest.approx(total / weight, rel=1e-4)
    assert len(values) < k * B


def test_batch_topk_breaks_ties_by_token_and_latent():
    parameters = parameters_of(10)
    parameters.enc_sd.zero_()
    parameters.b_enc_s.fill_(1.0)
    found = dense(BatchTopKSelector(AboveThreshold(parameters, B, Workers()), 2, 0.9).select(batch(0)), 10)
    assert found.sum() == 2 * B
    assert found.ravel()[: 2 * B].all()


def test_prefixes_follow_their_law():
    n_latents, power = 1000, 0.5
    lengths = []
    for step in range(3000):
        ends = draw_prefixes(n_latents, 4, 2, power, (0, step))
        assert len(set(ends)) == 4 and (np.diff(ends) > 0).all() and ends[-1] == n_latents and ends[0] >= 2
        lengths += list(draw_prefixes(n_latents, 2, 2, power, (1, step))[:1])
    a, b = 2.0**-power, float(n_latents) ** -power
    for length in (3, 5, 20, 200):
        expected = (a - length**-power) / (a - b)  # P(l < length)
        assert np.mean(np.array(lengths) < length) == pytest.approx(expected, abs=0.03)
    np.testing.assert_array_equal(draw_prefixes(6, 5, 2, 3.0, (0, 0)), [2, 3, 4, 5, 6])
    np.testing.assert_array_equal(draw_prefixes(6, 1, 1, 0.5, (0, 0)), [6])


SETTINGS = {
    "topk": StepSettings(activation="topk", k=4),
    "screened": StepSettings(activation="topk", k=4, prescreen=True),
    "batchtopk": StepSettings(activation="batchtopk", k=4, objective="matryoshka", n_prefixes=3),
    "screened batchtopk": StepSettings(activation="batchtopk", k=1, prescreen=True),
    "relu": StepSettings(activation="relu", l1=1e-2, grad_clip=0.1),
    "jumprelu": StepSettings(activation="jumprelu", l0=1e-2, aux_k=3, dead_after_tokens=B),
}


def trained(settings, n_steps=4, make=make_step, resume_at=None, n_latents=400):
    threshold = 0.5 if settings.activation == "jumprelu" else None
    parameters = parameters_of(n_latents, threshold=threshold)
    parameters.b_enc_s[::5] -= 4.0 if settings.aux_k else 0.0
    step = make(parameters, settings, B, 3)
    for i in range(n_steps):
        if i == resume_at:
            saved, running = parameters.state_dict(), step.state_dict()
            parameters = parameters_of(n_latents, seed=9, threshold=threshold)
            parameters.load_state_dict(saved)
            step = make(parameters, settings, B, 4)
            step.load_state_dict(running)
        step.step(batch(i), 1e-2)
    state = parameters.state_dict() | {f"step/{name}": value for name, value in step.state_dict().items()}
    return state | {"threshold": step.threshold_s}


@pytest.mark.parametrize("make", [make_step, TorchStep], ids=["cpu", "torch"])
@pytest.mark.parametrize("name", SETTINGS)
def test_resumed_run_gives_the_same_bytes(name, make):
    expected, found = trained(SETTINGS[name], make=make), trained(SETTINGS[name], make=make, resume_at=2)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert (value is None and found[key] is None) or value.tobytes() == found[key].tobytes(), key
    assert np.abs(expected["adam_m/enc_sd"]).max() > 0


@pytest.mark.parametrize("name", ["topk", "batchtopk", "relu"])
def test_kernels_do_not_depend_on_the_number_of_threads(name):
    def with_threads(n):
        def make(*args):
            step = make_step(*args)
            step.workers.n_threads = n
            return step

        return make

    one, two = (trained(SETTINGS[name], make=with_threads(n)) for n in (1, 2))
    assert all(one[key].tobytes() == two[key].tobytes() for key in ("enc_sd", "dec_sd", "b_dec_d", "b_enc_s"))


CHANGES = [
    ("topk", {"k": 5}), ("topk", {"l1": 0.1}), ("topk", {"objective": "matryoshka"}), ("topk", {"grad_clip": 1e-3}),
    ("topk", {"betas": (0.5, 0.999)}), ("topk", {"betas": (0.9, 0.9)}), ("topk", {"eps": 1e-2}),
    ("batchtopk", {"threshold_decay": 0.5}), ("batchtopk", {"n_prefixes": 4}), ("batchtopk", {"prefix_min": 100}),
    ("batchtopk", {"prefix_power": 2.0}), ("relu", {"l1": 0.1}), ("jumprelu", {"l0": 0.1}),
    ("jumprelu", {"bandwidth": 0.3}), ("jumprelu", {"aux_k": 4}), ("jumprelu", {"aux_weight": 1.0}),
    ("jumprelu", {"dead_after_tokens": 2 * B}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[f"{name}-{next(iter(c))}" for name, c in CHANGES])
def test_every_setting_does_something(name, change):
    given = StepSettings(**{**vars(SETTINGS[name]), **change})
    before, after = trained(SETTINGS[name]), trained(given)
    assert any(
        key in before and np.abs(before[key] - after[key]).max() > 1e-4 for key in ("dec_sd", "threshold")
    )


def reviving(settings, n_steps=60):
    """How many latents are dead at the end of a training whose every second latent begins below the others."""
    parameters = parameters_of(64, threshold=0.1 if settings.activation == "jumprelu" else None)
    if settings.activation in ("relu", "jumprelu"):
        parameters.b_enc_s[::2] -= 12.0
    else:
        parameters.enc_sd[::2] *= 0.02
    step = make_step(parameters, settings, B, 0)
    reports = [step.step(batch(i), 3e-2) for i in range(n_steps)]
    return int((step.fired_s >= 5 * B).sum()), reports


@pytest.mark.parametrize("name", ["topk", "batchtopk", "relu", "jumprelu"])
def test_aux_k_revives_dead_latents(name):
    kept = {"topk": {"k": 8}, "batchtopk": {"k": 8}, "relu": {"l1": 1e-3}, "jumprelu": {"l0": 1e-4}}[name]
    without = StepSettings(activation=name, **kept)
    dead, _ = reviving(without)
    assert dead >= 20
    revived, reports = reviving(
        StepSettings(activation=name, aux_k=16, aux_weight=1.0, dead_after_tokens=5 * B, **kept)
    )
    assert revived < dead - 10
    assert reports[3]["aux"] == 0 < reports[6]["aux"]
    assert reports[3]["loss"] == reviving(without, 4)[1][3]["loss"]  # no effect while nothing is dead


def test_dense_codes_turn_sparse_on_the_way():
    """ReLU's step changes its way when few values are left, and goes on alike."""
    parameters, twin = parameters_of(400, bias=-1.2), parameters_of(400, bias=-1.2)
    given = StepSettings(activation="relu", l1=0.5)
    step, plain = make_step(parameters, given, B, 0), TorchStep(twin, given, B, 0)
    shares = []
    for i in range(12):
        report, expected = step.step(batch(i), 3e-2), plain.step(batch(i), 3e-2)
        shares.append(report["l0"] / 400)
        assert report["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert shares[0] > SPARSE_BELOW > shares[-1]
    assert step.dense is None
    assert (parameters.dec_sd - twin.dec_sd).abs().max() < 1e-3


@pytest.mark.parametrize("name", SETTINGS)
def test_odd_batches(name):
    """A last batch that is smaller, one on which nothing fires, and one with NaN, which the loss must show."""
    parameters = parameters_of(400, threshold=0.5 if name == "jumprelu" else None)
    twin = parameters_of(400, threshold=0.5 if name == "jumprelu" else None)
    step, small = make_step(parameters, SETTINGS[name], B, 0), make_step(twin, SETTINGS[name], 7, 0)
    x_bd = batch(0)[:7].contiguous()
    assert step.step(x_bd, 1e-3) == small.step(x_bd, 1e-3)
    assert torch.equal(parameters.dec_sd, twin.dec_sd)
    parameters.b_enc_s.fill_(-100.0)
    for _ in range(2):
        report = step.step(batch(1), 1e-3)
        assert report["l0"] == 0 and report["mse"] > 0
    assert np.isfinite(parameters.dec_sd.numpy()).all()
    x_bd = batch(2)
    x_bd[3, 5] = np.nan
    assert np.isnan(step.step(x_bd, 1e-3)["loss"])


def test_autocast_stays_close():
    given = StepSettings(activation="relu", l1=1e-2)
    parameters, twin = parameters_of(200), parameters_of(200)
    rounded, plain = TorchStep(parameters, given, B, 0, autocast=True), TorchStep(twin, given, B, 0)
    for i in range(3):
        assert rounded.step(batch(i), 1e-3)["loss"] == pytest.approx(
            plain.step(batch(i), 1e-3)["loss"], rel=2e-2
        )
    assert not torch.equal(parameters.dec_sd, twin.dec_sd)
    assert parameters.dec_sd.dtype == torch.float32


def test_matmul_precision_is_restored_and_exact():
    before = torch.get_float32_matmul_precision()
    left, right = torch.randn(64, 700), torch.randn(64, 700)
    with float32_matmul():
        assert torch.get_float32_matmul_precision() == float32_precision()
        product = left @ right.T
    assert torch.get_float32_matmul_precision() == before
    assert (product.double() - left.double() @ right.double().T).abs().max() < 1e-3


@given(counts=st.lists(st.integers(0, 50), min_size=1, max_size=200), n_pieces=st.integers(1, 64))
def test_pieces_cover_all_rows_once(counts, n_pieces):
    ptr = np.concatenate([[0], np.cumsum(counts)])
    bounds = pieces_of_equal_work(ptr, 3, n_pieces)
    assert bounds[0] == 0 and bounds[-1] == len(counts) and (np.diff(bounds) >= 0).all()
    costs = [ptr[hi] - ptr[lo] + 3 * (hi - lo) for lo, hi in pairwise(bounds)]
    assert max(costs) <= (ptr[-1] + 3 * len(counts)) / min(n_pieces, len(counts)) + max(counts) + 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
@pytest.mark.parametrize(("batch_size", "n"), [(40, 40), (40, 33), (37, 37), (1, 1), (7, 5)])
def test_chunks_at_once_are_the_whole_product(n_threads, batch_size, n, monkeypatch):
    monkeypatch.setattr("train_sae.steps.cpu.selection.CHUNK_BYTES", 13 * 50 * 4)  # 13 tokens, so 7 in each
    monkeypatch.setattr("train_sae.steps.cpu.selection.MIN_CHUNK_TOKENS", 2)
    chunks = EncoderChunks(50, batch_size, Workers(n_threads))
    x_bd, enc_sd = batch(0)[:n], torch.randn(50, D, generator=torch.Generator().manual_seed(3))
    whole_bs, n_b = torch.full((n, 50), torch.nan), np.zeros(n, int)

    def take(start, stop, z_bs):
        whole_bs[start:stop] = z_bs
        n_b[start:stop] += 1

    for _ in range(2):
        chunks.at_once(x_bd, enc_sd, take)
    assert (n_b == 2).all()
    torch.testing.assert_close(whole_bs, x_bd @ enc_sd.T)
    in_turn = torch.cat([z_bs.clone() for _, _, z_bs in chunks.in_turn(x_bd, enc_sd)])
    torch.testing.assert_close(in_turn, whole_bs)
