"""The nearest latents of each by the cosine of their decoder rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from saetools.errors import UserError
from saetools.latents.header import LatentsHeader

BLOCK = 1024


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
