"""Files with one fault each: what to do to a sound one, what check-files says of it, and who must refuse it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import h5py
import numpy as np
from edited_files import edit_hdf5

from saetools.files.tables import write_sidecar
from saetools.shards.dtypes import row_sums
from saetools.shards.reader import Shard

FIRST, SECOND = "shard-000000.h5", "shard-000001.h5"


@dataclass(frozen=True)
class Kind:
    """break_it: spoils the folder with the sound files acts/ (two shards), other/ (of another model), sae.h5,
    latents/, ap.csv. target: what check-files is given. says: words of its verdict. deep: needs --deep.
    """

    break_it: Callable[[Path], object]
    target: str
    says: str
    deep: bool = False


def cut(name: str, n_bytes: int) -> Callable[[Path], object]:
    """Only the first n_bytes are left; negative: all but the last."""

    def break_it(root: Path) -> None:
        path = root / name
        path.write_bytes(path.read_bytes()[:n_bytes])

    return break_it


def edit(name: str, change: Callable[[h5py.File], object]) -> Callable[[Path], object]:
    def break_it(root: Path) -> None:
        with edit_hdf5(root / name) as file:
            change(file)

    return break_it


def set_attribute(name: str, attribute: str, value: object) -> Callable[[Path], object]:
    return edit(name, lambda file: file.attrs.__setitem__(attribute, value))


def replace(
    name: str, dataset: str, change: Callable[[np.ndarray], np.ndarray], **how: object
) -> Callable[[Path], object]:
    """Another data set in place of one of the file's."""

    def break_it(file: h5py.File) -> None:
        values, attributes = change(file[dataset][...]), dict(file[dataset].attrs)
        del file[dataset]
        file.create_dataset(dataset, data=values, **how).attrs.update(attributes)

    return edit(name, break_it)


def flip_a_byte(root: Path) -> None:
    path = root / "acts" / SECOND
    offset = Shard(path).stored(3).offset + 77
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def write_nan(root: Path) -> None:
    """NaN as a writer without checks would leave it: sums and digests fit."""
    path = root / "acts" / SECOND
    with edit_hdf5(path) as file:
        acts = file["layer_3/patches"][...]
        acts[1, 2, 3] = np.nan
        file["layer_3/patches"][...] = acts
        file["layer_3/sums"][...] = row_sums(acts)
        digests = json.loads(file.attrs["digests"])
        for name in ("layer_3/patches", "layer_3/sums"):
            digests[f"/{name}"] = f"sha256:{sha256(file[name][...].data).hexdigest()}"
        file.attrs["digests"] = json.dumps(digests)


def copy(source: str, target: str) -> Callable[[Path], object]:
    return lambda root: shutil.copy(root / source, root / target)


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: (root / name).unlink()


def rewrite(name: str, change: Callable[[str], str]) -> Callable[[Path], object]:
    return lambda root: (root / name).write_text(change((root / name).read_text()))


