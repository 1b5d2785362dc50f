"""The matrix of a heat map: latents x images, images by group, similar latents next to each other.

Groups are classes, species, genera, or a column of a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from render_visuals.analysis import kernels
from render_visuals.analysis.survey import BLOCK_ACTIVE
from saetools.cli.progress import Progress
from saetools.errors import UserError, near_names
from saetools.files.user_csv import read_user_csv
from saetools.labels.splits import recorded_classes
from saetools.latents.reader import LatentsSet
from saetools.log import logger

NAMES = "class_scientific_names.csv"


@dataclass(frozen=True)
class Groups:
    """order {N}: images sorted by group (of genera: by genus, then species); group_n: each image's number in names."""

    by: str
    order: np.ndarray
    group_n: np.ndarray
    names: list[str]


def group_images(
    by: str, paths: list[str], root: Path | None, table: Path | None, classes: Sequence[str] | None = None
) -> Groups:
    """Group by `class` (one of `classes` for each image; without, the folder), `species` or `genus` (from
    ROOT/class_scientific_names.csv), or by a column of a table that has the column `path` too. Raises UserError where
    a name or column is missing."""
    if table is not None:
        sort_names = group_names = _by_column(table, by, paths)
    elif by == "class":
        sort_names = group_names = list(classes or map(_class_of, paths))
    elif by in ("species", "genus"):
        trees = _scientific_names(root, paths)
        sort_names = [f"{genus}\t{species}" for genus, species in trees]
        group_names = [species if by == "species" else genus for genus, species in trees]
    else:
        raise UserError(
            f"--by {by}: expected class, species or genus; for a column of a table, give the table too, as --by-table"
        )
    order = np.array(sorted(range(len(paths)), key=lambda n: (sort_names[n], n)), np.int64)
    names = list(dict.fromkeys(group_names[n] for n in order))
    number = {name: i for i, name in enumerate(names)}
    return Groups(by, order, np.array([number[name] for name in group_names], np.int64), names)


def image_classes(latents: LatentsSet) -> list[str] | None:
    """The name of each image's class as it was recorded; None where no image has one."""
    names_n = recorded_classes(latents)
    if names_n is None or not any(names_n):
        return None
    return [str(name) or "(no class)" for name in names_n]


def _class_of(path: str) -> str:
    folder = PurePosixPath(path).parent.name
    return folder or "(no folder)"


def _by_column(table_path: Path, column: str, paths: list[str]) -> list[str]:
    table = read_user_csv(table_path, f"a CSV with the columns path and {column}")
    for name in ("path", column):
        if name not in table.header:
            raise UserError(
                f"{table_path}: it has no column {name!r}, which --by {column} needs{near_names(name, table.header)}"
            )
    table.check_once("path", "image")
    value = dict(zip(table.column("path"), table.column(column), strict=True))
    missing = [path for path in paths if path not in value]
    if missing:
        raise UserError(
            f"{table_path}: {len(missing):,} of {len(paths):,} images are not in its column 'path', the first is"
            f" {missing[0]}; paths are relative to the data set's root"
        )
    return [value[path] or "(unknown)" for path in paths]


def _scientific_names(root: Path | None, paths: list[str]) -> list[tuple[str, str]]:
    """(genus, species) of every image. A class without a scientific name is under the last word of its English name,
    which names the kind of bird: Laysan_Albatross with the other albatrosses."""
    if root is None or not (root / NAMES).is_file():
        raise UserError(
            f"{(root or Path('ROOT')) / NAMES}: no such file; --by species and genus need it under --images"
            " (columns cub_class, genus_species); --by class needs nothing"
        )
    table = read_user_csv(root / NAMES, "the columns cub_class and genus_species")
    if not {"cub_class", "genus_species"} <= set(table.header):
        raise UserError(f"{root / NAMES}: it needs the columns cub_class and genus_species")
    table.check_once("cub_class", "class")
    scientific = {
        name: species.replace("_", " ").strip()
        for name, species in zip(table.column("cub_class"), table.column("genus_species"), strict=True)
    }
    names: dict[str, tuple[str, str]] = {}
    unnamed = 0
    for name in {_class_of(path) for path in paths}:
        if scientific.get(name):
            names[name] = (scientific[name].split()[0], scientific[name])
        else:
            unnamed += 1
            english = name.split(".", 1)[-1].replace("_", " ")
            names[name] = (f"({english.split()[-1]})", english)
    if unnamed:
        logger.info(
            "%s names no species for %d of %d classes; these are sorted under the last word of their English name",
            root / NAMES,
            unnamed,
            len(names),
        )
    return [names[_class_of(path)] for path in paths]


