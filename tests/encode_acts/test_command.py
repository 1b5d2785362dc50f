"""encode-acts as a program, its files, and the encoder against the dense definition."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from edited_files import edit_hdf5, save_npz
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import runner
from processes import Tool, error_lines
from scipy import sparse
from small_shards import clustered_acts, write_shards

from encode_acts.cli import app
from encode_acts.encoder import CPU_BYTES, MIN_TOKENS, Encoder
from encode_acts.triangle import Triangle
from saetools.cli.slices import parse_slice
from saetools.errors import UserError
from saetools.files.formats import LATENTS, SCORERS
from saetools.files.provenance import Provenance
from saetools.latents.file import LatentsFile
from saetools.latents.header import LatentsHeader
from saetools.latents.reader import open_latents
from saetools.latents.writer import new_latents
from saetools.scorers.baselines import Linear, Nearest
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.scorers.sae import SAE, SAEConfig, as_scorer
from saetools.shards.header import Examples
from saetools.shards.reader import Shard

encode_acts = runner("encode-acts", app)
CPU = torch.device("cpu")
TRAINED_ON = {
    "model": "timm/test",
    "weights": "0" * 64,
    "hook": "test",
    "preprocess": {"size": [1, 1]},
    "layer": 3,
}


def make_sae(activation: str, d: int = 16, s: int = 50, seed: int = 0) -> SAE:
    g = torch.Generator().manual_seed(seed)
    return SAE(
        SAEConfig(d, s, activation, 5 if "topk" in activation else None),
        W_enc=torch.randn(d, s, generator=g),
        b_enc=torch.randn(s, generator=g),
        W_dec=torch.randn(s, d, generator=g),
        b_dec=torch.randn(d, generator=g),
        threshold=torch.rand(s, generator=g) * 4 if activation in ("batchtopk", "jumprelu") else None,
        mean=torch.randn(d, generator=g),
        scale=1.7,
    )


def save(path: Path, scorer: SAE | Linear, parents: Sequence[str] = (), **trained_on: object) -> Path:
    kind = "sae" if isinstance(scorer, SAE) else "kmeans" if isinstance(scorer, Nearest) else "random"
    provenance = Provenance.of(SCORERS, "test", {}, parents)
    save_scorer(path, TrainedScorer(kind, scorer, provenance, {**TRAINED_ON, **trained_on}))
    return path


@pytest.fixture(scope="module")
def acts() -> np.ndarray:
    return clustered_acts(23, n_patches=6)


@pytest.fixture(scope="module")
def shards(acts: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards of 23 images with patch labels."""
    folder = tmp_path_factory.mktemp("acts")
    for i, path in enumerate(write_shards(folder, acts, n_shards=3)):
        with edit_hdf5(path) as file:
            file["labels"] = np.full((len(file["examples/index"]), 6), 300 + i, np.uint16)
    return folder


def dense(folder: Path) -> np.ndarray:
    """What scipy reads of all files."""
    return np.concatenate(
        [sparse.load_npz(path).astype(np.float32).toarray() for path in sorted(folder.glob("*.npz"))]
    )


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu", "linear"])
def test_files_hold_the_latents(activation: str, acts: np.ndarray, shards: Path, tmp_path: Path) -> None:
    scorer = Linear(torch.randn(50, 16), torch.randn(50)) if activation == "linear" else make_sae(activation)
    x_bd = torch.from_numpy(acts.reshape(-1, 16))
    expected = as_scorer(scorer)(x_bd).numpy()
    everything = ["--threshold=-inf"] if activation == "linear" else []
    done = encode_acts(
        shards, "--scorer", save(tmp_path / "s.h5", scorer), "--out", tmp_path / "out", *everything
    )
    paths = [tmp_path / "out" / f"latents-00000{i}.npz" for i in range(3)]
    assert done.stdout.split() == list(map(str, paths))
    np.testing.assert_allclose(dense(tmp_path / "out"), expected, atol=1e-5)
    assert 0 < (dense(tmp_path / "out") != 0).sum() == (expected != 0).sum()
    with np.load(paths[1], allow_pickle=False) as plain:
        assert plain["indptr"].dtype == np.int64
        assert plain["data"].dtype == np.float32
        assert (plain["labels"] == 301).all()
        rows = sparse.csr_matrix((plain["data"], plain["indices"], plain["indptr"]), plain["shape"])
        assert rows.has_canonical_format
        np.testing.assert_array_equal(plain["count"], np.bincount(plain["indices"], minlength=50))


