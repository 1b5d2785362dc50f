"""render-visuals page as files: what it is made of, made again, and what users get wrong."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from broken_files import SCORERS, broken_tables
from in_process import runner
from pages import N_IMAGES, Chain, S, write_chain
from pictured_latents import CROPPED, sparse_latents, write_images, write_pictured
from PIL import Image
from processes import error_lines, run_on_a_full_disk

from audit_latents.cli import app as audit_app
from encode_acts.cli import app as encode_app
from fit_probes.cli import app as fit_app
from render_visuals.cli import app
from render_visuals.page.data import largest_per_patch
from saetools.files.formats import AP_TABLE, LATENT_TABLE, PROBE_TABLE
from saetools.files.provenance import Provenance
from saetools.files.tables import OWN_DIGEST, write_csv
from score_traits.cli import app as score_app

render, encode = runner("render-visuals", app), runner("encode-acts", encode_app)
fit, audit = runner("fit-probes", fit_app), runner("audit-latents", audit_app)
score = runner("score-traits", score_app)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Chain, Path]:
    folder = tmp_path_factory.mktemp("chain")
    chain = write_chain(folder)
    encode(chain.acts, "--scorer", chain.scorer, "--out", folder / "latents")
    return chain, folder / "latents"


def make(
    chain: tuple[Chain, Path], out: Path, *options: object, code: int = 0
) -> subprocess.CompletedProcess[str]:
    return render(
        "page", chain[1], "--images", chain[0].root, "--out", out, "--workers", 1, *options, code=code
    )


def read_chunk(site: Path, name: str) -> Any:
    """The value of a chunk, arrays as NumPy has them: a second reader of what store.js reads."""
    text = (site / "data" / f"{name}.js").read_text()
    found = re.fullmatch(r'saetools\.put\("([^"]+)",(.*)\);\n', text, re.DOTALL)
    assert found is not None
    assert found[1] == name

    def array(value: dict[str, Any]) -> Any:
        if value.keys() == {"t", "b"}:
            return np.frombuffer(base64.b64decode(value["b"]), f"<{value['t']}")
        return value

    return json.loads(found[2], object_hook=array)


def test_the_folder_is_whole_and_names_no_other_place(chain: tuple[Chain, Path], tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = make(chain, site)
    assert done.stdout == f"{site / 'index.html'}\n"
    assert len(list(site.glob("images/*/*.jpg"))) == N_IMAGES
    for path in [*site.glob("*.*"), *site.glob("data/**/*.js")]:
        text = path.read_text()
        assert not re.search(r"""(?:src|href|url\()\s*=?\s*["']?(?:https?:)?//""", text), path
        assert "fetch(" not in text
        assert str(tmp_path) not in text.replace(read_chunk(site, "about")["command"], "")
    table = read_chunk(site, "table")["columns"]
    assert {"frequency", "mean", "max", "images", "folder", "purity"} <= set(table)
    assert len(table["frequency"]) == S


def test_examples_and_heat_in_the_chunks(tmp_path: Path) -> None:
    n, p, k = 12, 16, 70  # several chunks of latents
    paths = write_images(tmp_path / "root", [(44, 40)] * n)
    f_npk = sparse_latents(n, p, k, share=0.2)
    latents = write_pictured(tmp_path / "latents", f_npk, paths, [(4, 4)] * n, CROPPED)
    render("page", latents, "--images", tmp_path / "root", "--out", tmp_path / "site", "--top", 5)
    max_nk = f_npk.max(1)
    for latent in (0, 31, 32, 64, 69):
        chunk = read_chunk(tmp_path / "site", f"latents/{latent // 32:04d}")
        i = latent % 32
        mine = range(chunk["example_ptr"][i], chunk["example_ptr"][i + 1])
        top = [int(chunk["image"][e]) for e in mine if chunk["quantile"][e] > 1]
        expected = sorted(
            (m for m in range(n) if max_nk[m, latent] > 0), key=lambda m: (-max_nk[m, latent], m)
        )
        assert top == expected[:5]
        for e in mine:
            here = slice(chunk["patch_ptr"][e], chunk["patch_ptr"][e + 1])
            values_p = f_npk[chunk["image"][e], :, latent]
            assert chunk["patch"][here].tolist() == np.flatnonzero(values_p > 0).tolist()
            found = chunk["value"][here].astype(np.float64) * chunk["scale"]
            np.testing.assert_allclose(found, values_p[values_p > 0], rtol=1e-3)
        counts = chunk["hist"][i * chunk["n_bins"] : (i + 1) * chunk["n_bins"]]
        assert counts.sum() == (f_npk[..., latent] > 0).sum()


def test_first_images_and_their_strongest_patches(tmp_path: Path) -> None:
    """What thumbnails and the wall show, for every latent, also where it has fewer images."""
    n, p, k = 12, 16, 70
    paths = write_images(tmp_path / "root", [(44, 40)] * n)
    f_npk = sparse_latents(n, p, k, share=0.1)
    latents = write_pictured(tmp_path / "latents", f_npk, paths, [(4, 4)] * n, CROPPED)
    for top in (5, 3):
        render("page", latents, "--images", tmp_path / "root", "--out", tmp_path / "site", "--top", top)
        tops = read_chunk(tmp_path / "site", "tops")
        image_ki, patch_ki = tops["image"].reshape(k, 4), tops["patch"].reshape(k, 4)
        max_nk = f_npk.max(1)
        for latent in range(k):
            order = sorted(range(n), key=lambda m: (-max_nk[m, latent], m))
            expected = [m for m in order if max_nk[m, latent] > 0][: min(4, top)]
            assert image_ki[latent].tolist() == expected + [-1] * (4 - len(expected))
            peaks = [int(f_npk[m, :, latent].argmax()) for m in expected]
            assert patch_ki[latent, : len(expected)].tolist() == peaks
    assert (image_ki[-1] == -1).all()  # it is dead


def test_classes_go_by_their_names(tmp_path: Path) -> None:
    """Where names were recorded they stand in place of folders: for purity, the heat map and every image."""
    n = 12
    paths = write_images(tmp_path / "root", [(44, 40)] * n)
    names = [("Azure Jay", "Frost Owl", "")[i % 3] for i in range(n)]
    f_npk = sparse_latents(n, 16, 8, share=0.3)
    f_npk[[i for i in range(n) if names[i] != "Azure Jay"], :, 2] = 0
    plain = [(4, 4)] * n, CROPPED
    site, latents = tmp_path / "site", tmp_path / "latents"
    write_pictured(latents, f_npk, paths, *plain, class_names=names)
    probes = tmp_path / "probes.csv"
    settings = {"scorer": "5" * 32, "labels": "target"}
    rows = pd.DataFrame({"class": [0, 1], "latent": [2, 3], "ap": [0.9, 0.5], "r": [0.4, 0.1]})
    write_csv(probes, rows, Provenance.of(PROBE_TABLE, "fit-probes", settings))  # of a version without names
    render("page", latents, "--images", tmp_path / "root", "--out", site, "--table", probes)
    table, images = read_chunk(site, "table")["columns"], read_chunk(site, "images")
    assert "folder" not in table
    assert table["top_class"]["texts"][table["top_class"]["code"][2]] == "Azure Jay"
    assert table["purity"][2] == 1
    shown = [images["class"]["texts"][code] for code in images["class"]["code"]]
    assert shown == [name or "(no class)" for name in names]
    assert read_chunk(site, "heatmap")["names"] == ["(no class)", "Azure Jay", "Frost Owl"]
    assert [one[2] for one in read_chunk(site, "table")["found"]] == ["Azure Jay", "Frost Owl"]
    render("heatmap", latents, "--out", tmp_path / "heat.svg")
    assert "Frost Owl" in (tmp_path / "heat.svg").read_text()
    for without in ([""] * n, None):  # as recorded without classes, or by an earlier version
        write_pictured(latents, f_npk, paths, *plain, class_names=without)
        render("page", latents, "--images", tmp_path / "root", "--out", tmp_path / "folders")
        table = read_chunk(tmp_path / "folders", "table")["columns"]
        assert set(table["folder"]["texts"]) == {"", "000.Kind_A", "001.Kind_B"}
        assert "class" not in read_chunk(tmp_path / "folders", "images")


def test_the_largest_of_a_patch() -> None:
    indptr = np.array([0, 4, 4, 6])
    value_e = np.array([1, 3, 2, -1, 5, 0.5], np.float32)
    counts, kept = largest_per_patch(indptr, value_e, 2)
    assert (counts.tolist(), kept.tolist()) == ([2, 0, 2], [1, 2, 4, 5])
    counts, kept = largest_per_patch(indptr, value_e, 9)
    assert (counts.tolist(), kept.tolist()) == ([3, 0, 2], [0, 1, 2, 4, 5])


def test_made_again_it_draws_only_what_changed(chain: tuple[Chain, Path], tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(chain[0].root, root)
    mine = Chain(root, chain[0].acts, chain[0].scorer), chain[1]
    site = tmp_path / "site"
    make(mine, site)
    stamps = {path: path.stat().st_mtime_ns for path in site.rglob("*") if path.is_file()}
    done = make(mine, site)
    assert "nothing to do: made of the same files" in done.stderr
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    changed = sorted(root.glob("images/*/*.png"))[0]
    Image.new("RGB", (60, 40), (200, 30, 30)).save(changed)
    make(mine, site)
    assert [path.name for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp] == ["000000.jpg"]
    (site / "images" / "000" / "000999.jpg").write_bytes(b"of an image that is gone")
    make(mine, site, "--top", 3)
    assert not (site / "images" / "000" / "000999.jpg").exists()
    assert (site / "index.html").stat().st_mtime_ns != stamps[site / "index.html"]


def test_a_page_that_was_stopped_has_no_index(
    chain: tuple[Chain, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    make(chain, site)
    monkeypatch.setattr(
        "render_visuals.page.write.heat_matrix", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    make(chain, site, "--top", 4, code=130)
    assert not (site / "index.html").exists()
    monkeypatch.undo()
    make(chain, site, "--top", 4)
    assert (site / "index.html").exists()


def test_other_peoples_files_are_left_alone(chain: tuple[Chain, Path], tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "it holds other files (thesis.tex)" in error_lines(make(chain, tmp_path, code=1))
    (tmp_path / "thesis.tex").unlink()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "measured.csv").write_text("years of work")
    assert "it holds other files" in error_lines(make(chain, tmp_path, code=1))
    assert (tmp_path / "data" / "measured.csv").exists()


def test_tables_join_the_page(chain: tuple[Chain, Path], tmp_path: Path) -> None:
    probes = tmp_path / "probes.csv"
    probes.write_text("class,latent,ap,r\nsky,5,0.9,0.4\nroad,5,0.95,0.3\ntree,9,,0.1\n")
    latents_csv = tmp_path / "latents.csv"
    latents_csv.write_text("latent,frequency,purity@16,best class\n5,0.1,0.75,road\n0,0.2,0.5,sky\n")
    make(chain, tmp_path / "site", "--table", probes, "--table", latents_csv)
    found = read_chunk(tmp_path / "site", "table")
    columns = found["columns"]
    assert columns["class"]["texts"][columns["class"]["code"][5]] == "road"
    assert (columns["ap"][5], columns["r"][5]) == (np.float32(0.95), np.float32(0.3))
    assert np.isnan(columns["ap"][9])
    assert columns["purity_16"][5] == 0.75
    assert columns["best_class"]["texts"][columns["best_class"]["code"][0]] == "sky"
    assert [one[:3] for one in found["found"]] == [[5, "class", "road"], [5, "class", "sky"]]


AP = "scorer,n_prototypes,layer,n_train,trait,prototype,ap,prevalence,checkpoint\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "its columns are a, b"),
        ("latent,x\n3,1\n3,2\n", "several rows for one latent"),
        ("latent,x\n96,1\n", "it has latents 96 to 96, but these are numbered 0 to 95"),
        (AP + "random,96,3,10,t,1,0.5,0.1,\n", "no row is of a sae scorer with 96 prototypes on layer 3"),
        (AP + "sae,96,3,9,t,1,0.5,0.1,a.h5\nsae,96,3,9,t,1,0.5,0.1,b.h5\n", "several scorers of this kind"),
        ("latent,x\n", "a header but no rows"),
    ],
)
def test_tables_that_do_not_fit(chain: tuple[Chain, Path], tmp_path: Path, text: str, said: str) -> None:
    table = tmp_path / "table.csv"
    table.write_text(text)
    if text.startswith(AP):
        write_csv(table, pd.read_csv(table), Provenance.of(AP_TABLE, "score-traits", {}))
    assert said in error_lines(make(chain, tmp_path / "site", "--table", table, code=1))


def test_the_table_of_another_scorer(chain: tuple[Chain, Path], tmp_path: Path) -> None:
    table = tmp_path / "latents.csv"
    rows = pd.DataFrame({"latent": [3], "x": [1]})
    write_csv(table, rows, Provenance.of(LATENT_TABLE, "fit-probes", {"scorer": "a" * 32}))
    assert "made with the scorer aaaa" in error_lines(
        make(chain, tmp_path / "site", "--table", table, code=1)
    )


def test_tables_of_probes_say_of_which_scorer_they_are(chain: tuple[Chain, Path], tmp_path: Path) -> None:
    """What fit-probes and audit-latents write is taken with its own latents, and refused with another scorer's."""
    files = [chain[1] / f"latents-{i:06d}.npz" for i in range(2)]
    splits = ["--train", files[0], "--test", files[1]]
    fit(*splits, "--out", tmp_path / "probes")
    audit(*splits, "--labels", "target", "--out", tmp_path / "audit", "--null", 1, "--bootstrap", 1)
    tables = [
        tmp_path / "probes" / "probes.csv",
        tmp_path / "probes" / "latents.csv",
        tmp_path / "audit" / "ranking.csv",
    ]
    other = tmp_path / "other"
    encode(chain[0].acts, "--scorer", write_chain(tmp_path / "chain").scorer, "--out", other)
    for table in tables:
        make(chain, tmp_path / "site", "--table", table)
        said = error_lines(make((chain[0], other), tmp_path / "none", "--table", table, code=1))
        assert f"{table}: made with the scorer" in said
        assert not (tmp_path / "none").exists()


def test_an_ap_table_says_of_which_sae_it_is(chain: tuple[Chain, Path], tmp_path: Path) -> None:
    """Two SAEs of one size: each table is taken with its own latents, refused with the other's."""
    shards = sorted(chain[0].acts.glob("*.h5"))
    own, others = tmp_path / "own.csv", tmp_path / "others.csv"
    for table, scorer in ((own, chain[0].scorer), (others, write_chain(tmp_path / "other").scorer)):
        data = ["--train", shards[0], "--test", shards[1], "--traits", "target", "--layer", 3]
        score(*data, "--scorer", scorer, "--out", table)

    def render_all(table: Path, code: int = 0) -> list[subprocess.CompletedProcess[str]]:
        pictured = ["--images", chain[0].root, "--workers", 1]
        commands = (
            ["page", chain[1], *pictured, "--out", tmp_path / "site", "--table", table],
            ["latents", chain[1], *pictured, "--out", tmp_path / "pictures", "--from", table],
            ["heatmap", chain[1], "--from", table, "--out", tmp_path / "heat.png"],
        )
        return [render(*command, code=code) for command in commands]

    for done in render_all(others, code=1):
        assert f"{others}: its rows of a sae scorer" in error_lines(done)
        assert "of another scorer than this one" in done.stderr
    assert not (tmp_path / "site").exists() and not (tmp_path / "pictures").exists()
    for done in render_all(own):
        assert "is known by kind" not in done.stderr
    sidecar = own.with_name("own.csv.json")
    values = {**json.loads(sidecar.read_text()), "format_version": 1}
    without = {name: value for name, value in values.items() if name not in ("scorer_files", OWN_DIGEST)}
    sidecar.write_text(json.dumps(without, indent=1))  # as the first versions wrote it
    for done in render_all(own):
        assert "is known by kind, size and layer only; score the file again" in done.stderr


def test_another_scorer(chain: tuple[Chain, Path], tmp_path: Path) -> None:
    other = write_chain(tmp_path / "other").scorer
    said = error_lines(make(chain, tmp_path / "site", "--scorer", other, code=1))
    assert "but the latents were made with the scorer" in said


def test_broken_scorers_and_tables_cost_nothing(chain: tuple[Chain, Path], tmp_path: Path) -> None:
    """They are refused before anything is drawn, and the page that was there stays."""
    site, sae, table = tmp_path / "site", tmp_path / "sae.h5", tmp_path / "latents.csv"
    rows = pd.DataFrame({"latent": [3, 5], "mean_value": [1.0, 2.0], "train_r": [0.1, None]})

    def write_sound() -> None:
        shutil.copy(chain[0].scorer, sae)
        write_csv(table, rows, Provenance.of(LATENT_TABLE, "fit-probes", {}))

    write_sound()
    make(chain, site, "--scorer", sae, "--table", table)
    before = {path: path.stat().st_mtime_ns for path in site.rglob("*")}
    for path, kinds in ((sae, SCORERS), (table, broken_tables(table.name))):
        for kind in kinds.values():
            write_sound()
            kind.break_it(tmp_path)
            done = make(chain, site, "--scorer", sae, "--table", table, code=1)
            assert str(path) in error_lines(done)
    write_sound()
    sae.unlink()
    assert "no such file" in error_lines(make(chain, site, "--scorer", sae, code=1))
    assert {path: path.stat().st_mtime_ns for path in site.rglob("*")} == before


def test_every_option_counts(chain: tuple[Chain, Path], tmp_path: Path) -> None:
    table = tmp_path / "by.csv"
    names = sorted(
        path.relative_to(chain[0].root).as_posix() for path in chain[0].root.glob("images/*/*.png")
    )
    table.write_text("path,size\n" + "\n".join(f"{name},{i % 5}" for i, name in enumerate(names)) + "\n")
    labels = tmp_path / "names.txt"
    labels.write_text("sky\nroad\n")
    plain = tmp_path / "plain"
    make(chain, plain)
    made = {path.relative_to(plain): path.read_bytes() for path in plain.glob("data/**/*.js")}
    about = Path("data/about.js")
    for options, changed in [
        (["--top", 3], "data/latents/0000.js"),
        (["--per-patch", 2], "data/images/0000.js"),
        (["--heatmap-latents", 10], "data/heatmap.js"),
        (["--by", "size", "--by-table", table], "data/heatmap.js"),
        (["--scorer", chain[0].scorer], "data/latents/0000.js"),
        (["--seed", 5], "data/latents/0000.js"),
        (["--label-names", labels], about),
        (["--title", "mine"], about),
    ]:
        site = tmp_path / "other"
        make(chain, site, *options)
        assert (site / changed).read_bytes() != made[Path(changed)], options


def test_a_full_disk_leaves_no_index(chain: tuple[Chain, Path], tmp_path: Path) -> None:
    page = ["page", chain[1], "--images", chain[0].root, "--out", tmp_path / "site"]
    done = run_on_a_full_disk(4000, "render-visuals", *page)
    assert done.returncode == 1
    assert "free some space" in error_lines(done)
    assert not (tmp_path / "site" / "index.html").exists()
    assert not list((tmp_path / "site").rglob("*.partial"))
