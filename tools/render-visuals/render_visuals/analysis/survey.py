"""Statistics and top images of every latent, and activation maps: its activations at the patches of an image.

The survey reads a data set once, in memory that does not grow with the number of images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from render_visuals.analysis import kernels
from render_visuals.analysis.kernels import N_BINS
from saetools.cli.progress import Progress
from saetools.latents.file import LatentsFile
from saetools.latents.reader import LatentsSet
from saetools.vision.model_input import Recorded

BLOCK_ACTIVE = 1 << 22
QUANTILES = (0.95, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1, 0.0)


@dataclass(frozen=True)
class Survey:
    """Statistics of each of K latents over N images of P patches. A latent is active where its activation is above 0.

    count_k {K} int64: patches at which it is active; sum_k {K} float64: the sum of its activations; n_images_k {K}
    int64: images in which it is active
    top_value_km float32, top_image_km int64 {K, M}: its M images of largest maximum, descending, ties by number;
        0 and -1 if it is active in fewer
    hist_kb {K, B}: its values by bin (`kernels.bins`); image_hist_kb: the largest value of each image
    example_kb {K, B}: an image drawn at random of those whose largest value is in the bin, or -1
    """

    n_images: int
    n_patches: int
    count_k: np.ndarray
    sum_k: np.ndarray
    n_images_k: np.ndarray
    top_value_km: np.ndarray
    top_image_km: np.ndarray
    hist_kb: np.ndarray
    image_hist_kb: np.ndarray
    example_kb: np.ndarray

    @property
    def frequency_k(self) -> np.ndarray:
        """Share of all patches at which it is active."""
        return self.count_k / (self.n_images * self.n_patches)

    @property
    def mean_k(self) -> np.ndarray:
        """Mean of its activations where it is active; NaN if it never is."""
        return np.divide(
            self.sum_k, self.count_k, out=np.full(len(self.sum_k), np.nan), where=self.count_k > 0
        )

    def top_images(self, latent: int, n: int) -> list[int]:
        chosen = self.top_image_km[latent, :n]
        return [int(image) for image in chosen[chosen >= 0]]

    def spread_images(self, latent: int, besides: set[int]) -> list[tuple[float, int]]:
        """(quantile, image): an example at each of QUANTILES of its maximum per image, none twice or in `besides`."""
        counts_b = self.image_hist_kb[latent]
        total = int(counts_b.sum())
        found: list[tuple[float, int]] = []
        taken = set(besides)
        if not total:
            return found
        ends_b = np.cumsum(counts_b)
        for quantile in QUANTILES:
            rank = min(int(quantile * total), total - 1)
            image = int(self.example_kb[latent, int(np.searchsorted(ends_b, rank, side="right"))])
            if image not in taken:
                taken.add(image)
                found.append((quantile, image))
        return found


def survey(latents: LatentsSet, n_top: int, seed: int = 0) -> Survey:
    """Read all latents once. seed: of the choice of an example image for each bin of the histogram."""
    k = latents.n_latents
    found = Survey(
        latents.n_images,
        latents.n_patches,
        count_k=np.zeros(k, np.int64),
        sum_k=np.zeros(k),
        n_images_k=np.zeros(k, np.int64),
        top_value_km=np.zeros((k, n_top), np.float32),
        top_image_km=np.full((k, n_top), -1, np.int64),
        hist_kb=np.zeros((k, N_BINS), np.uint32),
        image_hist_kb=np.zeros((k, N_BINS), np.uint32),
        example_kb=np.full((k, N_BINS), -1, np.int32),
    )
    key_kb = np.zeros((k, N_BINS), np.uint32)
    best_k, stamp_k, touched_k = np.zeros(k, np.int64), np.full(k, -1, np.int64), np.zeros(k, np.int64)
    first = 0
    with Progress("looking for each latent's images", total=latents.n_images, unit="images") as progress:
        for file in latents.files:
            for start, stop in file.blocks(BLOCK_ACTIVE):
                indptr, latent_e, value_e = file.images(start, stop)
                value_e = np.ascontiguousarray(value_e, np.float32)
                kernels.survey_rows(
                    indptr, np.asarray(latent_e), value_e, value_e.view(np.uint32), file.n_patches, first + start,
                    seed, found.count_k, found.sum_k, found.n_images_k, found.top_value_km, found.top_image_km,
                    found.hist_kb, found.image_hist_kb, key_kb, found.example_kb, best_k, stamp_k, touched_k,
                )  # fmt: skip
                progress.advance(stop - start)
            first += file.n_images
    return found


@dataclass(frozen=True)
class ActivationMaps:
    """For pairs (latent, image), in the order in which they were given: the patches at which the latent is active.

    ptr {pairs + 1}; patch_e uint16, ascending within a pair; value_e float32
    """

    ptr: np.ndarray
    patch_e: np.ndarray
    value_e: np.ndarray

    def peaks(self) -> np.ndarray:
        """The patch of the largest value of each pair, the first of equal ones."""
        pair_e = np.repeat(np.arange(len(self.ptr) - 1), np.diff(self.ptr))
        order = np.lexsort((-self.patch_e.astype(np.int64), self.value_e, pair_e))
        return self.patch_e[order[self.ptr[1:] - 1]]

    def of(self, pair: int) -> tuple[np.ndarray, np.ndarray]:
        """(patches, values) of one pair."""
        here = slice(int(self.ptr[pair]), int(self.ptr[pair + 1]))
        return self.patch_e[here], self.value_e[here]


class ImageIndex:
    """Finds image n of a set in its files. grid_n2: rows and columns of patches; size_n2: pixels, 0 if not recorded."""

    def __init__(self, latents: LatentsSet) -> None:
        self._files = latents.files
        self._starts = np.cumsum([0, *(file.n_images for file in latents.files)])
        self.grid_n2 = np.concatenate([file.examples.grid for file in latents.files]).astype(np.int64)
        self.size_n2 = np.concatenate(
            [
                np.zeros((file.n_images, 2), np.int32) if file.examples.size is None else file.examples.size
                for file in latents.files
            ]
        )
        self.target_n = np.concatenate([file.examples.target for file in latents.files])

    def file(self, image: int) -> tuple[LatentsFile, int]:
        """The file of an image, and its number there."""
        which = int(np.searchsorted(self._starts, image, side="right")) - 1
        return self._files[which], image - int(self._starts[which])

    def recorded(self, image: int) -> Recorded:
        """What an image was when its activations were recorded."""
        rows, columns = (int(edge) for edge in self.grid_n2[image])
        height, width = (int(edge) for edge in self.size_n2[image])
        return Recorded((rows, columns), (height, width) if height else None)

    def labels(self, image: int) -> np.ndarray | None:
        """Patch labels {P}, or None where the data set has no masks."""
        file, i = self.file(image)
        labels_np = file.labels
        return None if labels_np is None else labels_np[i]


def activation_maps(
    latents: LatentsSet, image_index: ImageIndex, latent_of_pair: np.ndarray, image_of_pair: np.ndarray
) -> ActivationMaps:
    """The activation maps of pairs (latent, image), all different. Reads only these images."""
    n_pairs = len(image_of_pair)
    slot_k = np.full(latents.n_latents, -1, np.int64)
    pairs, patches, values = [], [], []
    for image, asked in _by_image(image_of_pair):
        file, i = image_index.file(image)
        indptr, latent_e, value_e = file.images(i, i + 1)
        pair_out = np.empty(len(latent_e), np.int64)
        patch_out, value_out = np.empty(len(latent_e), np.uint16), np.empty(len(latent_e), np.float32)
        slot_k[latent_of_pair[asked]] = asked
        n = kernels.gather_image(
            indptr,
            np.asarray(latent_e),
            np.asarray(value_e, np.float32),
            slot_k,
            pair_out,
            patch_out,
            value_out,
        )
        slot_k[latent_of_pair[asked]] = -1
        pairs.append(pair_out[:n].copy())
        patches.append(patch_out[:n].copy())
        values.append(value_out[:n].copy())
    pair_e = np.concatenate([np.empty(0, np.int64), *pairs])
    order = np.argsort(pair_e, kind="stable")
    ptr = np.concatenate([[0], np.cumsum(np.bincount(pair_e, minlength=n_pairs))])
    return ActivationMaps(
        ptr,
        np.concatenate([np.empty(0, np.uint16), *patches])[order],
        np.concatenate([np.empty(0, np.float32), *values])[order],
    )


def _by_image(image_of_pair: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    order = np.argsort(image_of_pair, kind="stable")
    if not len(order):
        return
    images, starts = np.unique(image_of_pair[order], return_index=True)
    for image, asked in zip(images, np.split(order, starts[1:]), strict=True):
        yield int(image), asked