def test_the_reader_gives_what_was_written(shards: Path, tmp_path: Path) -> None:
    encode_acts(shards, "--scorer", save(tmp_path / "s.h5", make_sae("relu")), "--out", tmp_path / "out")
    found = open_latents([tmp_path / "out" / f"latents-00000{i}.npz" for i in (2, 0, 1)])
    whole = dense(tmp_path / "out")
    assert [file.header.shard_index for file in found.files] == [0, 1, 2]
    assert found.paths == [f"images/{i:04d}.jpg" for i in range(23)]
    size_n2 = np.concatenate([file.examples.size for file in found.files])
    assert size_n2.tolist() == [[40 + i, 60 + i] for i in range(23)]
    np.testing.assert_array_equal(found.count, (whole != 0).sum(axis=0))
    position = 0
    for file in found.files:
        bounds = list(file.blocks(max_active=400))
        assert [start for start, _ in bounds[1:]] == [stop for _, stop in bounds[:-1]]
        assert bounds[0][0] == 0 and bounds[-1][1] == file.n_images
        for start, stop in bounds:
            indptr, indices, values = file.images(start, stop)
            assert len(values) <= 400 or stop == start + 1
            assert values.flags.aligned
            n = (stop - start) * 6
            rows = sparse.csr_matrix((values, indices, indptr), (n, 50)).toarray()
            np.testing.assert_array_equal(rows, whole[position : position + n])
            position += n
    labels = found.files[1].labels
    assert labels is not None and labels.shape == (8, 6) and (labels == 301).all()


