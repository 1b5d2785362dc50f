"""What training and encoding select with: instructions of our own, and bounds from sixteen latents at a time."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from saetools.compute.kernels.intrinsics import lowest_bit, narrow, prefetch, widen
from saetools.compute.kernels.selection import add_candidates, maxima_of_sets, top_k_rows
from saetools.compute.selection import SIMD_WIDTH, set_depth
from saetools.compute.threads import Workers, even_pieces


def as_stored(z_s, bfloat16):
    """z as a kernel gets it, and its values in float64."""
    if not bfloat16:
        return z_s, z_s.astype(np.float64)
    rounded = torch.from_numpy(z_s).bfloat16()
    return rounded.view(torch.uint16).numpy(), rounded.double().numpy()


def case(n_latents, seed):
    rng = np.random.default_rng(seed)
    z_s = rng.standard_normal(n_latents).astype(np.float32)
    bias_s = rng.standard_normal(n_latents).astype(np.float32)
    error_block = (0.1 * rng.random(-(-n_latents // SIMD_WIDTH))).astype(np.float32)
    return z_s, bias_s, error_block


def bounds(z, bias_s, error_block, share):
    """(lower, upper) bounds of each latent, in float64."""
    margin = np.repeat(error_block.astype(np.float64), SIMD_WIDTH)[: len(z)] + share * np.abs(z)
    return z + bias_s - margin, z + bias_s + margin


@settings(max_examples=80, deadline=None)
@given(
    n_latents=st.integers(1, 700), depth=st.integers(1, 40), bfloat16=st.booleans(), seed=st.integers(0, 2**16)
)  # fmt: skip
def test_maxima_of_sets(n_latents, depth, bfloat16, seed):
    z_s, bias_s, error_block = case(n_latents, seed)
    stored, z = as_stored(z_s, bfloat16)
    share = np.float32(0.01)
    lower, _ = bounds(z, bias_s, error_block, 0.01)
    expected = []
    for start in range(0, n_latents, SIMD_WIDTH * depth):
        stretch = lower[start : start + SIMD_WIDTH * depth]
        expected += [stretch[lane::SIMD_WIDTH].max() for lane in range(min(SIMD_WIDTH, len(stretch)))]
    maxima = np.empty(n_latents // depth + 2 * SIMD_WIDTH, np.float32)
    n = maxima_of_sets(stored, bias_s, error_block, share, depth, maxima)
    np.testing.assert_allclose(maxima[:n], expected, rtol=0, atol=1e-6)
    assert n >= min(n_latents, n_latents // depth)


@settings(max_examples=80, deadline=None)
@given(n_latents=st.integers(1, 700), at=st.floats(0, 1), bfloat16=st.booleans(), seed=st.integers(0, 2**16))
def test_candidates_are_those_whose_upper_bound_reaches(n_latents, at, bfloat16, seed):
    z_s, bias_s, error_block = case(n_latents, seed)
    stored, z = as_stored(z_s, bfloat16)
    lower_s, upper_s = bounds(z, bias_s, error_block, 0.01)
    bound = np.float32(np.quantile(upper_s, at) + 1e-4)
    candidate = np.empty(n_latents, np.int32)
    upper, lower = np.empty(n_latents, np.float32), np.empty(n_latents, np.float32)
    n = add_candidates(stored, bias_s, error_block, np.float32(0.01), bound, candidate, upper, lower)
    sure, possible = np.flatnonzero(upper_s > bound + 1e-5), np.flatnonzero(upper_s > bound - 1e-5)
    assert set(sure) <= set(candidate[:n]) <= set(possible)
    assert (np.diff(candidate[:n]) > 0).all()
    np.testing.assert_allclose(upper[:n], upper_s[candidate[:n]], rtol=0, atol=1e-6)
    np.testing.assert_allclose(lower[:n], lower_s[candidate[:n]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_nan_is_no_candidate_and_raises_no_maximum(bfloat16):
    z_s = np.full(40, -1.0, np.float32)
    z_s[[3, 21, 39]] = np.nan
    z_s[5] = 2.0
    stored, _ = as_stored(z_s, bfloat16)
    zero_s, no_error, zero = np.zeros(40, np.float32), np.zeros(3, np.float32), np.float32(0)
    maxima = np.empty(64, np.float32)
    n = maxima_of_sets(stored, zero_s, no_error, zero, 3, maxima)
    assert sorted(maxima[:n]) == [-1.0] * 15 + [2.0]
    candidate, upper, lower = np.empty(40, np.int32), np.empty(40, np.float32), np.empty(40, np.float32)
    n = add_candidates(stored, zero_s, no_error, zero, np.float32(-1.0), candidate, upper, lower)
    assert candidate[:n].tolist() == [i for i in range(40) if i not in (3, 21, 39)]


@pytest.mark.parametrize("at", [0, 7, 96, 99])
@pytest.mark.parametrize("k", [1, 4, 60])
def test_an_infinite_value_is_the_largest(at, k):
    """A run that diverged must show it; 0 times infinity is NaN, which no comparison finds."""
    z_bs = np.random.default_rng(0).standard_normal((1, 100)).astype(np.float32)
    z_bs[0, at] = np.inf
    latent_bk, value_bk = np.empty((1, k), np.int32), np.empty((1, k), np.float32)
    zero_s, floor = np.zeros(100, np.float32), np.float32(0)
    top_k_rows(0, 0, 1, z_bs, zero_s, k, set_depth(100, k), floor, latent_bk, value_bk)
    best = np.sort(np.argsort(-z_bs[0], kind="stable")[:k])
    assert latent_bk[0].tolist() == best.tolist() and value_bk.max() == np.inf


@njit
def round_trip(x_n, bits_n, back_n):
    for i in range(len(x_n)):
        bits_n[i] = narrow(x_n[i])
        back_n[i] = widen(bits_n[i])


def test_bfloat16_as_torch_rounds_it():
    rng = np.random.default_rng(0)
    some = rng.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.00390625, 1.01171875, 3.4e38], np.float32)
    x_n = np.concatenate([some, special])
    bits_n, back_n = np.empty(len(x_n), np.uint16), np.empty(len(x_n), np.float32)
    round_trip(x_n, bits_n, back_n)
    expected = torch.from_numpy(x_n).bfloat16()
    np.testing.assert_array_equal(back_n, expected.float().numpy())
    number = ~np.isnan(x_n)
    np.testing.assert_array_equal(bits_n[number], expected.view(torch.uint16).numpy()[number])


@njit
def lowest_bits(bits_n, out_n, table):
    for i in range(len(bits_n)):
        prefetch(table, np.uint64(i))
        out_n[i] = lowest_bit(bits_n[i])


def test_lowest_bit_and_a_prefetch_that_changes_nothing():
    bits_n = np.array([1, 6, 2**40 + 2**50, 2**63], np.uint64)
    out_n, table = np.empty(4, np.uint64), np.ones((4, 100), np.float32)
    lowest_bits(bits_n, out_n, table)
    assert out_n.tolist() == [0, 1, 40, 63]
    assert (table == 1).all()


def test_torch_uses_one_thread_in_each_worker_and_all_afterwards():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        workers = Workers()
        seen, all_there = [], threading.Barrier(3, timeout=60)

        def note(piece, lo, hi):
            all_there.wait()  # so that no worker takes two
            seen.append((piece, hi - lo, torch.get_num_threads(), threading.get_ident()))

        workers.run_torch(note, even_pieces(6, 3))
        assert sorted(one[:3] for one in seen) == [(0, 2, 1), (1, 2, 1), (2, 2, 1)]
        assert len({one[3] for one in seen}) == 3
        assert torch.get_num_threads() == 3

        def fail(piece, lo, hi):
            raise ValueError("on purpose")

        with pytest.raises(ValueError, match="on purpose"):
            workers.run_torch(fail, even_pieces(6, 3))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


# Selection, and average precision with intervals: what is written in LLVM. Prints a digest of the results.
BOTH_WAYS = """
import hashlib, sys
import numpy as np
from saetools.compute.kernels.average_precision import _add_run, LABEL_BITS
from saetools.compute.kernels.intrinsics import prefetch
from saetools.compute.kernels.selection import add_candidates, maxima_of_sets, top_k_rows
from numba import njit