def rewrite_bytes(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda root: (root / name).write_bytes(change((root / name).read_bytes()))


SHARDS = {
    "cut short": Kind(cut(f"acts/{SECOND}", -500), f"acts/{SECOND}", "cut short"),
    "empty": Kind(cut(f"acts/{SECOND}", 0), f"acts/{SECOND}", "not an HDF5 file"),
    "another kind of file": Kind(
        lambda root: (root / "acts" / SECOND).write_text("path,class\n"), f"acts/{SECOND}", "not an HDF5 file"
    ),
    "missing": Kind(remove(f"acts/{FIRST}"), "acts", "1 of 2 shards are missing: number 0"),
    "of another model": Kind(copy(f"other/{SECOND}", f"acts/{SECOND}"), "acts", "mixed settings"),
    "other settings": Kind(
        set_attribute(f"acts/{SECOND}", "settings", '{"test": "another"}'), "acts", "mixed settings"
    ),
    "a copy of another": Kind(
        copy(f"acts/{FIRST}", f"acts/{SECOND}"), f"acts/{SECOND}", "by its header it is number 0"
    ),
    "of a later version": Kind(
        set_attribute(f"acts/{SECOND}", "format_version", 3), f"acts/{SECOND}", "found version 3"
    ),
    "of another format": Kind(
        set_attribute(f"acts/{SECOND}", "format", "saetools-future"), f"acts/{SECOND}", "saetools-future"
    ),
    "not complete": Kind(
        set_attribute(f"acts/{SECOND}", "complete", False), f"acts/{SECOND}", "not complete"
    ),
    "without an attribute": Kind(
        edit(f"acts/{SECOND}", lambda file: file.attrs.__delitem__("hook")),
        f"acts/{SECOND}",
        "'hook' is missing",
    ),
    "without a data set": Kind(
        edit(f"acts/{SECOND}", lambda file: file.__delitem__("examples/target")),
        f"acts/{SECOND}",
        "/examples/target is missing",
    ),
    "fewer images than examples": Kind(
        replace(f"acts/{SECOND}", "layer_3/patches", lambda acts: acts[:-1]), f"acts/{SECOND}", "19"
    ),
    "in chunks": Kind(
        replace(f"acts/{SECOND}", "layer_3/patches", lambda acts: acts, chunks=(1, 9, 16)),
        f"acts/{SECOND}",
        "stored in chunks",
    ),
    "of an unknown type": Kind(
        edit(f"acts/{SECOND}", lambda file: file["layer_3/patches"].attrs.__setitem__("dtype", "float8")),
        f"acts/{SECOND}",
        "'float8'",
    ),
    "a grid that does not fit": Kind(
        replace(f"acts/{SECOND}", "examples/grid", lambda grid: grid + 1),
        f"acts/{SECOND}",
        "but there are 9 patches",
    ),
    "a size of nothing": Kind(
        replace(f"acts/{SECOND}", "examples/size", lambda size: size * np.int32([1, 0])),
        f"acts/{SECOND}",
        "/examples/size",
    ),
    "images out of order": Kind(
        replace(f"acts/{SECOND}", "examples/index", lambda index: index[::-1].copy()),
        f"acts/{SECOND}",
        "ascend",
    ),
    "a flipped bit": Kind(flip_a_byte, f"acts/{SECOND}", "the digest of /layer_3/patches", deep=True),
    "NaN": Kind(write_nan, f"acts/{SECOND}", "1 NaN or infinite activations", deep=True),
}

SCORERS = {
    "cut short": Kind(cut("sae.h5", -300), "sae.h5", "cut short"),
    "of a later version": Kind(set_attribute("sae.h5", "format_version", 9), "sae.h5", "found version 9"),
    "without its encoder": Kind(
        edit("sae.h5", lambda file: file.__delitem__("W_enc")), "sae.h5", "/W_enc is missing"
    ),
    "NaN": Kind(replace("sae.h5", "W_dec", lambda w: w * np.nan), "sae.h5", "NaN"),
    "another size": Kind(replace("sae.h5", "b_enc", lambda b: b[:-1]), "sae.h5", "/b_enc has shape"),
}

LATENTS = {
    "cut short": Kind(cut("latents/latents-000001.npz", -200), "latents/latents-000001.npz", "whole .npz"),
    "missing": Kind(remove("latents/latents-000001.npz"), "latents", "1 of 2 files are missing"),
}


def broken_tables(name: str) -> dict[str, Kind]:
    """Of the table `name`, which has at least three columns, and of its sidecar."""
    return {
        "without its sidecar": Kind(remove(f"{name}.json"), name, f"{name}.json is missing"),
        "its sidecar cut short": Kind(cut(f"{name}.json", -20), name, f"{name}.json is not JSON"),
        "cut short": Kind(cut(name, -7), name, "its last line is not complete"),
        "with the line ends of Windows": Kind(
            rewrite_bytes(name, lambda text: text.replace(b"\n", b"\r\n")),
            name,
            "CRLF, as git (core.autocrlf)",
        ),
        "saved by Excel": Kind(
            rewrite_bytes(name, lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")),
            name,
            "CRLF and a byte order mark",
        ),
        "a digit changed": Kind(
            rewrite(name, lambda text: text.rstrip("\n") + "1\n"), name, "it was edited or cut short"
        ),
        "cut at the end of a line": Kind(
            rewrite(name, lambda text: text.rstrip("\n").rpartition("\n")[0] + "\n"),
            name,
            f"its SHA-256 is not the one in {name}.json: it was edited or cut short",
        ),
        "of a later version": Kind(
            lambda root: write_sidecar(
                root / name, {**json.loads((root / f"{name}.json").read_text()), "format_version": 7}
            ),
            name,
            "found version 7",
        ),
        "a line too short": Kind(
            rewrite(name, lambda text: text.rstrip("\n").rpartition("\n")[0] + "\nconst,1\n"),
            name,
            "it was edited or cut short",
        ),
    }


TABLES = broken_tables("ap.csv")


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file below a folder: what a command that fails leaves as it was."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
