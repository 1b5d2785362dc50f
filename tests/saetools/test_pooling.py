"""Pooled patch scores against loops over images in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saetools.errors import UserError
from saetools.metrics.pooling import Pool, parse_pool, pool_scores
from saetools.scorers.baselines import Const, Linear


class Seen:
    """A scorer that notes how many activations it was called on."""

    def __init__(self, scorer: Linear) -> None:
        self.scorer = scorer
        self.calls: list[int] = []
        self.n_prototypes = scorer.n_prototypes

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        self.calls.append(len(activations))
        return self.scorer(activations)


def pooled_by_definition(acts_npd: np.ndarray, vectors_kd: np.ndarray, pool: Pool) -> np.ndarray:
    """Image by image, prototype by prototype: sort the patch scores, take what the pool takes."""
    rows = []
    for patches in acts_npd.astype(np.float64):
        row = []
        for vector in vectors_kd.astype(np.float64):
            scores = sorted((math.fsum(patch * vector) for patch in patches), reverse=True)
            taken = scores[: {"max": 1, "mean": len(scores)}.get(pool.name, pool.m)]
            row.append(math.fsum(taken) / len(taken))
        rows.append(row)
    return np.array(rows).reshape(len(acts_npd), len(vectors_kd))


@given(
    st.integers(1, 7),
    st.integers(1, 9),
    st.sampled_from([1, 3, 255, 256, 300]),
    st.sampled_from(["max", "mean", "topk-mean:1", "topk-mean:3", "topk-mean:9"]),
    st.sampled_from([None, 1, 2, 100]),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_equals_the_definition(n: int, p: int, k: int, text: str, block: int | None, seed: int) -> None:
    pool = parse_pool(text)
    p = max(p, pool.m)
    rng = np.random.default_rng(seed)
    acts = rng.standard_normal((n, p, 4)).astype(np.float32)
    acts[rng.random(acts.shape) < 0.5] = 0  # patches that tie
    vectors = rng.standard_normal((k, 4)).astype(np.float32)
    scorer = Linear(torch.from_numpy(vectors))
    found = pool_scores(scorer, torch.from_numpy(acts), pool, images_per_block=block)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, pooled_by_definition(acts, vectors, pool), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["max", "mean", "topk-mean:2"])
def test_out_is_filled_and_the_block_size_changes_nothing(pool: str) -> None:
    torch.manual_seed(0)
    acts = torch.randn(10, 5, 8)
    scorer = Seen(Linear(torch.randn(20, 8)))
    out = torch.full((10, 20), torch.nan)
    assert pool_scores(scorer, acts, pool, out=out, images_per_block=3) is out
    assert scorer.calls == [15, 15, 15, 5]
    torch.testing.assert_close(out, pool_scores(scorer, acts, pool))
    assert scorer.calls[4:] == [50]  # few small images are one block


def test_large_scores_are_split_into_blocks() -> None:
    scorer = Seen(Linear(torch.ones(4096, 1)))
    pool_scores(scorer, torch.ones(5, 512, 1))  # 8 MiB of patch scores an image
    assert scorer.calls == [1536, 1024]


@pytest.mark.parametrize("pool", ["max", "mean", "topk-mean:2"])
def test_nan_stays_nan_and_infinity_infinite(pool: str) -> None:
    acts = torch.zeros(4, 3, 1)
    acts[1, 2], acts[2, 0], acts[3, 1] = torch.nan, torch.inf, -torch.inf
    found = pool_scores(Linear(torch.ones(1, 1)), acts, pool)
    assert found[0] == 0
    assert found[1].isnan()
    assert found[2] == torch.inf
    assert found[3] == (-torch.inf if pool == "mean" else 0)


def test_activations_that_are_a_view_of_more() -> None:
    torch.manual_seed(1)
    with_class_token = torch.randn(3, 6, 4)
    patches = with_class_token[:, 1:]
    scorer = Linear(torch.randn(5, 4))
    torch.testing.assert_close(pool_scores(scorer, patches), pool_scores(scorer, patches.contiguous()))


def test_const_pools_to_zero_and_no_image_to_nothing() -> None:
    assert torch.equal(pool_scores(Const(), torch.randn(3, 2, 4)), torch.zeros(3, 1))
    assert pool_scores(Const(), torch.randn(0, 2, 4), "topk-mean:2").shape == (0, 1)


@pytest.mark.parametrize(
    "text", ["", "min", "max:2", "mean:1", "topk-mean", "topk-mean:", "topk-mean:0", "topk-mean:-1"]
)
def test_refuses_unknown_pools(text: str) -> None:
    with pytest.raises(UserError, match="expected max, mean or topk-mean:M"):
        parse_pool(text)


def test_pool_is_written_as_it_is_read() -> None:
    for text in ("max", "mean", "topk-mean:5"):
        assert str(parse_pool(text)) == text


def test_refuses_what_does_not_fit() -> None:
    acts, scorer = torch.zeros(3, 2, 4), Linear(torch.zeros(5, 4))
    with pytest.raises(UserError, match="pool topk-mean:3: found 2 patches"):
        pool_scores(scorer, acts, "topk-mean:3")
    with pytest.raises(ValueError, match=r"acts: found shape \(2, 4\)"):
        pool_scores(scorer, acts[0])
    with pytest.raises(ValueError, match="out: found"):
        pool_scores(scorer, acts, out=torch.zeros(3, 4))
    with pytest.raises(ValueError, match="images_per_block: found 0"):
        pool_scores(scorer, acts, images_per_block=0)
