"""`train_sae` as a Python function: the command's result, with and without a file; errors name arguments."""

from __future__ import annotations

import threading
from dataclasses import MISSING, fields
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
import typer.main
from in_process import runner
from small_shards import clustered_acts, write_shards

from saetools.errors import UsageError, UserError
from saetools.scorers.file import load_sae
from saetools.shards.reader import open_shards
from train_sae.api import TrainedSAE, train_sae
from train_sae.cli import app
from train_sae.config import SAETraining
from train_sae.options import options_table

README = Path(__file__).parents[2] / "tools/train-sae/README.md"
SMALL = {"d_sae": 48, "k": 4, "batch_size": 128, "tokens": "3k"}
COMMAND = [
    "--d-sae",
    48,
    "--k",
    4,
    "--batch-size",
    128,
    "--tokens",
    "3k",
    "--log-every",
    10,
    "--device",
    "cpu",
]
RATES = ["tokens_per_second", "read_mb_per_second"]
command = runner("train-sae", app)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder / "train", clustered_acts(80), n_shards=2)
    write_shards(
        folder / "val", clustered_acts(20, seed=1), n_shards=1, paths=[f"val/{i}" for i in range(20)]
    )
    return folder


def contents(path: Path) -> dict[str, bytes]:
    with h5py.File(path) as file:
        attributes = {
            name: str(file.attrs[name]) for name in ("kind", "config", "scale", "trained_on", "evaluation")
        }
        return {name: file[name][...].tobytes() for name in file} | {"attributes": repr(attributes).encode()}


def test_with_out_it_writes_what_the_command_writes(shards: Path, tmp_path: Path) -> None:
    command(shards / "train", "--val", shards / "val", "--out", tmp_path / "command.h5", *COMMAND)
    val = open_shards([shards / "val"])
    sae = train_sae(
        str(shards / "train"), val=val, out=tmp_path / "call.h5", log_every=10, device="cpu", **SMALL
    )
    assert sae.path == tmp_path / "call.h5"
    assert contents(tmp_path / "call.h5") == contents(tmp_path / "command.h5")
    tables = [
        pd.read_csv(tmp_path / f"{name}.metrics.csv").drop(columns=RATES) for name in ("call", "command")
    ]
    pd.testing.assert_frame_equal(*tables)
    # Each finds the other's file finished.
    done = command(shards / "train", "--val", shards / "val", "--out", tmp_path / "call.h5", *COMMAND)
    assert "trained already" in done.stderr
    again = train_sae(
        shards / "train", val=val, out=tmp_path / "command.h5", log_every=10, device="cpu", **SMALL
    )
    pd.testing.assert_frame_equal(again.metrics.drop(columns=RATES), tables[1])
    assert torch.equal(again.W_dec, sae.W_dec) and again.evaluation == sae.evaluation


