"""Checksums of files: what they cover, what a reader says of damage, files of earlier versions, links."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from broken_files import contents
from edited_files import edit_hdf5
from scipy import sparse
from small_edits import predictions, write_predictions
from small_latents import write_latents
from small_shards import clustered_acts, write_shards

from check_files.checking import check_file
from fit_probes.probe_file import Probes, load_probes, save_probes
from saetools.errors import UserError
from saetools.files import hdf5_probe, seal
from saetools.files.formats import AP_TABLE, HEADS, IMAGE_SCORES, PROBES, SCORERS
from saetools.files.hdf5 import new_hdf5
from saetools.files.provenance import Provenance
from saetools.files.tables import read_csv
from saetools.latents.edit_predictions import read_edit_predictions
from saetools.latents.reader import open_latents
from saetools.scorers.baselines import Linear
from saetools.scorers.file import load_scorer
from saetools.scorers.head import ARRAYS, Head, load_head, save_head
from saetools.scorers.record import TrainedScorer, save_scorer
from saetools.shards.dtypes import word_sums
from saetools.shards.reader import Shard, open_shards
from score_traits.scores import ScoreFile, new_score_file

BEFORE = Path(__file__).parents[1] / "support" / "before_seals"


def values_of_shard(path: Path) -> list[np.ndarray]:
    shards = open_shards(path)
    examples = shards.examples[0]
    return [
        shards.read(3).numpy(),
        np.asarray(shards.shards[0].labels(3)),
        *(np.asarray(one, str) for one in (examples.path, examples.index, examples.target, examples.grid)),
    ]


def values_of_scorer(path: Path) -> list[np.ndarray]:
    found = load_scorer(path)
    return [
        *(tensor.numpy() for tensor in found.scorer.contents()[1].values()),
        np.array(str(found.provenance)),
    ]


def values_of_latents(path: Path) -> list[np.ndarray]:
    latents = open_latents(path)
    matrix = latents.to_scipy()
    labels = latents.files[0].labels
    return [
        matrix.data,
        matrix.indices,
        matrix.indptr,
        latents.count,
        np.array(latents.paths),
        np.array(labels),
    ]


def values_of_scores(path: Path) -> list[np.ndarray]:
    return [scores for _, scores in ScoreFile(path).blocks()]


def values_of_probes(path: Path) -> list[np.ndarray]:
    provenance, probes = load_probes(path)
    return [*(getattr(probes, name) for name in Probes.__dataclass_fields__), np.array(str(provenance))]


def values_of_head(path: Path) -> list[np.ndarray]:
    head = load_head(path)
    return [head.weight.numpy(), head.bias.numpy(), *head.arrays.values(), np.array(str(head))]


def values_of_predictions(path: Path) -> list[np.ndarray]:
    found = read_edit_predictions(path)
    return [
        np.array(getattr(found, name)) for name in found.__dataclass_fields__ if not name.startswith("pr")
    ]


READ = {
    "shard": values_of_shard,
    "scorer": values_of_scorer,
    "latents": values_of_latents,
    "scores": values_of_scores,
    "probes": values_of_probes,
    "head": values_of_head,
    "predictions": values_of_predictions,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each format, with more than one block of latents."""
    root = tmp_path_factory.mktemp("whole")
    rng = np.random.default_rng(0)
    labels = (np.arange(30 * 9).reshape(30, 9) % 5).astype(np.uint16)
    (shard,) = write_shards(root / "acts", clustered_acts(30), n_shards=1, labels_np=labels)
    f_npk = np.maximum(rng.normal(size=(30, 9, 700)), 0).astype(np.float32)
    latents = write_latents(root / "latents", f_npk, labels_np=labels, n_shards=1) / "latents-000000.npz"
    provenance = Provenance.of(SCORERS, "train-sae", {})
    linear = Linear(torch.randn(40, 16), torch.randn(40))
    save_scorer(root / "scorer.h5", TrainedScorer("random", linear, provenance, {"layer": 3}))
    with new_score_file(root / "scores.h5", (30, 300), {}, [], 1 << 20) as writer:
        writer.append(rng.normal(size=(30, 300)).astype(np.float32))
    probes = Probes.empty(20, ["a", "b", "c"])
    probes.weight[:] = rng.normal(size=probes.weight.shape)
    save_probes(root / "probes.npz", probes, Provenance.of(PROBES, "fit-probes", {}))
    arrays = {name: np.zeros(3, kind) for name, (_, kind) in ARRAYS.items()}
    provenance = Provenance.of(HEADS, "fit-heads", {})
    weight = torch.from_numpy(rng.normal(size=(3, 4000)))
    save_head(root / "head.h5", Head(weight, weight[:, 0], ["a", "b", "c"], "softmax", "cls", {"layer": 3}, 0.1,
                                     provenance, arrays))  # fmt: skip
    predicted = write_predictions(root / "predictions-000.npz", *predictions(3, "car"))
    return {
        "shard": shard,
        "scorer": root / "scorer.h5",
        "latents": latents,
        "scores": root / "scores.h5",
        "probes": root / "probes.npz",
        "head": root / "head.h5",
        "predictions": predicted,
    }


