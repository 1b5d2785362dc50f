"""check-files names the fault of every broken file of `broken_files`, and every reader refuses it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from broken_files import LATENTS, SCORERS, SHARDS, TABLES, Kind, contents
from edited_files import edit_hdf5
from in_process import runner
from processes import Tool, error_lines
from small_edits import (
    effects_table,
    predictions,
    write_effects,
    write_predictions,
    write_small_edits,
)
from small_shards import clustered_acts, write_shards
from small_tables import write_table

from audit_latents.cli import app as audit_latents_app
from check_files.cli import app
from collect_runs.cli import app as collect_runs_app
from convert_sae.cli import app as convert_sae_app
from encode_acts.cli import app as encode_acts_app
from fit_probes.cli import app as fit_probes_app
from render_visuals.cli import app as render_visuals_app
from saetools.files.formats import EDIT_FIDELITY, FORMATS
from saetools.files.provenance import canonical_json
from saetools.files.tables import read_csv
from score_traits.cli import app as score_traits_app
from train_sae.cli import app as train_sae_app

audit_latents = runner("audit-latents", audit_latents_app)
check_files = runner("check-files", app)
collect_runs = runner("collect-runs", collect_runs_app)
convert_sae = runner("convert-sae", convert_sae_app)
encode_acts = runner("encode-acts", encode_acts_app)
fit_probes = runner("fit-probes", fit_probes_app)
render_visuals = runner("render-visuals", render_visuals_app)
score_traits = runner("score-traits", score_traits_app)
train_sae = runner("train-sae", train_sae_app)

SMALL = ["--d-sae", 32, "--k", 3, "--tokens", "300", "--batch-size", 50, "--layer", 3]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sound files of several formats."""
    root = tmp_path_factory.mktemp("sound") / "files"
    acts = clustered_acts(60)
    write_shards(root / "acts", acts[:40], paths=[f"a/{i}.jpg" for i in range(40)])
    write_shards(root / "val", acts[40:], paths=[f"b/{i}.jpg" for i in range(20)])
    write_shards(root / "other", acts[:40], paths=[f"a/{i}.jpg" for i in range(40)], model="timm/other")
    train_sae(root / "acts", "--val", root / "val", "--out", root / "sae.h5", *SMALL)
    for acts, out in (("acts", root / "latents"), ("val", root.parent / "val-latents")):
        encode_acts(root / acts, "--scorer", root / "sae.h5", "--out", out)
    rows = [
        "path,red",
        *(f"a/{i}.jpg,{i % 2}" for i in range(40)),
        *(f"b/{i}.jpg,{i % 2}" for i in range(20)),
    ]
    (root.parent / "traits.csv").write_text("\n".join(rows) + "\n")
    score(root, root / "ap.csv")
    return root


def score(root: Path, out: Path, code: int = 0) -> str:
    done = score_traits(
        *("--train", root / "acts", "--test", root / "val", "--traits", root.parent / "traits.csv"),
        *("--scorer", "const", "--scorer", root / "sae.h5", "--out", out, "--layer", 3),
        code=code,
    )
    return done.stderr


@pytest.fixture
def copied(sound: Path, tmp_path: Path) -> Path:
    shutil.copy(sound.parent / "traits.csv", tmp_path)
    return Path(shutil.copytree(sound, tmp_path / "files"))


def test_sound_files(tool: Tool, sound: Path) -> None:
    done = tool("check-files", sound, "--deep")
    lines = done.stdout.splitlines()
    assert all(": ok, " in line for line in lines), done.stdout
    found = {line.split(": ")[0].removeprefix(f"{sound}/") for line in lines}
    assert {"acts", "val", "other", "latents", "sae.h5", "sae.metrics.csv", "ap.csv"} == found
    (acts,) = [line for line in lines if line.startswith(f"{sound}/acts: ")]
    assert "2 shards, 40 images" in acts
    again = tool("check-files", "-", stdin=f"{sound / 'sae.h5'}\n{sound / 'ap.csv'}\n")
    assert len(again.stdout.splitlines()) == 2


def verdict_of(kind: Kind, copied: Path) -> str:
    """What check-files says of the target; it must say it of nothing sound."""
    kind.break_it(copied)
    arguments = ["--deep"] if kind.deep else []
    if kind.deep:
        check_files(copied / kind.target)
    done = check_files(copied / kind.target, *arguments, code=1)
    (wrong,) = [line for line in done.stdout.splitlines() if ": ok, " not in line]
    return wrong


