"""Nearest latents by their decoder vectors; and near misses: images that lack a latent, but are alike in all others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from render_visuals.analysis import kernels
from render_visuals.analysis.survey import BLOCK_ACTIVE, ImageIndex
from saetools.cli.progress import Progress
from saetools.errors import UserError
from saetools.latents.header import LatentsHeader
from saetools.latents.reader import LatentsSet

BLOCK = 1024  # rows of the decoder
AT_A_TIME = 16  # latents; every active latent of a patch costs one multiplication for each


def near_misses(
    latents: LatentsSet,
    image_index: ImageIndex,
    chosen: list[int],
    top_pairs: list[list[tuple[int, int]]],
    n: int,
) -> list[list[int]]:
    """For each chosen latent, the n most similar images in which it is not active.

    top_pairs: of each latent, (image, patch) of its top images' strongest patches. Their codes without the latent
    itself, each divided by its norm, add up to a template; images in which the latent is not active are sorted by
    the largest cosine of one of their patches with it.
    """
    found: list[list[int]] = []
    for start in range(0, len(chosen), AT_A_TIME):
        few = chosen[start : start + AT_A_TIME]
        templates_km = _templates(latents, image_index, few, top_pairs[start : start + AT_A_TIME])
        found += _nearest(latents, few, templates_km, n)
    return found


def _templates(
    latents: LatentsSet, image_index: ImageIndex, chosen: list[int], top_pairs: list[list[tuple[int, int]]]
) -> np.ndarray:
    templates_km = np.zeros((latents.n_latents, len(chosen)))
    for column, (latent, pairs) in enumerate(zip(chosen, top_pairs, strict=True)):
        code_k = np.zeros(latents.n_latents)
        for image, patch in pairs:
            file, i = image_index.file(image)
            row = i * file.n_patches + patch
            indptr, latent_e, value_e = file.rows(row, row + 1)
            kernels.sum_rows(
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
            for start, stop in file.blocks(BLOCK_ACTIVE):
                indptr, latent_e, value_e = file.images(start, stop)
                latent_e, value_e = np.asarray(latent_e), np.asarray(value_e, np.float32)
                here = slice(first + start, first + stop)
                kernels.best_likeness(
                    indptr, latent_e, value_e, file.n_patches, templates_km, likeness_nm[here]
                )
                kernels.image_maxima_of(indptr, latent_e, value_e, file.n_patches, column_k, fires_nm[here])
                progress.advance(stop - start)
            first += file.n_images
    likeness_nm[fires_nm > 0] = 0
    order_nm = np.argsort(-likeness_nm, axis=0, kind="stable")[:n]
    return [
        [int(image) for image in order_nm[:, column] if likeness_nm[image, column] > 0]
        for column in range(len(chosen))
    ]


def nearest_latents(scorer_path: Path, header: LatentsHeader, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(latents uint32 {K, n}, cosines float32 {K, n}), nearest first, the latent itself left out.

    cos(i, j) = <W_i, W_j> / (|W_i| |W_j|), W the decoder of an SAE, or the vectors of another scorer. Fewer than n
    others: as many as there are. Raises UserError where it is not the scorer the latents were made with.
    """
    from saetools.scorers.file import load_scorer
    from saetools.scorers.sae import SAE

    found = load_scorer(scorer_path)
    if found.provenance.uid != header.scorer:
        raise UserError(
            f"{scorer_path}: its uid is {found.provenance.uid}, but the latents were made with the scorer"
            f" {header.scorer}; give that one"
        )
    scorer = found.scorer
    vectors = scorer.W_dec if isinstance(scorer, SAE) else getattr(scorer, "vectors", None)
    if vectors is None:
        return np.empty((header.n_latents, 0), np.uint32), np.empty((header.n_latents, 0), np.float32)
    return nearest_rows(vectors.numpy(), n)


def nearest_rows(vectors_kd: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n rows of largest cosine with each row, itself left out; a row of zeros has cosine 0 with all."""
    norm_k = np.linalg.norm(vectors_kd, axis=1, keepdims=True)
    unit_kd = np.divide(vectors_kd, norm_k, out=np.zeros_like(vectors_kd), where=norm_k > 0)
    k = len(unit_kd)
    n = min(n, k - 1)
    nearest, cosine = np.empty((k, n), np.uint32), np.empty((k, n), np.float32)
    for start in range(0, k, BLOCK):
        cosine_bk = unit_kd[start : start + BLOCK] @ unit_kd.T
        rows = np.arange(len(cosine_bk))
        cosine_bk[rows, start + rows] = -np.inf
        best_bn = np.argpartition(-cosine_bk, min(n, k - 1), axis=1)[:, :n]
        order = np.argsort(-np.take_along_axis(cosine_bk, best_bn, 1), axis=1, kind="stable")
        nearest[start : start + BLOCK] = best_bn = np.take_along_axis(best_bn, order, 1)
        cosine[start : start + BLOCK] = np.take_along_axis(cosine_bk, best_bn, 1)
    return nearest, cosine
