"""Compiled loops over CSR latents: counts, top images, histograms, activation maps, likeness of patches.

Rows are patches, image by image. The entries of a row are its active latents: `latent_e` and `value_e`.
Histograms have four bins to an octave, from 2^-12 to 2^12, in equal steps within an octave.
"""

from __future__ import annotations

import numpy as np

from saetools.compute.kernels.compiled import njit

FIRST_BIN = (127 - 12) * 4  # of a float32's bits, shifted right by 21: exponent (bias 127) and two bits
N_BINS = 24 * 4


def lower_edge(place: int) -> float:
    """The smallest value of a bin; smaller values are in bin 0, values above the last edge in the last bin."""
    octave, quarter = divmod(place, 4)
    return 2.0 ** (octave - 12) * (1 + quarter / 4)


@njit(cache=True, nogil=True)
def _bin(bits):
    """The bin of a positive float32 by its bits: its exponent and the first two bits of its mantissa."""
    place = np.int64(bits >> np.uint32(21)) - FIRST_BIN
    return min(max(place, 0), N_BINS - 1)


@njit(cache=True, nogil=True)
def _hash(a, b):
    """A pseudo-random number of a pair, which does not depend on the order of the work."""
    h = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(b) * np.uint64(0xC2B2AE3D27D4EB4F)
    h ^= h >> np.uint64(31)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(29)
    return np.uint32(h >> np.uint64(32))


@njit(cache=True, nogil=True)
def survey_rows(
    indptr, latent_e, value_e, bits_e, n_patches, first_image, seed,
    count_k, sum_k, n_images_k, top_value, top_image, hist, image_hist,
    example_key, example_image, best_k, stamp_k, touched_k,
):  # fmt: skip
    n_images = (len(indptr) - 1) // n_patches
    m = top_value.shape[1]
    for i in range(n_images):
        image = first_image + i
        n_touched = 0
        for e in range(indptr[i * n_patches], indptr[(i + 1) * n_patches]):
            k = latent_e[e]
            v = value_e[e]
            if not v > 0:
                continue
            count_k[k] += 1
            sum_k[k] += v
            hist[k, _bin(bits_e[e])] += 1
            if stamp_k[k] != image:
                stamp_k[k] = image
                best_k[k] = e
                touched_k[n_touched] = k
                n_touched += 1
            elif v > value_e[best_k[k]]:
                best_k[k] = e
        for j in range(n_touched):
            k = touched_k[j]
            v = value_e[best_k[k]]
            n_images_k[k] += 1
            place = _bin(bits_e[best_k[k]])
            image_hist[k, place] += 1
            key = _hash(image + seed * 1_000_003, k)
            if example_image[k, place] < 0 or key < example_key[k, place]:
                example_key[k, place] = key
                example_image[k, place] = image
            if v > top_value[k, m - 1]:
                t = m - 1
                while t > 0 and v > top_value[k, t - 1]:
                    top_value[k, t] = top_value[k, t - 1]
                    top_image[k, t] = top_image[k, t - 1]
                    t -= 1
                top_value[k, t] = v
                top_image[k, t] = image


@njit(cache=True, nogil=True)
def gather_image(indptr, latent_e, value_e, slot_k, pair_out, patch_out, value_out):
    """The activations of one image whose latent has a slot: (slot, patch, value), in the order of patches."""
    n = 0
    for p in range(len(indptr) - 1):
        for e in range(indptr[p], indptr[p + 1]):
            slot = slot_k[latent_e[e]]
            if slot >= 0 and value_e[e] > 0:
                pair_out[n] = slot
                patch_out[n] = p
                value_out[n] = value_e[e]
                n += 1
    return n


@njit(cache=True, nogil=True)
def image_maxima(indptr, latent_e, value_e, n_patches, max_nk):
    """max_nk {N, K}, zeros at first, becomes each image's largest value of each latent."""
    for i in range((len(indptr) - 1) // n_patches):
        for e in range(indptr[i * n_patches], indptr[(i + 1) * n_patches]):
            if value_e[e] > max_nk[i, latent_e[e]]:
                max_nk[i, latent_e[e]] = value_e[e]


@njit(cache=True, nogil=True)
def image_maxima_of(indptr, latent_e, value_e, n_patches, column_k, max_nm):
    """As image_maxima, for the latents that have a column."""
    for i in range((len(indptr) - 1) // n_patches):
        for e in range(indptr[i * n_patches], indptr[(i + 1) * n_patches]):
            column = column_k[latent_e[e]]
            if column >= 0 and value_e[e] > max_nm[i, column]:
                max_nm[i, column] = value_e[e]


@njit(cache=True, nogil=True)
def sum_rows(indptr, latent_e, value_e, rows, out_k):
    """Adds the codes of the given rows, each divided by its norm, to out_k {K}."""
    for r in rows:
        square = 0.0
        for e in range(indptr[r], indptr[r + 1]):
            square += np.float64(value_e[e]) * value_e[e]
        if square > 0:
            for e in range(indptr[r], indptr[r + 1]):
                out_k[latent_e[e]] += value_e[e] / np.sqrt(square)


@njit(cache=True, nogil=True)
def best_likeness(indptr, latent_e, value_e, n_patches, templates_km, best_nm):
    """best_nm {N, M}: over an image's patches, the largest cosine of the patch's code with each template."""
    m = templates_km.shape[1]
    dots = np.empty(m)
    for i in range((len(indptr) - 1) // n_patches):
        for r in range(i * n_patches, (i + 1) * n_patches):
            dots[:] = 0.0
            square = 0.0
            for e in range(indptr[r], indptr[r + 1]):
                v = np.float64(value_e[e])
                square += v * v
                k = latent_e[e]
                for j in range(m):
                    dots[j] += v * templates_km[k, j]
            if square > 0:
                for j in range(m):
                    likeness = dots[j] / np.sqrt(square)
                    if likeness > best_nm[i, j]:
                        best_nm[i, j] = likeness


@njit(cache=True, nogil=True)
def group_sums(
    indptr, latent_e, value_e, n_patches, group_n, sum_gk, square_k, fires_k, best_k, stamp_k, touched_k
):
    """Adds each image's largest value of each latent to its group's sum, its square to the latent's, and counts."""
    for i in range((len(indptr) - 1) // n_patches):
        n_touched = 0
        for e in range(indptr[i * n_patches], indptr[(i + 1) * n_patches]):
            k = latent_e[e]
            v = value_e[e]
            if not v > 0:
                continue
            if stamp_k[k] != i:
                stamp_k[k] = i
                best_k[k] = v
                touched_k[n_touched] = k
                n_touched += 1
            elif v > best_k[k]:
                best_k[k] = v
        for j in range(n_touched):
            k = touched_k[j]
            fires_k[k] += 1
            sum_gk[group_n[i], k] += best_k[k]
            square_k[k] += np.float64(best_k[k]) * best_k[k]