def zero(content: bytearray, start: int, n_bytes: int) -> None:
    content[start : start + n_bytes] = bytes(len(content[start : start + n_bytes]))


def flip(content: bytearray, start: int, n_bytes: int) -> None:
    content[start] ^= 1 << n_bytes % 8


def swap_words(content: bytearray, start: int, n_bytes: int) -> None:
    a, b = start // 8 * 8, (start + n_bytes) // 8 * 8 % (len(content) // 8 * 8)
    content[a : a + 8], content[b : b + 8] = content[b : b + 8], content[a : a + 8]


def repeat(content: bytearray, start: int, n_bytes: int) -> None:
    content[start:start] = content[start : start + n_bytes]


def cut(content: bytearray, start: int, n_bytes: int) -> None:
    del content[start:]


@pytest.mark.parametrize("kind", READ)
@pytest.mark.parametrize("damage", [zero, flip, swap_words, repeat, cut])
def test_damaged_files_are_refused_or_the_same(
    kind: str, damage: Callable[[bytearray, int, int], None], whole: dict[str, Path], tmp_path: Path
) -> None:
    sound = whole[kind].read_bytes()
    expected = READ[kind](whole[kind])
    path = tmp_path / whole[kind].name
    rng = np.random.default_rng(len(kind) + len(damage.__name__))
    n_refused = 0
    for n in range(60):
        content = bytearray(sound)
        # every other one near an end, where the seals and the structure are
        start = int(rng.integers(len(sound)) if n % 2 else rng.integers(2000) - 1000 * (n % 4 == 2))
        damage(content, start % len(sound), int(rng.integers(1, 3000)))
        if content == sound:
            continue
        path.write_bytes(content)
        try:
            found = READ[kind](path)
        except UserError as error:
            assert str(path) in str(error)
            n_refused += 1
        else:
            for mine, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(mine, other)
    assert n_refused > 20  # of the user block, zeros may become zeros


@pytest.mark.parametrize("name", ["shard", "scorer", "scores", "head"])
def test_a_file_that_another_program_wrote_anew(name: str, whole: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / whole[name].name
    with h5py.File(whole[name]) as old, h5py.File(path, "w", libver="v110") as new:
        for item in old:
            old.copy(item, new)
        new.attrs.update(old.attrs)
    with pytest.raises(UserError, match="its checksums are gone: another program has written it anew"):
        READ[name](path)
    with pytest.raises(UserError, match="its checksums are gone"):
        check_file(path, deep=False)  # which looks at the name of the format first


def test_a_file_that_was_edited(whole: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(whole["scorer"], tmp_path))
    with h5py.File(path, "r+") as file:
        file["bias"][0] += 1
    with pytest.raises(UserError, match=r"scorer\.h5: its checksum is not the one that was written"):
        load_scorer(path)


def test_other_programs_read_the_files(whole: dict[str, Path]) -> None:
    listed = subprocess.run(["h5ls", "-r", whole["shard"]], capture_output=True, text=True, check=True).stdout
    assert "/layer_3/patches         Dataset {30, 9, 16}" in listed
    matrix = sparse.load_npz(whole["latents"])
    np.testing.assert_array_equal(matrix.data, values_of_latents(whole["latents"])[0])
    with np.load(whole["probes"]) as file:
        assert file["weight"].shape == (20, 3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda file: file.__setitem__("more", h5py.ExternalLink("other.h5", "/x")),
            "/more is an external link",
        ),
        (lambda file: file.__setitem__("more", h5py.SoftLink("/examples/path")), "/more is a soft link"),
        (
            lambda file: file.create_dataset("more", (4,), "u1", external=[("/etc/hostname", 0, 4)]),
            "the bytes of /more are in another file",
        ),
        (
            lambda file: file.create_virtual_dataset("examples/more", virtual_layout()),
            "/examples/more is a virtual data set",
        ),
    ],
)
def test_links_to_other_files_are_refused(
    change: Callable[[h5py.File], object], said: str, whole: dict[str, Path], tmp_path: Path
) -> None:
    """Also in a file whose seal is right: anybody can make one."""
    path = Path(shutil.copy(whole["shard"], tmp_path))
    with edit_hdf5(path) as file:
        change(file)
    with pytest.raises(UserError, match=f"{path}: {said}, which saetools never writes"):
        Shard(path)


def virtual_layout() -> h5py.VirtualLayout:
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", shape=(2,))
    return layout


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(seal, "_told", set())
    return caplog


