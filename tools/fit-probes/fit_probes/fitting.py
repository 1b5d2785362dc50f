"""Fits the probes of all classes, or of a part of them, block by block of latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fit_probes.label_groups import label_groups
from fit_probes.probe_file import PAIRS, Probes
from fit_probes.solver import fit_probes
from saetools.cli.progress import Progress
from saetools.labels.rows import LabelledSplits
from saetools.latents.columns import Columns
from saetools.latents.reader import LatentsSet


@dataclass(frozen=True)
class Resources:
    """memory: bytes for events; folder: where events go that do not fit; device and threads: of the solver."""

    memory: int
    folder: Path
    device: str
    threads: int


def fit_classes(
    train: LatentsSet,
    splits: LabelledSplits,
    classes: npt.NDArray[np.int64],
    ridge: float,
    resources: Resources,
) -> Probes:
    """The probes of all latents for some classes, given by their positions in `splits.names`."""
    labels = splits.train
    probes = Probes.empty(train.n_latents, [splits.names[c] for c in classes])
    groups = label_groups(labels, classes)
    for positions, of_group in groups:
        prior_c, _, prior_loss_c = of_group.prior()
        probes.prior[positions], probes.prior_loss[positions] = prior_c, prior_loss_c
    probes.n_positives[:] = labels.positives[classes]
    with (
        Columns(train, labels.keep, splits.pooled, resources.memory, resources.folder) as columns,
        Progress("fitting", total=train.n_latents, unit="latents") as progress,
    ):
        for first, latents in columns.blocks():
            here = slice(first, first + latents.n_latents)
            for positions, of_group in groups:
                fit = fit_probes(
                    latents, of_group, ridge=ridge, threads=resources.threads, device=resources.device
                )
                for name in PAIRS:
                    getattr(probes, name)[here, positions] = getattr(fit, name)
            progress.advance(latents.n_latents)
    return probes
