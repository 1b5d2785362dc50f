"""Checks of single files, by format: a known format and version, and contents that are whole.

A check takes a file and whether to read every byte (`--deep`), returns its `Facts`, and raises UserError with what is
wrong. Shards are in `check_files.shards`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from saetools.errors import UserError
from saetools.files.formats import Format
from saetools.files.hdf5 import open_hdf5
from saetools.files.npz import npz_header, read_npz
from saetools.files.provenance import Provenance
from saetools.files.reading import reading
from saetools.files.tables import read_csv, sidecar_values
from saetools.latents.file import LatentsFile
from saetools.latents.reader import open_latents
from saetools.scorers.file import load_scorer
from saetools.scorers.head import load_head

ANY = Format("any format of saetools", 1, "the tool that made it")
SUFFIXES = (".h5", ".npz", ".csv")
STATE_SUFFIX = ".training"  # of the hidden HDF5 file from which train-sae resumes
SAEV_SUFFIX = ".pt"
ACTIVE_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Facts:
    """About a file that is whole.

    summary: for a person. uid, parents: of its provenance. source: the model of its activations (model, weights, hook,
    preprocess), where the file has it.
    """

    summary: str
    uid: str
    parents: Sequence[str] = ()
    source: Mapping[str, Any] = field(default_factory=dict)


def format_name(path: Path) -> str:
    """The format named in a file; raises UserError where it is not a whole HDF5, NPZ or CSV file of ours."""
    if path.suffix == ".csv":
        found: Any = sidecar_values(path).get("format")
    elif path.suffix == ".npz":
        found = npz_header(path).get("format")
    elif path.suffix in (".h5", STATE_SUFFIX):
        with open_hdf5(path, ANY) as file:
            found = file.attrs.get("format")
    else:
        raise UserError(
            f"{path}: not a file of saetools; their names end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]};"
            " SAEs of other libraries are .pt files of saev and folders of SAELens"
        )
    if found is None:
        raise UserError(f"{path}: it names no format; not a file of saetools, or an attribute was lost")
    return found.decode() if isinstance(found, bytes) else str(found)


def check_container(path: Path, format: Format, deep: bool) -> Facts:
    """Formats with no more to check than any HDF5, NPZ or CSV file of ours."""
    check = {".csv": _check_csv, ".npz": _check_npz}.get(path.suffix, _check_hdf5)
    return check(path, format, deep)


def check_scorer(path: Path, deep: bool) -> Facts:  # noqa: ARG001
    """Everything that its readers need, sizes, NaN. A scorer is small, so all of it is always read."""
    found = load_scorer(path)
    trained_on = {name: found.trained_on.get(name) for name in ("model", "weights", "hook", "preprocess")}
    source = trained_on if all(value is not None for value in trained_on.values()) else {}
    summary = f"scorer of kind {found.kind}, {found.scorer.n_prototypes} prototypes of width {found.d_model}"
    return Facts(summary, found.provenance.uid, found.provenance.parents, source)


def check_head(path: Path, deep: bool) -> Facts:  # noqa: ARG001
    """Everything that its reader needs; a head is small, too."""
    found = load_head(path)
    source = {name: found.trained_on[name] for name in ("model", "weights", "hook", "preprocess")}
    classes = "classes" if found.link == "softmax" else "traits"
    summary = f"head of {len(found.names)} {classes}, {found.tokens} of layer {found.layer}"
    return Facts(summary, found.provenance.uid, found.provenance.parents, source)


def check_latents(path: Path, deep: bool) -> Facts:
    """Sizes; with `deep` every member's CRC-32, the order of the latents in a row, and NaN."""
    found = LatentsFile(path)
    if deep:
        _check_members(path)
        for start, stop in found.blocks(ACTIVE_AT_ONCE):
            _, _, values = found.images(start, stop)
            if not np.isfinite(values).all():
                raise UserError(f"{path}: values of images {start} to {stop - 1} hold NaN or infinity")
    summary = (
        f"latents of {found.n_images} images, {found.n_latents} latents, {found.n_active} active latents"
    )
    return Facts(summary, found.provenance.uid, found.provenance.parents, found.header.source)


def check_folder_of_latents(folder: Path, deep: bool) -> list[Facts | tuple[Path, UserError]]:
    """Facts of the whole folder first, then of each file; where something is wrong, (path, error) is in the list."""
    found: list[Facts | tuple[Path, UserError]] = []
    for path in sorted(folder.glob("latents-*.npz")):
        try:
            found.append(check_latents(path, deep))
        except UserError as error:
            found.append((path, error))
    if any(not isinstance(item, Facts) for item in found):
        return found
    try:
        files = open_latents([folder])
    except UserError as error:
        return [*found, (folder, error)]
    summary = f"{len(files.files)} files, latents of {files.n_images} images, {files.n_latents} latents"
    return [Facts(summary, ""), *found]


def _check_hdf5(path: Path, format: Format, deep: bool) -> Facts:
    """Provenance; with `deep` that every data set can be read and holds no NaN."""
    with open_hdf5(path, format) as file:
        provenance = Provenance.from_attributes(file.attrs, format, path)
        if deep:
            file.visititems(lambda name, item: _check_readable(path, name, item))
    return Facts(format.name, provenance.uid, provenance.parents)


def _check_npz(path: Path, format: Format, deep: bool) -> Facts:
    """All bytes, whose seal is compared, and provenance; with `deep` the CRC-32 of every member, which numpy reads."""
    provenance, _ = read_npz(path, format)
    if deep:
        _check_members(path)
    return Facts(format.name, provenance.uid, provenance.parents)


def _check_csv(path: Path, format: Format, deep: bool) -> Facts:
    """SHA-256 and number of rows; with `deep` that no cell is NaN (an empty cell means no value)."""
    table, provenance = read_csv(path, format)
    if deep:
        for name in table.columns:
            for row in np.flatnonzero(table[name].astype(str).str.lower().eq("nan") & table[name].notna()):
                raise UserError(
                    f"{path}: row {row + 1} holds NaN in the column {name!r}; no value is written as an empty cell"
                )
    return Facts(f"{format.name}, {len(table)} rows", provenance.uid, provenance.parents)


def _check_members(path: Path) -> None:
    """Read every member of an NPZ, which compares it with its CRC-32."""
    with reading(path, "write it again"), zipfile.ZipFile(path) as members:
        if (broken := members.testzip()) is not None:
            raise UserError(f"{path}: the member {broken} is damaged: its CRC-32 differs")


def _check_readable(path: Path, name: str, item: h5py.Group | h5py.Dataset) -> None:
    if not isinstance(item, h5py.Dataset):
        return
    values = item[...]
    if np.issubdtype(item.dtype, np.floating) and np.isnan(values).any():
        raise UserError(f"{path}: /{name} holds NaN")
