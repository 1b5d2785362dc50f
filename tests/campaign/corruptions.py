"""Files with damage of every kind, given to every reader of their format, to check-files, and to the tools."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from campaign import Campaign
from damage import REPLACED, damaged
from record import Case
from runs import HERE, REAL_SHARE, Command, Running, Server, signal_group
from small_edits import write_small_edits
from zoo import MODEL

SECONDS = 20  # for one file and all its readers
CONTROLS = 0.02  # share of the files that are not damaged: a reader that refuses everything proves nothing
COMMAND_SHARE = REAL_SHARE  # one file in so many goes through commands


@dataclass(frozen=True)
class Target:
    """Files of the zoo that are damaged: `place` is copied, one of `files` in it is damaged, and place is read.

    of: the row of the table. readers: key of readers.READERS. file: place is this file's copy, not its folder.
    checked: whether the format holds a check of its values. command: a tool that reads it; {place} is the copy.
    """

    of: str
    readers: str
    place: str
    files: str
    checked: bool = True
    command: tuple[str, ...] = ()


_ENCODE = ("encode-acts", "{place}", "--scorer", "{zoo}/sae.h5", "--out", "out")
_ENCODED = ("encode-acts", "{zoo}/acts/test", "--scorer", "{place}", "--out", "out")
_PROBES = (
    "fit-probes",
    "--train",
    "{place}",
    "--test",
    "{zoo}/latents/test",
    "--threads",
    "1",
    "--out",
    "out",
)
_CONVERT = ("convert-sae", "{place}", "out.h5")
_COLLECT = ("collect-runs", "{place}/{file}", "--out", "out.csv")
_DUMP = ("dump-acts", "{zoo}/birds/parts-test.csv", *MODEL[:2], "--weights", "{place}", "--layers", "7", "--workers",
         "0", "--out", "out")  # fmt: skip
TARGETS = (
    Target("shards", "shards", "acts/train", "*.h5", command=_ENCODE),
    Target("shards, int8", "shards", "other/int8", "*.h5", command=_ENCODE),
    Target("scorers: SAE", "scorers", "sae.h5", "", command=_ENCODED),
    Target("scorers: fitted", "scorers", "fitted/*.h5", "", command=_ENCODED),
    Target("scorers: cached", "scorers", "cache/scorer-*.h5", ""),
    Target("image scores", "image scores", "cache/scores-*.h5", ""),
    Target("training states", "training states", "state", ".stopped.h5.training"),
    Target("latents", "latents", "latents/train", "*.npz", command=_PROBES),
    Target("probes", "probes", "probes/probes.npz", ""),
    Target("heads", "heads", "head*.h5", ""),
    Target("predictions of edits", "predictions", "edits/*.npz", ""),
    Target("AP tables", "tables", "tables/ap", "*", command=_COLLECT),
    Target("training metrics", "tables", "tables/metrics", "*", command=_COLLECT),
    Target("probe tables", "tables", "tables/probes", "*", command=_COLLECT),
    Target("latent tables", "tables", "tables/latents", "*", command=_COLLECT),
    Target("probe summaries", "tables", "tables/summary", "*", command=_COLLECT),
    Target("latent rankings", "tables", "tables/ranking", "*", command=_COLLECT),
    Target("yields", "tables", "tables/yield", "*", command=_COLLECT),
    Target("pictures' tables", "tables", "tables/index", "*", command=_COLLECT),
    Target("collected runs", "tables", "tables/runs", "*", command=_COLLECT),
    Target("effects of edits", "tables", "tables/effects", "*", command=_COLLECT),
    Target("fidelity of edits", "tables", "tables/fidelity", "*", command=_COLLECT),
    Target("saev .pt", "saev", "sae.pt", "", command=_CONVERT),
    Target("SAELens folder", "SAELens", "saelens", "*", command=_CONVERT),
    Target("saev .pt, foreign", "saev", "foreign/schema[35]-topk.pt", "", checked=False, command=_CONVERT),
    Target("SAELens, foreign", "SAELens", "foreign/*topk", "[cs]*", checked=False, command=_CONVERT),
    Target("images", "images", "birds/images/*/*.jpg", "", checked=False),
    Target("shards, unsealed", "shards", "earlier/acts", "*.h5", checked=False),
    Target("scorers, unsealed", "scorers", "earlier/[ks][!c]*.h5", "", checked=False),
    Target("image scores, unsealed", "image scores", "earlier/scores.h5", "", checked=False),
    Target("latents, unsealed", "latents", "earlier/latents", "*.npz", checked=False),
    Target("probes, unsealed", "probes", "earlier/probes.npz", "", checked=False),
    Target("AP tables, earlier", "tables", "earlier/ap", "*", checked=False),
)
TABLES = ("ap.csv", "sae.metrics.csv", "probes/probes.csv", "probes/latents.csv", "probes/summary.csv",
          "audit/ranking.csv", "audit/yield.csv", "pictures/index.csv", "runs.csv", "edits/effects.csv",
          "edits/fidelity.csv")  # fmt: skip


def arrange(zoo: Path) -> None:
    """Folders with one table each, one with the training state and its settings, files of earlier versions, edits."""
    write_small_edits(zoo / "edits")
    shutil.copytree(HERE / "earlier", zoo / "earlier")
    shutil.copytree(HERE.parent / "convert_sae/saelens_folders", zoo / "foreign")
    shutil.copytree(HERE.parent / "convert_sae/saev_checkpoints", zoo / "foreign", dirs_exist_ok=True)
    for name in TABLES:
        folder = zoo / "tables" / Path(name).stem.removeprefix("sae.")
        folder.mkdir(parents=True, exist_ok=True)
        for path in (zoo / name, zoo / f"{name}.json"):
            shutil.copy2(path, folder)
    (zoo / "state").mkdir(exist_ok=True)
    shutil.copy2(zoo / ".stopped.h5.training", zoo / "state")
    import h5py

    with h5py.File(zoo / "state/.stopped.h5.training") as file:
        settings = json.loads(file.attrs["settings"])
    settings.pop("shards")
    (zoo / "state/settings.json").write_text(json.dumps(settings))


class Reader:
    """The process of readers of one server; a new one where it has died or hangs."""

    def __init__(self, found: Campaign, server: Server) -> None:
        self._found, self._server = found, server
        self._running: Running | None = None
        self._count = 0

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """Its answer, {"died": exit code}, or None where it takes too long."""
        if self._running is None:
            self._start()
        try:
            self._stream.write(json.dumps(request) + "\n")
            self._stream.flush()
            if line := self._stream.readline():
                answer: dict[str, Any] = json.loads(line)
                return answer
        except TimeoutError:
            self.stop()
            return None
        except OSError:
            pass
        code = self.stop()
        return {"died": code}

    def stop(self) -> int | None:
        if self._running is None:
            return None
        code = self._running.wait(1)
        if code is None:
            signal_group(self._running.pid, signal.SIGKILL)
            self._running.wait(30)
        self._connection.close()
        self._running = None
        return code

    def _start(self) -> None:
        address = f"campaign-{os.getpid()}-{secrets.token_hex(8)}"
        self._count += 1
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("\0" + address)
            listening.listen(1)
            logs = self._found.root / "readers"
            name = f"{id(self._server):x}-{self._count}"
            self._running = self._server.start(
                Command(["readers", address], self._found.root, logs, name, call="readers:main")
            )
            listening.settimeout(30)
            self._connection, _ = listening.accept()
        self._connection.settimeout(SECONDS)
        self._stream = self._connection.makefile("rw", encoding="utf-8", newline="\n")


READERS_OF: dict[int, Reader] = {}  # by server


def corrupt(found: Campaign, server: Server, number: int) -> Case:
    """Damage one file, and read it in every way."""
    target, rng = TARGETS[number % len(TARGETS)], found.rng("corruptions", number)
    folder = found.folder("corruptions", number)
    sound = _choose(rng, sorted(found.zoo.glob(target.place)))
    copy = folder / sound.name
    if sound.is_dir():
        shutil.copytree(sound, copy)
        file = _choose(rng, sorted(path for path in copy.glob(target.files) if path.name != "settings.json"))
    else:
        shutil.copy2(sound, copy)
        file = copy
    # One whole file of a format in place of another is sound; only beside others of its folder it is out of place.
    others = [
        path
        for path in sorted(found.zoo.rglob("*.*"))
        if path.is_file() and path.stat().st_size < 1 << 20 and (sound.is_dir() or path.suffix != file.suffix)
    ]
    is_control = rng.random() < CONTROLS  # a copy without damage, which must be read
    content, what = damaged(rng, file.read_bytes(), _choose(rng, others).read_bytes())
    if is_control:
        what = "not damaged"
    else:
        file.write_bytes(content)
    said = f"{file.name}: {what}"

    def verdict(name: str, detail: str = "") -> Case:
        if name == "different" and not target.checked:
            name = "unchecked"
        return Case("corruptions", target.of, number, name, f"{said}: {detail}")

    reader = READERS_OF.setdefault(id(server), Reader(found, server))
    answer = reader.ask({"of": target.readers, "sound": str(sound), "damaged": str(copy)})
    if answer is None:
        return verdict("hung", f"a reader or check-files takes more than {SECONDS} s")
    if "died" in answer:
        return verdict("crashed", f"the process of the readers ended with {answer['died']}")
    results, (checked, why) = answer["readers"], answer["check"]
    for bad in ("crashed", "different"):
        if names := [name for name, (result, _) in results.items() if result == bad]:
            return verdict(bad, f"{names[0]} {results[names[0]][1]}")
    if checked == "crashed":
        return verdict("crashed", f"check-files: {why}")
    if is_control and {result for result, _ in results.values()} | {checked} - {"accepted", "not asked"} != {
        "same"
    }:
        return Case("corruptions", target.of, number, "different", f"{said}: {answer}")
    refused = [f"{name}: {text}" for name, (result, text) in results.items() if result == "refused"]
    if refused and checked == "accepted" and what != REPLACED:
        return verdict("missed", refused[0])
    if target.command and number // len(TARGETS) % COMMAND_SHARE == 0:
        return _by_command(found, server, target, copy, file, folder, verdict, number, bool(refused))
    return verdict("refused" if refused else "same")


def _by_command(
    found: Campaign, server: Server, target: Target, copy: Path, file: Path, folder: Path, verdict: Any, number: int,
    is_refused: bool,
) -> Case:  # fmt: skip
    """The same through a tool: exit code 1 and a message, or as it went with the readers."""
    csv = file.name.removesuffix(".json")
    argv = [p.format(place=copy, zoo=found.zoo, file=csv) for p in target.command]
    done = server.run(Command(argv, folder / "run", folder), 60, real=found.is_real(number // len(TARGETS)))
    if done.code is None:
        return verdict("hung", f"{argv[0]} takes more than 60 s")
    if crash := done.crash():
        return verdict("crashed", f"{argv[0]}: {crash}")
    if done.code == 0 and is_refused:
        return verdict("different", f"{argv[0]} accepts what a reader refuses")
    if done.code and (wrong := done.bad_error()):
        return verdict("crashed", f"{argv[0]}: {wrong}")
    if done.code not in (0, 1):
        return verdict("crashed", f"{argv[0]}: exit code {done.code}, expected 1")
    return verdict("refused" if done.code else "same")


def _choose(rng: np.random.Generator, items: list[Any]) -> Any:
    return items[int(rng.integers(len(items)))]
