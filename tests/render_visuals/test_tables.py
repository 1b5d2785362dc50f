"""Tables that pictures and pages are made from count with the rows of their own scorer, and with their own labels."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from in_process import runner
from pictured_latents import CROPPED, sparse_latents, write_images, write_pictured
from processes import error_lines

from render_visuals.cli import app
from render_visuals.page.annotations import read_tables
from render_visuals.tables import read_table
from saetools.files.ap_tables import SCORER_FILES
from saetools.files.formats import (
    AP_TABLE,
    LATENT_PICTURES,
    LATENT_RANKING,
    LATENT_TABLE,
    PROBE_TABLE,
    Format,
)
from saetools.files.provenance import Provenance
from saetools.files.tables import write_csv, write_sidecar
from saetools.latents.reader import open_latents

render = runner("render-visuals", app)
MINE, OTHER = "5" * 32, "7" * 32  # write_pictured's scorer, and one of the same kind and size


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("case")
    paths = write_images(folder / "root", [(44, 40)] * 6)
    f_npk = sparse_latents(6, 16, 12, share=0.3)
    return folder / "root", write_pictured(folder / "latents", f_npk, paths, [(4, 4)] * 6, CROPPED)


def write_ap(path: Path) -> Path:
    """An AP table of two SAEs of one size, of random prototypes and the constant."""
    rows = []
    for scorer, k, checkpoint, prototype in [
        ("const", 1, None, 0),
        ("random", 12, None, 2),
        ("sae", 12, "a.h5", 4),
        ("sae", 12, "b.h5", 6),
    ]:
        common = {"scorer": scorer, "n_prototypes": k, "seed": 0, "layer": 3, "n_train": 9, "prevalence": 0.2}
        rows += [
            {**common, "trait": f"trait {t}", "prototype": prototype + t, "ap": 0.5, "checkpoint": checkpoint}
            for t in range(2)
        ]
    files = [
        {"spec": spec, "kind": "sae", "n_prototypes": 12, "layer": 3, "seed": None, "uid": uid}
        for spec, uid in (("a.h5", MINE), ("b.h5", OTHER))
    ]
    write_csv(path, pd.DataFrame(rows), Provenance.of(AP_TABLE, "score-traits", {}), {SCORER_FILES: files})
    return path


def drawn(case: tuple[Path, Path], out: Path, table: Path) -> list[int]:
    root, latents = case
    done = render("latents", latents, "--images", root, "--out", out, "--from", table, "--workers", 1)
    assert "2 of 8 rows belong to the scorer of these latents" in done.stderr
    with (out / "index.csv").open() as file:
        return [int(row["latent"]) for row in csv.DictReader(file)]


def test_pictures_are_of_the_rows_of_the_latents_scorer_alone(
    case: tuple[Path, Path], tmp_path: Path
) -> None:
    table = write_ap(tmp_path / "ap.csv")
    assert drawn(case, tmp_path / "out", table) == [4, 5]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == [
        "latent-000004.png",
        "latent-000005.png",
    ]


def test_a_page_and_a_heat_map_take_no_other_rows(case: tuple[Path, Path], tmp_path: Path) -> None:
    table = write_ap(tmp_path / "ap.csv")
    known = read_tables([table], open_latents([case[1]]).header, None, None)
    assert sorted(found[0] for found in known.best_for) == [4, 5]
    done = render("heatmap", case[1], "--from", table, "--out", tmp_path / "h.png")
    assert "2 of 8 rows belong to the scorer of these latents" in done.stderr


FOREIGN: list[tuple[Format, Mapping[str, list[Any]]]] = [
    (
        PROBE_TABLE,
        {"class": [0, 1], "latent": [3, 4], "baseline_loss": [1, 1], "ap": [0.5, 0.6], "r": [0, 0]},
    ),
    (LATENT_TABLE, {"latent": [3, 4], "mean_value": [1, 2], "train_r": [0, 0]}),
    (LATENT_RANKING, {"latent": [3, 4], "score": [1, 2]}),
    (LATENT_PICTURES, {"latent": [3, 4], "picture": ["a.png", "b.png"]}),
]


@pytest.mark.parametrize(("format", "columns"), FOREIGN, ids=[format.name for format, _ in FOREIGN])
def test_tables_of_another_scorer_are_refused(
    case: tuple[Path, Path], tmp_path: Path, format: Format, columns: Mapping[str, list[Any]]
) -> None:
    root, latents = case
    table = tmp_path / "table.csv"
    draw = ["latents", latents, "--images", root, "--out", tmp_path / "out", "--workers", 1]
    page = ["page", latents, "--images", root, "--out", tmp_path / "site", "--workers", 1]
    settings = {"scorer": OTHER, "kind": "sae"}
    write_csv(table, pd.DataFrame(columns), Provenance.of(format, format.made_by, settings))
    for command in ([*draw, "--from", table], [*page, "--table", table]):
        assert f"{table}: made with the scorer {OTHER}" in error_lines(render(*command, code=1))
    settings = {"scorer": MINE, "kind": "sae"}
    write_csv(table, pd.DataFrame(columns), Provenance.of(format, format.made_by, settings))
    render(*draw, "--from", table)


def test_an_ap_table_of_another_sae_is_refused(case: tuple[Path, Path], tmp_path: Path) -> None:
    """Of the same kind, size and layer: only the uid tells."""
    root, latents = case
    table = write_ap(tmp_path / "ap.csv")
    text = table.with_name("ap.csv.json").read_text()
    write_sidecar(table, json.loads(text.replace(MINE, "8" * 32)))
    for command in (
        ["latents", latents, "--images", root, "--out", tmp_path / "out", "--from", table],
        ["page", latents, "--images", root, "--out", tmp_path / "site", "--table", table],
    ):
        assert f"of another scorer than this one, whose uid is {MINE}" in error_lines(
            render(*command, code=1)
        )


def test_the_index_of_pictures_says_of_which_scorer_it_is(case: tuple[Path, Path], tmp_path: Path) -> None:
    root, latents = case
    draw = ["latents", "--images", root, "--workers", 1]
    render(*draw, latents, "--out", tmp_path / "out", "--latents", "1,2")
    index = tmp_path / "out" / "index.csv"
    _, provenance = read_table(index, [LATENT_PICTURES])
    assert provenance is not None
    assert provenance.settings["scorer"] == MINE
    paths = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.png"))]
    other = write_pictured(
        tmp_path / "other", sparse_latents(6, 16, 12), paths, [(4, 4)] * 6, CROPPED, scorer=OTHER
    )
    said = error_lines(render(*draw, other, "--out", tmp_path / "none", "--from", index, code=1))
    assert "made with the scorer" in said


@pytest.mark.parametrize("labels", ["patch", "target", "a table's digest", None])
def test_label_names_are_those_of_patch_labels_alone(
    case: tuple[Path, Path], tmp_path: Path, labels: str | None
) -> None:
    """A class of images with the number 2 is not the patch label 2."""
    header = open_latents([case[1]]).header
    table = pd.DataFrame({"class": [2, 0], "latent": [3, 4], "ap": [0.9, 0.8], "r": [0.1, 0.1]})
    path = tmp_path / "probes.csv"
    if labels is None:
        path.write_text(table.to_csv(index=False))  # one's own, which does not say what its classes are
    else:
        settings = {"labels": labels, "scorer": MINE, "kind": "sae"}
        write_csv(path, table, Provenance.of(PROBE_TABLE, "fit-probes", settings))
    names = ["background", "bird", "butterfly"]
    known = read_tables([path], header, None, names)
    expected = ["butterfly", "background"] if labels == "patch" else ["2", "0"]
    assert [found[2] for found in known.best_for] == expected
    named = read_tables([path], header, None, names, {2: "Azure Jay"})  # the classes that the latents name
    expected = ["Azure Jay", "0"] if labels == "target" else expected
    assert [found[2] for found in named.best_for] == expected
