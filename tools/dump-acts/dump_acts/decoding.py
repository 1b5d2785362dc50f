"""Decodes images and masks in worker processes, into model input and patch labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dump_acts.patch_labels import LabelSettings, check_upright, label_patches, read_mask
from saetools.cli.process import end_with_parent, starting_workers
from saetools.errors import UserError
from saetools.vision.image_sets import ImageSet
from saetools.vision.models import LayerShape
from saetools.vision.pictures import deep_grey_range, open_image, picture_digest, rgb_picture
from saetools.vision.preprocess import Preprocess


@dataclass(frozen=True)
class Decoding:
    """How images become model input, and masks become patch labels for layers of these shapes."""

    preprocess: Preprocess
    shapes: Sequence[LayerShape]
    labels: LabelSettings | None = None


@dataclass(frozen=True)
class Picture:
    """A decoded image: model input pixels uint8 {height, width, 3}; size (height, width) and digest before resizing;
    patch labels uint16 {P} for each stride, where there is a mask.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    digest: str
    labels: dict[int, np.ndarray]


@dataclass
class Group:
    """The images of a batch that have one input size: their positions in the batch {b}, pixels uint8
    {b, height, width, 3}, sizes {b, 2} and digests {b} before resizing, and patch labels uint16 {b, P} for each stride.
    """

    places: list[int]
    pixels: torch.Tensor
    sizes: np.ndarray
    digests: np.ndarray
    labels: dict[int, np.ndarray]

    def pin_memory(self) -> Group:
        self.pixels = self.pixels.pin_memory()
        return self


@dataclass
class Batch:
    """Consecutive images. faults: position in the batch -> why that image cannot be used."""

    groups: list[Group]
    faults: dict[int, str]

    def pin_memory(self) -> Batch:
        for group in self.groups:
            group.pin_memory()
        return self


class Pictures(torch.utils.data.Dataset):
    """Item i: image i decoded, or the reason why it cannot be."""

    def __init__(self, images: ImageSet, decoding: Decoding) -> None:
        self.images, self.decoding = images, decoding

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Picture | str:
        path, preprocess = self.images.root / self.images.path[i], self.decoding.preprocess
        has_mask = self.images.mask is not None and self.decoding.labels is not None
        try:
            with open_image(path, preprocess) as image:
                if has_mask:
                    check_upright(path, image)
                if deep_grey_range(image) is not None and preprocess.deep_grey is None:
                    return (
                        f"{path}: a grey image of more than 8 bits whose name ends like another file format;"
                        " rename it to .png or .tif"
                    )
                picture = rgb_picture(image, path)
            pixels, digest = preprocess.pixels(picture), picture_digest(picture)
            width, height = picture.size
            if self.images.mask is None or self.decoding.labels is None:
                return Picture(pixels, (height, width), digest, {})
            path = self.images.root / self.images.mask[i]
            mask_hw = read_mask(path, preprocess, (width, height))
        except UserError as error:
            return str(error)
        return Picture(pixels, (height, width), digest, self._labels(mask_hw, self.decoding.labels))

    def _labels(self, mask_hw: np.ndarray, settings: LabelSettings) -> dict[int, np.ndarray]:
        found = {}
        for shape in self.decoding.shapes:
            if shape.stride not in found:
                grid = shape.rows, shape.columns
                if self.decoding.preprocess.native is not None:
                    grid = mask_hw.shape[0] // shape.stride, mask_hw.shape[1] // shape.stride
                found[shape.stride] = label_patches(mask_hw, grid, shape.stride, settings)
        return found


def decode(
    images: ImageSet, decoding: Decoding, batches: Sequence[Sequence[int]], workers: int, pin: bool
) -> Iterator[Batch]:
    """The batches of images in order, decoded ahead by worker processes, which start at once."""
    loader = torch.utils.data.DataLoader(
        Pictures(images, decoding),
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=min(workers, len(batches)),
        collate_fn=collate,
        worker_init_fn=end_with_parent,
        pin_memory=pin,
    )
    with starting_workers():
        return iter(loader)


def collate(items: Sequence[Picture | str]) -> Batch:
    """Group pictures by input size: a batch has one group for each size."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    faults = {}
    for place, item in enumerate(items):
        if isinstance(item, str):
            faults[place] = item
        else:
            by_size.setdefault(item.pixels.shape, []).append(place)
    groups = []
    for places in by_size.values():
        chosen = [item for place in places if isinstance(item := items[place], Picture)]
        labels = {
            stride: np.stack([picture.labels[stride] for picture in chosen]) for stride in chosen[0].labels
        }
        pixels = torch.from_numpy(np.stack([picture.pixels for picture in chosen]))
        sizes = np.array([picture.size for picture in chosen], np.int32)
        digests = np.array([picture.digest for picture in chosen])
        groups.append(Group(places, pixels, sizes, digests, labels))
    return Batch(groups, faults)
