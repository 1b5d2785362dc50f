"""What edits are made with: the SAE, the model, labels as the head's classes, the directions of controls."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edit_latents.plan import RANDOM_LATENT, Directions
from edit_latents.training import Training
from saetools.errors import UserError, some_of
from saetools.labels.rows import RowLabels
from saetools.labels.splits import PATCH, TARGET, LabelledSplits, read_labels
from saetools.labels.tables import trait_table_digest
from saetools.log import logger
from saetools.scorers.compatibility import check_scorer_fits, warn_if_trained_on
from saetools.scorers.file import load_scorer
from saetools.scorers.head import Head, check_head_fits, load_head
from saetools.scorers.record import TrainedScorer
from saetools.scorers.sae import SAE
from saetools.shards.reader import ShardSet, choose_layer
from saetools.vision.cut_models import CutModel
from saetools.vision.heads import EditHead, check_reaches
from saetools.vision.models import VisionModel
from saetools.vision.new_images import load_model


def open_sae(path: Path, test: ShardSet) -> tuple[TrainedScorer, SAE, int]:
    found = load_scorer(path)
    if not isinstance(found.scorer, SAE):
        raise UserError(f"{path}: it is a {found.kind} scorer; edits need an SAE, which has a decoder")
    layer = choose_layer(test.shards[0], found.trained_on.get("layer"))
    check_scorer_fits(found, path, test.shards[0], layer)
    warn_if_trained_on(found, path, test.shards)
    return found, found.scorer, layer


def open_model(
    test: ShardSet, weights: str | Path | None, device: torch.device, precision: str
) -> VisionModel:
    header = test.header
    preprocess = header.preprocess
    native = preprocess.get("native")
    model = load_model(
        header.model,
        weights=weights,
        mean=preprocess["mean"],
        std=preprocess["std"],
        grid=native[0] if native else None,
        device=str(device),
        precision=precision,
    )
    if model.weights != header.weights:
        raise UserError(
            f"{test.shards[0].path}: recorded with other weights of {header.model} than these; give the file of"
            " dump-acts as `weights`" + (", or leave it out" if weights is not None else "")
        )
    return model


def check_head_reaches(head: EditHead, cut: CutModel, model: VisionModel) -> None:
    height, width = model.outline.preprocess.size
    pixels = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)
    with torch.inference_mode(False):
        check_reaches(head, cut, model.inputs(pixels).clone(), f"layer {cut.layer}")


@dataclass(frozen=True)
class Asked:
    """Labels as the caller gave them; what is left out is as in the head."""

    labels: str | Path | None
    class_names: Sequence[str]
    missing_rows: str | None
    ignore: Collection[int]


def read_head_labels(
    reading: EditHead, named: Head | None, asked: Asked, train: ShardSet, test: ShardSet, layer: int
) -> tuple[Any, LabelledSplits | None]:
    """The labels of both splits as the head's classes, and what identifies them; None where they are not known."""
    known = {} if named is None else named.provenance.settings
    labels = known.get("labels") if asked.labels is None else str(asked.labels)
    if labels is None or (asked.labels is None and labels not in (PATCH, TARGET)):
        logger.info("no accuracy: give `labels`, those that the head was fitted on")
        return None, None
    names = list(asked.class_names) or list(known.get("class_names", ()))
    ignore = sorted(set(asked.ignore) or set(known.get("ignore", ())))
    missing_rows = asked.missing_rows or known.get("missing_rows")
    if labels in (PATCH, TARGET):
        found = read_labels(labels, train, test, ignore, None, names, layer)
        source = [labels, names, ignore]
    else:
        found = read_labels(labels, train, test, (), missing_rows, (), layer)
        source = [trait_table_digest(Path(labels)), missing_rows]
    if (found.unit == "patch") != reading.per_patch or (found.train.ids is not None) != (
        reading.link == "softmax"
    ):
        raise UserError(
            f"`labels` {labels}: the head has {'a row for each patch' if reading.per_patch else 'a row for each image'}"
            f" and {'classes' if reading.link == 'softmax' else 'traits'}; give labels of this kind, or leave them out"
        )
    of_names = {name: i for i, name in enumerate(found.names)}
    if not any(name in of_names for name in reading.names):
        raise UserError(
            f"`labels` {labels}: none of its classes ({some_of(found.names, 3)}) is one of the head's"
            f" ({some_of(list(reading.names), 3)}); give `class_names` as they are in the head"
        )
    position_c = np.array([of_names.get(name, -1) for name in reading.names])
    both = [_as_head(part, position_c) for part in (found.train, found.test)]
    if absent := [reading.names[int(c)] for c in np.flatnonzero(both[1].positives == 0)]:
        logger.info("%d classes of the head have no row in `test`: %s", len(absent), some_of(absent, 10))
    return source, LabelledSplits(list(reading.names), both[0], both[1], found.unit)