@st.composite
def values_and_limits(draw: st.DrawFn) -> tuple[np.ndarray, float, int | None]:
    """Scores with many ties, a threshold and a number to keep."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from([(1, 1), (7, 3), (5, 70), (3, 700)]))
    z = rng.normal(size=shape) if draw(st.booleans()) else rng.integers(-3, 4, shape)
    top = draw(st.sampled_from([None, 1, 2, 3, 65]))
    return z.astype(np.float32), draw(st.sampled_from([-np.inf, -1.0, 0.0, 0.5])), top


@settings(max_examples=80, deadline=None)
@given(values_and_limits())
def test_selection_against_sorting(case: tuple[np.ndarray, float, int | None]) -> None:
    z_bs, threshold, top = case
    identity = Linear(torch.eye(z_bs.shape[1]))
    cut = None if np.isinf(threshold) else threshold
    encoder = Encoder(identity, cut, top, CPU)
    x_bd = torch.from_numpy(z_bs)
    for found in (encoder(x_bd), encoder.select_torch(x_bd)):
        ends = np.cumsum(found.count_b)
        for b, z_s in enumerate(z_bs):
            kept = np.flatnonzero(z_s > threshold)
            kept = np.sort(kept[np.argsort(-z_s[kept], kind="stable")][:top])
            run = slice(ends[b] - found.count_b[b], ends[b])
            np.testing.assert_array_equal(found.latent_e[run], kept)
            np.testing.assert_array_equal(found.value_e[run], z_s[kept])


def test_threshold_and_top_cut_an_sae_further(acts: np.ndarray) -> None:
    x_bd = torch.from_numpy(acts.reshape(-1, 16))
    for activation in ("topk", "jumprelu"):
        sae = make_sae(activation)
        full = sae.encode(x_bd).numpy()
        above = Encoder(sae, 12.0, None, CPU)(x_bd)
        assert above.count_b.sum() == (full > 12).sum() < (full > 0).sum()
        best = Encoder(sae, 0.0, 2, CPU)(x_bd)
        np.testing.assert_array_equal(best.count_b, np.minimum((full > 0).sum(axis=1), 2))
        largest = np.sort(full, axis=1)[:, -2:]
        np.testing.assert_allclose(np.sort(best.value_e), np.sort(largest[largest > 0]), atol=1e-5)


def test_a_block_never_grows_with_the_number_of_latents() -> None:
    for n_latents in (10, 6144, 24576, 131072):
        encoder = Encoder(Linear(torch.zeros(n_latents, 2)), 0.0, None, CPU)
        assert 4 * n_latents * encoder.tokens <= max(CPU_BYTES, 4 * n_latents * MIN_TOKENS)


def test_slices_are_parts_of_the_whole(shards: Path, tmp_path: Path) -> None:
    scorer = save(tmp_path / "s.h5", make_sae("topk"))
    encode_acts(shards, "--scorer", scorer, "--out", tmp_path / "whole")
    for part in ("2/2", "1/2"):
        encode_acts(shards, "--scorer", scorer, "--out", tmp_path / "parts", "--slice", part)
        if part == "2/2":
            assert [path.name for path in (tmp_path / "parts").iterdir()] == ["latents-000001.npz"]
            with pytest.raises(UserError, match=r"2 of 3 files are missing \(number 0, 2\)"):
                open_latents([tmp_path / "parts"])
    np.testing.assert_array_equal(dense(tmp_path / "parts"), dense(tmp_path / "whole"))
    done = encode_acts(shards, "--scorer", scorer, "--out", tmp_path / "more", "--slice", "7/9")
    assert done.stdout == "" and "nothing to do" in done.stderr
    for wrong in ("0/2", "3/2", "2", "a/b", "-1/2"):
        with pytest.raises(UserError, match="expected I/N"):
            parse_slice("--slice", wrong)


def test_half_precision_halves_the_values(shards: Path, tmp_path: Path) -> None:
    scorer = save(tmp_path / "s.h5", make_sae("relu"))
    encode_acts(shards, "--scorer", scorer, "--out", tmp_path / "full")
    encode_acts(shards, "--scorer", scorer, "--out", tmp_path / "half", "--dtype", "float16")
    np.testing.assert_array_equal(dense(tmp_path / "half"), dense(tmp_path / "full").astype(np.float16))
    huge = save(tmp_path / "huge.h5", Linear(torch.full((1, 16), 1e5)))
    done = encode_acts(shards, "--scorer", huge, "--out", tmp_path / "no", "--dtype", "float16", code=1)
    assert "float16 cannot hold; use --dtype float32" in error_lines(done)
    assert not (tmp_path / "no").exists()


def test_a_second_run_encodes_only_what_is_missing(tool: Tool, shards: Path, tmp_path: Path) -> None:
    scorer = save(tmp_path / "s.h5", make_sae("topk"))
    command = ["encode-acts", "-", "--scorer", scorer, "--out", tmp_path / "out"]
    paths = "\n".join(str(path) for path in sorted(shards.iterdir()))
    first = tool(*command, stdin=paths)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "out" / "latents-000001.npz").unlink()
    assert tool(*command, stdin=paths).stdout == first.stdout
    after = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"latents-000001.npz"}
    for changed in (["--threshold", "0.5"], ["--top", "3"], ["--dtype", "float16"]):
        done = encode_acts(shards, *command[2:], *changed, code=1)
        assert f"other settings: {changed[0][2:]}:" in error_lines(done)
    other = save(tmp_path / "other.h5", make_sae("topk"))
    done = encode_acts(shards, "--scorer", other, "--out", tmp_path / "out", code=1)
    assert "other settings: scorer" in error_lines(done)


def test_a_list_of_shards_that_ends_early_is_no_success(tool: Tool, shards: Path, tmp_path: Path) -> None:
    """dump-acts was stopped: what came is encoded, the exit code is 1, and the same command encodes the rest."""
    command = [
        "encode-acts",
        "-",
        "--scorer",
        save(tmp_path / "s.h5", make_sae("topk")),
        "--out",
        tmp_path / "out",
    ]
    paths = [str(path) for path in sorted(shards.iterdir())]
    broken = tool(*command, stdin="\n".join(paths[:1]), code=1)
    assert f"only 1 of {len(paths)} shards were given" in error_lines(broken)
    assert broken.stdout.split() == [str(tmp_path / "out" / "latents-000000.npz")]
    assert len(tool(*command, stdin="\n".join(paths)).stdout.split()) == len(paths)


def test_units_are_the_activations(shards: Path, acts: np.ndarray, tmp_path: Path) -> None:
    encode_acts(shards, "--scorer", "units", "--out", tmp_path / "out", "--threshold=-inf")
    np.testing.assert_array_equal(dense(tmp_path / "out"), acts.reshape(-1, 16))
    done = encode_acts(shards, "--scorer", "unit", "--out", tmp_path / "out", code=2)
    assert "expected a scorer file, or units" in error_lines(done)


def triangle_by_definition(x_bd: np.ndarray, v_kd: np.ndarray) -> np.ndarray:
    """max(0, mean_j d_j - d_k) in float64, by differences."""
    d_bk = np.linalg.norm(x_bd[:, None].astype(np.float64) - v_kd.astype(np.float64), axis=2)
    return np.maximum(0, d_bk.mean(axis=1, keepdims=True) - d_bk)


@pytest.mark.parametrize(("offset", "k"), [(0.0, 50), (300.0, 50), (300.0, 2), (0.0, 1)])
def test_the_triangle_code_on_both_paths(offset: float, k: int) -> None:
    """Also of tokens that are centroids, and where nearly all of their length is common to all."""
    rng = np.random.default_rng(5)
    v_kd = (rng.normal(size=(k, 24)) + offset).astype(np.float32)
    x_bd = np.concatenate([rng.normal(size=(70, 24)) + offset, v_kd]).astype(np.float32)
    scorer = Triangle(torch.from_numpy(v_kd))
    compiled = scorer(torch.from_numpy(x_bd)).numpy()
    plain = scorer.code_torch(*scorer.squares(torch.from_numpy(x_bd))).numpy()
    expected = triangle_by_definition(x_bd, v_kd)
    for z_bk in (compiled, plain):
        # At a centroid d = sqrt(rounding): the error there is of the size of sqrt(2^-24) |x - mean|.
        np.testing.assert_allclose(np.maximum(z_bk, 0), expected, atol=5e-3)
        np.testing.assert_allclose(np.maximum(z_bk[:70], 0), expected[:70], atol=2e-5 * max(1, offset / 10))
        if k > 2:
            assert 0.3 < (z_bk > 0).mean() < 0.7


def test_the_triangle_code_by_hand() -> None:
    """As docs/metrics.md has it."""
    scorer = Triangle(torch.tensor([[0.0], [4.0], [10.0]]))
    np.testing.assert_allclose(scorer(torch.tensor([[1.0]])).clamp(min=0), [[10 / 3, 4 / 3, 0]], rtol=1e-6)


def test_latents_of_kmeans_are_the_triangle_code(shards: Path, acts: np.ndarray, tmp_path: Path) -> None:
    x_bd = acts.reshape(-1, 16)
    centroids = Nearest(torch.from_numpy((x_bd[::9] + x_bd[1::9][: len(x_bd[::9])]) / 2))
    scorer = save(tmp_path / "kmeans.h5", centroids)
    expected = triangle_by_definition(x_bd, centroids.vectors.numpy())
    encode_acts(shards, "--scorer", scorer, "--out", tmp_path / "all")
    np.testing.assert_allclose(dense(tmp_path / "all"), expected, atol=1e-4)
    encode_acts(shards, "--scorer", scorer, "--out", tmp_path / "nearest", "--top", 1)
    kept = dense(tmp_path / "nearest")
    assert (np.count_nonzero(kept, axis=1) == 1).all()
    np.testing.assert_array_equal(
        kept.argmax(axis=1), centroids(torch.from_numpy(x_bd)).numpy().argmax(axis=1)
    )
    np.testing.assert_array_equal(kept.max(axis=1), dense(tmp_path / "all").max(axis=1))
    assert LatentsFile(tmp_path / "all" / "latents-000000.npz").header.code == "triangle"


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("kmeans", ["--top", "1", "--threshold=-inf"], "--top 1 alone keeps the nearest"),
        ("kmeans", ["--threshold=-inf"], "never negative"),
        ("linear", ["--top", "8", "--threshold=-inf"], "leave out --top"),
        ("linear", ["--threshold=-0.5"], "keep all with --threshold=-inf"),
        ("units", ["--top", "8", "--threshold=-inf"], "leave out --top"),
    ],
)
def test_some_negative_values_without_the_others_are_refused(
    shards: Path, tmp_path: Path, kind: str, arguments: list[str], words: str
) -> None:
    """What is not kept reads as 0, which would be above what is."""
    scorer: Path | str = kind
    if kind != "units":
        vectors = torch.randn(9, 16)
        scorer = save(tmp_path / "s.h5", Nearest(vectors) if kind == "kmeans" else Linear(vectors))
    done = encode_acts(shards, "--scorer", scorer, "--out", tmp_path / "out", *arguments, code=2)
    assert words in error_lines(done) and not (tmp_path / "out").exists()
    assert (
        Path(scorer).suffix != ".h5"
        or encode_acts(
            shards,
            "--scorer",
            save(tmp_path / "sae.h5", make_sae("topk")),
            "--out",
            tmp_path / "sae",
            *arguments,
        ).stdout
    )


def as_version_1(path: Path, kind: str) -> None:
    """Rewrite a file of latents as an earlier version wrote it."""
    with np.load(path) as plain:
        members = dict(plain)
    text = json.loads(str(members["saetools"]))
    text["format_version"] = 1
    for name in ("code", "trained_on_these"):
        del text["header"][name]
    text["header"]["kind"] = kind
    np.savez(path, **{**members, "saetools": np.array(json.dumps(text))})


def test_kmeans_latents_of_an_earlier_version_are_not_mixed_in(shards: Path, tmp_path: Path) -> None:
    scorer = save(tmp_path / "kmeans.h5", Nearest(torch.randn(9, 16)))
    command = (shards, "--scorer", scorer, "--out", tmp_path / "out")
    encode_acts(*command)
    old = tmp_path / "out" / "latents-000000.npz"
    as_version_1(old, "kmeans")
    (tmp_path / "out" / "latents-000002.npz").unlink()
    error = error_lines(encode_acts(*command, code=1))
    assert "another code" in error and "'minus-squared-distance' against 'triangle'" in error
    assert not (tmp_path / "out" / "latents-000002.npz").exists()
    with pytest.raises(UserError, match="code: 'minus-squared-distance' against 'triangle'"):
        open_latents([old, tmp_path / "out" / "latents-000001.npz"])
    sae = (shards, "--scorer", save(tmp_path / "sae.h5", make_sae("topk")), "--out", tmp_path / "sae")
    encode_acts(*sae)
    as_version_1(tmp_path / "sae" / "latents-000000.npz", "sae")
    encode_acts(*sae)  # latents of SAEs mean what they did
    assert open_latents([tmp_path / "sae"]).header.trained_on_these is None


def test_latents_say_whether_their_scorer_was_trained_on_them(shards: Path, tmp_path: Path) -> None:
    first, second = (Shard(path).provenance.uid for path in sorted(shards.iterdir())[:2])
    for name, parents, expected in (
        ("some", [second, first], [True, True, False]),
        ("none", ["elsewhere"], [False] * 3),
        ("unknown", [], [None] * 3),
    ):
        scorer = save(tmp_path / f"{name}.h5", make_sae("topk"), parents)
        encode_acts(shards, "--scorer", scorer, "--out", tmp_path / name)
        files = open_latents([tmp_path / name]).files
        assert [file.header.trained_on_these for file in files] == expected
    for tokens, kind in ((0, "untrained"), (1, "sae")):
        path = save(tmp_path / f"{kind}.h5", make_sae("topk"), tokens=tokens)
        encode_acts(shards, "--scorer", path, "--out", tmp_path / kind)
        assert open_latents([tmp_path / kind]).header.kind == kind
    encode_acts(shards, "--scorer", "units", "--out", tmp_path / "units")
    assert open_latents([tmp_path / "units"]).header.trained_on_these is False


def test_errors_say_what_to_do(shards: Path, acts: np.ndarray, tmp_path: Path) -> None:
    def refused(scorer: Path, *arguments: object, code: int = 1, source: Path = shards) -> str:
        return error_lines(
            encode_acts(source, "--scorer", scorer, "--out", tmp_path / "out", *arguments, code=code)
        )

    good = save(tmp_path / "s.h5", make_sae("topk"))
    assert "width 8, but the shards' width is 16" in refused(
        save(tmp_path / "narrow.h5", make_sae("topk", d=8))
    )
    other = save(tmp_path / "model.h5", make_sae("topk"), model="timm/other")
    assert "model: 'timm/other' against 'timm/test'" in refused(other)
    assert "holds no layer 4" in refused(good, "--layer", 4)
    assert "expected one of float32, float16" in refused(good, "--dtype", "int8", code=2)
    assert "--threshold nan" in refused(good, "--threshold", "nan", code=2)
    assert "no such file" in refused(tmp_path / "none.h5")
    (broken,) = write_shards(tmp_path / "broken", acts, n_shards=1)
    with edit_hdf5(broken) as file:
        file["layer_3/patches"][3, 2, 1] = np.nan
    assert "shard-000000.h5" in refused(good, source=tmp_path / "broken")
    with edit_hdf5(broken) as file:
        file["layer_3/patches"][3, 2, 1] = 0
        file["labels"] = np.zeros((23, 5), np.uint16)
    assert "(23, 5), expected (23, 6)" in refused(good, source=tmp_path / "broken")


def write_one(path: Path, value: float = 1.0, latent: int = 1, n_latents: int = 3) -> None:
    header = LatentsHeader("uid", "sae", n_latents, 2, 3, {"model": "m"}, 0.0, None, 1, 0, 1)
    examples = Examples(*(np.array([x]) for x in ("a/ü.jpg", 0, 4)), np.array([[1, 2]]))
    with new_latents(path, header, Provenance.of(LATENTS, "test", {}), examples) as writer:
        writer.append(np.array([1, 0]), np.array([latent]), np.array([value], np.float32))


def test_broken_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "latents-000000.npz"
    write_one(path)
    assert LatentsFile(path).examples.path[0] == "a/ü.jpg"
    whole = path.read_bytes()

    def members() -> dict[str, np.ndarray]:
        with np.load(path) as plain:
            return dict(plain)

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            LatentsFile(path).rows(0, 2)
        path.write_bytes(whole)

    path.write_bytes(whole[:-100])
    refused("not a whole .npz file")
    path.write_bytes(b"")
    refused("not a whole .npz file")
    save_npz(path, {name: array for name, array in members().items() if name != "saetools"})
    refused("no member 'saetools'")
    save_npz(path, {name: array for name, array in members().items() if name != "grid"})
    refused("'grid' is missing")
    np.savez_compressed(path, **members())
    refused("compressed")
    save_npz(path, {**members(), "indptr": np.array([0, 1, 1], np.int32)})
    refused("indptr is of type int32")
    save_npz(path, {**members(), "indptr": np.array([0, 2, 1])})
    refused("does not count the active latents")
    save_npz(path, {**members(), "count": np.array([0, 2, 0])})
    refused("do not count the active latents")
    save_npz(path, {**members(), "indices": np.array([3], np.int32)})
    refused("names latents from 3 to 3 where there are 3")
    save_npz(path, {**members(), "target": np.array([1, 2])})
    refused(r"target has shape \(2,\), expected \(1,\)")
    text = str(members()["saetools"])
    save_npz(
        path,
        {**members(), "saetools": np.array(text.replace('"format_version": 3', '"format_version": 4'))},
    )
    refused("version 4")
    save_npz(path, {**members(), "saetools": np.array(text.replace('"layer"', '"lair"'))})
    refused("no 'layer'")
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        LatentsFile(path)
    with pytest.raises(UserError, match="holds no latents"):
        open_latents([tmp_path])


def test_files_of_different_encodings_are_not_mixed(tmp_path: Path) -> None:
    write_one(tmp_path / "a.npz")
    write_one(tmp_path / "b.npz", n_latents=4)
    with pytest.raises(UserError, match="n_latents: 3 against 4"):
        open_latents([tmp_path / "a.npz", tmp_path / "b.npz"])
    with pytest.raises(UserError, match="the same latents"):
        open_latents([tmp_path / "a.npz", tmp_path / "a.npz"])


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot hold"):
        write_one(tmp_path / "a.npz", value=float("nan"))
    assert not list(tmp_path.iterdir())


def test_the_zip_file_is_sound(tmp_path: Path) -> None:
    write_one(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz") as zip:
        assert zip.testzip() is None
