"""`edit_latents`: all edits of a set of images as one call, for the command and for Python."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edit_latents.files import Edited, Run
from edit_latents.opening import (
    Asked,
    check_head_reaches,
    known_directions,
    open_model,
    open_sae,
    probe_directions,
    read_head_labels,
    rows_of_images,
)
from edit_latents.plan import (
    CONTROLS,
    DIFF_MEANS,
    PROBE,
    RANDOM_LATENT,
    Places,
    check_controls,
    choose_cases,
    list_edits,
)
from edit_latents.running import Work
from edit_latents.training import read_training
from saetools.cli.quantities import parse_bytes
from saetools.cli.slices import WHOLE, Slice
from saetools.compute.devices import choose_device
from saetools.errors import UsageError, UserError, some_of
from saetools.files.reuse import writing
from saetools.log import logger
from saetools.scorers.head import load_head
from saetools.shards.header import check_same_source
from saetools.shards.held_out import check_no_overlap
from saetools.shards.reader import Shards, open_shards
from saetools.vision.cut_models import CutModel
from saetools.vision.edits import FIRING, Operation
from saetools.vision.heads import EditHead, open_head
from saetools.vision.model_input import check_images, images_root
from saetools.vision.models import VisionModel

MOST_STACKED = 32  # images at a time: of 8 to 128 the fastest on one CPU thread (benchmarks/edits.py)


def edit_latents(
    images: str | Path,
    test: Shards,
    scorer: str | Path,
    head: str | Path,
    latents: int | str | Sequence[int],
    *,
    operation: str,
    amounts: float | Sequence[float],
    targets: str | Sequence[str] = (),
    where: str = FIRING,
    train: Shards | None = None,
    labels: str | Path | None = None,
    class_names: Sequence[str] = (),
    missing_rows: str | None = None,
    ignore: Collection[int] = (),
    probe: str | Path | None = None,
    controls: Sequence[str] = CONTROLS,
    draws: int = 3,
    keep: int = 0,
    weights: str | Path | None = None,
    resamples: int = 1000,
    seed: int = 0,
    memory: int | str = "1GB",
    precision: str = "float32",
    device: str = "auto",
    part: Slice = WHOLE,
    out: str | Path | None = None,
) -> Edited:
    """Change latents inside a network, and measure what becomes of its predictions, beside controls of the same size.

    images:       the images of `test`: the folder or CSV that dump-acts was given
    test:         activation shards of them; model, layer and preprocessing are those that they and the scorer name
    scorer:       file of an SAE
    head:         file of fit-heads, `model` (the network's own classifier), or `zero-shot:NAMES.txt`
    latents:      numbers, or `from:FILE`, the latents that fit-probes (probes.csv) or score-traits chose on train
    targets:      the class that each latent is to change; of a table, those to take
    operation, amounts: `set`, `scale`, `add` or `times-max`, see `saetools.vision.edits`
    where:        `firing`, `all`, `labels:3,4` or a CSV path,patch
    train:        shards of other images: for times-max, diff-means, the mean of fidelity
    labels:       `target`, `patch` or a table, as fit-heads takes them; by default those of the head
    class_names, missing_rows, ignore: as in fit-heads; by default those of the head
    probe:        a head of fit-heads on the SAE's layer, for the control `probe`
    controls:     which, of `edit_latents.plan.CONTROLS`; draws: of the random ones
    keep:         images whose predictions are kept, spread evenly
    weights:      the model's local file, where it has one
    resamples, seed: of the intervals, and of the random controls
    memory:       bytes for what goes through the blocks at a time
    part:         of a job array: only parts are written, and a call without it makes the tables
    out:          folder for the files; None: nothing is written

    Raises UserError (UsageError where arguments do not fit each other).
    """
    changes = [Operation(operation, float(amount)) for amount in np.atleast_1d(amounts)]
    _check_arguments([change.amount for change in changes], draws, keep, resamples, seed)
    wanted_controls = check_controls(controls)
    test_set = open_shards(test)
    train_set = None if train is None else open_shards(train)
    found, sae, layer = open_sae(Path(scorer), test_set)
    if train_set is not None:
        first, other = train_set.shards[0], test_set.shards[0]
        check_same_source(first.header.source(), first.path, other.header.source(), other.path)
        check_no_overlap(train_set.examples, test_set.examples, other.path)
    root = images_root(Path(images))
    check_images(root, test_set.paths, test_set.shards[0].path)
    place = choose_device(device)
    model = open_model(test_set, weights, place, precision)
    cut = CutModel(model.module, layer)
    named = None if str(head) == "model" or str(head).startswith("zero-shot:") else load_head(Path(head))
    if named is not None and set(named.provenance.parents[:1]) & set(test_set.uids):
        raise UserError(f"{head}: it was fitted on images of `test`, on which edits are measured; swap them")
    reading = open_head(str(head), model, cut, None if weights is None else Path(weights), class_names)
    check_head_reaches(reading, cut, model)
    cases, chosen_in = choose_cases(
        latents, [targets] if isinstance(targets, str) else targets, reading.names, found, test_set.uids
    )
    asked = Asked(labels, class_names, missing_rows, ignore)
    source, of_rows = read_head_labels(reading, named, asked, train_set or test_set, test_set, layer)
    if DIFF_MEANS in wanted_controls and (train_set is None or of_rows is None):
        wanted_controls.remove(DIFF_MEANS)
        logger.info("control diff-means: left out; it needs `train`, and `labels` of its images")
    probes = None if probe is None else probe_directions(Path(probe), test_set, layer, reading)
    if probes is None and PROBE in wanted_controls:
        wanted_controls.remove(PROBE)
        logger.info("control probe: left out; it needs `probe`, a head of fit-heads on layer %d", layer)
    places = Places(where, test_set, layer)
    stacked = _stacked(
        parse_bytes("`memory`", memory) if isinstance(memory, str) else memory,
        *(model, layer, reading, sae.n_prototypes, len(changes)),
    )
    settings: dict[str, Any] = {
        "operation": operation,
        "amounts": [change.amount for change in changes],
        "cases": [[case.latent, reading.names[case.target]] for case in cases],
        "where": places.settings(),
        "labels": source,
        "head": str(head) if named is None else named.provenance.uid,
        "names": list(reading.names) if named is None else None,
        "scorer": found.provenance.uid,
        "kind": found.kind,
        "model": model.outline.name,
        "layer": layer,
        "precision": precision,
        "controls": wanted_controls,
        "probe": None if probe is None else load_head(Path(probe)).provenance.uid,
        "draws": draws,
        "keep": min(keep, test_set.n_images),
        "resamples": resamples,
        "seed": seed,
        "stacked": stacked,
    }
    parents = [*test_set.uids, *([] if train_set is None else train_set.uids), *chosen_in]
    with (
        tempfile.TemporaryDirectory(prefix="edit-latents-")
        if out is None
        else nullcontext(str(out)) as folder,
        writing(Path(folder), settings, parents, folder=True),
    ):
        run = Run(Path(folder), settings, parents, test_set.n_images, len(cases), of_rows is not None)
        if (done := run.done()) is not None:
            return done
        needs = operation == "times-max"
        training = None
        if train_set is not None:
            training = read_training(
                train_set,
                layer,
                None if of_rows is None or DIFF_MEANS not in wanted_controls else of_rows.train,
                sae.to(place),
                sorted({case.latent for case in cases}) if needs else (),
                frequency=found.frequency_s is None and RANDOM_LATENT in wanted_controls,
            )
        elif needs:
            raise UsageError(
                "`operation` times-max: the largest training value is not known without `train`; give it, or use set"
            )
        known = known_directions(found, training, probes, wanted_controls)
        sae = sae.to(place)
        edits = list_edits(cases, len(changes), wanted_controls, draws, seed, sae.W_dec.detach(), known)
        work = Work(
            *(model, cut, sae, reading, cases, edits, changes),
            largest={} if training is None else dict(training.largest),
            mean=None if training is None else training.mean,
            places=places,
            labels=None if of_rows is None else rows_of_images(of_rows.test, test_set.n_images),
            keep=_evenly(test_set.n_images, keep),
            test=test_set,
            root=root,
            stacked=stacked,
        )
        _say_plan(work, len(changes))
        made = list(run.make_parts(work, part))
        if part != WHOLE:
            return Edited(pd.DataFrame(), None, made)
        return run.finish(work, test_set)


def _check_arguments(amounts: Sequence[float], draws: int, keep: int, resamples: int, seed: int) -> None:
    if len(set(amounts)) < len(amounts):
        raise UsageError(f"`amounts` {some_of(amounts, 5)}: give each once")
    for name, value, least in (
        ("draws", draws, 1),
        ("keep", keep, 0),
        ("resamples", resamples, 1),
        ("seed", seed, 0),
    ):
        if value < least:
            raise UsageError(f"`{name}` {value}: expected {least} or more")


def _evenly(n_images: int, keep: int) -> np.ndarray:
    """bool {N}: `keep` images, spread evenly."""
    chosen = np.zeros(n_images, bool)
    chosen[np.linspace(0, n_images - 1, min(keep, n_images)).round().astype(int)] = True
    return chosen


def _stacked(
    memory: int, model: VisionModel, layer: int, head: EditHead, n_latents: int, n_amounts: int
) -> int:
    """How many images go through the blocks at a time in these bytes.

    Alive are about 20 values a token and width, the change of each amount, and latents three times while encoding.
    """
    shape = model.outline.shapes[layer]
    tokens = shape.n_patches + 8
    n_bytes = 4 * tokens * ((20 + n_amounts) * shape.d_model + 2 * 16 * tokens + 3 * n_latents)
    n_bytes += 8 * 6 * len(head.names) * (tokens if head.per_patch else 1)
    return max(1, min(MOST_STACKED, memory // n_bytes))


def _say_plan(work: Work, n_amounts: int) -> None:
    controls = list(dict.fromkeys(edit.control for edit in work.edits))[1:]
    logger.info(
        "%d latents x %d amounts, controls: %s; %d passes of blocks %d to %s for an image in which all fire",
        *(len(work.cases), n_amounts, ", ".join(controls) or "none", len(work.edits)),
        *(work.cut.layer + 1, len(work.cut.blocks) - 1 if work.head.layer is None else work.head.layer),
    )
