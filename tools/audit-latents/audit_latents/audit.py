"""Yield: how many of the first B proposals are found again in patch labels H.

    AP_k     = max over the labels h of H of the AP of latent k's values for h, over all labelled patches
    Yield(B) = 1/B #{proposals among the first B with AP >= tau}
    area     = mean of Yield(B) over B = 1 ... the largest budget

Bootstrap: images of H are drawn with replacement, the ranking stays. Null: K is shuffled over its images, and the
latents are ranked anew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saetools.compute.threads import share_out
from saetools.latents.block import Latents, descending
from saetools.metrics.average_precision import latent_average_precision_by_class


@dataclass(frozen=True)
class Patches:
    """class_n {N P} of H's patches, -1 where a patch is ignored; n_patches: P in an image; n_classes: C labels."""

    class_n: npt.NDArray[np.int32]
    n_patches: int
    n_classes: int

    @property
    def n_images(self) -> int:
        return len(self.class_n) // self.n_patches

    def masses(self) -> npt.NDArray[np.int64]:
        """{images, C}: patches of each label."""
        counts = np.zeros((self.n_images, self.n_classes + 1), np.int64)
        image_n = np.repeat(np.arange(self.n_images), self.n_patches)
        np.add.at(counts, (image_n, self.class_n), 1)  # -1 is the last column
        return counts[:, : self.n_classes]


@dataclass(frozen=True)
class ActivePatches:
    """The patches on which a latent is active, in falling order of its value: values, patch labels, images."""

    value_e: npt.NDArray[np.float32]
    class_e: npt.NDArray[np.int32]
    image_e: npt.NDArray[np.int32]

    @staticmethod
    def of(latents: Latents, k: int, patches: Patches) -> ActivePatches:
        run = slice(latents.indptr[k], latents.indptr[k + 1])
        rows, values = latents.rows[run], latents.values[run].astype(np.float32)
        order = descending(values)
        rows = rows[order]
        return ActivePatches(
            values[order], patches.class_n[rows], (rows // patches.n_patches).astype(np.int32)
        )

    def ap(self, weight_n: npt.NDArray[np.int64], mass_c: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """AP for every label, NaN for one without a patch; image n is there weight_n times."""
        ap_c = np.empty(len(mass_c))
        latent_average_precision_by_class(self.value_e, self.class_e, self.image_e, weight_n, mass_c, ap_c)
        return ap_c


@dataclass(frozen=True)
class Audited:
    """ap_kc {K, C}: AP of every latent for every label; active: of the latents in `keep`."""

    ap_kc: npt.NDArray[np.float64]
    active: dict[int, ActivePatches]

    @property
    def best_ap(self) -> npt.NDArray[np.float64]:
        """{K}: the highest AP of each latent; 0 where no label has a patch."""
        return np.nanmax(np.where(np.isnan(self.ap_kc), 0.0, self.ap_kc), axis=1, initial=0.0)


def audit(
    blocks: Iterable[tuple[int, Latents]], n_latents: int, patches: Patches, keep: set[int], threads: int
) -> Audited:
    """AP of all latents, block by block; `keep`: latents whose sorted patches are kept for the bootstrap."""
    ap_kc = np.full((n_latents, patches.n_classes), np.nan)
    found: dict[int, ActivePatches] = {}
    once, mass_c = np.ones(patches.n_images, np.int64), patches.masses().sum(axis=0)

    for first, latents in blocks:

        def run(start: int, stop: int, first: int = first, latents: Latents = latents) -> None:
            for k in range(start, stop):
                active = ActivePatches.of(latents, k, patches)
                ap_kc[first + k] = active.ap(once, mass_c)
                if first + k in keep:
                    found[first + k] = active

        share_out(latents.n_latents, 16, threads, run)
    return Audited(ap_kc, found)


def yields(found: npt.NDArray[np.bool_], n_proposals: int) -> npt.NDArray[np.float64]:
    """Yield(1) ... Yield(n_proposals) along the last axis; proposals that are missing count as not found."""
    padded = np.zeros((*found.shape[:-1], n_proposals))
    padded[..., : found.shape[-1]] = found[..., :n_proposals]
    return padded.cumsum(axis=-1) / np.arange(1, n_proposals + 1)


def bootstrap(
    audited: Audited,
    latents: npt.NDArray[np.int64],
    patches: Patches,
    tau: float,
    resamples: int,
    rng: np.random.Generator,
    threads: int,
) -> npt.NDArray[np.bool_]:
    """{resamples, len(latents)}: whether each proposal has an AP >= tau on images drawn with replacement."""
    n = patches.n_images
    weight_rn = np.zeros((resamples, n), np.int64)
    for weight_n in weight_rn:
        weight_n += np.bincount(rng.integers(0, n, n), minlength=n)
    mass_rc = weight_rn @ patches.masses()
    found = np.zeros((resamples, len(latents)), bool)

    def run(start: int, stop: int) -> None:
        for i in range(start, stop):
            active = audited.active[int(latents[i])]
            for r in range(resamples):
                ap_c = active.ap(weight_rn[r], mass_rc[r])
                found[r, i] = np.any(ap_c >= tau)  # NaN is not

    share_out(len(latents), 1, threads, run)
    return found