@pytest.mark.parametrize("name", SHARDS)
def test_broken_shards(name: str, copied: Path, tmp_path: Path) -> None:
    kind = SHARDS[name]
    wrong = verdict_of(kind, copied)
    assert kind.says in wrong
    assert wrong.startswith(f"{copied}/acts")
    for run in (
        lambda: train_sae(
            copied / "acts", "--val", copied / "val", "--out", tmp_path / "x.h5", *SMALL, code=1
        ),
        lambda: encode_acts(copied / "acts", "--scorer", copied / "sae.h5", "--out", tmp_path / "x", code=1),
    ):
        assert "acts" in error_lines(run())
    assert "acts" in score(copied, tmp_path / "x.csv", code=1)
    assert not (tmp_path / "x.h5").exists()
    assert not (tmp_path / "x.csv").exists()


@pytest.mark.parametrize("name", SCORERS)
def test_broken_scorers(name: str, copied: Path, tmp_path: Path) -> None:
    """render-visuals page --scorer is tested where there are images for it."""
    assert SCORERS[name].says in verdict_of(SCORERS[name], copied)
    before, out = contents(tmp_path), tmp_path / "out"
    sae = copied / "sae.h5"
    for run in (
        lambda: encode_acts(copied / "acts", "--scorer", sae, "--out", out, code=1),
        lambda: convert_sae(sae, tmp_path / "out.pt", code=1),
        lambda: convert_sae(sae, out, code=1),
    ):
        assert str(sae) in error_lines(run())
    assert str(sae) in score(copied, tmp_path / "x.csv", code=1)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", LATENTS)
def test_broken_latents(name: str, copied: Path, sound: Path, tmp_path: Path) -> None:
    assert LATENTS[name].says in verdict_of(LATENTS[name], copied)
    before, out = contents(tmp_path), tmp_path / "out"
    broken, whole, traits = copied / "latents", sound.parent / "val-latents", tmp_path / "traits.csv"
    labels = ["--labels", traits, "--out", out]
    for run in (
        lambda: fit_probes("--train", broken, "--test", whole, *labels, code=1),
        lambda: fit_probes("--train", whole, "--test", broken, *labels, code=1),
        lambda: audit_latents("--train", broken, "--test", whole, *labels, code=1),
        lambda: audit_latents("--train", whole, "--test", broken, *labels, code=1),
        lambda: render_visuals("latents", broken, "--images", copied, "--random", 3, "--out", out, code=1),
        lambda: render_visuals("page", broken, "--images", copied, "--out", out, code=1),
        lambda: render_visuals("heatmap", broken, "--out", tmp_path / "x.png", code=1),
    ):
        assert str(broken) in error_lines(run())
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", TABLES)
def test_broken_tables(name: str, copied: Path, tmp_path: Path) -> None:
    """Tables of fit-probes and audit-latents are tested with these tools."""
    latents, ap, picture = copied / "latents", copied / "ap.csv", tmp_path / "x.png"
    whole = collect_runs(ap, "--strict").stdout
    render_visuals("plot", "map", ap, "--out", tmp_path / "whole.png")
    assert TABLES[name].says in verdict_of(TABLES[name], copied)
    before = contents(tmp_path)
    kinds = ("front", "map", "layers", "traits", "prevalence")
    for run in (
        lambda: collect_runs(ap, code=1),
        lambda: collect_runs(ap, "--out", tmp_path / "x.csv", code=1),
        *(lambda kind=kind: render_visuals("plot", kind, ap, "--out", picture, code=1) for kind in kinds),
        lambda: render_visuals("heatmap", latents, "--from", ap, "--out", picture, code=1),
        lambda: render_visuals(
            "latents", latents, "--from", ap, "--images", copied, "--out", tmp_path / "x", code=1
        ),
    ):
        done = run()
        assert str(ap) in error_lines(done)
        assert done.stdout == "" != whole
    assert str(ap) in score(copied, ap, code=1)
    assert contents(tmp_path) == before


def test_nan_in_a_table(copied: Path) -> None:
    """Infinity may stand there: it is the loss in test of the prior of a class that train lacks."""
    ap, sidecar = copied / "ap.csv", copied / "ap.csv.json"
    values = json.loads(sidecar.read_text())
    del values["sha256"], values["xxh3_128"]  # as in sidecars of earlier versions
    sidecar.write_text(json.dumps(values, indent=1))
    lines = ap.read_text().splitlines()
    for cell, code in (("inf", 0), ("nan", 1), ('"NaN"', 1)):
        cells = lines[2].split(",")
        cells[8] = cell
        ap.write_text("\n".join([*lines[:2], ",".join(cells), *lines[3:]]) + "\n")
        check_files(ap)
        done = check_files(ap, "--deep", code=code)
        assert ("row 2 holds NaN in the column" in done.stdout) == bool(code)