def test_files_of_before_are_read_with_a_word(told: pytest.LogCaptureFixture) -> None:
    """Their values are those that the libraries find there."""
    with h5py.File(BEFORE / "acts" / "shard-000000.h5") as file:
        acts = file["layer_3/patches"][...]
        np.testing.assert_array_equal(file["layer_3/sums"][...], word_sums(acts))
    np.testing.assert_array_equal(values_of_shard(BEFORE / "acts")[0], acts)
    with h5py.File(BEFORE / "sae.h5") as file:
        np.testing.assert_array_equal(load_scorer(BEFORE / "sae.h5").scorer.W_enc.numpy(), file["W_enc"][...])
    matrix = sparse.load_npz(BEFORE / "latents" / "latents-000000.npz")
    np.testing.assert_array_equal(values_of_latents(BEFORE / "latents")[0], matrix.data)
    with np.load(BEFORE / "probes.npz") as file:
        np.testing.assert_array_equal(load_probes(BEFORE / "probes.npz")[1].weight, file["weight"])
    with h5py.File(BEFORE / "scores.h5") as file:
        np.testing.assert_array_equal(values_of_scores(BEFORE / "scores.h5")[0], file["scores"][0])
    assert len(read_csv(BEFORE / "ap.csv", AP_TABLE)[0]) == 2
    words = [record.getMessage() for record in told.records]
    assert (
        len(words) == 5
    )  # of each folder and format, the table with its SHA-256 but not with one of its sidecar
    assert all("has no checksums: damage to it may go unnoticed" in word for word in words)


def test_damage_that_makes_the_library_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros in the structure of a file without a seal: another process looks first, and is ended."""
    monkeypatch.setattr(hdf5_probe, "SECONDS", 2)
    monkeypatch.setattr(hdf5_probe._Probe, "_running", None)
    content = bytearray((BEFORE / "acts" / "shard-000000.h5").read_bytes())
    path = tmp_path / "shard-000000.h5"
    for start, n_bytes, said in ((2955, 1244, "no end of reading it after 2 s"), (8, 60, "damaged")):
        broken = content.copy()
        zero(broken, start, n_bytes)
        path.write_bytes(broken)
        with pytest.raises(
            UserError, match=f"{path}: it is damaged, or no HDF5 file .*{said}|{path}: it is {said}"
        ):
            Shard(path)
    path.write_bytes(content)
    assert Shard(path).n_images == 12


def test_headers_of_arrays_that_are_no_python(tmp_path: Path) -> None:
    """NumPy parses them as Python, whose errors are of many kinds."""
    content = (BEFORE / "latents" / "latents-000000.npz").read_bytes()
    path = tmp_path / "latents-000000.npz"
    at = content.index(b"{'descr'")
    rng = np.random.default_rng(0)
    for text in (b"('''", b"{((((", b"{'descr': 1e999", *(rng.bytes(40) for _ in range(200))):
        path.write_bytes(content[:at] + text + content[at + len(text) :])
        with pytest.raises(UserError, match=str(path)):
            open_latents(path)


def test_a_killed_command_leaves_no_process_that_looks(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from saetools.files import hdf5_probe as probe\n"
        f"probe.check_by_probe(Path({str(BEFORE / 'sae.h5')!r}), 'again')\n"
        "print(probe._Probe._running._process.pid, flush=True); input()"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert command.stdout is not None
    child = int(command.stdout.readline())
    command.kill()
    command.communicate()
    for _ in range(1000):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().split(") ")[1].startswith("Z"):
            return
        subprocess.run(["sleep", "0.01"], check=True)
    raise AssertionError("it still runs")


def test_nothing_is_read_from_a_pipe(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "sae.h5")
    os.mkfifo(tmp_path / "latents-000000.npz")
    with pytest.raises(UserError, match="FIFO"):
        load_scorer(tmp_path / "sae.h5")
    with pytest.raises(UserError, match="FIFO"):
        open_latents(tmp_path / "latents-000000.npz")


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    target.write_text("before")
    before = contents(tmp_path)
    with pytest.raises(RuntimeError), new_hdf5(target, 1000) as file:
        file["x"] = np.zeros(10)
        raise RuntimeError
    assert contents(tmp_path) == before


def test_wide_user_blocks(tmp_path: Path) -> None:
    """Of very many ranges apart the seal takes more than 4,096 bytes."""
    path, names = tmp_path / "a.h5", [f"x{i}" for i in range(200)]
    with new_hdf5(path, 200 * 64, apart=names) as file:
        for name in names:
            file[name] = np.arange(8.0)
    with path.open("rb", buffering=0) as raw:
        found = seal.check_hdf5(raw, path, "again")
    assert found is not None and len(found.apart) == 200 and found.length == 16384
    with path.open("r+b") as raw:
        raw.seek(found.apart[7][0])
        raw.write(b"other")
    with path.open("rb", buffering=0) as raw:
        seal.check_hdf5(raw, path, "again")  # what is apart is compared by others
    with path.open("r+b") as raw:
        raw.seek(found.apart[0][0] - 8)
        raw.write(b"\xff")
    with path.open("rb", buffering=0) as raw, pytest.raises(UserError, match="its checksum is not the one"):
        seal.check_hdf5(raw, path, "again")
    assert IMAGE_SCORES.sealed_from == 2
