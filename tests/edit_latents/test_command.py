"""edit-latents as a program: its tables against the network run as a whole, its files, resuming, bad input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from edit_chain import CLASSES, LAYER, Chain, N, make_chain
from in_process import runner
from PIL import Image, ImageOps
from processes import Tool, error_lines
from tiny_models import save_timm_weights
from written_files import digests

import saetools as st
from edit_latents import files
from edit_latents.cli import app
from edit_latents.controls import same_size
from edit_latents.plan import Case, Directions, Places, choose_cases, list_edits
from edit_latents.training import read_training
from fit_heads.cli import app as heads_app
from saetools.errors import UserError
from saetools.files.formats import EDIT_EFFECTS, EDIT_FIDELITY, PROBE_TABLE
from saetools.files.provenance import Provenance
from saetools.files.tables import read_csv, write_csv
from saetools.labels.splits import read_labels
from saetools.scorers.file import load_scorer
from saetools.scorers.head import Head
from saetools.shards.reader import open_shards
from saetools.vision.edits import Operation, latent_change
from saetools.vision.heads import FittedHead
from saetools.vision.models import VisionModel
from saetools.vision.pictures import open_picture
from score_traits.cli import app as traits_app

edit_latents = runner("edit-latents", app)


def effects(folder: Path) -> pd.DataFrame:
    return read_csv(folder / "effects.csv", EDIT_EFFECTS)[0]


class Whole:
    """The network as a whole with a hook: what edits are compared with."""

    def __init__(self, chain: Chain, head: str) -> None:
        self.test = open_shards(chain / "acts/test")
        self.model: VisionModel = st.load_model(self.test.header.model, weights=chain.weights)
        self.sae = st.load_sae(chain / "sae.h5")
        self.head: Head = st.load_head(chain / head)
        self.paths = [chain / "images" / path for path in self.test.paths]

    def logits(self, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """{N, R, C}, where change(x, f) is x' - x of the patches."""

        def edited(_module: object, _inputs: object, tokens: torch.Tensor) -> torch.Tensor:
            prefix, x = tokens[:, :1], tokens[:, 1:]
            return torch.cat([prefix, x + change(x, self.sae.encode(x))], 1)

        blocks: Any = self.model.module.blocks
        kept: list[torch.Tensor] = []
        handles = [
            blocks[LAYER].register_forward_hook(edited),
            blocks[self.head.layer].register_forward_hook(lambda _m, _i, out: kept.append(out)),
        ]
        try:
            self.model.record([str(path) for path in self.paths])
        finally:
            for handle in handles:
                handle.remove()
        tokens = torch.cat(kept)
        if self.head.tokens == "cls":
            return self.head(tokens[:, :1])
        patches = tokens[:, 1:]
        return self.head(patches if self.head.tokens == "patches" else patches.double().mean(1, keepdim=True))

    def own(self, latent: int, operation: Operation) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        return lambda _x, f: latent_change(self.sae, f, latent, operation)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return make_chain(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def done(chain: Chain, tool: Tool) -> Path:
    """All controls, on patches, as a real process."""
    out = chain / "edits"
    run = tool(
        *("edit-latents", *chain.edit, "--head", chain / "patches.h5", "--probe", chain / "probe.h5"),
        *("--latents", f"from:{chain / 'probes/probes.csv'}", "--scale=-2,1", "--keep", 5, "--out", out),
    )
    assert [Path(line).name for line in run.stdout.splitlines()][:2] == ["effects.csv", "fidelity.csv"]
    assert "| the latent" in run.stderr
    assert "| reconstruction" in run.stderr
    return out


def test_effects_are_those_of_the_whole_network(chain: Chain, done: Path) -> None:
    table, whole = effects(done), Whole(chain, "patches.h5")
    probes = pd.read_csv(chain / "probes/probes.csv")
    assert dict(zip(table["target"], table["latent"], strict=True)) == dict(
        zip(probes["class"], probes["latent"], strict=True)
    )
    before = whole.logits(lambda x, _: torch.zeros_like(x))
    was = before.argmax(2)
    labels = torch.from_numpy(
        np.concatenate([np.array(shard.labels(5)) for shard in whole.test.shards]).astype(int)
    )
    f = whole.sae.encode(whole.test.read(LAYER))
    for (latent, target, amount), rows in table[table["control"] == "none"].groupby(
        ["latent", "target", "amount"]
    ):
        (row,) = rows.to_dict("records")
        t = whole.head.names.index(target)
        after = whole.logits(whole.own(latent, Operation("scale", amount)))
        now = after.argmax(2)
        of_target = was == t
        fires = f[..., latent] > 0
        expected = {
            "target_changed": (now != was)[of_target].double().mean(),
            "other_changed": (now != was)[~of_target].double().mean(),
            "target_logit": (after - before)[..., t].mean(),
            "other_logits": (after - before)[..., [c for c in range(CLASSES) if c != t]].mean(),
            "accuracy_before": (was == labels).double().mean(),
            "accuracy_after": (now == labels).double().mean(),
        }
        for name, value in expected.items():
            assert row[name] == pytest.approx(float(value), abs=2e-5, nan_ok=True), (latent, amount, name)
        edited = fires if amount != 1 else torch.zeros_like(fires)
        assert row["patches"] == edited.sum()
        assert row["images"] == edited.any(1).sum()
        if amount == 1:
            assert row["target_logit"] == 0
            assert row["kl"] == 0


def test_controls_are_as_large_in_the_whole_network(chain: Chain, done: Path) -> None:
    """The row of random directions is the mean over directions that are drawn again here, by seed."""
    table, whole = effects(done), Whole(chain, "patches.h5")
    latent, target = table[["latent", "target"]].iloc[0]
    (row,) = table[
        (table["latent"] == latent)
        & (table["target"] == target)
        & (table["amount"] == -2)
        & (table["control"] == "random-direction")
    ].to_dict("records")
    assert row["draws"] == 3
    case = Case(int(latent), whole.head.names.index(target))
    edits = list_edits([case], 1, ["random-direction"], 3, 0, whole.sae.W_dec.detach(), Directions())
    own, w_d = whole.own(case.latent, Operation("scale", -2.0)), whole.sae.W_dec[case.latent]
    before, found = whole.logits(lambda x, _: torch.zeros_like(x)), []
    for edit in edits[1:]:
        direction = edit.direction
        assert direction is not None
        after = whole.logits(lambda x, f, u=direction: same_size(own(x, f), w_d, u))
        found.append(float((after - before)[..., case.target].mean()))
    assert row["target_logit"] == pytest.approx(np.mean(found), abs=2e-5)
    assert row["target_logit_draw_min"] == pytest.approx(min(found), abs=2e-5)
    assert row["target_logit_draw_max"] == pytest.approx(max(found), abs=2e-5)
    sizes = table[table["control"] != "reconstruction"].groupby(["latent", "target", "amount"])["patches"]
    assert (sizes.nunique() == 1).all()
    changes = table[table["control"] != "reconstruction"].groupby(["latent", "amount"])["relative_change"]
    assert (changes.max() - changes.min()).dropna().max() < 1e-5


def test_fidelity_is_that_of_the_whole_network(chain: Chain, done: Path) -> None:
    table = read_csv(done / "fidelity.csv", EDIT_FIDELITY)[0].set_index("input")
    whole = Whole(chain, "patches.h5")
    mean = open_shards(chain / "acts/train").read(LAYER).double().mean((0, 1)).float()
    labels = torch.from_numpy(
        np.concatenate([np.array(shard.labels(5)) for shard in whole.test.shards]).astype(int)
    )
    changes = {
        "x": lambda x, _: torch.zeros_like(x),
        "reconstruction": lambda x, f: whole.sae.decode(f) - x,
        "mean": lambda x, _: mean - x,
        "zero": lambda x, _: -x,
    }
    loss = {}
    for name, change in changes.items():
        logits = whole.logits(change)
        loss[name] = float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten()))
        assert table.loc[name, "cross_entropy"] == pytest.approx(loss[name], abs=1e-4)
        assert table.loc[name, "accuracy"] == pytest.approx(
            float((logits.argmax(2) == labels).double().mean()), abs=1e-3
        )
        assert table.loc[name, "rows"] == labels.numel()
    recovered = (loss["mean"] - loss["reconstruction"]) / (loss["mean"] - loss["x"])
    assert table.loc["reconstruction", "ce_recovered"] == pytest.approx(recovered, abs=1e-3)
    assert table["ce_recovered"].isna().sum() == 3


