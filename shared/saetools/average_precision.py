"""Average precision (AP) of many scores against many traits, the hot path of the trait table.

With the distinct scores as thresholds, the highest first, recall R_g and precision P_g among the images at or
above the g-th:

    AP = sum_g (R_g - R_{g-1}) P_g

Images with equal scores enter together, so AP does not depend on the order of rows. This is the step-wise
definition of `sklearn.metrics.average_precision_score`, equal to it up to rounding; it interpolates nothing.
Counts are integers, sums float64. A trait without a positive has no recall, so its AP is NaN. A score that
is the same for all images has an AP equal to the trait's prevalence.

AP of a few images is, on average, higher than that of many from the same source: the precision at a positive
counts that positive itself. `unseen_average_precision` takes every positive out of its own precision; intervals
are made of it.

Scores are float32 and finite; -0.0 equals 0.0. Wider scores are refused, not rounded: rounding makes ties.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from saetools.errors import UserError
from saetools.kernels.average_precision_kernels import (
    LANES,
    RESAMPLES,
    average_precision_columns,
    average_precision_masked_columns,
    average_precision_weighted_columns,
)

_BLOCK = 128  # columns in one thread's piece of work
_MOST_COPIES = np.iinfo(np.uint16).max


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
    scores_nk = _checked_scores(scores_nk, labels.n_images)
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
    scores_nk = _checked_scores(scores_nk, labels.n_images)
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


def average_precision_weighted(
    scores_nt: np.ndarray,
    labels_nt: np.ndarray,
    counts_rn: np.ndarray,
    *,
    valid_nt: np.ndarray | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """AP of each trait's own scores on resampled images, float64 {R, T}.

    scores_nt: float32, the score of image n for the prototype that was chosen for trait t
    labels_nt, valid_nt, threads: as `average_precision`
    counts_rn: integers from 0 to 65,535, how often image n is in resample r; a row sums up to less than 2^31

    Equal to `average_precision` with every image repeated that often, and to
    `average_precision_score(..., sample_weight=counts_rn[r])`; NaN where a resample holds no positive. One row of
    ones gives the AP of the images as they are. Each trait is sorted once for all resamples. Raises as
    `average_precision`.
    """
    return _weighted(scores_nt, labels_nt, counts_rn, valid_nt, threads, unseen=False)


def unseen_average_precision(
    scores_nt: np.ndarray,
    labels_nt: np.ndarray,
    counts_rn: np.ndarray,
    *,
    valid_nt: np.ndarray | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """Estimate of the AP on very many images of the same source, float64 {R, T}, for each resample.

    With P positives, and c positives among the n images that score at least as high as positive i, which is there
    m times:

        AP = 1/P sum_i m a / (a + b)     a = P (c - m)     b = (P - m) (n - c)

    so a positive takes no part in the precision at its own score, and the others stand in for it, which keeps the
    prevalence (where c = P the factor P - m cancels, also when it is zero). Where nothing else scores as high
    (c = m = n), the term is half way between 1 and that of the next positive.

    With rows of counts drawn from a multinomial over the images, the 2.5% and 97.5% quantiles of the result
    are the bootstrap interval of AP, and those of the rows' means that of mAP (the percentile method: Efron and
    Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13). Quantiles of plain AP do not cover the AP of
    many images: it is biased upwards, and more so in resamples. Arguments and errors as
    `average_precision_weighted`.
    """
    return _weighted(scores_nt, labels_nt, counts_rn, valid_nt, threads, unseen=True)


def _weighted(
    scores_nt: np.ndarray,
    labels_nt: np.ndarray,
    counts_rn: np.ndarray,
    valid_nt: np.ndarray | None,
    threads: int | None,
    *,
    unseen: bool,
) -> np.ndarray:
    label_nt, valid_nt = _checked_labels(labels_nt, valid_nt)
    n_images, n_traits = label_nt.shape
    scores_nt = _checked_scores(scores_nt, n_images)
    if scores_nt.shape[1] != n_traits:
        raise ValueError(
            f"scores_nt: found {scores_nt.shape[1]} columns, expected one for each of {n_traits} traits"
        )
    counts_xnr, n_resamples = _tiled_counts(counts_rn, n_images)
    label_tn = np.ascontiguousarray(label_nt.T)
    valid_tn = np.ones_like(label_tn) if valid_nt is None else np.ascontiguousarray(valid_nt.T)
    bits_nt = np.ascontiguousarray(scores_nt).view(np.uint32)
    ap_tr = np.empty((n_traits, n_resamples))

    def run(first: int, last: int) -> None:
        found = average_precision_weighted_columns(
            bits_nt, first, last, label_tn, valid_tn, counts_xnr, unseen, ap_tr
        )
        _refuse_not_finite(scores_nt, found)

    _share_out(n_traits, max(1, n_traits // 32), threads, run)
    return np.ascontiguousarray(ap_tr.T)


class _PackedLabels:
    """Labels laid out for the kernels, once for any number of blocks of prototypes."""

    def __init__(self, labels_nt: np.ndarray, valid_nt: np.ndarray | None) -> None:
        label_nt, valid_nt = _checked_labels(labels_nt, valid_nt)
        self.n_images, self.n_traits = label_nt.shape
        self._positives_t = label_nt.sum(axis=0, dtype=np.int64)
        self._valid_nt = valid_nt
        if valid_nt is None:
            n_words = -(-self.n_traits // LANES)
            padded = np.zeros((self.n_images, n_words * LANES), np.uint8)
            padded[:, : self.n_traits] = label_nt
            bits = np.packbits(padded, axis=1, bitorder="little").view("<u4")
            self._words_xn = np.ascontiguousarray(bits.T).astype(np.uint32, copy=False)
        else:
            self._n_valid_t = valid_nt.sum(axis=0, dtype=np.int64)
            image_e, trait_e = np.nonzero(label_nt)
            self._event_trait_e = trait_e.astype(np.uint32)
            self._event_start_n = np.searchsorted(image_e, np.arange(self.n_images + 1))
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
            _refuse_not_finite(block, found, 0 if in_place else offset + first)

        _share_out(len(ap_kt), _BLOCK, threads, run)

    def _run(self, bits_nk: np.ndarray, first: int, last: int, ap_kt: np.ndarray) -> int:
        if self._valid_nt is None:
            return average_precision_columns(bits_nk, first, last, self._words_xn, self._positives_t, ap_kt)
        return average_precision_masked_columns(
            bits_nk,
            first,
            last,
            self._valid_nt,
            self._event_start_n,
            self._event_trait_e,
            self._positives_t,
            self._n_valid_t,
            self._inverse_n,
            ap_kt,
        )


def _share_out(n_items: int, block: int, threads: int | None, run: Callable[[int, int], None]) -> None:
    """Call run(first, last) for all blocks of 0..n_items-1, on several threads."""
    if threads is None:
        threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise ValueError(f"threads: found {threads}, expected at least 1")
    blocks = [(first, min(first + block, n_items)) for first in range(0, n_items, block)]
    if threads == 1 or len(blocks) < 2:
        for first, last in blocks:
            run(first, last)
        return
    with ThreadPoolExecutor(threads) as pool:
        try:
            for pending in [pool.submit(run, first, last) for first, last in blocks]:
                pending.result()
        except BaseException:  # Ctrl-C too: what has not started must not be waited for
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _checked_scores(scores: np.ndarray, n_images: int) -> np.ndarray:
    scores = np.asarray(scores)
    if scores.dtype != np.float32:
        raise ValueError(f"scores: found {scores.dtype}, expected float32 (rounding would make ties)")
    if scores.ndim != 2 or scores.shape[0] != n_images:
        raise ValueError(
            f"scores: found shape {scores.shape}, expected ({n_images}, K) as the labels have rows"
        )
    return scores


def _checked_labels(
    labels_nt: np.ndarray, valid_nt: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Labels and validity as C-ordered uint8 0 and 1; no label where not valid."""
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


