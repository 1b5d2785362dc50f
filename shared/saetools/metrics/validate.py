"""Scores {N, K} and labels {N, T} as the kernels of average precision take them: checked, and refused where broken."""

from __future__ import annotations

import numpy as np

from saetools.errors import UserError


def checked_scores(scores: np.ndarray, n_images: int) -> np.ndarray:
    """The scores {n_images, K} if they are float32; raises ValueError."""
    scores = np.asarray(scores)
    if scores.dtype != np.float32:
        raise ValueError(f"scores: found {scores.dtype}, expected float32 (rounding would make ties)")
    if scores.ndim != 2 or scores.shape[0] != n_images:
        raise ValueError(
            f"scores: found shape {scores.shape}, expected ({n_images}, K) as the labels have rows"
        )
    return scores


def checked_labels(
    labels_nt: np.ndarray, valid_nt: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels and validity {N, T} as C-ordered uint8 0 and 1; no label where not valid. Raises ValueError."""
    label_nt = _zeros_and_ones(labels_nt, "labels")
    if not 1 <= label_nt.shape[0] < 2**31:
        raise ValueError(f"labels: found {label_nt.shape[0]} images, expected 1 to 2^31 - 1")
    if valid_nt is None:
        return label_nt, None
    valid_nt = _zeros_and_ones(valid_nt, "valid")
    if valid_nt.shape != label_nt.shape:
        raise ValueError(f"valid: found shape {valid_nt.shape}, expected {label_nt.shape} as the labels")
    return label_nt & valid_nt, valid_nt


def _zeros_and_ones(array: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim != 2:
        raise ValueError(f"{what}: found shape {array.shape}, expected (N, T)")
    if array.dtype == np.bool_:
        return np.ascontiguousarray(array).view(np.uint8)
    if array.dtype.kind not in "iu" or not ((array == 0) | (array == 1)).all():
        raise ValueError(
            f"{what}: found {array.dtype} with other values, expected bool, or 0 and 1 in integers"
        )
    return np.ascontiguousarray(array, dtype=np.uint8)


def refuse_not_finite(scores: np.ndarray, position: int, offset: int = 0) -> None:
    """Raise UserError for the position that a kernel returned, in scores whose first column is the offset-th of all."""
    if position >= 0:
        image, column = divmod(position, scores.shape[1])
        raise UserError(
            f"scores: found {scores[image, column]} for image {image} and prototype {offset + column}, expected"
            " finite numbers; the activations or the scorer's weights are broken"
        )