rng = np.random.default_rng(0)
z, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 1000), 1000))
latent, value = np.empty((8, 9), np.int32), np.empty((8, 9), np.float32)
top_k_rows(0, 0, 8, z, bias, 9, 10, np.float32(0), latent, value)
error, share = rng.random(63).astype(np.float32), np.float32(0.01)
maxima = np.empty(300, np.float32)
n = maxima_of_sets(z[0], bias, error, share, 7, maxima)
bits = (z[0].view(np.uint32) >> np.uint32(16)).astype(np.uint16)
candidate, upper, lower = np.empty(1000, np.int32), np.empty(1000, np.float32), np.empty(1000, np.float32)
m = add_candidates(bits, bias, error, share, np.float32(1), candidate, upper, lower)

@njit
def add(words, order, weight, count, total):
    prefetch(weight.reshape(10, 10), np.uint64(3))
    _add_run(words, order, weight, 3, 90, count, total)

words, order = rng.integers(0, 2**32, 100, dtype=np.uint32), rng.permutation(100).astype(np.uint32)
count, total = np.ones(LABEL_BITS), np.ones(LABEL_BITS)
add(words, order, rng.random(100), count, total)
parts = [latent, value, maxima[:n], candidate[:m], upper[:m], lower[:m], count, total]
print(hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest(), n, m)
from saetools.compute.kernels.flags import CACHED
print("saetools.compute.kernels.llvm_intrinsics" in sys.modules, CACHED)
"""


def test_plain_kernels_give_the_same_bytes(tmp_path: Path) -> None:
    """SAETOOLS_PLAIN_KERNELS=1, for a numba that breaks the operations in LLVM, which are not imported then.

    Plain ones are also what other processors than x86-64 get, where it is not set.
    """
    printed = []
    for plain, machine in (("0", "x86_64"), ("1", "x86_64"), ("", "x86_64"), ("", "arm64"), ("0", "aarch64")):
        cache = str(tmp_path / machine)  # numba's cache cannot tell that we only pretend
        environment = {**os.environ, "SAETOOLS_PLAIN_KERNELS": plain, "NUMBA_CACHE_DIR": cache}
        pretend = f"import platform; platform.machine = lambda: {machine!r}\n"
        command = [sys.executable, "-c", pretend + BOTH_WAYS]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.split())
    assert all(words[:-2] == printed[0][:-2] for words in printed)
    assert [words[-2:] for words in printed] == [
        ["True", "True"],
        ["False", "False"],
        ["True", "True"],
        ["False", "True"],
        ["True", "False"],
    ]
