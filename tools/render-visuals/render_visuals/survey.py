"""What every latent does over a data set, in one pass and in memory that does not grow with the images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from render_visuals.kernels import events
from render_visuals.kernels.bins import N_BINS
from saetools.cli.progress import Progress
from saetools.latents.reader import LatentsSet

BLOCK_EVENTS = 1 << 22
QUANTILES = (0.95, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1, 0.0)


@dataclass(frozen=True)
class Survey:
    """Over N images of P patches, for each of K latents; events are values above 0.

    count_k: patches at which it fires; sum_k {K} float64: of its values; n_images_k: images in which it fires
    top_value_km, top_image_km {K, M}: its M images of largest value, descending, the first of equal ones first;
        0 and -1 where fewer fire
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
        """Share of all patches at which it fires."""
        return self.count_k / (self.n_images * self.n_patches)

    @property
    def mean_k(self) -> np.ndarray:
        """Mean of its values where it fires; NaN where it never does."""
        return np.divide(
            self.sum_k, self.count_k, out=np.full(len(self.sum_k), np.nan), where=self.count_k > 0
        )

    def top_images(self, latent: int, n: int) -> list[int]:
        chosen = self.top_image_km[latent, :n]
        return [int(image) for image in chosen[chosen >= 0]]

    def spread_images(self, latent: int, besides: set[int]) -> list[tuple[float, int]]:
        """(quantile, image) down the distribution of its images' largest values, none of `besides`, none twice."""
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
    """Read all events once. `seed` decides the examples of the bins."""
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
            for start, stop in file.blocks(BLOCK_EVENTS):
                indptr, latent_e, value_e = file.images(start, stop)
                value_e = np.ascontiguousarray(value_e, np.float32)
                events.survey_rows(
                    indptr, np.asarray(latent_e), value_e, value_e.view(np.uint32), file.n_patches, first + start,
                    seed, found.count_k, found.sum_k, found.n_images_k, found.top_value_km, found.top_image_km,
                    found.hist_kb, found.image_hist_kb, key_kb, found.example_kb, best_k, stamp_k, touched_k,
                )  # fmt: skip
                progress.advance(stop - start)
            first += file.n_images
    return found