def test_processes_refuse(tool: Tool, copied: Path, tmp_path: Path) -> None:
    """The exit code is that of the process, too."""
    TABLES["cut short"].break_it(copied)
    for command in (
        ["check-files", copied / "ap.csv"],
        ["collect-runs", copied / "ap.csv"],
        ["render-visuals", "plot", "map", copied / "ap.csv", "--out", tmp_path / "x.png"],
    ):
        done = tool(*command, code=1)
        assert f"{copied / 'ap.csv'}: its SHA-256 is not the one in ap.csv.json" in done.stdout + done.stderr
        assert command[0] == "check-files" or done.stdout == ""
    assert not (tmp_path / "x.png").exists()


def test_parents_that_do_not_belong_together(sound: Path, copied: Path) -> None:
    with edit_hdf5(copied / "sae.h5") as file:
        file.attrs["trained_on"] = file.attrs["trained_on"].replace("timm/test", "timm/imposter")
    check_files(copied / "sae.h5")  # nothing is wrong with it alone
    done = check_files(copied / "sae.h5", copied / "acts", code=1)
    (wrong,) = [line for line in done.stdout.splitlines() if ": ok, " not in line]
    assert wrong.startswith(f"{copied}/sae.h5: it was made from {copied}/acts")
    assert "timm/imposter" in wrong
    with (
        h5py.File(sound / "acts" / "shard-000000.h5") as one,
        h5py.File(sound / "other" / "shard-000000.h5") as two,
    ):
        uids = [str(one.attrs["uid"]), str(two.attrs["uid"])]
    with edit_hdf5(copied / "sae.h5") as file:
        file.attrs["parents"] = canonical_json(uids)
        file.attrs["trained_on"] = "{}"
    done = check_files(copied, code=1)
    (wrong,) = [line for line in done.stdout.splitlines() if "sae.h5: ok" not in line and "sae.h5: " in line]
    assert "its parents" in wrong and "'timm/test' against 'timm/other'" in wrong


def test_a_folder_says_what_is_wrong_with_each_file(copied: Path) -> None:
    SHARDS["cut short"].break_it(copied)
    SCORERS["NaN"].break_it(copied)
    done = check_files(copied, code=1)
    wrong = [line.split(": ")[0] for line in done.stdout.splitlines() if ": ok, " not in line]
    assert wrong == [f"{copied}/acts/shard-000001.h5", f"{copied}/sae.h5"]


def test_saes_of_other_libraries(sound: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "sae.pt", tmp_path / "saelens"):
        convert_sae(sound / "sae.h5", out)
        assert f"{out}: ok, scorer of kind sae, 32 prototypes of width 16" in check_files(out).stdout
    assert check_files("--deep", tmp_path).stdout.count(": ok, ") == 2
    content = bytearray((tmp_path / "sae.pt").read_bytes())
    content[-3000] ^= 1
    (tmp_path / "sae.pt").write_bytes(content)
    (tmp_path / "saelens" / "cfg.json").write_text("[1]")
    done = check_files(tmp_path, code=1)
    assert done.stdout.count(": ok, ") == 0
    assert "sae.pt: " in done.stdout and "saelens: " in done.stdout


def test_links_to_folders_above_end(copied: Path) -> None:
    (copied / "latents" / "up").symlink_to(copied)
    (copied / "to-itself.h5").symlink_to(copied / "to-itself.h5")
    done = check_files(copied, code=1)
    assert f"{copied / 'latents' / 'up'}: it is a link to a folder that it is in" in done.stdout
    assert f"{copied / 'to-itself.h5'}: " in done.stdout
    assert f"{copied / 'sae.h5'}: ok" in done.stdout


