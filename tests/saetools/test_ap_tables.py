"""The rows of one scorer in an AP table, and names of scorers for people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from saetools.errors import UserError
from saetools.files.ap_tables import (
    SCORER_FILES,
    list_scorer_files,
    name_scorers,
    rows_of_scorer,
    scorer_files,
)
from saetools.files.formats import AP_TABLE
from saetools.files.provenance import Provenance
from saetools.files.tables import read_csv, sidecar_values, write_csv

A, B, C, D = ("a" * 32, "b" * 32, "c" * 32, "d" * 32)


def rows(scorer: str, checkpoint: str | None, seed: int = 0, *, layer: int = 3, k: int = 8) -> pd.DataFrame:
    known = {"scorer": scorer, "n_prototypes": k, "seed": seed, "layer": layer, "n_train": 10}
    return pd.DataFrame([{**known, "trait": trait, "checkpoint": checkpoint} for trait in "xy"])


TABLE = pd.concat(
    [
        rows("const", None, k=1),
        rows("random", None, 0),
        rows("random", None, 1),
        rows("sae", "x/sae-seed{seed}.h5", 0),
        rows("sae", "x/sae-seed{seed}.h5", 1),
        rows("sae", "x/other.h5", 0),
        rows("sae", "x/other.h5", 1),
        rows("untrained", "x/other.h5", 0),
        rows("sae", "x/deep.h5", 0, layer=5),
        rows("units", None),
    ],
    ignore_index=True,
)


def entry(spec: str, kind: str, seed: int | None, uid: str, layer: int = 3) -> dict[str, object]:
    return {"spec": spec, "kind": kind, "n_prototypes": 8, "layer": layer, "seed": seed, "uid": uid}


LISTED = [
    entry("x/sae-seed{seed}.h5", "sae", 0, A),
    entry("x/sae-seed{seed}.h5", "sae", 1, B),
    entry("x/other.h5", "sae", None, C),
    entry("untrained:x/other.h5", "untrained", None, D),
    entry("random:8", "random", 1, "e" * 32),
    entry("x/deep.h5", "sae", None, "f" * 32, layer=5),
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "ap.csv"
    write_csv(path, TABLE, Provenance.of(AP_TABLE, "score-traits", {}), {SCORER_FILES: LISTED})
    return path


def found(path: Path, uid: str, kind: str = "sae", layer: int | None = 3, **more: object) -> list[tuple]:
    kept = rows_of_scorer(
        path, read_csv(path, AP_TABLE)[0], uid=uid, kind=kind, n_prototypes=8, layer=layer, **more
    )
    assert list(kept["trait"]) == ["x", "y"] * (len(kept) // 2)
    values = kept[kept["trait"] == "x"][["scorer", "checkpoint", "seed"]].itertuples(index=False, name=None)
    return [tuple(None if pd.isna(one) else one for one in value) for value in values]


def test_rows_are_of_the_scorer_with_this_uid(table: Path) -> None:
    assert found(table, A) == [("sae", "x/sae-seed{seed}.h5", 0)]
    assert found(table, B) == [("sae", "x/sae-seed{seed}.h5", 1)]
    assert found(table, C) == [("sae", "x/other.h5", 0), ("sae", "x/other.h5", 1)]
    assert found(table, D, "untrained") == [("untrained", "x/other.h5", 0)]
    assert found(table, "e" * 32, "random") == [("random", None, 1)]
    assert found(table, "f" * 32, layer=None) == [("sae", "x/deep.h5", 0)]
    assert found(table, "units", "units") == [("units", None, 0)]


@pytest.mark.parametrize(
    ("uid", "kind", "layer", "words"),
    [
        ("9" * 32, "sae", 3, "are of another scorer than this one, whose uid is 9999"),
        (A, "random", 3, "are of another scorer than this one"),
        (
            A,
            "kmeans",
            3,
            r"no row is of a kmeans scorer with 8 prototypes on layer 3; it holds const \(1\), random",
        ),
        (A, "sae", 4, "no row is of a sae scorer with 8 prototypes on layer 4"),
    ],
)
def test_a_table_without_rows_of_the_scorer_is_refused(table, uid, kind, layer, words) -> None:
    with pytest.raises(UserError, match=words) as raised:
        found(table, uid, kind, layer)
    assert str(raised.value).startswith(f"{table}: ")


def test_tables_of_version_1_are_matched_by_kind_size_and_file_name(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    write_csv(path, TABLE, Provenance("saetools-ap-table", 1, "score-traits", "", {}))
    assert found(path, "9" * 32, "random") == [("random", None, 0), ("random", None, 1)]
    with pytest.raises(UserError, match="several scorers of this kind and size"):
        found(path, C)
    expected = [("sae", "x/other.h5", 0), ("sae", "x/other.h5", 1)]
    assert found(path, C, file=Path("elsewhere/other.h5")) == expected
    with pytest.raises(UserError, match="several scorers"):
        found(path, C, file=Path("x/third.h5"))


def test_a_list_that_is_broken(table: Path) -> None:
    write_csv(table, TABLE, Provenance.of(AP_TABLE, "score-traits", {}), {SCORER_FILES: [{"spec": "x"}]})
    with pytest.raises(UserError, match="its scorer_files are broken"):
        found(table, A)


def test_files_written_anew_are_listed_anew(table: Path) -> None:
    """The same command over a table that is there: uids of today's files; what was saved back then stays."""
    text = table.read_bytes()
    list_scorer_files(table, LISTED[:1])
    assert scorer_files(table) == LISTED
    list_scorer_files(table, [{**LISTED[0], "uid": "1" * 32}])
    assert scorer_files(table) == [{**LISTED[0], "uid": "1" * 32}, *LISTED[1:]]
    assert (table.read_bytes(), sidecar_values(table)["rows"]) == (text, len(TABLE))


