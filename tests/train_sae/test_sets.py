"""Which sets of shards train-sae takes: whole ones, and to evaluate on, of the same kind but of other images."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import h5py
import pytest
from edited_files import edit_hdf5
from in_process import runner
from processes import BIN, Tool, error_lines
from small_shards import clustered_acts, write_shards

from saetools.errors import UserError
from saetools.scorers.file import load_scorer
from saetools.shards.reader import iterate_shards, open_shards
from train_sae.cli import app
from train_sae.resuming import state_path

SMALL = ["--d-sae", 64, "--k", 4, "--batch-size", 128, "--tokens", "5k", "--log-every", 10, "--device", "cpu"]
OTHERS = [f"val/{i}" for i in range(30)]
train = runner("train-sae", app)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_shards(tmp_path_factory.mktemp("acts"), clustered_acts(240), n_shards=6, layers=(3, 4))


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("val")
    write_shards(folder, clustered_acts(30, seed=1), n_shards=2, layers=(3, 4), paths=OTHERS)
    return folder


def listed(paths: list[Path]) -> str:
    return "".join(f"{path}\n" for path in paths)


def weights(path: Path) -> dict[str, bytes]:
    with h5py.File(path) as file:
        return {name: file[name][...].tobytes() for name in file}


@pytest.mark.parametrize("name", ["s.pt", "sae", "sae.npz", "sae.h5.old"])
def test_out_is_a_name_by_which_scorers_are_known(shards: list[Path], tmp_path: Path, name: str) -> None:
    said = error_lines(train(*shards, "--layer", 3, "--out", tmp_path / name, *SMALL, code=2))
    assert f"write {tmp_path / Path(name).stem}.h5" in said
    assert not list(tmp_path.iterdir())


WRONG = {
    "model": ({"model": "timm/other"}, "model: 'timm/test' against 'timm/other'"),
    "layer": ({"layers": (4, 5)}, "it holds no layer 3, only [4, 5]"),
    "width": ({"d_model": 12}, "layer 3 has width 12, but 16 in"),
    "images": ({"paths": None}, "30 images are in the training shards and --val"),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("piped", [False, True])
def test_val_of_another_kind(shards: list[Path], tmp_path: Path, tool: Tool, kind: str, piped: bool) -> None:
    changed, says = WRONG[kind]
    options = {"layers": (3, 4), "paths": OTHERS, **changed}
    acts = clustered_acts(30, seed=1, d_model=options.pop("d_model", 16))  # type: ignore[arg-type]
    other = write_shards(tmp_path / "val", acts, n_shards=1, **options)  # type: ignore[arg-type]
    given = ["--layer", 3, "--val", *other, "--out", tmp_path / "sae.h5", *SMALL]
    if piped:  # with the first shard, before the others came
        process = subprocess.Popen(
            [str(part) for part in [BIN / "train-sae", "-", *given]],
            stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(f"{shards[0]}\n")
        process.stdin.flush()
        assert process.wait(timeout=200) == 1
        process.stdin.close()
        said = process.stderr.read()
        assert "Traceback" not in said
    else:
        said = error_lines(train(*shards, *given, code=1))
    assert says in said and str(other[0]) in said
    assert [path.name for path in tmp_path.iterdir()] == ["val"]


@pytest.mark.parametrize("attribute", ["weights", "preprocess"])
def test_val_of_other_weights_or_preprocessing(shards: list[Path], tmp_path: Path, attribute: str) -> None:
    (other,) = write_shards(
        tmp_path / "val", clustered_acts(30, seed=1), n_shards=1, layers=(3, 4), paths=OTHERS
    )
    with edit_hdf5(other) as file:
        file.attrs[attribute] = {"weights": "1" * 64, "preprocess": json.dumps({"size": [2, 2]})}[attribute]
    said = error_lines(
        train(*shards, "--layer", 3, "--val", other, "--out", tmp_path / "sae.h5", *SMALL, code=1)
    )
    assert f"{attribute}: " in said and "recorded differently" in said


def test_val_holds_copies(tmp_path: Path) -> None:
    """Two of its pictures stand under other names in the last training shard."""
    pictures = [f"{i:032x}" for i in range(200)]
    others = pictures[100:128] + pictures[50:52]
    acts = write_shards(tmp_path / "acts", clustered_acts(60), n_shards=3, digests=pictures[:60])
    val = write_shards(tmp_path / "val", clustered_acts(30, seed=1), n_shards=1, paths=OTHERS, digests=others)
    given = [*acts, "--val", *val, "--out", tmp_path / "sae.h5", *SMALL]
    said = error_lines(train(*given, code=1))
    assert "2 images of --val are the same pictures as images of the training shards" in said
    assert "--allow-overlap" in said and not (tmp_path / "sae.h5").exists()
    done = train(*given, "--allow-overlap")
    assert "2 of the 30 evaluation images were trained on" in done.stderr
    assert load_scorer(tmp_path / "sae.h5").trained_on["val_overlap"] == 2
    told = json.loads((tmp_path / "sae.metrics.csv.json").read_text())
    assert told["trained_on"]["val_overlap"] == 2


@pytest.mark.parametrize("n_came", [2, 5])
@pytest.mark.parametrize("tokens", ["5k", "300", "0"])
def test_a_broken_pipe_is_no_finished_sae(
    shards: list[Path], val: Path, tmp_path: Path, n_came: int, tokens: str
) -> None:
    given = ["--layer", 3, "--val", val, *SMALL, "--tokens", tokens, "-"]

    def run(out: Path, paths: list[Path], *more: object) -> subprocess.CompletedProcess[str]:
        return train("--out", out, *given, *more, stdin=listed(paths), code=None)

    out = tmp_path / "sae.h5"
    for _ in range(2):  # the second time it is no finished one either
        broken = run(out, shards[:n_came])
        assert broken.returncode == 1, broken.stderr
        assert f"only {n_came} of 6 shards were given" in error_lines(broken)
        assert "trained already" not in broken.stderr and not out.exists() and broken.stdout == ""
    assert state_path(out).exists() == (tokens != "0")
    done = run(out, shards)
    assert done.returncode == 0 and ("resumes after step" in done.stderr) == (tokens != "0"), done.stderr
    assert run(tmp_path / "whole.h5", shards).returncode == 0
    assert weights(out) == weights(tmp_path / "whole.h5")
    assert "shards" not in load_scorer(out).trained_on


def test_a_part_that_is_meant_says_so(shards: list[Path], val: Path, tmp_path: Path) -> None:
    out = tmp_path / "sae.h5"
    given = ["--layer", 3, "--val", val, *SMALL, "--out", out, "-"]
    done = train(*given, "--allow-incomplete", stdin=listed(shards[:2]))
    assert "trained on 2 of 6 shards" in done.stderr
    assert load_scorer(out).trained_on["shards"] == "2 of 6 shards"
    assert (
        json.loads((tmp_path / "sae.metrics.csv.json").read_text())["trained_on"]["shards"] == "2 of 6 shards"
    )
    assert "trained already" in train(*given, "--allow-incomplete", stdin=listed(shards[:2])).stderr
    said = error_lines(train(*given, stdin=listed(shards[:2]), code=1))
    assert "it was trained on 2 of 6 shards; remove it" in said


def test_files_and_folders_that_lack_shards(shards: list[Path], val: Path, tmp_path: Path) -> None:
    few = write_shards(tmp_path / "few", clustered_acts(60), n_shards=3, layers=(3, 4))
    few[1].unlink()
    base = ["--layer", 3, *SMALL, "--out", tmp_path / "sae.h5"]
    assert "1 of 3 shards are missing" in error_lines(train(tmp_path / "few", *base, code=1))
    assert "only 2 of 3 shards were given" in error_lines(train(few[0], few[2], *base, code=1))
    one = sorted(val.iterdir())[0]
    said = error_lines(train(*shards, "--val", one, *base, code=1))
    assert "only 1 of 2 shards were given" in said and "--val" in said
    train(tmp_path / "few", *base, "--allow-incomplete")
    assert load_scorer(tmp_path / "sae.h5").trained_on["shards"] == "2 of 3 shards"
    with pytest.raises(UserError, match="1 of 3 shards are missing"):
        open_shards([tmp_path / "few"])
    assert len(list(iterate_shards([tmp_path / "few"], allow_incomplete=True))) == 2


def test_dump_acts_is_killed(tmp_path: Path) -> None:
    """A recorder that dies after two of its shards: the pipe closes, as after the last."""
    paths = write_shards(tmp_path / "acts", clustered_acts(240), n_shards=12)
    val = write_shards(tmp_path / "val", clustered_acts(30, seed=1), n_shards=1, paths=OTHERS)
    out = tmp_path / "sae.h5"
    prints = f"printf '%s\\n' {paths[0]} {paths[1]}; exec sleep 600"
    recorder = subprocess.Popen(["sh", "-c", prints], stdout=subprocess.PIPE)
    command = [
        BIN / "train-sae",
        "--consume",
        "--val",
        *val,
        "--out",
        out,
        *SMALL,
        "--checkpoint-every",
        1,
        "-",
    ]
    training = subprocess.Popen(
        [str(part) for part in command], stdin=recorder.stdout, stderr=subprocess.PIPE, text=True
    )
    assert recorder.stdout is not None
    recorder.stdout.close()
    while training.poll() is None and paths[1].exists():
        time.sleep(0.02)
    recorder.send_signal(signal.SIGKILL)
    recorder.wait()
    _, said = training.communicate(timeout=200)
    assert training.returncode == 1, said
    assert "only 2 of 12 shards were given" in said and not out.exists()
    assert state_path(out).exists() and not paths[0].exists() and not paths[1].exists()
    # Recorded again, as dump-acts does with what is missing: it goes on, to the bytes of an unbroken run.
    write_shards(tmp_path / "acts", clustered_acts(240), n_shards=12)
    for name in ("sae.h5", "whole.h5"):
        write_shards(tmp_path / "acts", clustered_acts(240), n_shards=12)
        again = [str(part) if part != out else str(tmp_path / name) for part in command]
        done = subprocess.run(again, input=listed(paths), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert ("resumes after step" in done.stderr) == (name == "sae.h5")
    assert weights(out) == weights(tmp_path / "whole.h5")