@pytest.mark.parametrize("tokens", ["mean", "cls"])
def test_heads_of_images_and_traits(chain: Chain, tmp_path: Path, tokens: str) -> None:
    labels = ["--labels", chain / "traits.csv"]
    edit_latents(
        *(
            *chain.edit,
            "--head",
            chain / f"{tokens}.h5",
            "--latents",
            "3,7",
            "--targets",
            "red",
            "--add",
            "2",
        ),
        *("--where", "all", "--controls", "diff-means", "--keep", 4, "--out", tmp_path / "out", *labels),
    )
    table, whole = effects(tmp_path / "out"), Whole(chain, f"{tokens}.h5")
    before = whole.logits(lambda x, _: torch.zeros_like(x))
    for latent in (3, 7):
        after = whole.logits(
            lambda _x, f, s=latent: latent_change(whole.sae, f, s, Operation("add", 2.0), "all")
        )
        (row,) = table[(table["latent"] == latent) & (table["control"] == "none")].to_dict("records")
        t = whole.head.names.index("red")
        said, says = before[..., t] > 0, after[..., t] > 0
        share = float((said & ~says).sum() / said.sum()) if said.any() else float("nan")
        assert row["target_changed"] == pytest.approx(share, nan_ok=True)
        assert row["target_logit"] == pytest.approx(float((after - before)[..., t].mean()), abs=1e-4)
        assert row["images"] == N["test"]
        assert row["patches"] == N["test"] * 100
    assert set(table["control"]) == {"none", "diff-means"}