def _tiled_counts(counts_rn: np.ndarray, n_images: int) -> tuple[np.ndarray, int]:
    """Counts as uint16 {X, N, W}, W at most RESAMPLES, the last tile filled up with zeros; and R."""
    counts_rn = np.asarray(counts_rn)
    if counts_rn.ndim != 2 or counts_rn.shape[1] != n_images or counts_rn.dtype.kind not in "iu":
        raise ValueError(
            f"counts: found {counts_rn.dtype} {counts_rn.shape}, expected integers of shape (R, {n_images})"
        )
    if counts_rn.size and (counts_rn.min() < 0 or counts_rn.max() > _MOST_COPIES):
        raise ValueError(
            f"counts: found {counts_rn.min()} to {counts_rn.max()}, expected 0 to {_MOST_COPIES}"
        )
    if counts_rn.size and counts_rn.sum(axis=1, dtype=np.int64).max() >= 2**31:
        raise ValueError("counts: a resample holds 2^31 images or more")
    n_resamples = counts_rn.shape[0]
    width = min(RESAMPLES, max(1, n_resamples))
    counts_xnr = np.zeros((-(-n_resamples // width), n_images, width), np.uint16)
    for x, tile_nr in enumerate(counts_xnr):
        rows = counts_rn[x * width : (x + 1) * width]
        tile_nr[:, : len(rows)] = rows.T
    return counts_xnr, n_resamples


def _refuse_not_finite(scores: np.ndarray, position: int, offset: int = 0) -> None:
    """Raise for the position that a kernel returned, in scores whose first column is the offset-th of all."""
    if position >= 0:
        image, column = divmod(position, scores.shape[1])
        raise UserError(
            f"scores: found {scores[image, column]} for image {image} and prototype {offset + column}, expected"
            " finite numbers; the activations or the scorer's weights are broken"
        )
