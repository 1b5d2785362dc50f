"""The shuffled stream: every token once, well mixed, taken up again anywhere, and without what is left out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_shards import write_shards

from saetools.errors import UserError
from saetools.shards.pool_plan import Draw, Load, Replay, plan
from saetools.shards.token_source import ShardSource, all_blocks
from train_sae.memory import CHUNK, FreshMemory
from train_sae.stream import TokenStream
from train_sae.tracking import batch_entropy

N_IMAGES, N_PATCHES = 130, 7
N_TOKENS = N_IMAGES * N_PATCHES


def numbered(folder: Path, n_shards: int = 3, **options: object) -> list[Path]:
    """Shards whose tokens are their own number, image * P + patch."""
    ids = np.arange(N_TOKENS, dtype=np.float32).reshape(N_IMAGES, N_PATCHES, 1)
    return write_shards(folder, np.repeat(ids, 2, axis=2), n_shards=n_shards, **options)  # type: ignore[arg-type]


def source_of(paths: list[Path], arriving: bool = False, **options: object) -> ShardSource:
    return ShardSource(iter(paths), None, 0.0, arriving=arriving, **options)  # type: ignore[arg-type]


def together(batches: list[list[float]]) -> list[float]:
    return [token for batch in batches for token in batch]


def drawn(stream: TokenStream, n: int) -> list[list[float]]:
    return [batch[:, 0].tolist() for batch in islice(stream, n)]


@pytest.mark.parametrize("arriving", [False, True])
@pytest.mark.parametrize("pool_tokens", [300, 10**6])
def test_every_token_once_per_epoch(tmp_path: Path, arriving: bool, pool_tokens: int) -> None:
    batch = 65
    assert N_TOKENS % batch == 0  # so that an epoch ends with a batch
    stream = TokenStream(source_of(numbered(tmp_path), arriving), batch, pool_tokens * 8, 0)
    seen = [together(drawn(stream, N_TOKENS // batch)) for _ in range(3)]
    for epoch in seen:
        assert sorted(epoch) == list(range(N_TOKENS))
    assert seen[0] != seen[1] != seen[2]


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 200),
    pool_tokens=st.integers(1, 2000),
    n_shards=st.integers(1, 5),
    arriving=st.booleans(),
    seed=st.integers(0, 9),
)
def test_no_token_twice_before_the_next_epoch(
    tmp_path_factory: pytest.TempPathFactory,
    batch: int,
    pool_tokens: int,
    n_shards: int,
    arriving: bool,
    seed: int,
) -> None:
    """Whole batches of an epoch hold different tokens; what is left over comes first in none, but in the next."""
    paths = numbered(tmp_path_factory.mktemp("acts"), n_shards)
    stream = TokenStream(source_of(paths, arriving), batch, pool_tokens * 8, seed)
    tokens = together(drawn(stream, 2 * (N_TOKENS // batch)))
    assert max(np.bincount(np.array(tokens, int))) <= 2
    first = tokens[: N_TOKENS // batch * batch]
    assert len(set(first)) == len(first)


@pytest.mark.parametrize("arriving", [False, True])
@pytest.mark.parametrize("skip", [1, 3, 7, 14, 29])
def test_taken_up_again_at_any_batch(tmp_path: Path, arriving: bool, skip: int) -> None:
    paths = numbered(tmp_path)
    whole = drawn(TokenStream(source_of(paths, arriving), 64, 400 * 8, 5), 40)
    resumed = TokenStream(source_of(paths, arriving), 64, 400 * 8, 5, skip=skip)
    assert drawn(resumed, 40 - skip) == whole[skip:]


def test_taking_up_again_reads_only_what_is_in_the_pool(tmp_path: Path) -> None:
    capacity, batch = 352, 64
    source = source_of(numbered(tmp_path))
    replay, n_drawn, n_blocks = Replay(capacity), 0, 0
    for action in plan(source, batch, capacity, np.random.default_rng(0)):
        replay.follow(action)
        n_drawn += isinstance(action, Draw)
        n_blocks += isinstance(action, Load)
        if n_drawn == 60:
            break
    kept = list(replay.contents())
    assert len(kept) < n_blocks / 2
    slots = np.concatenate([slots for _, _, slots in kept])
    assert len(set(slots.tolist())) == len(slots) <= capacity


def test_excluded_labels_never_come(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 3, (N_IMAGES, N_PATCHES)).astype(np.uint16)
    paths = numbered(tmp_path, labels_np=labels)
    expected = np.flatnonzero(labels == 1)
    source = source_of(paths, excluded=(0, 2))
    stream = TokenStream(source, 1, 10**6, 0)
    assert sorted(together(drawn(stream, len(expected)))) == expected.tolist()
    counted = sum(block.n_tokens for block in all_blocks(source.all_shards(), 3, (0, 2)))
    assert counted == len(expected)
    resumed = TokenStream(source_of(paths, excluded=(0, 2)), 1, 10**6, 0, skip=20)
    assert drawn(resumed, 5) == drawn(TokenStream(source_of(paths, excluded=(0, 2)), 1, 10**6, 0), 25)[20:]


def test_excluding_labels_needs_labels(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no patch labels"):
        TokenStream(source_of(numbered(tmp_path), excluded=(0,)), 64, 10**6, 0)
    labelled = numbered(tmp_path / "labelled", labels_np=np.zeros((N_IMAGES, N_PATCHES), np.uint16))
    with pytest.raises(UserError, match="hold 0 tokens"):
        TokenStream(source_of(labelled, excluded=(0,)), 64, 10**6, 0)
    with pytest.raises(UserError, match="no other patch is left"):
        all_blocks(source_of(labelled).all_shards(), 3, (0,))


@pytest.mark.parametrize("arriving", [False, True])
def test_consumed_shards_go_after_their_last_use(tmp_path: Path, arriving: bool) -> None:
    paths = numbered(tmp_path, 4)
    there: list[int] = []

    def coming() -> Iterator[Path]:
        for path in paths:
            there.append(sum(other.exists() for other in paths[: len(there)]))
            yield path

    source = ShardSource(coming(), None, 0.0, arriving=arriving, consume=True)
    tokens = together(drawn(TokenStream(source, 64, 200 * 8, 0), 10**6))
    assert len(set(tokens)) == len(tokens) == N_TOKENS // 64 * 64  # one epoch, in whole batches
    assert not any(path.exists() for path in paths)
    if arriving:  # each was gone before the next was asked for
        assert there == [0, 0, 0, 0]


def test_a_consumed_stream_is_taken_up_again_where_the_shards_are_made_again(tmp_path: Path) -> None:
    def stream(skip: int) -> TokenStream:
        return TokenStream(source_of(numbered(tmp_path, 4), True, consume=True), 64, 200 * 8, 0, skip)

    whole = drawn(stream(0), 10**6)
    assert drawn(stream(5), 10**6) == whole[5:]


def test_ranks_share_the_shards_out(tmp_path: Path) -> None:
    paths = numbered(tmp_path, 5)
    seen: list[set[float]] = []
    for rank in range(2):
        source = source_of(paths, rank=rank, world=2)
        n_tokens = sum(block.n_tokens for block in next(source.epoch(0, np.random.default_rng(0))))
        seen.append(set(together(drawn(TokenStream(source, 1, 10**6, 0, rank=rank), n_tokens))))
    assert not seen[0] & seen[1]
    assert len(seen[0] | seen[1]) == N_TOKENS
    with pytest.raises(UserError, match="5 shards for 6 processes"):
        source_of(paths, rank=0, world=6)


def test_a_batch_is_mixed_as_well_as_a_uniform_sample(tmp_path: Path) -> None:
    """Image entropy at the default pool, on 900 images of 49 patches: at least 0.97 of that of a uniform sample."""
    n, p, batch = 900, 49, 1024
    acts = np.arange(n * p, dtype=np.float32).reshape(n, p, 1)
    source = source_of(write_shards(tmp_path, acts, n_shards=4))
    stream = TokenStream(source, batch, 10**9, 0)
    uniform = np.random.default_rng(0)
    ratios = []
    for tokens in islice(stream, 30):
        found = stream.report()
        images = tokens[:, 0].numpy().astype(int) // p
        share = np.bincount(images)[np.bincount(images) > 0] / batch
        assert found["image_entropy"] == pytest.approx(-(share * np.log(share)).sum())
        sample = uniform.choice(n * p, batch, replace=False) // p
        ratios.append(found["image_entropy"] / batch_entropy(sample, n)["entropy"])
    assert np.mean(ratios) > 0.97
    assert found["patch_entropy_normalized"] > 0.97
    assert found["read_mb_per_second"] >= 0


def test_entropy_of_known_batches() -> None:
    same = batch_entropy(np.zeros(8, int), 100)
    assert (same["entropy"], same["entropy_normalized"], same["coverage"]) == (0, 0, 1 / 8)
    even = batch_entropy(np.repeat(np.arange(4), 2), 4)
    assert even["entropy"] == pytest.approx(math.log(4))
    assert (even["entropy_normalized"], even["coverage"]) == (pytest.approx(1), 1)
    skewed = batch_entropy(np.array([0, 0, 0, 1]), 100)
    assert skewed["entropy"] == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert skewed["coverage"] == 0.5


def test_a_batch_may_be_changed_in_place(tmp_path: Path) -> None:
    paths = numbered(tmp_path)
    plain = drawn(TokenStream(source_of(paths), 64, 400 * 8, 0), 30)
    changed = []
    for batch in islice(TokenStream(source_of(paths), 64, 400 * 8, 0), 30):
        changed.append(batch[:, 0].tolist())
        batch.fill_(-1)
    assert changed == plain


def test_values_of_every_stored_type_come_as_float32(tmp_path: Path) -> None:
    acts = np.random.default_rng(0).normal(size=(20, 4, 8)).astype(np.float32)
    for dtype in ("float16", "bfloat16", "float32"):
        paths = write_shards(tmp_path / dtype, acts, n_shards=1, dtype=dtype)
        batch = next(iter(TokenStream(source_of(paths), 80, 10**6, 0)))
        assert batch.dtype == torch.float32
        expected = torch.from_numpy(acts).to(getattr(torch, dtype)).float().flatten(0, 1)
        torch.testing.assert_close(batch.sort(0).values, expected.sort(0).values, atol=0, rtol=0)


def test_fresh_memory_keeps_what_was_written() -> None:
    """Also beyond its end, and in pages that are asked for after they were written."""
    tensor = torch.empty(3 * CHUNK // 8 + 5, dtype=torch.int64)
    tensor.copy_(torch.arange(len(tensor)))
    fresh = FreshMemory(tensor)
    for share in (0, 0.5, 1):
        fresh.use(int(share * tensor.nbytes))
    fresh.wait()
    assert torch.equal(tensor, torch.arange(len(tensor)))
    assert fresh.n_left == 0