def _as_head(labels: RowLabels, position_c: np.ndarray) -> RowLabels:
    """Labels with the head's classes, given the position of each among those of the labels (-1: it is not there)."""
    if labels.ids is not None:
        new = np.full(labels.n_classes + 1, -1, np.int32)
        new[position_c[position_c >= 0]] = np.flatnonzero(position_c >= 0)
        return RowLabels(len(position_c), ids=np.where(labels.ids >= 0, new[labels.ids], -1).astype(np.int32))
    assert labels.table is not None and labels.known is not None
    there_c = position_c >= 0
    return RowLabels(
        len(position_c),
        table=np.where(there_c, labels.table[:, position_c], 0),
        known=labels.known[:, position_c] & there_c,
    )


def rows_of_images(labels: RowLabels, n_images: int) -> torch.Tensor:
    """int64 {N, R} of classes, float {N, R, C} of traits: NaN where they are not known."""
    if labels.ids is not None:
        return torch.from_numpy(labels.ids.astype(np.int64)).reshape(n_images, -1)
    assert labels.table is not None and labels.known is not None
    values = np.where(labels.known, labels.table.astype(np.float64) >= 0.5, np.nan)
    return torch.from_numpy(values).reshape(n_images, -1, labels.n_classes)


def probe_directions(path: Path, test: ShardSet, layer: int, reading: EditHead) -> torch.Tensor:
    """{C, D}: of a head on the SAE's layer w_t less the mean of the others' weights; of traits w_t. NaN: absent."""
    probe = load_head(path)
    check_head_fits(probe, path, test.header.source(), layer)
    if set(probe.provenance.parents[:1]) & set(test.uids):
        raise UserError(f"{path}: it was fitted on images of `test`, on which edits are measured; swap them")
    if probe.tokens == "cls":
        raise UserError(
            f"{path}: it reads the class token; `probe` needs the patches: --tokens mean or patches"
        )
    weight_cd = probe.weight
    if probe.link == "softmax":
        n = len(weight_cd)
        weight_cd = weight_cd - (weight_cd.sum(0) - weight_cd) / max(n - 1, 1)
    place = {name: i for i, name in enumerate(probe.names)}
    absent = torch.full((probe.d_model,), torch.nan, dtype=weight_cd.dtype)
    return torch.stack(
        [weight_cd[place[name]] if name in place else absent for name in reading.names]
    ).float()


def known_directions(
    found: TrainedScorer, training: Training | None, probes: torch.Tensor | None, controls: Sequence[str]
) -> Directions:
    frequency_s = None if found.frequency_s is None else found.frequency_s.numpy()
    if frequency_s is None and training is not None:
        frequency_s = training.frequency_s
    if frequency_s is None and RANDOM_LATENT in controls:
        logger.info("control random-latent: left out; how often latents fire is not known without `train`")
    return Directions(None if training is None else training.diff_means, probes, frequency_s)
