"""Checks of activation shards: single files, and folders, which should hold every shard of a recording."""

from __future__ import annotations

import hashlib
from pathlib import Path

import h5py
import numpy as np

from check_files.files import Facts
from saetools.errors import UserError, some_of
from saetools.files.formats import SHARDS
from saetools.files.hdf5 import open_hdf5
from saetools.files.provenance import first_difference
from saetools.shards.dtypes import to_tensor
from saetools.shards.header import shard_name
from saetools.shards.reader import Shard

BYTES_AT_ONCE = 64 * 2**20


def check_shard(path: Path, deep: bool) -> Facts:
    """Format, sizes, order of the images; with `deep` the SHA-256 of every data set, and NaN."""
    shard = Shard(path)
    with open_hdf5(path, SHARDS) as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        if unsigned := [name for name in names if f"/{name}" not in shard.digests]:
            raise UserError(f"{path}: /{unsigned[0]} has no digest in the attribute 'digests'")
        if gone := [name for name in shard.digests if name.removeprefix("/") not in names]:
            raise UserError(f"{path}: {gone[0]} is missing, though the attribute 'digests' has it")
        if deep:
            for name in names:
                _check_digest(path, file[name], shard.digests[f"/{name}"])
    if deep:
        for layer in shard.header.layers:
            _check_finite(shard, layer)
    return Facts(describe([shard]), shard.provenance.uid, shard.provenance.parents, shard.header.source())


def check_folder_of_shards(folder: Path, deep: bool) -> list[Facts | tuple[Path, UserError]]:
    """Facts of the whole folder first, then of each shard; where something is wrong, (path, error) is in the list."""
    paths = sorted(folder.glob("shard-*.h5"))
    shards: list[Shard] = []
    found: list[Facts | tuple[Path, UserError]] = []
    for path in paths:
        try:
            found.append(check_shard(path, deep))
            shards.append(Shard(path))
        except UserError as error:
            found.append((path, error))
    if shards:
        try:
            _check_together(folder, shards, {path.name for path in paths})
        except UserError as error:
            found.append((folder, error))
    if all(isinstance(item, Facts) for item in found):
        return [Facts(describe(shards), ""), *found]
    return found


def describe(shards: list[Shard]) -> str:
    header = shards[0].header
    n_skipped = sum(len(shard.skipped) for shard in shards)
    counts = f"{len(shards)} shards, " if len(shards) > 1 else ""
    skipped = f", {n_skipped} left out as broken" if n_skipped else ""
    layers = some_of([f"{n} {shards[0].shape(n)}" for n in header.layers], 3)
    n_images = sum(shard.n_images for shard in shards)
    return f"{counts}{n_images} images{skipped}, {header.model}, layers (patches, width) {layers}"


def _check_together(folder: Path, shards: list[Shard], names: set[str]) -> None:
    first = shards[0]
    for other in shards[1:]:
        if difference := first_difference(first.provenance.settings, other.provenance.settings):
            raise UserError(
                f"{folder}: mixed settings: {first.path.name} and {other.path.name} differ in {difference}"
            )
    wanted = [shard_name(index) for index in range(first.header.n_shards)]
    if missing := [index for index, name in enumerate(wanted) if name not in names]:
        raise UserError(
            f"{folder}: {len(missing)} of {len(wanted)} shards are missing: number {some_of(missing, 20)}"
        )
    if surplus := sorted(names - set(wanted)):
        raise UserError(f"{folder}: {surplus[0]} is not one of the {len(wanted)} shards of this recording")
    uids: dict[str, Path] = {}
    for shard in shards:
        if (uid := shard.provenance.uid) in uids:
            raise UserError(f"{folder}: {shard.path.name} is a copy of {uids[uid].name}")
        uids[uid] = shard.path
    if len(shards) == len(wanted):
        n_images = sum(shard.n_images + len(shard.skipped) for shard in shards)
        if n_images != first.header.n_examples_total:
            raise UserError(f"{folder}: the shards hold {n_images} images of {first.header.n_examples_total}")


def _check_digest(path: Path, dataset: h5py.Dataset, expected: str) -> None:
    digest = hashlib.sha256()
    if (text := h5py.check_string_dtype(dataset.dtype)) is not None and text.length is None:
        digest.update("\n".join(dataset.asstr()[:] if len(dataset) else []).encode())
    else:
        rows = max(1, BYTES_AT_ONCE // max(1, dataset.nbytes // max(1, len(dataset))))
        for start in range(0, len(dataset), rows):
            digest.update(np.ascontiguousarray(dataset[start : start + rows]).data)
    if (found := f"sha256:{digest.hexdigest()}") != expected:
        raise UserError(
            f"{path}: the digest of {dataset.name} is {found[:19]}..., but {expected[:19]}... was recorded:"
            " it was damaged or changed"
        )


def _check_finite(shard: Shard, layer: int) -> None:
    if shard.dtype(layer) == "int8":
        return
    stored = shard.stored(layer)
    for start in range(0, len(stored), 16):
        values = to_tensor(np.array(stored[start : start + 16]), shard.dtype(layer)).float()
        if not bool(values.isfinite().all()):
            raise UserError(
                f"{shard.path}: layer {layer} holds {int((~values.isfinite()).sum())} NaN or infinite activations,"
                f" the first in image {shard.examples.path[start + int((~values.isfinite()).nonzero()[0, 0])]}"
            )
