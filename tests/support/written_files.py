"""What a tool wrote, without what differs from run to run: to compare the files of two runs."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

# Where a file comes from, not what is in it. Settings are compared by their effect.
UNEQUAL = {"uid", "parents", "command", "settings", "tool_version", "sha256", "bytes"}
UID = re.compile(r"\b[0-9a-f]{32}\b")
RATES = ["tokens_per_second", "read_mb_per_second"]  # columns of training metrics


def digests(
    folder: Path, places: Sequence[tuple[bytes, bytes]], paths: Iterable[Path] | None = None
) -> dict[str, str]:
    """The digest of the contents of each file below a folder; of HDF5 and NPZ files one for each part.

    places: paths that differ between the folders, and what stands for each. paths: only of these files.
    """
    found = {}
    for path in paths or sorted(p for p in folder.rglob("*") if p.is_file()):
        for part, content in _parts(path):
            name = f"{path.relative_to(folder)}{part}"
            for place, standing_for_it in places:
                content = content.replace(place, standing_for_it)
            found[name] = hashlib.sha256(content).hexdigest()[:16]
    return found


def _parts(path: Path) -> Iterator[tuple[str, bytes]]:
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            yield "", _plain(dict(file.attrs))
            names: list[str] = []
            file.visit(names.append)
            for name in names:
                yield f":{name}@", _plain(dict(file[name].attrs))
                if isinstance(file[name], h5py.Dataset):
                    data = file[name][()]
                    text = data.tobytes() if data.dtype != object else repr(data.tolist()).encode()
                    yield f":{name}", str((data.dtype, data.shape)).encode() + text
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as members:
            for name in members.namelist():
                content = members.read(name)
                if name == "saetools.npy":  # the provenance
                    content = _text(str(np.load(io.BytesIO(content))))
                yield f":{name}", content
    elif path.suffix in {
        ".csv",
        ".json",
        ".svg",
        ".js",
        ".html",
        ".mk",
        ".txt",
        ".sh",
        ".sbatch",
        ".stdout",
        ".safetensors",
    }:
        yield "", _text(path.read_bytes().decode(errors="surrogateescape"))
    elif path.suffix in {
        ".jpg",
        ".png",
    }:  # pixels: beside them stand the times of the files they were made from
        with Image.open(path) as image:
            yield "", str((image.mode, image.size)).encode() + image.tobytes()
    else:
        yield "", path.read_bytes()


def _text(text: str) -> bytes:
    """Text without its uids and without the rates and dates of the run; JSON without provenance."""
    try:
        return _plain(json.loads(text))
    except json.JSONDecodeError:
        pass
    lines = text.split("\n")
    if dropped := [i for i, name in enumerate(lines[0].split(",")) if name in RATES]:
        lines = [",".join(v for i, v in enumerate(line.split(",")) if i not in dropped) for line in lines]
    text = UID.sub("UID", "\n".join(lines))
    text = re.sub(r"<dc:date>.*?</dc:date>", "", text)
    return text.encode(errors="surrogateescape")


def _plain(values: Any) -> bytes:
    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(v) for key, v in value.items() if key not in UNEQUAL}
        if isinstance(value, list):
            return [clean(v) for v in value]
        if isinstance(value, bytes):
            value = value.decode()
        if isinstance(value, np.generic | np.ndarray):
            value = value.tolist()
        if isinstance(value, str):
            return UID.sub("UID", value)
        return value

    return json.dumps(clean(values), sort_keys=True, default=str).encode()
