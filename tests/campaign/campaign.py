"""One campaign: its inputs, what undisturbed runs give, and cases by the number, in parallel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from compare import Undisturbed
from record import Case, Record
from runs import BIN, REAL_SHARE, Server, start_servers
from zoo import JOBS, ROOT, Job, build

KINDS = ("kills", "interrupts", "disks", "corruptions", "mixtures", "pairs")


@dataclass
class Campaign:
    """root: everything is written below it; the folders of faults stay there."""

    root: Path
    seed: int
    servers: Sequence[Server]
    undisturbed: dict[str, Undisturbed] = field(default_factory=dict)
    _in_turn: dict[str, list[Undisturbed]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def zoo(self) -> Path:
        return self.root / "zoo"

    def rng(self, kind: str, number: int) -> np.random.Generator:
        """The random numbers of a case; they do not depend on the cases before it."""
        return np.random.default_rng([self.seed, KINDS.index(kind), number])

    def is_real(self, number: int) -> bool:
        """Whether a case is run by real commands; over many cases, with every tool."""
        return number % REAL_SHARE == (number // REAL_SHARE) % REAL_SHARE

    def folder(self, kind: str, number: int) -> Path:
        """An empty folder for a case."""
        place = self.root / f"{kind}-{number:05}"
        if (place / "run").is_mount():  # of a campaign that was killed
            subprocess.run(["umount", "--lazy", str(place / "run")], check=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        return place

    def measure(self, job: Job, server: Server) -> None:
        """Run a job twice without disturbing it, the second time with all caches warm; both must agree."""
        first, second = (self._alone(job, server, attempt) for attempt in ("first", "second"))
        if different := sorted(
            p for p in {*first.parts, *second.parts} if first.parts.get(p) != second.parts.get(p)
        ):
            raise SystemExit(f"{job.name}: two undisturbed runs differ in {different[:5]}")
        self.undisturbed[job.name] = second

    def other(self, job: Job, server: Server) -> Undisturbed:
        """What a job with its other settings leaves; run when first asked for."""
        with self._lock:
            if (name := f"{job.name} other") not in self.undisturbed:
                self.undisturbed[name] = self._alone(job, server, "other", job.other)
            return self.undisturbed[name]

    def in_turn(self, job: Job, server: Server) -> list[Undisturbed]:
        """What a job and one with its other settings leave when they run one after the other, in both orders.

        Empty where the second is refused, as by all tools that do not replace what is there.
        """
        with self._lock:
            if job.name not in self._in_turn:
                results = []
                for name, settings in (("in turn", ((), job.other)), ("in reverse", (job.other, ()))):
                    place = self._place(job, name)
                    job.prepare(self.zoo, place / "run")
                    runs = [
                        server.run(job.command(self.zoo, place / "run", place, f"run{i}", more))
                        for i, more in enumerate(settings)
                    ]
                    if not any(done.code for done in runs):
                        results.append(Undisturbed(place / "run", [(str(BIN).encode(), b"TOOLS")], 0, ""))
                self._in_turn[job.name] = results
            return self._in_turn[job.name]

    def _place(self, job: Job, name: str) -> Path:
        return self.root / "undisturbed" / name / job.name.replace(" ", "-")

    def _alone(self, job: Job, server: Server, name: str, more: Sequence[str] = ()) -> Undisturbed:
        place = self._place(job, name)
        job.prepare(self.zoo, place / "run")
        begin = time.monotonic()
        done = server.run(job.command(self.zoo, place / "run", place, more=more))
        seconds = time.monotonic() - begin
        if done.code:
            raise SystemExit(f"{job.name}: exit code {done.code} without a fault\n{done.stderr}")
        return Undisturbed(place / "run", [(str(BIN).encode(), b"TOOLS")], seconds, done.stdout)


@contextmanager
def campaign(root: Path, seed: int, jobs: int) -> Iterator[Campaign]:
    """Start the fork servers and make the inputs; the servers end with the block."""
    process, servers = start_servers(jobs)
    try:
        found = Campaign(root, seed, servers)
        build(found.zoo, servers[0])
        in_parallel(servers, JOBS, lambda server, job: found.measure(job, server))
        yield found
    finally:
        for server in servers:
            server.close()
        process.wait(30)


def run_cases(
    found: Campaign,
    record: Record,
    kind: str,
    numbers: Sequence[int],
    attempt: Callable[[Campaign, Server, int], Case],
) -> None:
    """Try each case; the folders of those that are sound are removed, each fault is printed as it is found."""

    def one(server: Server, number: int) -> None:
        try:
            case = attempt(found, server, number)
        except Exception:
            sys.stderr.write(
                f"campaign: {kind} {number} of seed {found.seed}: a fault of the campaign itself\n"
            )
            raise
        record.cases.append(case)
        place = found.root / f"{kind}-{number:05}"
        if case.is_fault():
            again = f"make campaign ONLY={kind}:{found.seed}:{number}"
            sys.stderr.write(f"{kind}, {case.of}: {case.verdict}: {case.detail}\n    {again}\n    {place}\n")
        else:
            shutil.rmtree(place, ignore_errors=True)

    in_parallel(found.servers, numbers, one)


def in_parallel(servers: Sequence[Server], items: Sequence[Any], work: Callable[[Server, Any], None]) -> None:
    """Each item by whichever server is free next; the first exception ends all and is raised."""
    waiting, errors, lock = list(reversed(items)), [], threading.Lock()

    def loop(server: Server) -> None:
        while not errors:
            with lock:
                if not waiting:
                    return
                item = waiting.pop()
            try:
                work(server, item)
            except BaseException as error:
                traceback.print_exc()
                errors.append(error)

    threads = [threading.Thread(target=loop, args=[server], daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise SystemExit(f"campaign: stopped: {errors[0]}")


__all__ = ["JOBS", "KINDS", "ROOT", "Campaign", "campaign", "run_cases"]
