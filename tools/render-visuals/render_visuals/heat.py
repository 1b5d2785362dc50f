"""The values of chosen latents at the patches of chosen images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from render_visuals.kernels import events
from saetools.latents.reader import LatentsFile, LatentsSet
from saetools.vision.model_input import Recorded


@dataclass(frozen=True)
class Heat:
    """For pairs (latent, image) in the order they were asked for: the patches at which the latent fires.

    ptr {pairs + 1}; patch_e uint16, ascending within a pair; value_e float32
    """

    ptr: np.ndarray
    patch_e: np.ndarray
    value_e: np.ndarray

    def of(self, pair: int) -> tuple[np.ndarray, np.ndarray]:
        """(patches, values) of one pair."""
        here = slice(int(self.ptr[pair]), int(self.ptr[pair + 1]))
        return self.patch_e[here], self.value_e[here]


class ImagePlaces:
    """Finds image n of a set in its files, and what they say of it; size_n2 is 0 where it was not recorded."""

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


def gather_heat(
    latents: LatentsSet, places: ImagePlaces, latent_of_pair: np.ndarray, image_of_pair: np.ndarray
) -> Heat:
    """The pairs are all different. Reads only the images that are asked for."""
    n_pairs = len(image_of_pair)
    slot_k = np.full(latents.n_latents, -1, np.int64)
    pairs, patches, values = [], [], []
    for image, asked in _by_image(image_of_pair):
        file, i = places.file(image)
        indptr, latent_e, value_e = file.images(i, i + 1)
        pair_out = np.empty(len(latent_e), np.int64)
        patch_out, value_out = np.empty(len(latent_e), np.uint16), np.empty(len(latent_e), np.float32)
        slot_k[latent_of_pair[asked]] = asked
        n = events.gather_image(
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
    return Heat(
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
