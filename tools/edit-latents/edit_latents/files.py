"""The files of a run: parts of some images each, and the tables and predictions that are made of all of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from edit_latents.plan import Case
from edit_latents.running import Work, run_part
from edit_latents.tables import effects_table, fidelity_table, kept_predictions
from saetools.cli.progress import Progress
from saetools.cli.slices import Slice
from saetools.files.edit_tables import INPUTS
from saetools.files.formats import EDIT_EFFECTS, EDIT_FIDELITY, EDIT_PARTS, EDIT_PREDICTIONS
from saetools.files.npz import read_npz, write_npz
from saetools.files.provenance import Provenance
from saetools.files.reuse import check_reusable, read_reusable
from saetools.files.tables import write_csv
from saetools.shards.reader import ShardSet

IMAGES_PER_PART = 64
EFFECTS, FIDELITY, PARTS = "effects.csv", "fidelity.csv", "parts"


@dataclass(frozen=True)
class Edited:
    """effects, fidelity: the tables of docs/formats.md; fidelity is None without labels. paths: of all files."""

    effects: pd.DataFrame
    fidelity: pd.DataFrame | None
    paths: Sequence[Path]


class Run:
    """The files of a run: parts of 64 images, and then the tables, which are made of all of them."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], parents: Sequence[str], n_images: int, n_cases: int,
        fidelity: bool,
    ) -> None:  # fmt: skip
        self.folder, self.settings, self.parents, self.n_images = folder, settings, parents, n_images
        width = max(3, len(str(n_cases - 1)))
        self.predictions = (
            [folder / f"predictions-{i:0{width}d}.npz" for i in range(n_cases)] if settings["keep"] else []
        )
        self.tables = [folder / EFFECTS, *([folder / FIDELITY] if fidelity else [])]
        n_parts = -(-n_images // IMAGES_PER_PART)
        self.parts = [folder / PARTS / f"part-{i:06d}.npz" for i in range(n_parts)]

    def done(self) -> Edited | None:
        """What an earlier run wrote, where it is all there; raises UserError where its settings were others."""
        effects = read_reusable(self.folder / EFFECTS, EDIT_EFFECTS, self._provenance(EDIT_EFFECTS))
        if effects is None or not all(path.exists() for path in [*self.tables, *self.predictions]):
            return None
        fidelity = None
        if len(self.tables) > 1:
            fidelity = read_reusable(self.folder / FIDELITY, EDIT_FIDELITY, self._provenance(EDIT_FIDELITY))
        self._remove_parts()
        return Edited(effects, fidelity, [*self.tables, *self.predictions])

    def make_parts(self, work: Work, part: Slice) -> Iterator[Path]:
        """Those of a slice that are not there yet."""
        mine = range(*part.bounds(len(self.parts)))
        n_images = sum(len(self._images(number)) for number in mine)
        with Progress("editing", total=n_images, unit="images") as progress:
            for number in mine:
                path, images = self.parts[number], self._images(number)
                provenance = self._provenance(EDIT_PARTS, {"images": [images.start, images.stop]})
                if path.exists():
                    check_reusable(path, read_npz(path, EDIT_PARTS)[0], provenance)
                    progress.advance(len(images))
                else:
                    for found in run_part(work, images):
                        if isinstance(found, int):
                            progress.advance(found)
                        else:
                            write_npz(path, provenance, found)
                yield path

    def finish(self, work: Work, test: ShardSet) -> Edited:
        """The predictions, then the tables; the parts are removed."""
        if self.predictions:
            of_cases = kept_predictions(self.parts, work.cases, work.edits, len(work.operations))
            kept = _kept_images(work, test)
            for path, case, (controls, arrays) in zip(self.predictions, work.cases, of_cases, strict=True):
                shown = self._shown(work, case, controls, test)
                write_npz(path, self._provenance(EDIT_PREDICTIONS, shown), {**kept, **arrays})
        resampling = int(self.settings["resamples"]), int(self.settings["seed"])
        fidelity = None
        if len(self.tables) > 1:
            inputs = [name for name in INPUTS if name != "mean" or work.mean is not None]
            fidelity = fidelity_table(self.parts, inputs, *resampling)
            write_csv(self.folder / FIDELITY, fidelity, self._provenance(EDIT_FIDELITY))
        amounts = self.settings["amounts"]
        operation = str(self.settings["operation"])
        effects = effects_table(
            *(self.parts, work.cases, work.edits, work.head.names, operation, amounts), *resampling
        )
        write_csv(self.folder / EFFECTS, effects, self._provenance(EDIT_EFFECTS))
        self._remove_parts()
        return Edited(effects, fidelity, [*self.tables, *self.predictions])

    def _images(self, number: int) -> range:
        start = number * IMAGES_PER_PART
        return range(start, min(start + IMAGES_PER_PART, self.n_images))

    def _provenance(self, format: Any, more: Mapping[str, Any] | None = None) -> Provenance:
        return Provenance.of(format, "edit-latents", {**self.settings, **(more or {})}, self.parents)

    def _shown(self, work: Work, case: Case, controls: Sequence[str], test: ShardSet) -> dict[str, Any]:
        """What a reader of predictions needs to show them, beside the settings of the run."""
        return {
            "latent": case.latent,
            "target": work.head.names[case.target],
            "controls": list(controls),
            "names": list(work.head.names),
            "link": work.head.link,
            "tokens": "patches" if work.head.per_patch else "image",
            "preprocess": dict(test.header.preprocess),
            "where": work.places.where,
        }

    def _remove_parts(self) -> None:
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)


def _kept_images(work: Work, test: ShardSet) -> dict[str, np.ndarray]:
    """path, digest, grid and labels of the images whose predictions are kept."""
    kept = np.flatnonzero(work.keep)
    examples = test.examples
    digests = [one.digest if one.digest is not None else np.full(len(one), "") for one in examples]
    if work.labels is None:
        label = np.full(
            (len(kept), test.shape(work.cut.layer)[0]) if work.head.per_patch else len(kept), -1, np.int16
        )
        if not work.softmax:
            label = np.full((len(kept), len(work.head.names)), -1, np.int8)
    elif work.softmax:
        rows = work.labels[kept].numpy().astype(np.int16)
        label = rows if work.head.per_patch else rows[:, 0]
    else:
        label = work.labels[kept][:, 0].nan_to_num(nan=-1).numpy().astype(np.int8)
    return {
        "path": np.array([test.paths[i] for i in kept], dtype=np.str_),
        "digest": np.concatenate(digests)[kept].astype(np.str_),
        "grid": np.concatenate([shard.grid(work.cut.layer) for shard in test.shards])[kept].astype(np.int16),
        "label": label,
    }
