"""Average precision (AP): one definition, and a function for each layout of scores and labels.

| scores | labels | function |
|---|---|---|
| {N, K} of all prototypes | {N, T} yes or no, some unknown | `average_precision`, every prototype for every trait |
| the same | the same | `best_prototypes`, which keeps only the best prototype of each trait |
| {N, T} of one prototype for each trait, images resampled | the same | `bootstrap.average_precision_weighted` |
| the same, without the bias of small samples | the same | `bootstrap.debiased_average_precision` |
| nonzero values of one latent, sorted; other rows are 0 | one class, some unknown | `latent_average_precision` |
| the same, images weighted | one class a row | `latent_average_precision_by_class` |

They differ in what they sort and skip, not in what they compute: dense scores are sorted by radix and summed for 32
traits at a time; sparse latents are sorted by the caller, and their zeros are one group of ties that is never stored.

With the distinct scores as thresholds, the highest first, recall R_g and precision P_g among the images at or
above the g-th:

    AP = sum_g (R_g - R_{g-1}) P_g

Images with equal scores enter together, so AP does not depend on the order of rows. This is the step-wise
definition of `sklearn.metrics.average_precision_score`, equal to it up to rounding; it interpolates nothing.
Counts are integers, sums float64. A trait without a positive has no recall, so its AP is NaN. A score that
is the same for all images has an AP equal to the trait's prevalence.

Scores are float32 and finite; -0.0 equals 0.0. Wider scores are refused, not rounded: rounding makes ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saetools.compute.kernels.average_precision import (
    LABEL_BITS,
    average_precision_columns,
    average_precision_masked_columns,
)
from saetools.compute.kernels.sparse_average_precision import (
    latent_average_precision,
    latent_average_precision_by_class,
)
from saetools.compute.threads import share_out
from saetools.metrics.validate import checked_labels, checked_scores, refuse_not_finite

__all__ = [
    "BestPrototypes",
    "average_precision",
    "best_prototypes",
    "latent_average_precision",
    "latent_average_precision_by_class",
    "mean_average_precision",
]

_BLOCK = 128  # columns in one thread's piece of work


@dataclass(frozen=True)
class BestPrototypes:
    """The prototype of the highest AP of each trait.

    prototype_t: int64, the first of those with the highest AP; -1 for a trait without a positive
    ap_t:        float64, its AP; NaN for a trait without a positive
    """

    prototype_t: np.ndarray
    ap_t: np.ndarray


def average_precision(
    scores_nk: np.ndarray,
    labels_nt: np.ndarray,
    *,
    valid_nt: np.ndarray | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """AP of every prototype's scores against every trait, float64 {K, T}.

    scores_nk: float32, the score of image n for prototype k; C order is fastest, nothing is copied then
    labels_nt: bool, or 0 and 1 in integers: whether image n has trait t
    valid_nt:  the same type; where 0, image n is left out for trait t as if it were not in the data
    threads:   how many CPU threads; by default as many as this process may use

    Beyond the result, memory is about 310 N bytes a thread and the labels as bits; with `valid_nt` also the
    positives' positions (4 bytes each).
    Raises ValueError for shapes and types that do not fit, UserError for a score that is not finite.
    """
    labels = _PackedLabels(labels_nt, valid_nt)
    scores_nk = checked_scores(scores_nk, labels.n_images)
    ap_kt = np.empty((scores_nk.shape[1], labels.n_traits))
    labels.score(scores_nk, ap_kt, threads)
    return ap_kt


def best_prototypes(
    scores_nk: np.ndarray,
    labels_nt: np.ndarray,
    *,
    valid_nt: np.ndarray | None = None,
    threads: int | None = None,
    block: int = 2048,
) -> BestPrototypes:
    """The prototype of the highest AP of each trait, with no more than {block, T} AP held at a time.

    The first one wins where several have the same AP. Arguments and errors as `average_precision`.
    """
    if block < 1:
        raise ValueError(f"block: found {block}, expected at least 1")
    labels = _PackedLabels(labels_nt, valid_nt)
    scores_nk = checked_scores(scores_nk, labels.n_images)
    n_prototypes = scores_nk.shape[1]
    prototype_t = np.full(labels.n_traits, -1, np.int64)
    ap_t = np.full(labels.n_traits, np.nan)
    all_traits = np.arange(labels.n_traits)
    block_kt = np.empty((min(block, n_prototypes), labels.n_traits))
    for first in range(0, n_prototypes, block):
        last = min(first + block, n_prototypes)
        ap_kt = block_kt[: last - first]
        labels.score(scores_nk, ap_kt, threads, first)
        k_t = ap_kt.argmax(axis=0)  # a trait's column is NaN throughout or nowhere
        found_t = ap_kt[k_t, all_traits]
        better_t = (found_t > ap_t) | (np.isnan(ap_t) & ~np.isnan(found_t))
        prototype_t[better_t] = first + k_t[better_t]
        ap_t[better_t] = found_t[better_t]
    return BestPrototypes(prototype_t, ap_t)


def mean_average_precision(ap_t: np.ndarray) -> float:
    """mAP: the mean AP of the traits that have one, those with a positive; NaN where none has."""
    known_t = ap_t[~np.isnan(ap_t)]
    return float(known_t.mean()) if len(known_t) else float("nan")


class _PackedLabels:
    """Labels laid out for the kernels, once for any number of blocks of prototypes."""

    def __init__(self, labels_nt: np.ndarray, valid_nt: np.ndarray | None) -> None:
        label_nt, valid_nt = checked_labels(labels_nt, valid_nt)
        self.n_images, self.n_traits = label_nt.shape
        self._positives_t = label_nt.sum(axis=0, dtype=np.int64)
        self._valid_nt = valid_nt
        if valid_nt is None:
            n_words = -(-self.n_traits // LABEL_BITS)
            padded = np.zeros((self.n_images, n_words * LABEL_BITS), np.uint8)
            padded[:, : self.n_traits] = label_nt
            bits = np.packbits(padded, axis=1, bitorder="little").view("<u4")
            self._words_xn = np.ascontiguousarray(bits.T).astype(np.uint32, copy=False)
        else:
            self._n_valid_t = valid_nt.sum(axis=0, dtype=np.int64)
            image_e, trait_e = np.nonzero(label_nt)
            self._positive_trait_e = trait_e.astype(np.uint32)
            self._positive_start_n = np.searchsorted(image_e, np.arange(self.n_images + 1))
            self._inverse_n = 1.0 / np.maximum(np.arange(self.n_images + 1), 1)

    def score(self, scores_nk: np.ndarray, ap_kt: np.ndarray, threads: int | None, offset: int = 0) -> None:
        """Fill ap_kt with the AP of the prototypes offset..offset + len(ap_kt) - 1."""
        in_place = scores_nk.flags.c_contiguous

        def run(first: int, last: int) -> None:
            # Columns of another layout are copied block by block, so that the matrix is never held twice.
            block = (
                scores_nk if in_place else np.ascontiguousarray(scores_nk[:, offset + first : offset + last])
            )
            start = offset + first if in_place else 0
            found = self._run(block.view(np.uint32), start, start + last - first, ap_kt[first:last])
            refuse_not_finite(block, found, 0 if in_place else offset + first)

        share_out(len(ap_kt), _BLOCK, threads, run)

    def _run(self, bits_nk: np.ndarray, first: int, last: int, ap_kt: np.ndarray) -> int:
        if self._valid_nt is None:
            return average_precision_columns(bits_nk, first, last, self._words_xn, self._positives_t, ap_kt)
        return average_precision_masked_columns(
            bits_nk,
            first,
            last,
            self._valid_nt,
            self._positive_start_n,
            self._positive_trait_e,
            self._positives_t,
            self._n_valid_t,
            self._inverse_n,
            ap_kt,
        )
