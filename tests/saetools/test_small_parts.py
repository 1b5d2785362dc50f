"""Atomic files, quantities, provenance, scorer files: the small parts that everything stands on."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from edited_files import edit_hdf5
from hypothesis import given
from hypothesis import strategies as st

from saetools.cli.quantities import format_bytes, parse_bytes, parse_count
from saetools.errors import UsageError, UserError, near_names
from saetools.files.atomic import atomic_path, write_text
from saetools.files.formats import SCORERS, Format
from saetools.files.hdf5 import new_hdf5
from saetools.files.provenance import Provenance, first_difference
from saetools.scorers.baselines import Const, Linear
from saetools.scorers.file import load_scorer
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.shards.header import Examples
from saetools.shards.held_out import check_no_overlap

THING = Format("saetools-thing", 2, "make-things")


def test_atomic_path_keeps_what_was_there_when_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(target) as partial:
        partial.write_text("new")
        raise ZeroDivisionError
    assert target.read_text() == "old"
    write_text(target, "new")
    assert target.read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("number", [None, errno.EOPNOTSUPP, errno.EINVAL])
def test_hdf5_where_no_room_can_be_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int | None
) -> None:
    """macOS has no posix_fallocate, and some file systems do not support it: the file is written without."""
    if number is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", failing(number))
    with new_hdf5(tmp_path / "a.h5", 800) as file:
        file["x"] = np.arange(100.0)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["x"][...].tolist() == list(range(100))


def test_hdf5_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes before the HDF5 library writes, names the target, and leaves nothing behind."""
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
    with pytest.raises(OSError, match=r"a\.h5") as raised, new_hdf5(tmp_path / "a.h5", 800):
        pytest.fail("the file was opened")
    assert raised.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def failing(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_atomic_path_leaves_the_partial_file_of_a_living_writer(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("mine")
        with atomic_path(tmp_path / "b.txt") as other:
            other.write_text("other")
        assert partial.exists()
    assert (tmp_path / "a.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("500k", 500_000), ("1.5M", 1_500_000), ("100M", 10**8), ("2b", 2 * 10**9)]
)
def test_counts(text: str, count: int) -> None:
    assert parse_count("--tokens", text) == count


@pytest.mark.parametrize(
    ("text", "count"), [("7B", 7), ("50GB", 50 * 10**9), ("1.5GiB", 3 * 2**29), ("2 mb", 2 * 10**6)]
)
def test_bytes(text: str, count: int) -> None:
    assert parse_bytes("--memory", text) == count


@pytest.mark.parametrize("text", ["", "x", "0", "-5", "5X", "1e9", "0.1"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(UsageError, match="--tokens"):
        parse_count("--tokens", text)


def test_bytes_are_said_with_three_digits() -> None:
    assert [format_bytes(n) for n in (999, 1234567, 2.5e12)] == ["999 B", "1.23 MB", "2.5 TB"]


def test_near_names() -> None:
    known = ["vit_tiny_patch16_224", "vit_small_patch16_224", "resnet50"]
    assert "vit_tiny_patch16_224" in near_names("vit_tinny_patch16_224", known)
    assert near_names("zzz", known) == ""


@given(
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(
            st.integers(-(2**53), 2**53), st.text(), st.floats(allow_nan=False), st.booleans(), st.none()
        ),
    )
)
def test_provenance_comes_back(settings: dict[str, object]) -> None:
    mine = Provenance.of(THING, "make-things", settings, ["a" * 32])
    back = Provenance.from_attributes(mine.to_attributes(), THING, Path("x.h5"))
    assert (
        first_difference(vars(mine) | {"parents": list(mine.parents)}, vars(back) | {"parents": back.parents})
        is None
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "saetools-other"}, "found 'saetools-other', expected format 'saetools-thing'"),
        ({"format_version": 3}, "found version 3 of saetools-thing, this version of saetools reads 1 to 2"),
        ({"format_version": 0}, "found version 0"),
        ({"complete": False}, "it is not complete"),
        ({"uid": None}, "the attribute 'uid' is missing"),
    ],
)
def test_wrong_provenance(change: dict[str, object], said: str) -> None:
    attributes = {**Provenance.of(THING, "make-things", {}).to_attributes(), **change}
    attributes = {name: value for name, value in attributes.items() if value is not None}
    with pytest.raises(UserError, match=said) as caught:
        Provenance.from_attributes(attributes, THING, Path("x.h5"))
    assert str(caught.value).startswith("x.h5: ")
    assert "make-things" in str(caught.value)


def small_sae(activation: str = "topk") -> SAE:
    rng = torch.Generator().manual_seed(0)
    threshold = torch.rand(6, generator=rng) if activation in ("batchtopk", "jumprelu") else None
    return SAE(
        SAEConfig(4, 6, activation, 2 if "topk" in activation else None),
        W_enc=torch.randn(4, 6, generator=rng),
        b_enc=torch.randn(6, generator=rng),
        W_dec=torch.randn(6, 4, generator=rng),
        b_dec=torch.randn(4, generator=rng),
        threshold=threshold,
        mean=torch.randn(4, generator=rng),
        scale=2.5,
    )


