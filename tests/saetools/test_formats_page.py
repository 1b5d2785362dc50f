"""docs/formats.md says what the tools write: each of its tables is compared with real files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from formats_page import PAGE, names, table
from processes import Tool
from small_edits import write_small_edits
from small_shards import clustered_acts, write_shards

from saetools.files.edit_tables import EFFECT_COLUMNS, FIDELITY_COLUMNS
from saetools.files.formats import EDIT_PREDICTIONS, FORMATS
from saetools.files.npz import read_npz
from saetools.files.provenance import Provenance


@pytest.fixture(scope="module")
def made(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one file of each format."""
    folder = tmp_path_factory.mktemp("formats")
    acts = clustered_acts(60)
    write_shards(folder / "train", acts[:40], n_shards=2, paths=[f"a/{i}.jpg" for i in range(40)],
                 digests=[f"{i:032x}" for i in range(40)], class_names=[""] * 40)  # fmt: skip
    write_shards(folder / "test", acts[40:], n_shards=1, paths=[f"b/{i}.jpg" for i in range(20)])
    tool(
        *("train-sae", folder / "train", "--val", folder / "test", "--out", folder / "sae.h5"),
        *("--d-sae", 32, "--k", 3, "--tokens", "4k", "--batch-size", 64, "--activation", "batchtopk"),
    )
    rows = [
        "path,red",
        *(f"a/{i}.jpg,{i % 2}" for i in range(40)),
        *(f"b/{i}.jpg,{i % 2}" for i in range(20)),
    ]
    (folder / "traits.csv").write_text("\n".join(rows) + "\n")
    tool(
        *(
            "score-traits",
            "--train",
            folder / "train",
            "--test",
            folder / "test",
            "--traits",
            folder / "traits.csv",
        ),
        *("--scorer", "const", "--scorer", folder / "sae.h5", "--out", folder / "ap.csv"),
    )
    return folder


def test_provenance(made: Path) -> None:
    fields = set(Provenance.__dataclass_fields__)
    assert names("provenance") == fields
    with h5py.File(made / "sae.h5") as file:
        assert fields <= set(file.attrs)
        assert file.attrs["format"] in PAGE


def test_shards(made: Path) -> None:
    with h5py.File(made / "train" / "shard-000000.h5") as file:
        assert set(file.attrs) == names("shard attributes") | names("provenance")
        n, p, d = file["layer_3/patches"].shape
        sizes = {"N": n, "P": p, "D": d}
        found: dict[str, h5py.Dataset] = {}
        file.visititems(
            lambda name, item: found.update({f"/{name}": item}) if hasattr(item, "shape") else None
        )
        rows = {row[0].replace("layer_L", "layer_3"): row[1:] for row in table("shard data sets")}
        assert set(found) <= set(rows)
        assert {name for name, row in rows.items() if row[2] == "yes"} <= set(found)
        for name, dataset in found.items():
            shape, dtype = rows[name][:2]
            expected = tuple(sizes[axis] if axis in sizes else int(axis) for axis in shape.split(", "))
            assert dataset.shape == expected
            assert (dtype == "UTF-8") == (dataset.dtype == object)
            assert (dtype == "ASCII") == (dataset.dtype == np.dtype("S32"))
            assert dtype in ("UTF-8", "ASCII") or dataset.dtype.name in dtype.split(", ")
        example = re.search(r"\$ h5ls -r shard-000000.h5\n(.*?)```", PAGE, re.DOTALL)
        assert example is not None
        assert {line.split()[0] for line in example[1].splitlines() if "Dataset" in line} == {
            name.replace("layer_3", "layer_11") for name in found
        }


def test_scorer(made: Path) -> None:
    with h5py.File(made / "sae.h5") as file:
        assert set(file.attrs) == names("scorer attributes") | names("provenance")
        rows = {row[0].removeprefix("/"): row[1:] for row in table("sae data sets")}
        d, s = file["W_enc"].shape
        for name, dataset in file.items():
            shape = tuple({"D": d, "S": s}[axis] for axis in rows[name][0].split(", "))
            assert dataset.shape == shape
            assert dataset.dtype == np.float32
        assert set(file) == set(rows)


def test_tables(made: Path) -> None:
    assert list(pd.read_csv(made / "ap.csv").columns) == [row[0] for row in table("ap columns")]
    (listed,) = json.loads((made / "ap.csv.json").read_text())["scorer_files"]
    assert set(listed) == names("scorer files") - {"n_train"}
    assert set(pd.read_csv(made / "sae.metrics.csv").columns) == names("metrics columns")
    for sidecar, name in (
        ("ap.csv.json", "saetools-ap-table"),
        ("sae.metrics.csv.json", "saetools-training-metrics"),
    ):
        assert f'"{name}"' in (made / sidecar).read_text()
        assert name in PAGE


def test_edits(tmp_path: Path) -> None:
    assert [row[0] for row in table("effects columns")] == EFFECT_COLUMNS
    assert [row[0] for row in table("fidelity columns")] == FIDELITY_COLUMNS
    sizes = {"N": 5, "P": 12, "C": 3, "K": 4, "A": 5, "2": 2}
    documented = {row[0]: row[1:] for row in table("predictions members")}
    for tokens, link in (("patches", "softmax"), ("image", "softmax"), ("image", "logistic")):
        folder = write_small_edits(tmp_path / tokens / link, tokens, link)
        for name, columns in (("effects", EFFECT_COLUMNS), ("fidelity", FIDELITY_COLUMNS)):
            assert list(pd.read_csv(folder / f"{name}.csv").columns) == columns
        provenance, arrays = read_npz(folder / "predictions-000.npz", EDIT_PREDICTIONS)
        assert set(provenance.settings) == names("predictions settings")
        assert {*arrays, "saetools"} == set(documented)
        for name, array in arrays.items():
            shape, kind, _ = documented[name]
            assert array.shape in [
                tuple(sizes[axis] for axis in one.split(", ")) for one in shape.split(" or ")
            ]
            assert (kind == "text") == (array.dtype.kind == "U")
            assert kind == "text" or array.dtype.name in kind.split(", ")


def test_every_format_is_named() -> None:
    assert not [one.name for one in FORMATS if f": `{one.name}`\n" not in PAGE]
