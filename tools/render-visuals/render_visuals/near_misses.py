"""Images in which a latent does not fire although they look, to the other latents, like those in which it does."""

from __future__ import annotations

import numpy as np

from render_visuals.heat import ImagePlaces
from render_visuals.kernels import events
from render_visuals.survey import BLOCK_EVENTS
from saetools.cli.progress import Progress
from saetools.latents.reader import LatentsSet

AT_A_TIME = 16  # latents; each event costs one multiplication for each


def near_misses(
    latents: LatentsSet,
    places: ImagePlaces,
    chosen: list[int],
    top_pairs: list[list[tuple[int, int]]],
    n: int,
) -> list[list[int]]:
    """For each chosen latent, the n images nearest to firing.

    top_pairs: of each latent, (image, patch) of its top images' strongest patches. Their codes without the latent
    itself, each divided by its norm, add up to a template; images in which the latent does not fire come in the
    order of the largest cosine of one of their patches with it.
    """
    found: list[list[int]] = []
    for start in range(0, len(chosen), AT_A_TIME):
        few = chosen[start : start + AT_A_TIME]
        templates_km = _templates(latents, places, few, top_pairs[start : start + AT_A_TIME])
        found += _nearest(latents, few, templates_km, n)
    return found


def _templates(
    latents: LatentsSet, places: ImagePlaces, chosen: list[int], top_pairs: list[list[tuple[int, int]]]
) -> np.ndarray:
    templates_km = np.zeros((latents.n_latents, len(chosen)))
    for column, (latent, pairs) in enumerate(zip(chosen, top_pairs, strict=True)):
        code_k = np.zeros(latents.n_latents)
        for image, patch in pairs:
            file, i = places.file(image)
            row = i * file.n_patches + patch
            indptr, latent_e, value_e = file.rows(row, row + 1)
            events.sum_rows(
                indptr, np.asarray(latent_e), np.asarray(value_e, np.float32), np.zeros(1, np.int64), code_k
            )
        code_k[latent] = 0
        norm = np.linalg.norm(code_k)
        templates_km[:, column] = code_k / norm if norm else code_k
    return templates_km


def _nearest(latents: LatentsSet, chosen: list[int], templates_km: np.ndarray, n: int) -> list[list[int]]:
    column_k = np.full(latents.n_latents, -1, np.int64)
    column_k[chosen] = np.arange(len(chosen))
    likeness_nm = np.zeros((latents.n_images, len(chosen)), np.float32)
    fires_nm = np.zeros((latents.n_images, len(chosen)), np.float32)
    first = 0
    with Progress("looking for near misses", total=latents.n_images, unit="images") as progress:
        for file in latents.files:
            for start, stop in file.blocks(BLOCK_EVENTS):
                indptr, latent_e, value_e = file.images(start, stop)
                latent_e, value_e = np.asarray(latent_e), np.asarray(value_e, np.float32)
                here = slice(first + start, first + stop)
                events.best_likeness(
                    indptr, latent_e, value_e, file.n_patches, templates_km, likeness_nm[here]
                )
                events.image_maxima_of(indptr, latent_e, value_e, file.n_patches, column_k, fires_nm[here])
                progress.advance(stop - start)
            first += file.n_images
    likeness_nm[fires_nm > 0] = 0
    order_nm = np.argsort(-likeness_nm, axis=0, kind="stable")[:n]
    return [
        [int(image) for image in order_nm[:, column] if likeness_nm[image, column] > 0]
        for column in range(len(chosen))
    ]