def test_without_out_nothing_is_written(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(shards.rglob("*"))
    paths = sorted((shards / "train").iterdir())
    sae = train_sae(paths, layer=3, val=shards / "val", log_every=10, device="cpu", **SMALL)
    assert not list(tmp_path.iterdir()) and sorted(shards.rglob("*")) == before and sae.path is None
    command(shards / "train", "--val", shards / "val", "--out", tmp_path / "sae.h5", *COMMAND)
    written = load_sae(tmp_path / "sae.h5")
    assert isinstance(sae, TrainedSAE)
    for name in ("W_enc", "b_enc", "W_dec", "b_dec", "mean"):
        assert torch.equal(getattr(sae, name), getattr(written, name)), name
    assert sae.evaluation == written.evaluation and sae.trained_on == written.trained_on
    table = pd.read_csv(tmp_path / "sae.metrics.csv")
    pd.testing.assert_frame_equal(sae.metrics.drop(columns=RATES), table.drop(columns=RATES))
    x_bd = torch.from_numpy(clustered_acts(20, seed=1)).flatten(0, 1)
    assert (sae.encode(x_bd) > 0).sum(1).double().mean().item() == pytest.approx(sae.evaluation["l0"])
    sae.save(tmp_path / "kept.h5")
    assert torch.equal(load_sae(tmp_path / "kept.h5").W_enc, sae.W_enc)


def test_config_and_settings(shards: Path) -> None:
    config = SAETraining(
        d_sae=32, k=4, batch_size=128, tokens=2000, exclude_labels=None, pool_memory=2_000_000
    )
    one = train_sae(shards / "train", config=config, device="cpu")
    other = train_sae(shards / "train", config=config, d_sae=np.int64(24), seed=3, device="cpu")
    assert (one.n_prototypes, other.n_prototypes) == (32, 24)
    named = train_sae(
        shards / "train", d_sae=32, k=4, batch_size=128, tokens="2k", pool_memory="2MB", device="cpu"
    )
    assert torch.equal(named.W_enc, one.W_enc)


def test_in_a_thread(shards: Path, tmp_path: Path) -> None:
    """Signal handlers can be set in the main thread only; a notebook may train in another."""
    found: list[TrainedSAE] = []
    thread = threading.Thread(
        target=lambda: found.append(
            train_sae(shards / "train", out=tmp_path / "sae.h5", device="cpu", **SMALL)
        )
    )
    thread.start()
    thread.join()
    assert found[0].path == tmp_path / "sae.h5" and (tmp_path / "sae.h5").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"k": 49}, "`k` 49 `aux_k` 0: there are only 48 latents; raise `d_sae`"),
        ({"k": "4"}, "`k` 4: expected a whole number"),
        ({"k": True}, "`k` True: expected a whole number"),
        ({"lr": "fast"}, "`lr` fast: expected a number"),
        ({"lr": float("nan")}, "`lr` nan: expected a number of at least 0"),
        ({"autocast": 1}, "`autocast` 1: expected True or False"),
        ({"activation": "swish"}, "`activation` swish: expected one of topk"),
        ({"l0": 0.1}, "`l0`: it does nothing without `activation` jumprelu"),
        ({"tokens": "many"}, "`tokens` many: expected a number such as"),
        ({"pool_memory": "big"}, "`pool_memory` big: expected a size"),
        ({"exclude_labels": [70000]}, "`exclude_labels` [70000]: expected numbers from 0 to 65535"),
        ({"d_saes": 3}, "d_saes: train_sae has no such setting; did you mean d_sae?"),
        ({"holdout": 0}, "`holdout` 0: nothing is left to evaluate on; give shards with `val`"),
        ({"allow_overlap": True}, "`allow_overlap`: it does nothing without `val`"),
        ({"out": "sae.pt"}, "`out` sae.pt: a scorer file is HDF5"),
        ({"val": []}, "`val`: it is empty"),
        ({"device": "tpu9"}, "`device` tpu9: expected auto, cpu"),
    ],
)
def test_errors_name_arguments(shards: Path, settings: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as error:
        train_sae(shards / "train", **{"device": "cpu", **SMALL, **settings})  # type: ignore[arg-type]
    assert says in str(error.value)


def test_errors_of_the_shards_name_arguments(shards: Path) -> None:
    with pytest.raises(UserError, match="no patch labels, which `exclude_labels` 0 needs"):
        train_sae(shards / "train", exclude_labels=[0], device="cpu", **SMALL)
    with pytest.raises(UserError, match="lower `batch_size`, or lower `holdout`"):
        train_sae(shards / "train", device="cpu", **{**SMALL, "batch_size": 10**6})
    with pytest.raises(UserError, match="`holdout` 1e-09: the shards have too few images"):
        train_sae(shards / "train", device="cpu", holdout=1e-9, **SMALL)


def test_shards_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file or folder; expected activation shards"):
        train_sae(tmp_path / "nowhere")


def test_options_are_the_fields_of_the_configuration() -> None:
    """Name, default, bounds and help of every option stand once, in SAETraining."""
    parameters = {each.name: each for each in typer.main.get_command(app).params}
    for each in fields(SAETraining):
        option = parameters[each.name]
        assert option.opts == [f"--{each.name.replace('_', '-')}"]
        assert each.default is not MISSING and option.default == each.default
        assert option.help == each.metadata["help"]
        if (bounds := each.metadata["bounds"]) is not None:
            said = command("acts", "--out", "sae.h5", f"{option.opts[0]}={bounds[0] - 1}", code=2).stderr
            assert f"Invalid value for .{option.opts[0]}." in said.replace("'", ".")
        assert f"    {each.name}: " in str(SAETraining.__doc__)
    order = list(parameters)
    assert (
        order[:4] == ["out", "acts", "layer", "d_sae"] and order.index("val") == order.index("autocast") + 1
    )


def test_the_readme_lists_the_options() -> None:
    assert options_table() in README.read_text(encoding="utf-8")