def crash_after(parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left, real = parts, files.write_npz

    def write(*arguments: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise RuntimeError("crash")
        real(*arguments)

    monkeypatch.setattr(files, "write_npz", write)


def test_stopped_and_run_again_or_in_slices_the_files_are_the_same(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "IMAGES_PER_PART", 2)
    command = [
        *(*chain.edit, "--head", chain / "patches.h5", "--latents", "3", "--targets", "shade 1", "--set", "0,4"),
        *("--keep", 3, "--memory", "20MB"),
    ]  # fmt: skip
    whole, stopped, sliced = (tmp_path / name for name in ("whole", "stopped", "sliced"))
    edit_latents(*command, "--out", whole)
    expected = digests(whole, [])
    assert {name.partition(":")[0] for name in expected} >= {
        "effects.csv",
        "fidelity.csv",
        "predictions-000.npz",
    }
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="crash"):
        crash_after(2, patch)
        edit_latents(*command, "--out", stopped)
    assert len(list((stopped / "parts").iterdir())) == 2
    before = {path: path.stat().st_mtime_ns for path in (stopped / "parts").iterdir()}
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="crash"):
        crash_after(1, patch)
        edit_latents(*command, "--out", stopped)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    edit_latents(*command, "--out", stopped)
    assert digests(stopped, []) == expected
    for number, n_parts in ((2, 2), (1, 1)):
        run = edit_latents(*command, "--slice", f"{number}/2", "--out", sliced)
        assert len(run.stdout.splitlines()) == n_parts
    assert not (sliced / "effects.csv").exists()
    edit_latents(*command, "--out", sliced)
    assert digests(sliced, []) == expected
    assert not (sliced / "parts").exists()
    times = {path: path.stat().st_mtime_ns for path in sliced.iterdir()}
    edit_latents(*command, "--out", sliced)
    assert {path: path.stat().st_mtime_ns for path in sliced.iterdir()} == times
    said = error_lines(edit_latents(*command[:-2], "--draws", 4, "--out", sliced, code=1))
    assert "it was made with other settings: draws: 3 against 4" in said


