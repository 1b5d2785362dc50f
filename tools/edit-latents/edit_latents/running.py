"""The edits of some images: the network once up to the block, then what comes after it once for each edit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from edit_latents.controls import same_size
from edit_latents.effects import FIELDS, SUMS, effect_sums, loss_sums
from edit_latents.plan import Case, Edit, Places
from saetools.errors import UserError
from saetools.files.edit_tables import INPUTS, NONE, RECONSTRUCTION
from saetools.scorers.sae import SAE
from saetools.shards.reader import ShardSet
from saetools.vision.cut_models import CutModel, CutState
from saetools.vision.edits import FIRING, Operation, latent_change
from saetools.vision.heads import EditHead
from saetools.vision.model_input import Recorded, seen_pixels
from saetools.vision.models import VisionModel

MOST_DIFFERENT = 0.05  # of activations that were recorded, relative to their norm: int8 differs by less


@dataclass(frozen=True)
class Work:
    """All that decides what the edits of an image give.

    operations {A}: by amount; largest: training values of latents, for times-max; mean {D}: of training patches.
    labels: of the images' rows for the head: int64 {N, R} or float {N, R, C}, see `effect_sums`; None: unknown.
    keep: bool {N}, images whose predictions are kept. stacked: images that go through the blocks at a time.
    """

    model: VisionModel
    cut: CutModel
    sae: SAE
    head: EditHead
    cases: Sequence[Case]
    edits: Sequence[Edit]
    operations: Sequence[Operation]
    largest: dict[int, float]
    mean: torch.Tensor | None
    places: Places
    labels: torch.Tensor | None
    keep: np.ndarray
    test: ShardSet
    root: Path
    stacked: int

    @property
    def softmax(self) -> bool:
        return self.head.link == "softmax"

    @property
    def kept_edits(self) -> list[int]:
        """Edits whose predictions are kept: the first draw of each."""
        return [number for number, edit in enumerate(self.edits) if edit.draw == 0]


def run_part(work: Work, images: range) -> Iterator[dict[str, np.ndarray] | int]:
    """Yield the number of images done, again and again, and then what a part holds.

    sums float64 {E, n, FIELDS}; fidelity float64 {INPUTS, n, 3}; and of the k images that are kept before, after, value
    {cases, k, P} of the latents, edited {cases, k, P}. before, after: {k, ...} and {kept edits, k, ...}, of patches the
    predicted class int16 {.., P}, of images the logits float32 {.., C}.
    """
    part = _Part(work, images)
    with ThreadPoolExecutor(1, thread_name_prefix="decode") as decoder:
        groups = list(_batches(images, work.stacked))
        waiting = decoder.submit(_pixels, work, groups[0])
        for number, group in enumerate(groups):
            pixels = waiting.result()
            if number + 1 < len(groups):
                waiting = decoder.submit(_pixels, work, groups[number + 1])
            for shape in sorted({one.shape for one in pixels}):  # with a native grid, images differ in size
                here = [i for i, one in enumerate(pixels) if one.shape == shape]
                batch = torch.from_numpy(np.stack([pixels[i] for i in here]))
                part.run(np.array([group[i] for i in here]), batch)
            yield len(group)
    yield part.arrays()


def _batches(images: range, size: int) -> Iterator[range]:
    for start in range(0, len(images), size):
        yield images[start : start + size]


def _pixels(work: Work, images: Sequence[int]) -> list[np.ndarray]:
    """uint8 {H, W, 3} of each image as the model saw it."""
    found, starts = [], _starts(work.test)
    for image in images:
        shard = int(np.searchsorted(starts, image, side="right")) - 1
        examples, row = work.test.shards[shard].examples, image - starts[shard]
        size = None if examples.size is None else (int(examples.size[row, 0]), int(examples.size[row, 1]))
        digest = None if examples.digest is None else str(examples.digest[row])
        rows, columns = map(int, examples.grid[row])
        recorded = Recorded((rows, columns), size, digest)
        found.append(seen_pixels(work.root, examples.path[row], work.test.header.preprocess, recorded))
    return found


def _starts(test: ShardSet) -> np.ndarray:
    """The number of the first image of each shard."""
    return np.cumsum([0, *(shard.n_images for shard in test.shards)])[:-1]


class _Part:
    def __init__(self, work: Work, images: range) -> None:
        self.work, self.images = work, images
        n, n_edits = len(images), len(work.edits)
        self.sums = np.zeros((n_edits, n, len(FIELDS)))
        self.fidelity = np.zeros((len(INPUTS), n, 3))
        kept = [image for image in images if work.keep[image]]
        self.place = {image: i for i, image in enumerate(kept)}
        shape = (work.test.shape(work.cut.layer)[0],) if work.head.per_patch else (len(work.head.names),)
        kind = np.int16 if work.head.per_patch else np.float32
        self.before = np.zeros((len(kept), *shape), kind)
        self.kept = {edit: i for i, edit in enumerate(work.kept_edits)}
        self.after = np.zeros((len(self.kept), len(kept), *shape), kind)
        patches = (len(work.cases), len(kept), work.test.shape(work.cut.layer)[0])
        self.value, self.edited = np.zeros(patches, np.float16), np.zeros(patches, bool)
        self.checked = False

    def arrays(self) -> dict[str, np.ndarray]:
        names = ("sums", "fidelity", "before", "after", "value", "edited")
        return {name: getattr(self, name) for name in names}

    @torch.inference_mode()
    def run(self, images: np.ndarray, pixels_bhwc: torch.Tensor) -> None:
        """The edits of images of one size."""
        work = self.work
        with work.model.computing():
            state = work.cut.first(work.model.inputs(pixels_bhwc))
            x = state.patches.float()
            if not self.checked:
                self._check_recorded(int(images[0]), x[0])
            before = work.head.logits(work.cut, state)
        _Group(self, images, state, work.sae.encode(x), before).run()

    def _check_recorded(self, image: int, x_pd: torch.Tensor) -> None:
        """Compare with what dump-acts recorded: it tells whether model, weights and preprocessing are those."""
        self.checked = True
        recorded_pd = self.work.test.read(self.work.cut.layer, [image])[0].to(x_pd)
        difference = float((recorded_pd - x_pd).norm() / recorded_pd.norm())
        if not difference <= MOST_DIFFERENT:
            raise UserError(
                f"{self.work.test.paths[image]}: its activations in layer {self.work.cut.layer} differ by"
                f" {difference:.0%} from those that were recorded; give the model the same weights as dump-acts, or"
                " record the images again"
            )


class _Group:
    """The edits of a batch of b images of one size; those that change nothing in an image are not computed."""

    def __init__(
        self,
        part: _Part,
        images: np.ndarray,
        state: CutState,
        f_bps: torch.Tensor,
        before_brc: torch.Tensor,
    ) -> None:
        self.part, self.work, self.state, self.before = part, part.work, state, before_brc
        self.images, self.at = images, images - part.images.start
        self.x, self.f = state.patches.float(), f_bps
        self.x_hat = part.work.sae.decode(f_bps)
        self.norm_bp = self.x.norm(dim=2)
        self.labels = None if part.work.labels is None else part.work.labels[images]
        self.pending: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        self.kept = [(i, part.place[image]) for i, image in enumerate(images.tolist()) if image in part.place]

    def run(self) -> None:
        work, part = self.work, self.part
        for i, place in self.kept:
            part.before[place] = self._prediction(self.before[i])
            part.after[:, place] = part.before[place]
        edits = iter(enumerate(work.edits))
        number, edit = next(edits)
        for case_number, case in enumerate(work.cases):
            target_b = torch.full((len(self.images),), case.target)
            unchanged = effect_sums(self.before, self.before, target_b, self.labels, work.softmax)
            own = [self._own(case.latent, operation) for operation in work.operations]
            if self.kept:
                here, places = map(list, zip(*self.kept, strict=True))
                part.value[case_number, places] = self.f[here, :, case.latent].half().cpu().numpy()
                edited_bp = torch.stack([change.any(2) for change in own]).any(0)
                part.edited[case_number, places] = edited_bp[here].cpu().numpy()
            while edit.case == case_number:
                part.sums[number, self.at, : len(SUMS)] = unchanged
                self._add(number, self._change(case, edit, own))
                number, edit = next(edits, (len(work.edits), Edit(-1, NONE, 0, 0)))
        self._flush()
        if self.labels is not None:
            self._fidelity(self.labels)

    def _own(self, latent: int, operation: Operation) -> torch.Tensor:
        work = self.work
        where, largest = work.places.at(self.images), work.largest.get(latent)
        return latent_change(work.sae, self.f, latent, operation, where, largest)

    def _change(self, case: Case, edit: Edit, own: Sequence[torch.Tensor]) -> torch.Tensor:
        """x' - x {b, P, D}"""
        if edit.control == RECONSTRUCTION:
            places = self.work.places.at(self.images)
            if isinstance(places, torch.Tensor):
                mask_bp = places.to(self.x.device)
            else:
                mask_bp = self.f[..., case.latent] > 0 if places == FIRING else torch.ones_like(self.norm_bp)
            return (self.x_hat - self.x) * mask_bp[..., None]
        if edit.direction is None:
            return own[edit.amount]
        return same_size(own[edit.amount], self.work.sae.W_dec[case.latent], edit.direction)

    def _add(self, number: int, change_bpd: torch.Tensor) -> None:
        length_bp = change_bpd.norm(dim=2)
        edited_bp = length_bp > 0
        relative_b = torch.where(edited_bp, length_bp / self.norm_bp, 0).sum(1)
        sizes = torch.stack([edited_bp.sum(1), relative_b], 1).double()
        self.part.sums[number, self.at, len(SUMS) :] = sizes.cpu().numpy()
        rows = edited_bp.any(1).nonzero()[:, 0]
        if len(rows):
            if sum(len(waiting) for _, waiting, _ in self.pending) + len(rows) > self.work.stacked:
                self._flush()
            changed = self.x + change_bpd
            self.pending.append((number, rows, changed if len(rows) == len(changed) else changed[rows]))

    def _flush(self) -> None:
        """Compute what waits, in one pass."""
        if not self.pending:
            return
        work, part = self.work, self.part
        rows = torch.cat([rows for _, rows, _ in self.pending])
        stacked = [patches for _, _, patches in self.pending]
        after = self._logits(stacked[0] if len(stacked) == 1 else torch.cat(stacked), rows)
        numbers = np.concatenate([[number] * len(rows) for number, rows, _ in self.pending])
        if not bool((finite_m := torch.isfinite(after).flatten(1).all(1)).all()):
            edit = work.edits[numbers[int(finite_m.logical_not().nonzero()[0, 0])]]
            operation = work.operations[edit.amount]
            raise UserError(
                f"latent {work.cases[edit.case].latent}, {operation.name} {operation.amount:g}, control {edit.control}:"
                " the logits are not finite; lower the amount, or compute in float32"
            )
        target_m = torch.tensor([work.cases[work.edits[number].case].target for number in numbers])
        of_labels = None if self.labels is None else self.labels[rows.cpu()]
        sums = effect_sums(self.before[rows], after, target_m, of_labels, work.softmax)
        part.sums[numbers, self.at[rows.cpu().numpy()], : len(SUMS)] = sums
        place_of = dict(self.kept)
        for m, (number, row) in enumerate(zip(numbers.tolist(), rows.tolist(), strict=True)):
            if row in place_of and number in part.kept:
                part.after[part.kept[number], place_of[row]] = self._prediction(after[m])
        self.pending.clear()

    def _logits(self, patches: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        with self.work.model.computing():
            return self.work.head.logits(self.work.cut, self.state.with_patches(patches, rows))

    def _prediction(self, logits_rc: torch.Tensor) -> np.ndarray:
        found = logits_rc.argmax(1).short() if self.work.head.per_patch else logits_rc[0].float()
        return found.cpu().numpy()

    def _fidelity(self, labels: torch.Tensor) -> None:
        """The head on other patches in place of all of an image's."""
        inputs = {"x": None, RECONSTRUCTION: self.x_hat, "zero": torch.zeros_like(self.x)}
        if self.work.mean is not None:
            inputs["mean"] = self.work.mean.to(self.x).expand_as(self.x)
        for i, name in enumerate(INPUTS):
            if name in inputs:
                patches = inputs[name]
                logits = self.before if patches is None else self._logits(patches)
                self.part.fidelity[i, self.at] = loss_sums(logits, labels, self.work.softmax)
