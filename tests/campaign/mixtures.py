"""Inputs that do not belong together, files of another kind, and odd values of options.

What should happen is decided by rule: by the kind of file that each place of a command takes, and by what the files of
the zoo were made from.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from campaign import Campaign
from record import Case
from runs import Command, Done, Server
from zoo import MODEL

SAE, OTHER_SEED, SMALL, KMEANS = "sae", "another seed", "half as wide", "k-means"


@dataclass(frozen=True)
class Item:
    """An input. kind: shards, scorer, latents, head, AP table, table, images, traits, labels, weights, or odd.

    layer, preprocess: of the activations that it holds or was made from (None: it does not say). split: of its images.
    scorer: which one it is, or was made by. whole: not a part of a recording. name: of a link to it, or a copy.
    """

    path: str
    kind: str
    split: str = ""
    layer: int | None = 7
    preprocess: str | None = "own"
    scorer: str = ""
    whole: bool = True


ITEMS = (
    Item("acts/train", "shards", "train"),
    Item("acts/test", "shards", "test"),
    Item("other/layer", "shards", "test", layer=3),
    Item("other/int8", "shards", "test"),
    Item("other/preprocess", "shards", "test", preprocess="other"),
    Item("acts/train/shard-000000.h5", "shards", "train", whole=False),
    Item("acts/test/shard-000001.h5", "shards", "test", whole=False),
    Item("mixtures/link-to-train", "shards", "train"),
    Item("mixtures/copy-of-test", "shards", "test"),
    Item("sae.h5", "scorer", scorer=SAE),
    Item("other/seed.h5", "scorer", scorer=OTHER_SEED),
    Item("other/small.h5", "scorer", scorer=SMALL),
    Item("sae.pt", "scorer", layer=None, preprocess=None, scorer="saev"),
    Item("saelens", "scorer", layer=None, preprocess=None, scorer="SAELens"),
    Item("fitted/layer7-kmeans-8-seed0.h5", "scorer", scorer=KMEANS),
    Item("latents/train", "latents", "train", scorer=SAE),
    Item("latents/test", "latents", "test", scorer=SAE),
    Item("other/latents", "latents", "test", scorer=OTHER_SEED),
    Item("latents/test/latents-000000.npz", "latents", "test", scorer=SAE, whole=False),
    Item("head-patches.h5", "head"),
    Item("ap.csv", "AP table", scorer=SAE),
    Item("sae.metrics.csv", "table"),
    Item("probes/summary.csv", "table"),
    Item("birds", "images"),
    Item("birds/parts-test.csv", "labels"),
    Item("vit.safetensors", "weights"),
    Item("probes/probes.npz", "odd"),
    Item(".stopped.h5.training", "odd"),
    Item("page", "odd"),
    Item("sweep.yml", "odd"),
    Item("birds/contact.jpg", "odd"),
    *(Item(f"mixtures/{name}", "odd") for name in (
        "empty-file", "empty.h5", "empty.npz", "empty.csv", "empty-folder", "pipe", "pipe.h5", "pipe.csv", "nowhere",
        "dangling", "circle", "random.h5", "random.npz", "random.csv", "random.pt", "folder.h5", "folder.csv",
        "text.csv", "line\nbreak", "zip.npz", "zip.pt", "device.h5")),
)  # fmt: skip


def make(zoo: Path) -> None:
    """The odd files."""
    place = zoo / "mixtures"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    rng = np.random.default_rng(0)
    for name in ("empty-file", "empty.h5", "empty.npz", "empty.csv"):
        (place / name).touch()
    for name in ("empty-folder", "folder.h5", "folder.csv", "line\nbreak"):
        (place / name).mkdir()
    for name in ("pipe", "pipe.h5", "pipe.csv"):
        os.mkfifo(place / name)
    for name in ("random.h5", "random.npz", "random.csv", "random.pt"):
        (place / name).write_bytes(rng.bytes(5000))
    (place / "dangling").symlink_to("nowhere")
    (place / "circle").symlink_to("circle")
    (place / "device.h5").symlink_to("/dev/zero")
    (place / "text.csv").write_text("a,b\n1\n1,2,3\n")
    (place / "link-to-train").symlink_to(zoo / "acts/train")
    shutil.copytree(zoo / "acts/test", place / "copy-of-test")
    import zipfile

    for name in ("zip.npz", "zip.pt"):
        with zipfile.ZipFile(place / name, "w") as file:
            file.writestr("hello.txt", "hello")


Chosen = Mapping[str, Item]


def _same_source(*items: Item) -> bool:
    told = {(item.layer, item.preprocess) for item in items if item.layer is not None}
    return len(told) <= 1


def _encode(chosen: Chosen) -> bool:
    acts, scorer = chosen["acts"], chosen["scorer"]
    return acts.kind == "shards" and scorer.kind == "scorer" and _same_source(acts, scorer)


def _two_latents(chosen: Chosen) -> bool:
    train, test = chosen["train"], chosen["test"]
    fits = train.kind == test.kind == "latents" and train.scorer == test.scorer
    return fits and train.split != test.split


def _two_shards(chosen: Chosen) -> bool:
    train, test = chosen["train"], chosen["test"]
    fits = train.kind == test.kind == "shards" and train.whole and test.whole
    return fits and train.split != test.split and _same_source(train, test)


def _score(chosen: Chosen) -> bool:
    return (
        _two_shards(chosen)
        and chosen["scorer"].kind == "scorer"
        and chosen["traits"].kind == "images"
        and _same_source(chosen["train"], chosen["scorer"])
    )


def _edit(chosen: Chosen) -> bool:
    images, train, test, scorer, head = (
        chosen[name] for name in ("images", "train", "test", "scorer", "head")
    )
    fits = (
        images.kind == "images"
        and scorer.kind == "scorer"
        and scorer.scorer != KMEANS
        and head.kind == "head"
    )
    shards = train.kind == test.kind == "shards" and (train.split, test.split) == ("train", "test")
    return fits and shards and _same_source(train, test, scorer, head)


def _page(chosen: Chosen) -> bool:
    latents = chosen["latents"]
    fits = latents.kind == "latents" and chosen["images"].kind == "images"
    scorer, table = chosen["scorer"], chosen["table"]
    return fits and scorer.kind == "scorer" and scorer.scorer == latents.scorer and table.kind == "AP table" and (
        table.scorer == latents.scorer
    )  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """A command with places for inputs, what stands there when all is well, and whether a choice belongs together."""

    argv: tuple[str, ...]
    places: Mapping[str, str]
    fits: Callable[[Chosen], bool]


KINDS_CHECKED = ("shards", "scorer", "latents", "head", "AP table", "table")
_SMALL = ("--d-sae", "16", "--k", "2", "--tokens", "1k", "--batch-size", "128")
RECIPES: Mapping[str, Recipe] = {
    "encode-acts": Recipe(("encode-acts", "{acts}", "--scorer", "{scorer}", "--out", "out"),
                          {"acts": "acts/test", "scorer": "sae.h5"}, _encode),
    "train-sae": Recipe(("train-sae", "{train}", "--val", "{test}", *_SMALL, "--out", "out.h5"),
                        {"train": "acts/train", "test": "acts/test"}, _two_shards),
    "score-traits": Recipe(("score-traits", "--train", "{train}", "--test", "{test}", "--traits", "{traits}",
                            "--scorer", "{scorer}", "--out", "out.csv"),
                           {"train": "acts/train", "test": "acts/test", "traits": "birds", "scorer": "sae.h5"}, _score),
    "fit-probes": Recipe(("fit-probes", "--train", "{train}", "--test", "{test}", "--threads", "1", "--out", "out"),
                         {"train": "latents/train", "test": "latents/test"}, _two_latents),
    "fit-heads": Recipe(("fit-heads", "--train", "{train}", "--test", "{test}", "--labels", "target", "--l2", "1",
                         "--out", "out.h5"), {"train": "acts/train", "test": "acts/test"}, _two_shards),
    "edit-latents": Recipe(("edit-latents", "{images}", "--weights", MODEL[3], "--train", "{train}", "--test", "{test}",
                            "--scorer", "{scorer}", "--head", "{head}", "--latents", "1", "--targets", "1", "--set",
                            "2", "--draws", "1", "--resamples", "5", "--out", "out"),
                           {"images": "birds", "train": "acts/train", "test": "acts/test", "scorer": "sae.h5",
                            "head": "head-patches.h5"}, _edit),
    "audit-latents": Recipe(("audit-latents", "--train", "{train}", "--test", "{test}", "--labels", "target",
                             "--bootstrap", "0", "--null", "0", "--threads", "1", "--out", "out"),
                            {"train": "latents/train", "test": "latents/test"}, _two_latents),
    "render-visuals page": Recipe(("render-visuals", "page", "{latents}", "--images", "{images}", "--scorer",
                                   "{scorer}", "--table", "{table}", "--workers", "1", "--out", "out"),
                                  {"latents": "latents/test", "images": "birds", "scorer": "sae.h5", "table": "ap.csv"},
                                  _page),
    "collect-runs": Recipe(("collect-runs", "{table}", "--out", "out.csv"), {"table": "ap.csv"},
                           lambda chosen: chosen["table"].kind in ("AP table", "table")),
    "convert-sae": Recipe(("convert-sae", "{scorer}", "out.h5"), {"scorer": "sae.h5"},
                          lambda chosen: chosen["scorer"].kind == "scorer" and chosen["scorer"].scorer != KMEANS),
    "dump-acts": Recipe(("dump-acts", "{labels}", *MODEL[:2], "--weights", "{weights}", "--layers", "7", "--workers",
                         "0", "--out", "out"),
                        {"labels": "birds/parts-test.csv", "weights": "vit.safetensors"},
                        lambda chosen: chosen["labels"].kind in ("labels", "images")
                        and chosen["weights"].kind == "weights"),
    "check-files": Recipe(("check-files", "--deep", "{any}"), {"any": "sae.h5"},
                          lambda chosen: chosen["any"].kind in KINDS_CHECKED),
}  # fmt: skip
# What is allowed though the rule says no, and refused though it says yes; each with the reason.
EITHER = (
    # A folder of images needs --split or labels of patches; a part of a recording may be enough.
    lambda name, chosen: name == "dump-acts" and chosen["labels"].kind == "images",
    # A page holds a folder of images, its thumbnails.
    lambda name, chosen: name == "dump-acts" and chosen["labels"].path == "page",
    lambda _, chosen: any(not item.whole for item in chosen.values()),
    # check-files judges formats of ours; whether it knows foreign ones and other files of ours is its matter.
    lambda name, chosen: (
        name == "check-files" and chosen["any"].kind in ("odd", "images", "labels", "weights")
    ),
    lambda name, chosen: name == "check-files" and chosen["any"].scorer in ("saev", "SAELens"),
    # A table or SAE of no relation is a choice of columns for the page where it does not say what it was made from.
    lambda name, chosen: name == "render-visuals page" and chosen["scorer"].scorer in ("saev", "SAELens"),
    # Tables that are joined by latent, without a scorer of their own.
    lambda name, chosen: name == "render-visuals page" and chosen["table"].kind == "table",
)
VALUES = (
    "",
    "-1",
    "0",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "x",
    "ü\n",
    "0x10",
    "1,2,3",
    "-",
    "/",
    ".",
    "{seed}",
    "%s",
)
# Options with values whose odd values mean work without end, files elsewhere, or the network
LEFT_ALONE = {"--out", "--wandb", "--tensorboard", "--cache", "--save-scorer", "--help", "--max-disk"}
LEFT_ALONE |= {"--install-completion", "--show-completion"}


def mix(found: Campaign, server: Server, number: int) -> Case:
    """Another input in a random place of a random command; or, in one case of four, an odd value of an option."""
    rng, names = found.rng("mixtures", number), list(RECIPES)
    name = names[number % len(names)]
    recipe, place = RECIPES[name], found.folder("mixtures", number)
    items = {item.path: item for item in ITEMS}
    chosen = {slot: items[path] for slot, path in recipe.places.items()}
    more: list[str] = []
    if rng.random() < 0.25:
        option, value = _odd_option(rng, name)
        more, expected = ([f"{option}={value}"], None)
    else:
        for slot in rng.permutation(list(chosen))[: 1 + int(rng.random() < 0.2)]:
            chosen[slot] = ITEMS[int(rng.integers(len(ITEMS)))]
        either = any(rule(name, chosen) for rule in EITHER)
        expected = None if either else recipe.fits(chosen)
    paths = {slot: str(found.zoo / item.path) for slot, item in chosen.items()}
    argv = [*(part.format(**paths) for part in recipe.argv), *more]
    done = server.run(Command(argv, place / "run", place), 60, real=found.is_real(number))
    said = ", ".join([*(f"{slot} {item.path!r}" for slot, item in chosen.items()), *more])
    verdict, detail = _judge(done, expected, name)
    return Case("mixtures", name, number, verdict, f"{said}: {detail}")


def _judge(done: Done, expected: bool | None, name: str) -> tuple[str, str]:
    if done.code is None:
        return "hung", "it takes more than 60 s"
    if crash := done.crash():
        return "crashed", crash
    judged = (
        name == "check-files" and done.code == 1 and ": error: " not in done.stderr
    )  # its verdicts are data
    if done.code and not judged and (wrong := done.bad_error()):
        return "crashed", wrong
    if done.code not in (0, 1, 2):
        return "crashed", f"exit code {done.code}"
    if done.survivors:
        return "left over", str(done.survivors)
    if expected is True and done.code:
        return "different", f"it belongs together, but: {done.error()[:250]}"
    if expected is False and not done.code:
        return "different", "it does not belong together, but is accepted"
    return ("refused" if done.code else "same"), done.error()[:100]


def _odd_option(rng: np.random.Generator, name: str) -> tuple[str, str]:
    """An option of a command that takes a value, and a value that it probably does not take."""
    from importlib import import_module

    import typer

    command: Any = typer.main.get_command(import_module(f"{name.split()[0].replace('-', '_')}.cli").app)
    for part in name.split()[1:]:
        command = command.commands[part]
    options = [
        option
        for parameter in command.params
        for option in parameter.opts[:1]
        if option.startswith("--") and not getattr(parameter, "is_flag", False) and option not in LEFT_ALONE
    ]
    if not options:
        return "--deep", "x"
    return options[int(rng.integers(len(options)))], VALUES[int(rng.integers(len(VALUES)))]