def test_patches_by_label_by_table_and_all(chain: Chain, tmp_path: Path) -> None:
    test = open_shards(chain / "acts/test")
    labels_np = np.concatenate([np.array(shard.labels(LAYER)) for shard in test.shards])
    by_label = Places("labels:1,3", test, LAYER).at(np.arange(N["test"]))
    assert torch.equal(torch.as_tensor(by_label), torch.from_numpy(np.isin(labels_np, [1, 3])))
    listed = tmp_path / "patches.csv"
    listed.write_text(
        f"path,patch\n{test.paths[4]},7\n{test.paths[4]},99\n{test.paths[0]},0\nelsewhere.png,3\n"
    )
    mask = torch.as_tensor(Places(str(listed), test, LAYER).at(np.arange(N["test"])))
    assert mask.nonzero().tolist() == [[0, 0], [4, 7], [4, 99]]
    command = [*chain.edit, "--head", chain / "patches.h5", "--latents", "3", "--targets", "shade 1"]
    edit_latents(
        *(*command, "--set", "9", "--where", listed, "--controls", "none", "--out", tmp_path / "out")
    )
    (row,) = effects(tmp_path / "out").to_dict("records")
    assert (row["images"], row["patches"]) == (2, 3)


def test_times_max_is_of_the_largest_training_value(chain: Chain, tmp_path: Path) -> None:
    command = [*chain.edit, "--head", chain / "patches.h5", "--latents", "3", "--targets", "shade 1"]
    edit_latents(*command, "--times-max=-2", "--controls", "none", "--out", tmp_path / "max")
    f = st.load_sae(chain / "sae.h5").encode(open_shards(chain / "acts/train").read(LAYER))
    value = -2 * float(f[..., 3].max())
    edit_latents(*command, f"--set={value!r}", "--controls", "none", "--out", tmp_path / "set")
    both = [effects(tmp_path / name).drop(columns=["operation", "amount"]) for name in ("max", "set")]
    pd.testing.assert_frame_equal(*both, rtol=1e-4, atol=1e-5)


def test_a_damaged_part_is_refused(chain: Chain, tmp_path: Path) -> None:
    command = [
        *chain.edit,
        "--head",
        chain / "patches.h5",
        "--latents",
        "3",
        "--targets",
        "shade 1",
        "--set",
        "0",
    ]
    with pytest.raises(RuntimeError, match="crash"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "effects_table", lambda *_: (_ for _ in ()).throw(RuntimeError("crash")))
        edit_latents(*command, "--controls", "none", "--out", tmp_path / "out")
    part = tmp_path / "out/parts/part-000000.npz"
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    said = error_lines(edit_latents(*command, "--controls", "none", "--out", tmp_path / "out", code=1))
    assert "part-000000.npz" in said
    assert not (tmp_path / "out/effects.csv").exists()


def test_training_images_alone_decide_the_controls(chain: Chain) -> None:
    """Means of classes, frequencies and largest values against float64 loops; labels of test play no part."""
    train, test = (open_shards(chain / "acts" / split) for split in ("train", "test"))
    labels = read_labels("patch", train, test, layer=LAYER)
    sae = st.load_sae(chain / "sae.h5")
    found = read_training(train, LAYER, labels.train, sae, [3, 7], frequency=True)
    x = train.read(LAYER).double().flatten(0, 1)
    ids = torch.from_numpy(
        np.concatenate([np.array(s.labels(LAYER)) for s in train.shards]).astype(int).ravel()
    )
    assert found.diff_means is not None
    for c, number in enumerate(labels.numbers):
        expected = x[ids == number].mean(0) - x[ids != number].mean(0)
        torch.testing.assert_close(
            found.diff_means[c], expected.float(), rtol=1e-5, atol=1e-5, equal_nan=True
        )
    torch.testing.assert_close(found.mean, x.mean(0).float())
    f = sae.encode(train.read(LAYER))
    assert found.largest == pytest.approx({3: float(f[..., 3].max()), 7: float(f[..., 7].max())})
    np.testing.assert_allclose(found.frequency_s, (f > 0).double().mean((0, 1)).numpy(), atol=1e-12)


