"""Every reader of every format, in a long-lived process that the campaign gives damaged files to.

A request names the format and the places of the sound and the damaged copy; the answer says what became of each
reader of that format and of check-files --deep: refused, same, different, crashed.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import resource
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

MEMORY = 3 << 30  # bytes more than after the imports


# --- what a reader gives, as a digest ------------------------------------------------------------------------


def digest(values: Any) -> str:
    """The digest of nested values, to the last bit."""
    found = hashlib.sha256()
    for part in _parts(values):
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def _parts(values: Any) -> Iterator[bytes]:
    yield type(values).__name__.encode()
    if isinstance(values, np.ndarray):
        yield f"{values.dtype} {values.shape}".encode()
        yield repr(values.tolist()).encode() if values.dtype.hasobject else values.tobytes()
    elif isinstance(values, Mapping):
        for key, value in sorted(values.items(), key=lambda item: str(item[0])):
            yield str(key).encode()
            yield from _parts(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _parts(value)
    elif is_dataclass(values):
        for field in fields(values):
            yield from _parts(getattr(values, field.name))
    elif hasattr(values, "contents"):  # a scorer
        yield from _parts(values.contents())
    elif hasattr(values, "indptr"):  # sparse
        yield from _parts([values.shape, values.indptr, values.indices, values.data])
    elif hasattr(values, "numpy"):  # a tensor
        yield from _parts(values.detach().float().numpy())
    elif hasattr(values, "to_csv"):  # a table
        yield from _parts([list(map(str, values.columns)), values.to_csv(index=False), values.attrs])
    else:
        yield repr(values).encode()


# --- readers: each takes the folder or file that was copied ---------------------------------------------------


def read_shards(place: Path) -> Any:
    from saetools.shards.reader import open_shards

    found = open_shards(place)
    layers = {
        layer: [found.read(layer), *((s.labels(layer), s.grid(layer), s.scale(layer)) for s in found.shards)]
        for layer in found.header.layers
    }
    return [layers, found.frame(), *((s.header, s.provenance, s.skipped) for s in found.shards)]


def read_tokens(place: Path) -> Any:
    from saetools.shards.reader import open_shards

    found = open_shards(place)
    layer = found.header.layers[0]
    shards = [(shard, shard.n_images * shard.shape(layer)[0]) for shard in found.shards]
    return [shard.tokens(layer, np.arange(0, n_tokens, 7)) for shard, n_tokens in shards]


def read_scorer(place: Path) -> Any:
    from saetools.scorers.file import load_scorer

    return load_scorer(place)


def read_state(place: Path) -> Any:
    """The settings are those of the sound file, which a second run has too."""
    from train_sae.resuming import load_state

    settings = json.loads((place / "settings.json").read_text())
    return load_state(place / "stopped.h5", settings)


def read_latents(place: Path) -> Any:
    from saetools.latents.reader import open_latents

    found = open_latents(place)
    return [
        found.to_scipy(),
        found.frame(),
        found.count,
        *((f.labels, f.header, f.provenance) for f in found.files),
    ]


def read_pooled(place: Path) -> Any:
    from saetools.latents.reader import open_latents

    return open_latents(place).image_max()


def read_scores(place: Path) -> Any:
    from score_traits.scores import ScoreFile

    found = ScoreFile(place)
    return [[block for _, block in found.blocks()], found.rows(0, found.n_rows), found.n_prototypes]


def read_probes(place: Path) -> Any:
    from fit_probes.probe_file import load_probes

    provenance, probes = load_probes(place)
    return [provenance, probes]


def read_head(place: Path) -> Any:
    from saetools.scorers.head import load_head

    return load_head(place)


def read_predictions(place: Path) -> Any:
    from saetools.latents.edit_predictions import read_edit_predictions

    return read_edit_predictions(place)


def read_table(place: Path) -> Any:
    from saetools import read_table

    return read_table(next(place.glob("*.csv")))


def read_weights(place: Path) -> Any:
    from saetools.vision.models import load_model

    return load_model("timm/test_vit2", weights=place)


def read_image(place: Path) -> Any:
    from saetools.vision.pictures import open_picture

    return np.asarray(open_picture(place))


READERS: Mapping[str, Mapping[str, Callable[[Path], Any]]] = {
    "shards": {"open_shards": read_shards, "tokens": read_tokens},
    "scorers": {"load_scorer": read_scorer},
    "training states": {"load_state": read_state},
    "latents": {"open_latents": read_latents, "image_max": read_pooled},
    "image scores": {"ScoreFile": read_scores},
    "probes": {"load_probes": read_probes},
    "heads": {"load_head": read_head},
    "predictions": {"read_edit_predictions": read_predictions},
    "tables": {"read_table": read_table},
    "saev": {"load_scorer": read_scorer},
    "SAELens": {"load_scorer": read_scorer},
    "images": {"open_picture": read_image},
}


# --- the process ---------------------------------------------------------------------------------------------


def attempt(reader: Callable[[Path], Any], place: Path) -> tuple[str, str]:
    """(refused and why, or read and the digest, or crashed and the traceback's end)."""
    from saetools.errors import UserError

    try:
        return "read", digest(reader(place))
    except UserError as error:
        lines = str(error).splitlines()
        if len(lines) > 3:
            return "crashed", f"its message has {len(lines)} lines"
        return "refused", " ".join(lines)
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in where if "/saetools/" in frame.filename or "/tools/" in frame.filename]
        last = (ours or where)[-1]
        return (
            "crashed",
            f"{type(error).__name__}: {str(error)[:120]} at {Path(last.filename).name}:{last.lineno}",
        )


def check(place: Path) -> tuple[str, str]:
    """The verdict of check-files --deep: (accepted, ''), (refused, why) or (crashed, why)."""
    from check_files.checking import check_paths

    def verdicts(place: Path) -> list[str]:
        return [verdict.fault for verdict in check_paths([place], deep=True) if verdict.fault is not None]

    said: list[str] = []
    result, text = attempt(lambda place: said.extend(verdicts(place)), place)
    if result == "read":
        return ("refused", said[0]) if said else ("accepted", "")
    return result, text


def answer(request: Mapping[str, Any], known: dict[tuple[str, str], tuple[str, str]]) -> dict[str, Any]:
    results = {}
    place = Path(request["damaged"])
    for name, reader in READERS[request["of"]].items():
        key = (name, request["sound"])
        if key not in known:
            known[key] = attempt(reader, Path(request["sound"]))
            assert known[key][0] == "read", known[key]
        what, detail = attempt(reader, place)
        if what == "read":
            what, detail = ("same" if detail == known[key][1] else "different"), ""
        results[name] = (what, detail)
    key = ("check-files", request["sound"])
    if key not in known:
        known[key] = check(Path(request["sound"]))
    verdict = check(place) if known[key][0] == "accepted" else ("not asked", known[key][1])
    return {"readers": results, "check": verdict}


def main() -> None:
    """Connect to the abstract Unix socket that argv names, and answer until it closes."""
    import logging

    logging.getLogger("saetools").setLevel(logging.CRITICAL)
    status = Path("/proc/self/status").read_text()
    used = int(status.partition("VmSize:")[2].split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    known: dict[tuple[str, str], tuple[str, str]] = {}
    with socket.socket(socket.AF_UNIX) as client:
        client.connect("\0" + sys.argv[1])
        with client.makefile("rw", encoding="utf-8", newline="\n") as stream:
            while line := stream.readline():
                with contextlib.redirect_stdout(io.StringIO()):
                    found = answer(json.loads(line), known)
                stream.write(json.dumps(found) + "\n")
                stream.flush()