@dataclass(frozen=True)
class Matrix:
    """value_mn {M, N}: largest value of each latent in each image, latents by co-occurrence, images by groups.

    latents {M}, images {N}: their numbers, in that order.
    """

    latents: np.ndarray
    images: np.ndarray
    value_mn: np.ndarray


def heat_matrix(latents: LatentsSet, groups: Groups, chosen: list[int] | None, n_latents: int) -> Matrix:
    """The matrix of `chosen` latents, or of the n_latents that best separate the groups."""
    columns = np.array(
        chosen if chosen is not None else separating_latents(latents, groups, n_latents), np.int64
    )
    value_nm = np.zeros((latents.n_images, len(columns)), np.float32)
    column_k = np.full(latents.n_latents, -1, np.int64)
    column_k[columns] = np.arange(len(columns))
    for rows, indptr, latent_e, value_e in _blocks(latents, "reading the latents of the heat map"):
        kernels.image_maxima_of(indptr, latent_e, value_e, latents.n_patches, column_k, value_nm[rows])
    order = seriate(value_nm)
    return Matrix(columns[order], groups.order, value_nm[groups.order][:, order].T.copy())


def separating_latents(latents: LatentsSet, groups: Groups, n: int) -> list[int]:
    """The n latents with the largest share of variance of their images' largest values between groups.

    eta^2 = sum_g n_g (mean_g - mean)^2 / sum_i (z_i - mean)^2. Latents that are active in fewer than 3 images come
    after all others, since a single image is always in one group. If all images are in one group: those of largest
    variance.
    """
    k = latents.n_latents
    sum_gk, square_k = np.zeros((len(groups.names), k)), np.zeros(k)
    best_k, stamp_k, touched_k = np.zeros(k, np.float32), np.full(k, -1, np.int64), np.zeros(k, np.int64)
    fires_k = np.zeros(k, np.int64)
    for rows, indptr, latent_e, value_e in _blocks(latents, "looking for latents that separate the groups"):
        stamp_k[:] = -1
        kernels.group_sums(
            indptr, latent_e, value_e, latents.n_patches, groups.group_n[rows], sum_gk, square_k, fires_k, best_k,
            stamp_k, touched_k,
        )  # fmt: skip
    size_g = np.bincount(groups.group_n, minlength=len(groups.names)).astype(np.float64)
    mean_k = sum_gk.sum(0) / latents.n_images
    total_k = square_k - latents.n_images * mean_k**2
    between_k = (sum_gk**2 / size_g[:, None]).sum(0) - latents.n_images * mean_k**2
    share_k = np.divide(between_k, total_k, out=np.full(k, -1.0), where=(total_k > 1e-12) & (fires_k > 0))
    if len(groups.names) == 1:
        share_k = np.where(fires_k > 0, total_k / max(total_k.max(), 1e-12), -1.0)
    share_k[(fires_k < 3) & (share_k >= 0)] -= 1  # after all others, before those that are never active
    order = np.argsort(-share_k, kind="stable")[: min(n, k)]
    return sorted(int(latent) for latent in order if fires_k[latent] > 0)


def seriate(value_nm: np.ndarray) -> np.ndarray:
    """An order of the columns in which those that co-occur are near each other.

    Average linkage on 1 - correlation, leaves in the order with the smallest sum of distances between neighbours
    (Bar-Joseph et al., Bioinformatics 2001). Constant columns come last.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    centred_nm = value_nm - value_nm.mean(0, dtype=np.float64)
    norm_m = np.sqrt((centred_nm**2).sum(0))
    live = np.flatnonzero(norm_m > 0)
    constant = np.flatnonzero(norm_m == 0)
    if len(live) < 3:
        return np.concatenate([live, constant])
    unit_nm = centred_nm[:, live] / norm_m[live]
    distance_mm = np.clip(1 - unit_nm.T @ unit_nm, 0, 2)
    np.fill_diagonal(distance_mm, 0)
    tree = linkage(squareform(distance_mm, checks=False), "average", optimal_ordering=True)
    return np.concatenate([live[leaves_list(tree)], constant])


def _blocks(latents: LatentsSet, what: str) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """(images, indptr, latents, values) of all images, a block at a time."""
    first = 0
    with Progress(what, total=latents.n_images, unit="images") as progress:
        for file in latents.files:
            for start, stop in file.blocks(BLOCK_ACTIVE):
                indptr, latent_e, value_e = file.images(start, stop)
                yield (
                    slice(first + start, first + stop),
                    indptr,
                    np.asarray(latent_e),
                    np.asarray(value_e, np.float32),
                )
                progress.advance(stop - start)
            first += file.n_images