def test_a_choice_made_on_test_is_refused(chain: Chain, tmp_path: Path) -> None:
    """Heads, probes and tables whose training images are those that are edited, and shards of both in one."""
    acts = {split: chain / "acts" / split for split in N}
    swapped = ["--train", acts["test"], "--test", acts["train"]]
    fit = runner("fit-heads", heads_app)
    for name, layer in (("head", 5), ("probe", LAYER)):
        options = ["--labels", "patch", "--l2", "1e-2", "--layer", layer]
        fit(*swapped, *options, "--out", tmp_path / f"{name}.h5")
    score = runner("score-traits", traits_app)
    score(
        *swapped,
        "--traits",
        chain / "traits.csv",
        "--scorer",
        chain / "sae.h5",
        "--layer",
        LAYER,
        "--out",
        tmp_path / "ap.csv",
    )
    start, rest = chain.edit, ["--set", "0", "--out", tmp_path / "out"]
    head, given = ["--head", chain / "patches.h5"], ["--latents", "3", "--targets", "shade 1"]
    for command in (
        [*start, "--head", tmp_path / "head.h5", *given],
        [*start, *head, *given, "--probe", tmp_path / "probe.h5"],
        [*start, *head, "--latents", f"from:{tmp_path / 'ap.csv'}"],
    ):
        assert "images of --test, on which edits are measured" in error_lines(
            edit_latents(*command, *rest, code=1)
        )
    both = [*start, *head, *given, "--train", acts["test"]]
    assert "are in --train and --test" in error_lines(edit_latents(*both, *rest, code=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"--latents": "48"}, "--latents 48: the SAE has latents 0 to 47"),
        ({"--latents": "3,x"}, "expected numbers with commas between them, or from:FILE"),
        ({"--targets": "shade 9"}, "the head has no such class; did you mean shade"),
        ({"--targets": None}, "give the class that each is to change, or one for all"),
        ({"--head": "{chain}/cls-here.h5", "--targets": "red"}, "cannot reach any more"),
        ({"--head": "{chain}/sae.h5"}, "found 'saetools-scorer', expected format 'saetools-head'"),
        ({"--scorer": "{chain}/patches.h5"}, "expected format 'saetools-scorer'"),
        ({"--probe": "{chain}/patches.h5"}, "layer: 5 against 2"),
        ({"--probe": "{chain}/cls-here.h5"}, "it reads the class token; --probe needs the patches"),
        (
            {"--labels": "{chain}/traits.csv"},
            "the head has a row for each patch and classes; give labels of this kind",
        ),
        ({"--where": "labels:77"}, "no patch of the images is named by it"),
        ({"--where": "{chain}/traits.csv"}, "it has no column 'patch'"),
        ({"--controls": "random"}, "--controls random: expected some of random-direction"),
        ({"--scale": "2"}, "found --set and --scale, expected one of"),
        ({"--set": None}, "found none, expected one of"),
        ({"--set": "0,0"}, "give each once"),
        ({"--set": "nan"}, "expected a finite number"),
        ({"--set": None, "--times-max": "2", "--train": None}, "is not known without --train"),
        ({"--latents": "from:{chain}/traits.csv"}, "traits.csv.json"),
    ],
    ids=lambda value: " ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_bad_input(chain: Chain, tmp_path: Path, options: dict[str, str | None], said: str) -> None:
    given: dict[str, object] = {
        "--weights": chain.weights,
        "--test": chain / "acts/test",
        "--train": chain / "acts/train",
        "--scorer": chain / "sae.h5",
        "--head": chain / "patches.h5",
        "--latents": "3",
        "--targets": "shade 1",
        "--set": "0",
        "--out": tmp_path / "out",
    }
    given |= {
        name: None if value is None else value.format(chain=chain.folder) for name, value in options.items()
    }
    words = [word for name, value in given.items() if value is not None for word in (name, value)]
    done = edit_latents(chain / "images", *words, code=None)
    assert done.returncode in (1, 2)
    assert said in " ".join(error_lines(done).split())
    assert not (tmp_path / "out").exists()


