"""`fit_heads`: one head as one call, for the command and for Python."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from fit_heads.choice import GRID, Choice, choose_l2, order_images
from fit_heads.evaluation import Weights, evaluate
from fit_heads.features import CLS, MEAN, PATCHES, TOKENS, Features, check_tokens
from fit_heads.solver import TOLERANCE, Data, Fit, fit
from fit_heads.targets import Targets, chance, make_targets
from saetools.cli.quantities import parse_bytes
from saetools.compute import devices
from saetools.errors import UsageError, UserError, some_of
from saetools.files.formats import HEADS
from saetools.files.provenance import Provenance
from saetools.files.reuse import check_reusable, writing
from saetools.labels.rows import RowLabels
from saetools.labels.splits import PATCH, TARGET, LabelledSplits, read_labels
from saetools.labels.tables import FAIL, trait_table_digest
from saetools.log import logger
from saetools.metrics.classification import ClassTally
from saetools.scorers.head import Head, load_head, save_head
from saetools.shards.header import check_same_source
from saetools.shards.held_out import check_no_overlap
from saetools.shards.reader import Shards, ShardSet, choose_layer, open_shards


def fit_heads(
    train: Shards,
    test: Shards,
    labels: str | Path,
    *,
    tokens: str | None = None,
    layer: int | None = None,
    ignore: Collection[int] = (),
    class_names: Sequence[str] = (),
    missing_rows: str | None = None,
    l2: float | Sequence[float] = GRID,
    folds: int = 5,
    seed: int = 0,
    memory: int | str = "4GB",
    device: str = "auto",
    out: str | Path | None = None,
) -> Head:
    """A linear head on the tokens of a layer: logistic regression with the L2 strength that cross-validation chooses.

    train, test:  activation shards: a folder or a file, a list of these, or an opened ShardSet
    labels:       `target` (classes of images), `patch` (patch labels), or a table of 0 and 1: a CSV `path,TRAIT,...` or
                  CUB-200-2011's folder. Classes have one softmax, traits a logit each.
    tokens:       cls, mean (of the patches) or patches; by default patches for patch labels, else mean
    layer:        by default the last that was recorded
    ignore:       labels that are left out; class_names: of the labels 0, 1, ...; missing_rows: of a table, what images
                  without a row count as: "unknown", "no", or "fail" (the default)
    l2:           strengths to choose from (`fit_heads.solver` has the formula), or one, which is taken
    folds, seed:  of the cross-validation over training images; the seed also shuffles the labels of the control
    memory:       bytes that the training rows may take; others go to a file beside `out`
    out:          write the head there, with its seal; the same head is not fitted again

    Test images are read once, when all is chosen. Raises UserError (UsageError where arguments do not fit each other).
    """
    grid = [float(one) for one in (l2 if isinstance(l2, Sequence) else [l2])]
    _check_arguments(grid, folds, seed)
    labels = str(labels)
    kind = _choose_tokens(labels, tokens)
    n_bytes = parse_bytes("`memory`", memory) if isinstance(memory, str) else memory
    place = devices.float64_device(devices.choose_device(device))
    train_set, test_set = open_shards(train), open_shards(test)
    first, other = train_set.shards[0], test_set.shards[0]
    check_same_source(first.header.source(), first.path, other.header.source(), other.path)
    check_no_overlap(train_set.examples, test_set.examples, other.path)
    at = first.header.layers[-1] if layer is None else choose_layer(first, layer)
    choose_layer(other, at)
    for split in (train_set, test_set):
        check_tokens(split, at, kind)
    splits, left_out = _trained_classes(
        read_labels(labels, train_set, test_set, ignore, missing_rows, class_names, at), train_set, test_set
    )
    settings: dict[str, object] = {
        "labels": labels if labels in (PATCH, TARGET) else trait_table_digest(Path(labels)),
        "tokens": kind,
        "layer": at,
        "ignore": sorted(set(ignore)),
        "class_names": list(class_names),
        "missing_rows": missing_rows or FAIL,
        "l2": sorted(set(grid)),
        "folds": folds if len(set(grid)) > 1 else None,
        "seed": seed,
    }
    wanted = Provenance.of(HEADS, "fit-heads", settings, [*train_set.uids, *test_set.uids])
    target = None if out is None else Path(out)
    with writing(target, wanted.settings, wanted.parents):
        if target is not None and target.exists():
            head = load_head(target)
            check_reusable(target, head.provenance, wanted)
            return head
        folder = Path(tempfile.gettempdir()) if target is None else target.parent
        head = _fit_and_test(
            train_set,
            test_set,
            splits,
            left_out,
            wanted,
            sorted(set(grid)),
            folds,
            seed,
            n_bytes,
            folder,
            place,
        )
        if target is not None:
            save_head(target, head)
    return head


def _fit_and_test(
    train: ShardSet, test: ShardSet, splits: LabelledSplits, left_out: int, provenance: Provenance,
    grid: Sequence[float], folds: int, seed: int, memory: int, folder: Path, device: torch.device,
) -> Head:  # fmt: skip
    tokens, layer = str(provenance.settings["tokens"]), int(provenance.settings["layer"])
    per_image = train.shape(layer)[0] if tokens == PATCHES else 1
    labelled = np.flatnonzero(splits.train.keep.reshape(train.n_images, per_image).any(1))
    n_folds = folds if len(grid) > 1 else 1
    if len(labelled) < n_folds:
        raise UserError(
            f"`folds` {folds}: only {len(labelled)} training images have a label; ask for fewer, or give one `l2`"
        )
    class_n = None
    if splits.train.ids is not None and per_image == 1:
        class_n = splits.train.ids[labelled]
    order, sizes = order_images([train.paths[n] for n in labelled], class_n, n_folds, seed)
    images = labelled[order]
    rows = (images[:, None] * per_image + np.arange(per_image)).ravel()
    ends = per_image * np.cumsum([0, *sizes])
    with Features(train, layer, tokens, images, memory, folder, device) as features:
        targets = make_targets(splits.train, rows, device)
        data = Data(features, targets, list(pairwise(ends.tolist())))
        choice = choose_l2(data, targets, grid)
        _report_choice(choice, grid, n_folds)
        best = fit(data, targets, choice.l2)
        by_chance = fit(data, shuffled(splits.train, rows, per_image, seed, device), choice.l2)
    for what, found in (("the head", best), ("the head of shuffled labels", by_chance)):
        if found.gradient > 10 * TOLERANCE:
            logger.warning(
                "warning: %s did not converge: gradient %.1e; a stronger --l2 is easier", what, found.gradient
            )
    heads: dict[str, Weights] = {
        "head": _weights(best),
        "shuffled": _weights(by_chance),
        "prior": _prior(targets, (0, features.n_rows), best),
    }
    tallies = evaluate(test, layer, tokens, splits.test, heads)
    evaluation = {name: tally.scores() for name, tally in tallies.items()}
    if tokens != PATCHES:
        for scores in evaluation.values():
            scores.pop("mean_iou", None)
    evaluation["head"]["n_left_out"] = left_out
    tally = tallies["head"]
    arrays = {
        "label": np.array(splits.numbers or [-1] * len(splits.names), np.int64),
        "train_rows": splits.train.kept_rows if splits.train.ids is None else splits.train.positives,
        "test_rows": tally.rows_c,
        "class_accuracy": tally.accuracy_c,
        "cv_l2": np.array(choice.tried),
        "cv_log_loss": np.array(choice.loss),
    }
    if isinstance(tally, ClassTally) and tokens == PATCHES:
        arrays["iou"] = tally.iou_c
    _report_absent(splits, tally.rows_c)
    return Head(
        *(best.weight.cpu(), best.bias.cpu(), splits.names),
        link="softmax" if splits.train.ids is not None else "logistic",
        tokens=tokens,
        trained_on={**train.header.source(), "layer": layer},
        l2=choice.l2,
        provenance=provenance,
        arrays=arrays,
        evaluation=evaluation,
    )


def _check_arguments(grid: Sequence[float], folds: int, seed: int) -> None:
    if not grid or not all(np.isfinite(one) and one > 0 for one in grid):
        raise UsageError(f"`l2` {','.join(f'{one:g}' for one in grid)}: expected numbers above 0")
    if folds < 2:
        raise UsageError(f"`folds` {folds}: expected 2 or more; to choose nothing, give one `l2`")
    if not 0 <= seed < 10**9:
        raise UsageError(f"`seed` {seed}: expected a number from 0 to 999,999,999")


def _choose_tokens(labels: str, tokens: str | None) -> str:
    """The tokens asked for, or those that the labels are of; raises UsageError."""
    kind = tokens or (PATCHES if labels == PATCH else MEAN)
    if kind not in TOKENS:
        raise UsageError(f"`tokens` {kind}: expected one of {', '.join(TOKENS)}")
    if (kind == PATCHES) != (labels == PATCH):
        of, fitting = ("patches", PATCHES) if labels == PATCH else ("images", f"{CLS} or {MEAN}")
        raise UsageError(f"`tokens` {kind}: `labels` {labels} are labels of {of}; use `tokens` {fitting}")
    return kind


def _trained_classes(splits: LabelledSplits, train: ShardSet, test: ShardSet) -> tuple[LabelledSplits, int]:
    """The classes that train has (or traits that it has with both values), and the test rows that are left out.

    Raises UserError where there is nothing to fit or to test.
    """
    where, labels = train.shards[0].path, splits.train
    if labels.table is not None and labels.table.dtype != np.bool_:
        raise UserError(
            "`labels`: the table holds numbers between 0 and 1; a head needs 0, 1 or nothing in each cell"
        )
    there_c = labels.positives > 0
    if labels.table is not None:
        there_c &= labels.positives < labels.kept_rows
    kept = np.flatnonzero(there_c)
    if len(kept) < (2 if labels.ids is not None else 1):
        named = f" ({splits.names[kept[0]]!r})" if len(kept) else ""
        found = (
            f"training labels of {len(kept)} classes{named}, expected 2 or more"
            if labels.ids is not None
            else "no trait that some training images have and others have not"
        )
        raise UserError(f"{where}: `labels`: found {found}; give labels of these images, or other images")
    n_before = splits.test.n_kept
    missing = [splits.names[c] for c in np.flatnonzero(~there_c)]
    names = [splits.names[c] for c in kept]
    numbers = [splits.numbers[int(c)] for c in kept] if splits.numbers else ()
    parts = [_restricted(part, kept) for part in (labels, splits.test)]
    splits = replace(splits, names=names, numbers=numbers, train=parts[0], test=parts[1])
    left_out = n_before - splits.test.n_kept
    if missing and labels.ids is not None:
        logger.info(
            "%d of %d classes have no training %s, so the head does not have them: %s; their %d test %ss are left out",
            *(len(missing), len(there_c), splits.unit, some_of(missing, 10), left_out, splits.unit),
        )
    elif missing:
        logger.info(
            "%d of %d traits are left out, which all training images have, or none: %s",
            *(len(missing), len(there_c), some_of(missing, 10)),
        )
    if not splits.test.keep.any():
        raise UserError(
            f"{test.shards[0].path}: `labels`: no test {splits.unit} has a label that training {splits.unit}s have;"
            " give the labels of these images, or other images"
        )
    return splits, left_out


def _restricted(labels: RowLabels, kept: np.ndarray) -> RowLabels:
    """The same rows with some of the classes; rows of others are left out."""
    if labels.ids is not None:
        lookup = np.full(labels.n_classes + 1, -1, np.int32)  # its last entry is that of -1, too
        lookup[kept] = np.arange(len(kept))
        return RowLabels(len(kept), ids=lookup[labels.ids])
    assert labels.table is not None and labels.known is not None
    return RowLabels(len(kept), table=labels.table[:, kept], known=labels.known[:, kept])


def shuffled(labels: RowLabels, rows: np.ndarray, per_image: int, seed: int, device: torch.device) -> Targets:
    """Each image with the labels of another one, drawn without replacement: of patches, those at the same place.

    The images stand in a circle by chance, and each gets the labels of the one before it. This does not depend on the
    order of the images in `rows`.
    """
    by_image = rows.reshape(-1, per_image)
    ascending = by_image[np.argsort(by_image[:, 0])]
    circle = np.random.default_rng(seed).permutation(len(ascending))
    other = np.empty_like(circle)
    other[circle] = np.roll(circle, 1)
    place = np.searchsorted(ascending[:, 0], by_image[:, 0])
    return make_targets(labels, ascending[other[place]].ravel(), device)


def _weights(found: Fit) -> Weights:
    return found.weight, found.bias


def _prior(targets: Targets, span: tuple[int, int], like: Fit) -> Weights:
    """The head that knows the shares of the training labels, and nothing of the tokens."""
    _, logit_c = chance(targets, [span])
    return torch.zeros_like(like.weight), torch.from_numpy(logit_c).to(like.bias)


def _report_choice(choice: Choice, grid: Sequence[float], folds: int) -> None:
    if len(grid) == 1:
        return
    logger.info(
        "L2 %.3g of %d tried (%.3g to %.3g), by the log-loss of held-out images in %d folds: %.4f",
        *(choice.l2, len(choice.tried), choice.tried[0], choice.tried[-1], folds, min(choice.loss)),
    )
    if choice.l2 in (min(grid), max(grid)):
        logger.warning(
            "warning: the best L2 is the %s that was tried; try more with --l2",
            "smallest" if choice.l2 == min(grid) else "largest",
        )


def _report_absent(splits: LabelledSplits, rows_c: np.ndarray) -> None:
    absent = [splits.names[c] for c in np.flatnonzero(rows_c == 0)]
    if absent:
        logger.info(
            "%d of %d %s have no test %s, and no part in the means: %s",
            *(len(absent), len(rows_c), "classes" if splits.train.ids is not None else "traits", splits.unit),
            some_of(absent, 10),
        )
