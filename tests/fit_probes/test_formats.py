"""docs/formats.md says what encode-acts, fit-probes and audit-latents write."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_latents import write_latents

from audit_latents.report import RANKING_COLUMNS, YIELD_COLUMNS
from audit_latents.run import TABLES as AUDIT_TABLES
from fit_probes.probe_file import Probes
from fit_probes.run import TABLES as PROBE_TABLES
from fit_probes.tables import CLASS_COLUMNS, LATENT_COLUMNS
from saetools.files.formats import LATENTS, PROBES
from saetools.files.provenance import Provenance
from saetools.latents.header import MEMBERS, OPTIONAL, LatentsHeader

PAGE = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()


def rows_of(name: str) -> list[list[str]]:
    """The rows of the table after `<!-- table: name -->`, cells without back quotes."""
    body = PAGE.split(f"<!-- table: {name} -->\n")[1].split("\n\n")[0]
    return [
        [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
        for line in body.splitlines()[2:]
    ]


def names(table: str) -> list[str]:
    return [row[0] for row in rows_of(table)]


def test_latents_are_as_documented(tmp_path: Path) -> None:
    f_npk = np.random.default_rng(0).gamma(1.0, 1.0, (5, 3, 4)).astype(np.float32)
    labels = np.zeros((5, 3), np.uint16)
    digests = [f"{image:032x}" for image in range(5)]
    folder = write_latents(tmp_path / "l", f_npk, labels_np=labels, n_shards=1, digests=digests,
                           class_names=["owl"] * 5)  # fmt: skip
    with np.load(folder / "latents-000000.npz") as file:
        found = {name: file[name] for name in file.files}
    sizes = {"N": 5, "P": 3, "K": 4, "E": 60, "2": 2, "N P + 1": 16, "B": 3}
    documented = {row[0]: row[1:] for row in rows_of("latents members")}
    assert list(documented) == list(MEMBERS) == list(found)
    for name, (shape, dtype, required, _) in documented.items():
        assert found[name].shape == tuple(sizes[part.strip()] for part in shape.split(",") if part)
        assert (dtype == "text") == (found[name].dtype.kind == "U")
        assert (dtype == "ASCII") == (found[name].dtype == np.dtype("S32"))
        assert dtype in ("text", "ASCII") or found[name].dtype.name in dtype.split(", ")
        assert (required == "no") == (name in OPTIONAL)
    header = json.loads(str(found["saetools"]))
    assert set(header) == {*Provenance.__dataclass_fields__, "header"}
    assert names("latents header") == list(LatentsHeader.__dataclass_fields__)
    assert set(header["header"]) == set(LatentsHeader.__dataclass_fields__)


def test_probes_are_as_documented() -> None:
    probes = Probes.empty(3, ["a", "b"])
    documented = {row[0]: row[1:] for row in rows_of("probes members")}
    assert list(documented) == [*Probes.__dataclass_fields__, "saetools"]
    for name, (shape, dtype, _) in documented.items():
        if name != "saetools":
            array = getattr(probes, name)
            assert array.shape == tuple({"K": 3, "C": 2}[part] for part in shape.split(", "))
            assert (dtype == "text" and array.dtype.kind == "U") or array.dtype.name == dtype


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("probe columns", CLASS_COLUMNS),
        ("latent columns", LATENT_COLUMNS),
        ("ranking columns", RANKING_COLUMNS),
        ("yield columns", YIELD_COLUMNS),
    ],
)
def test_columns_are_as_documented(table: str, columns: list[str]) -> None:
    assert names(table) == columns


def test_the_summary_is_as_documented(tmp_path: Path) -> None:
    from in_process import runner

    from fit_probes.cli import app

    f_npk = np.random.default_rng(0).gamma(1.0, 1.0, (4, 3, 2)).astype(np.float32)
    labels = np.arange(12, dtype=np.uint16).reshape(4, 3) % 2
    splits = [part for name in ("train", "test") for part in (f"--{name}", tmp_path / name)]
    for name in ("train", "test"):
        write_latents(tmp_path / name, f_npk, labels_np=labels, prefix=name)
    runner("fit-probes", app)(*splits, "--out", tmp_path / "out", "--tau", "0.6")
    found = list(pd.read_csv(tmp_path / "out" / "summary.csv").columns)
    assert found == [name.replace("TAU", "0.6") for name in names("summary columns")]


def test_every_format_has_a_section() -> None:
    for format in (LATENTS, PROBES, *PROBE_TABLES.values(), *AUDIT_TABLES.values()):
        assert f": `{format.name}`\n" in PAGE