def test_other_images_or_weights_are_refused(chain: Chain, tmp_path: Path) -> None:
    command = ["--head", chain / "patches.h5", "--latents", "3", "--targets", "shade 1", "--set", "0"]
    images = tmp_path / "images"
    shutil.copytree(chain / "images", images)
    path = images / open_shards(chain / "acts/test").paths[2]
    with Image.open(path) as image:
        ImageOps.mirror(image).save(path)
    other = [images, *chain.edit[1:], *command, "--out", tmp_path / "out"]
    assert "it is another picture than when its activations were recorded" in error_lines(
        edit_latents(*other, code=1)
    )
    path.unlink()
    assert "no such file" in error_lines(edit_latents(*other, code=1))
    weights = save_timm_weights(tmp_path / "other.pth", seed=5)
    changed = [weights if word == chain.weights else word for word in chain.edit]
    said = error_lines(edit_latents(*changed, *command, "--out", tmp_path / "out", code=1))
    assert "recorded with other weights" in said
    assert not (tmp_path / "out").exists()


def test_amounts_that_overflow(chain: Chain, tmp_path: Path) -> None:
    """In the stream, or in the logits: said, and no table is written."""
    command = [*chain.edit, "--head", chain / "patches.h5", "--latents", "3", "--targets", "shade 1"]
    options = ["--controls", "none", "--where", "all", "--out", tmp_path / "out"]
    said = error_lines(edit_latents(*command, "--set", "0,1e39", *options, code=1))
    assert "an edited patch is not finite as float32; lower the amount" in said
    with pytest.MonkeyPatch.context() as patch:
        infinite = torch.tensor(torch.inf)
        patch.setattr(FittedHead, "logits", lambda *at: infinite.expand(len(at[2].tokens), 100, CLASSES))
        said = error_lines(edit_latents(*command, "--set", "5", *options, code=1))
    assert "latent 3, set 5, control none: the logits are not finite; lower the amount" in said
    assert not (tmp_path / "out/effects.csv").exists()


def test_latents_that_fire_where_their_class_is_not_are_said(
    chain: Chain, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scorer = load_scorer(chain / "sae.h5")
    rows = {
        "class": ["road", "car", "sky"],
        "latent": [1, 2, float("nan")],
        "weight": [-3.0, 2.0, float("nan")],
    }
    provenance = Provenance.of(PROBE_TABLE, "fit-probes", {"scorer": scorer.provenance.uid})
    write_csv(tmp_path / "probes.csv", pd.DataFrame(rows), provenance)
    cases, _ = choose_cases(f"from:{tmp_path / 'probes.csv'}", (), ["car", "road", "sky"], scorer, ())
    assert cases == [Case(1, 1), Case(2, 0)]
    assert "the latent of road fires where the class is not" in caplog.text
    assert "no latent was chosen for sky" in caplog.text
    other = replace(scorer, provenance=replace(scorer.provenance, uid="0" * 32))
    with pytest.raises(UserError, match="give the table of this scorer's latents"):
        choose_cases(f"from:{tmp_path / 'probes.csv'}", (), ["car", "road"], other, ())


def test_the_networks_own_classifier(chain: Chain, tmp_path: Path) -> None:
    """Against the whole network of timm, edited live."""
    command = ["--head", "model", "--latents", "3", "--targets", "tench", "--scale=-2", "--controls", "none"]
    edit_latents(*chain.edit, *command, "--out", tmp_path / "out")
    (row,) = effects(tmp_path / "out").to_dict("records")
    whole = Whole(chain, "patches.h5")
    network = timm.create_model("test_vit", pretrained=False).eval()
    network.load_state_dict(torch.load(chain.weights))
    preprocess = whole.model.outline.preprocess
    pixels = np.stack([preprocess.pixels(open_picture(path, preprocess)) for path in whole.paths])
    images = whole.model.inputs(torch.from_numpy(pixels))
    with torch.inference_mode():
        before = network(images)
        with st.edit(network, whole.sae, 3, layer=LAYER, scale=-2.0):
            after = network(images)
    assert row["target_logit"] == pytest.approx(float((after - before)[:, 0].mean()), abs=1e-5)
    assert row["target_logit"] != 0
    assert not (tmp_path / "out/fidelity.csv").exists()  # nothing says what is right
