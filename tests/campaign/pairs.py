"""Two runs at the same time into one place."""

from __future__ import annotations

import time
from pathlib import Path

from campaign import Campaign
from compare import Undisturbed, partial_files
from record import Case
from runs import Done, Server
from zoo import JOBS, Job

PAIRED = [job for job in JOBS if not (job.prints or job.copies)]


def pair(found: Campaign, server: Server, number: int) -> Case:
    """The same command twice: both give what one gives. Or with other settings: one wins, the other says so.

    Of tools that replace what is there, both may succeed; then all is as if they had run one after the other.
    """
    job, rng = PAIRED[number % len(PAIRED)], found.rng("pairs", number)
    place = found.folder("pairs", number)
    whole = found.undisturbed[job.name]
    differ = bool(job.other) and rng.random() < 0.6
    name = f"{job.name}, {'other' if differ else 'same'} settings"

    def verdict(what: str, detail: str = "") -> Case:
        return Case("pairs", job.name, number, what, f"{name}, {when}: {detail}")

    delay = float(rng.uniform(0, 0.3) if rng.random() < 0.5 else rng.uniform(0, whole.seconds))
    when = f"{delay:.3f} s apart"
    alone = found.other(job, server) if differ else whole
    run = place / "run"
    job.prepare(found.zoo, run)
    first = job.command(found.zoo, run, place / "first", "first")
    second = job.command(found.zoo, run, place / "second", "second", job.other if differ else ())
    swapped = bool(rng.integers(2))
    order = (second, first) if swapped else (first, second)
    running = [server.start(order[0])]
    time.sleep(delay)
    running.append(server.start(order[1]))
    both = [server.finish(one, command) for one, command in zip(running, order, strict=True)]
    done = dict(zip(("second", "first") if swapped else ("first", "second"), both, strict=True))
    for which, one in done.items():
        if one.code is None:
            return verdict("hung", f"the {which}")
        if crash := one.crash():
            return verdict("crashed", f"the {which}: {crash}")
        if one.code and (wrong := one.bad_error()):
            return verdict("crashed", f"the {which}: {wrong}")
        if one.survivors:
            return verdict("left over", f"the {which}: {one.survivors}")
    if left := partial_files(run):
        return verdict("left over", left)
    codes = {which: one.code for which, one in done.items()}
    if not differ:
        return _same(job, whole, run, done, verdict)
    if not any(codes.values()) and (in_turn := found.in_turn(job, server)):
        differences = [one.difference(run) or one.left_over(run, []) for one in (*in_turn, whole, alone)]
        return verdict("different", f"a mixture: {differences[0]}") if all(differences) else verdict("same")
    if sorted(codes.values()) != [0, 1]:
        errors = "; ".join(one.error()[:150] for one in done.values() if one.code)
        return verdict("different", f"exit codes {codes}, expected 0 and 1; {errors}")
    wanted = whole if codes["first"] == 0 else alone
    if difference := wanted.difference(run):
        winner = "first" if codes["first"] == 0 else "second"
        return verdict("different", f"the {winner} succeeded, but {difference}")
    return verdict("refused")


def _same(job: Job, whole: Undisturbed, run: Path, done: dict[str, Done], verdict) -> Case:
    for which, one in done.items():
        if one.code and not (job.keeps and "exists already" in one.error()):
            return verdict("different", f"the {which}: exit code {one.code}: {one.error()[:200]}")
    if all(one.code for one in done.values()):
        return verdict("different", "neither succeeded")
    if difference := whole.difference(run):
        return verdict("different", difference)
    if left := whole.left_over(run, []):
        return verdict("left over", left)
    return verdict("same")