@pytest.mark.parametrize("activation", ["topk", "batchtopk", "relu", "jumprelu"])
def test_sae_equals_its_formula_and_comes_back_from_its_file(tmp_path: Path, activation: str) -> None:
    sae = small_sae(activation)
    x = torch.randn(50, 4, dtype=torch.float64)
    pre = ((x - sae.mean) / sae.scale - sae.b_dec) @ sae.W_enc.double() + sae.b_enc
    if activation == "topk":
        kth = pre.sort(dim=1, descending=True).values[:, 1:2]
        f = torch.where(pre >= kth, pre, 0.0).clamp(min=0)
    else:
        f = torch.where(pre > (0 if sae.threshold is None else sae.threshold), pre, 0.0).clamp(min=0)
    x_hat = (f @ sae.W_dec.double() + sae.b_dec) * sae.scale + sae.mean
    provenance = Provenance.of(SCORERS, "train-sae", {"lr": 0.1})
    save_scorer(tmp_path / "sae.h5", TrainedScorer("sae", sae, provenance, {"layer": 1}, {"l0": 2.0}))
    found = load_scorer(tmp_path / "sae.h5")
    assert isinstance(found.scorer, SAE)
    assert (found.evaluation, found.trained_on, found.provenance.uid) == (
        {"l0": 2.0},
        {"layer": 1},
        provenance.uid,
    )
    for one in (sae, found.scorer):
        torch.testing.assert_close(one.encode(x.float()), f.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(one.decode(f.float()), x_hat.float(), rtol=1e-4, atol=1e-5)


def test_linear_scorers() -> None:
    x, vectors, bias = torch.randn(5, 4), torch.randn(3, 4), torch.randn(3)
    torch.testing.assert_close(Linear(vectors, bias)(x), x @ vectors.T + bias)
    assert Const()(x).tolist() == [[0.0]] * 5


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.__delitem__("W_dec"), "/W_dec is missing"),
        (lambda file: file["W_enc"].__setitem__((0, 0), np.nan), "/W_enc holds NaN"),
        (lambda file: file.attrs.__setitem__("kind", "oracle"), "unknown kind of scorer 'oracle'"),
        (lambda file: file.attrs.__delitem__("scale"), "the attribute 'scale' is missing"),
        (lambda file: file.attrs.__setitem__("format_version", 99), "found version 99"),
        (
            lambda file: (file.__delitem__("b_dec"), file.__setitem__("b_dec", np.zeros(5))),
            r"has shape \(5,\)",
        ),
    ],
)
def test_broken_scorer_files(tmp_path: Path, damage: object, said: str) -> None:
    path = tmp_path / "sae.h5"
    save_scorer(path, TrainedScorer("sae", small_sae(), Provenance.of(SCORERS, "train-sae", {}), {}))
    with edit_hdf5(path) as file:
        damage(file)  # type: ignore[operator]
    with pytest.raises(UserError, match=said) as caught:
        load_scorer(path)
    assert str(path) in str(caught.value)


def test_a_scorer_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "sae.h5"
    path.write_text("hello")
    with pytest.raises(UserError, match="not an HDF5 file"):
        load_scorer(path)
    save_scorer(path, TrainedScorer("sae", small_sae(), Provenance.of(SCORERS, "train-sae", {}), {}))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(UserError, match="cut short"):
        load_scorer(path)


def _examples(paths: Sequence[str], digest: Sequence[bytes] | None) -> Examples:
    n = len(paths)
    digests = None if digest is None else np.array(digest, "S32")
    empty = np.zeros(n, np.int64)
    return Examples(np.array(paths, object), empty, empty, np.ones((n, 2), np.int16), digest=digests)


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ((["a", "b"], None), (["c", "b"], None), "1 images are in --train and --val, for example 'b'"),
        ((["a"], [b"1"]), (["a"], [b"2"]), "for example 'a'"),
        ((["a", "b"], [b"1", b"2"]), (["c", "d"], [b"3", b"1"]), "1 images of --val are the same pictures"),
        ((["a", "b"], [b"1", b"2"]), (["c", "d"], [b"3", b"1"]), "for example 'd' as 'a'"),
        ((["a", "b"], [b"1", b"2"]), (["c", "d"], None), None),
        ((["a", "b"], None), (["c", "d"], [b"1", b"2"]), None),
        ((["a", "b"], [b"1", b"2"]), (["c", "d"], [b"3", b"3"]), None),
    ],
)
def test_images_of_train_and_test_are_compared_by_path_and_by_content(train, test, words) -> None:
    """A digest counts where both sides have it; one path in both sets is the same image, whatever it shows."""
    sets = ([_examples(["x"], None), _examples(*train)], [_examples(*test)])
    if words is None:
        check_no_overlap(*sets, Path("shard"), ("--train", "--val"))
        return
    with pytest.raises(UserError, match=words) as raised:
        check_no_overlap(*sets, Path("shard"), ("--train", "--val"))
    assert str(raised.value).startswith("shard: ")
