"""Reads sets of CSR latents: the files of a folder, as one, with what belongs to each image."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from saetools.errors import UserError, some_of
from saetools.files.formats import LATENTS
from saetools.latents.file import LatentsFile, heat_grid
from saetools.latents.header import check_same_encoding, latents_name
from saetools.log import logger
from saetools.shards.header import as_paths
from saetools.shards.held_out import check_no_overlap

if TYPE_CHECKING:
    import pandas as pd
    from scipy import sparse

POOLING_MEMORY = 1 << 30  # bytes, before values go to disk


class LatentsSet:
    """Files of latents that belong together, in the order of their shards; its length is the number of images."""

    def __init__(self, files: Sequence[LatentsFile]) -> None:
        self.files = sorted(files, key=lambda file: file.header.shard_index)
        first = self.files[0]
        for other in self.files[1:]:
            check_same_encoding(first.header, first.path, other.header, other.path)
        self.header, self.n_patches, self.n_latents = first.header, first.n_patches, first.n_latents
        self.n_images = sum(file.n_images for file in self.files)

    @property
    def uids(self) -> list[str]:
        return [file.provenance.uid for file in self.files]

    @cached_property
    def paths(self) -> list[str]:
        """The examples' paths {N}: the join key with tables."""
        return [str(path) for file in self.files for path in file.examples.path]

    @cached_property
    def count(self) -> np.ndarray:
        """In how many patches each latent is active {K}, int64."""
        return np.sum([file.count for file in self.files], axis=0)

    def __len__(self) -> int:
        return self.n_images

    def __repr__(self) -> str:
        header = self.header
        return (
            f"LatentsSet({self.n_latents:,} latents of {header.kind} {header.scorer[:8]}, layer {header.layer} of"
            f" {header.source.get('model')}, {self.n_images:,} images x {self.n_patches:,} patches,"
            f" {self.count.sum():,} active, {len(self.files)} files)"
        )

    def to_scipy(self) -> sparse.csr_array:
        """The latents {N * P, K} of all patches, in the type that they are stored in; row = image * P + patch."""
        from scipy import sparse

        parts = [
            sparse.csr_array((values, indices, indptr), (len(indptr) - 1, self.n_latents))
            for indptr, indices, values in (file.images(0, file.n_images) for file in self.files)
        ]
        return sparse.csr_array(sparse.vstack(parts, format="csr"))

    def image_max(self) -> sparse.csc_array:
        """The largest value of each latent in each image {N, K}, without zeros; computed once."""
        return self._image_max

    @cached_property
    def _image_max(self) -> sparse.csc_array:
        from scipy import sparse

        from saetools.latents.columns import Columns  # numba, which most users of this module need not load

        keep = np.ones(self.n_images, bool)
        with tempfile.TemporaryDirectory() as folder:
            columns = Columns(self.files, keep, pooled=True, memory=POOLING_MEMORY, folder=Path(folder))
            with columns:
                blocks = [
                    sparse.csc_array(
                        (block.values, block.rows, block.indptr), (self.n_images, block.n_latents)
                    )
                    for _, block in columns.blocks()
                ]
        return sparse.csc_array(sparse.hstack(blocks, format="csc"))

    def top_images(self, latent: int, n: int = 10) -> pd.DataFrame:
        """The n images with the largest values of a latent, from the largest: columns image, path, target, value.

        image: its number in the set. Of equal values the earlier image is first; images without a value are left out.
        """
        if not 0 <= latent < self.n_latents:
            raise UserError(f"`latent` {latent}: the latents are 0 to {self.n_latents - 1}")
        column = self.image_max()[:, [latent]].tocoo()
        order = np.lexsort((column.row, -column.data))[:n]
        found = self.frame().loc[column.row[order], ["path", "target"]]
        found.insert(0, "image", column.row[order])
        return found.assign(value=column.data[order]).reset_index(drop=True)

    def frame(self) -> pd.DataFrame:
        """A row for each image: path, index, target, rows, columns (of patches), height, width, class; NaN: unknown."""
        import pandas as pd

        return pd.concat([file.examples.frame() for file in self.files], ignore_index=True)

    def heat(self, latent: int, image: int) -> np.ndarray:
        """Values float32 {rows, columns} of a latent at the patches of an image; 0 where it is not active."""
        if not 0 <= image < self.n_images:
            raise UserError(f"`image` {image}: the images are 0 to {self.n_images - 1}")
        file = self.files[0]
        for file in self.files:
            if image < file.n_images:
                break
            image -= file.n_images
        indptr, indices, values = file.images(image, image + 1)
        here = indices == latent
        patch_e = np.repeat(np.arange(self.n_patches), np.diff(indptr))
        rows, columns = (int(edge) for edge in file.examples.grid[image])
        return heat_grid((rows, columns), patch_e[here], values[here])


def open_latents(paths: str | Path | Iterable[str | Path]) -> LatentsSet:
    """Open files of latents, and folders of them; a folder must hold every shard of its data set.

    Raises UserError where one is broken, missing, given twice, or does not belong to the others.
    """
    files: list[LatentsFile] = []
    seen: dict[str, Path] = {}
    for path in as_paths(paths):
        for file in _open_folder(path) if path.is_dir() else [LatentsFile(path)]:
            if (uid := file.provenance.uid) in seen:
                raise UserError(f"{file.path}: the same latents as {seen[uid]}; give every file once")
            seen[uid] = file.path
            files.append(file)
    if not files:
        raise UserError(f"no latents were given; write them with {LATENTS.made_by}")
    return LatentsSet(files)


def check_splits(train: LatentsSet, test: LatentsSet) -> None:
    """Raise UserError unless both were encoded alike, from different images.

    Warns where the scorer was trained on shards of the test side: its results there are no estimate for new images.
    """
    first, other = train.files[0], test.files[0]
    check_same_encoding(first.header, first.path, other.header, other.path)
    check_no_overlap(
        (file.examples for file in train.files), (file.examples for file in test.files), other.path
    )
    if same := [file.path for file in test.files if file.header.trained_on_these]:
        logger.warning(
            "warning: %s: the %s was trained on the activations of %d of the %d test files, so results on them are no"
            " estimate for new images; swap the training and the test latents if they were confused",
            *(same[0], first.header.kind, len(same), len(test.files)),
        )


def _open_folder(folder: Path) -> Iterator[LatentsFile]:
    names = sorted(path.name for path in folder.glob("latents-*.npz"))
    if not names:
        next(folder.iterdir(), None)  # raises PermissionError where glob sees nothing
        raise UserError(
            f"{folder}: it holds no latents ({latents_name(0)}, ...); write them with {LATENTS.made_by}"
        )
    n_shards = LatentsFile(folder / names[0]).header.n_shards
    wanted = [latents_name(index) for index in range(n_shards)]
    missing = [index for index, name in enumerate(wanted) if name not in names]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {n_shards} files are missing (number {some_of(missing, 10)});"
            f" run the same {LATENTS.made_by} command again, or its other slices, to complete it"
        )
    if len(names) > n_shards:
        raise UserError(
            f"{folder}: it holds {len(names)} files where {n_shards} belong together; move the others away"
        )
    for name in names:
        yield LatentsFile(folder / name)