@pytest.mark.parametrize("name", ["a.h5", "a.npz", "a.csv", "a.pt", "shard-000000.h5", "latents-000000.npz"])
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 5000, b"\x89HDF\r\n\x1a\n" + b"\xff" * 3000, b"PK\x03\x04", b"{" * 99999]
)
def test_whatever_a_file_holds_there_is_a_verdict(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for sidecar in ({}, [], "x"):
        (tmp_path / f"{name}.json").write_text(json.dumps(sidecar))
        done = check_files("--deep", tmp_path / name, code=1)
        assert done.stdout.startswith(f"{tmp_path / name}: ")
        assert len(done.stdout.splitlines()) == 1
    assert len(check_files("--deep", tmp_path, code=1).stdout.splitlines()) >= 1


def test_no_files(tmp_path: Path) -> None:
    assert "no such file" in error_lines(check_files(tmp_path / "none", code=1))
    (tmp_path / "empty").mkdir()
    assert "no file of saetools" in check_files(tmp_path / "empty", code=1).stdout
    (tmp_path / "notes.txt").write_text("x")
    assert "notes.txt" in check_files(tmp_path / "notes.txt", code=1).stdout


def test_every_format_of_the_project_is_known() -> None:
    """A format that some tool writes and check-files does not know would be called wrong."""
    root = Path(__file__).resolve().parents[2]
    written = {
        part.split('"')[0]
        for folder in ("shared", "tools")
        for path in (root / folder).rglob("*.py")
        for part in path.read_text().split('Format("')[1:]
    }
    assert written - {"any format of saetools"} == {format.name for format in FORMATS}


@pytest.mark.parametrize(
    ("tokens", "link"), [("patches", "softmax"), ("image", "softmax"), ("image", "logistic")]
)
def test_sound_edits(tokens: str, link: str, tmp_path: Path) -> None:
    folder = write_small_edits(tmp_path / "edits", tokens, link)
    for deep in ([], ["--deep"]):
        lines = check_files(folder, *deep).stdout.splitlines()
        assert [line.removeprefix(f"{folder}") for line in lines] == [
            ": ok, 2 files, predictions of 5 images, saetools-edit-predictions",
            "/effects.csv: ok, saetools-edit-effects, 40 rows",
            "/fidelity.csv: ok, saetools-edit-fidelity, 4 rows",
        ]
    alone = check_files(folder / "predictions-001.npz").stdout
    assert "latent 17, tree, 5 images, 5 amounts, 4 controls" in alone


def test_broken_tables_of_edits(tmp_path: Path) -> None:
    effects = tmp_path / "effects.csv"
    table = effects_table([(3, "car")])
    for broken, says, deep in (
        (table.drop(columns="kl_low"), "no column 'kl_low'", False),
        (table.assign(control="nothing"), "found 'nothing' in the column 'control'; expected none, random-dir", False),
        (table.assign(other_changed_high=1.5), "row 1 holds 1.5 in the column 'other_changed_high'; a share", True),
    ):  # fmt: skip
        write_effects(effects, broken)
        if deep:
            check_files(effects)
        assert says in check_files(effects, *["--deep"] * deep, code=1).stdout
    empty = table.assign(target_changed=np.nan, target_changed_low=np.nan, target_changed_high=np.nan)
    check_files(write_effects(effects, empty), "--deep")
    fidelity = write_small_edits(tmp_path / "edits") / "fidelity.csv"
    table, _ = read_csv(fidelity, EDIT_FIDELITY)
    for broken, says in (
        (table.drop(columns="ce_recovered"), "no column 'ce_recovered'"),
        (table.assign(input="y"), "found 'y' in the column 'input'"),
    ):
        write_table(fidelity, broken, EDIT_FIDELITY)
        assert says in check_files(fidelity, code=1).stdout


def test_broken_predictions(tmp_path: Path) -> None:
    """What their reader refuses."""
    settings, arrays = predictions(3, "car")
    path = write_predictions(
        tmp_path / "predictions-000.npz", settings, arrays | {"after": arrays["after"][1:]}
    )
    assert "its array 'after' has the shape" in check_files(path, code=1).stdout
    assert f"{path}: its array 'after' has the shape" in check_files(tmp_path, code=1).stdout


def test_edits_that_do_not_belong_together(tmp_path: Path) -> None:
    folder = write_small_edits(tmp_path / "edits")
    third = folder / "predictions-002.npz"
    settings, arrays = predictions(5, "sky")

    def said() -> str:
        (wrong,) = check_files(folder, code=1).stdout.splitlines()[:1]
        assert wrong.startswith(f"{folder}: ")
        return wrong

    write_predictions(third, settings, arrays)
    assert "effects.csv has no row of predictions-002.npz, latent 5 and sky: they are of two runs" in said()
    write_predictions(third, settings | {"where": "all"}, arrays)
    assert (
        "predictions-000.npz and predictions-002.npz are of different runs: where: 'firing' against" in said()
    )
    write_predictions(third, settings, arrays | {"path": arrays["path"][::-1].copy()})
    assert "predictions-000.npz and predictions-002.npz are of different images" in said()
    third.unlink()
    write_effects(folder / "effects.csv", effects_table([(3, "car"), (17, "tree")], amounts=(0.0, 1.0, 2.0)))
    assert "no row of predictions-000.npz with the amount -2.0, -1.0: they are of two runs" in said()