@pytest.mark.parametrize(
    ("scorers", "names"),
    [
        ([("const", None), ("sae", "x/a.h5"), ("kmeans", None)], ["const", "sae", "kmeans"]),
        ([("sae", "x/a.h5"), ("sae", "x/b-k16.h5"), ("pca", None)], ["sae a", "sae b-k16", "pca"]),
        ([("sae", "x/a.h5"), ("sae", "y/a.h5"), ("sae", "y/b.h5")], ["sae x/a", "sae y/a", "sae b"]),
        ([("sae", "a-seed{seed}.h5"), ("sae", "b_{seed}.h5")], ["sae a", "sae b"]),
        ([("sae", "a.h5"), ("untrained", "a.h5")], ["sae", "untrained"]),
        ([("random", None), ("random", "x/random-8.h5")], ["random", "random random-8"]),
        ([("sae", "x/a.1"), ("sae", "x/a.2")], ["sae a.1", "sae a.2"]),
    ],
)
def test_names(scorers, names) -> None:
    table = pd.DataFrame(scorers, columns=["scorer", "checkpoint"])
    assert name_scorers(table) == names
    assert name_scorers(table.drop(columns="checkpoint")) == [kind for kind, _ in scorers]


def test_one_sae_for_each_layer_has_one_name() -> None:
    known = [("sae", f"out/sae-layer{layer}.h5", layer) for layer in (1, 11)]
    table = pd.DataFrame(known, columns=["scorer", "checkpoint", "layer"])
    assert name_scorers(table) == ["sae", "sae"]
    more = pd.concat([table, table.assign(checkpoint=["out/k8_layer1.h5", "out/k8_layer11.h5"])])
    assert name_scorers(more) == ["sae sae", "sae sae", "sae k8", "sae k8"]
    folders = table.assign(checkpoint=["out/layer1/k8.h5", "out/layer11/k8.h5"])
    assert name_scorers(folders) == ["sae", "sae"]
    both = pd.concat([folders, folders.assign(checkpoint=["out/layer1/k4.h5", "out/layer11/k4.h5"])])
    assert name_scorers(both) == ["sae k8", "sae k8", "sae k4", "sae k4"]
    # layer 1 of layer 11's file is another thing
    other = table.assign(checkpoint=["out/a-layer11.h5", "out/a-layer1.h5"], layer=np.array([1, 11]))
    assert name_scorers(other) == ["sae a-layer11", "sae a-layer1"]
