"""Tools that are killed or interrupted at a random moment, and then run again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from campaign import Campaign
from compare import partial_files, temporary_files
from record import Case
from runs import Done, Server, signal_group, wait_until_caught
from zoo import JOBS, Job

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def kill(found: Campaign, server: Server, number: int) -> Case:
    """SIGKILL to the process, not to its workers; then the same command again."""
    job, rng = JOBS[number % len(JOBS)], found.rng("kills", number)
    whole, place = found.undisturbed[job.name], found.folder("kills", number)

    def verdict(what: str, detail: str = "") -> Case:
        return Case("kills", job.name, number, what, detail)

    job.prepare(found.zoo, place / "run")
    command = job.command(found.zoo, place / "run", place, "killed")
    real = found.is_real(number)
    delay = rng.uniform(0, (whole.seconds + 3 * real) * 1.05)
    running = server.start(command, real)
    time.sleep(delay)
    os.kill(running.pid, signal.SIGKILL)
    done = server.finish(running, command)
    when = f"killed after {delay:.3f} s"
    if done.survivors:
        return verdict("left over", f"{when}: its processes still run: {done.survivors}")
    if half := whole.half(place / "run"):
        return verdict("different", f"{when}: half a file: {half}")
    return run_again(found, server, job, place, verdict, when, found.is_real(number))


def interrupt(found: Campaign, server: Server, number: int) -> Case:
    """SIGINT, SIGTERM or SIGHUP, to the process or to its group, once it can be caught; then the command again."""
    job, rng = JOBS[number % len(JOBS)], found.rng("interrupts", number)
    whole, place = found.undisturbed[job.name], found.folder("interrupts", number)
    chosen = INTERRUPTS[int(rng.integers(len(INTERRUPTS)))]

    def verdict(what: str, detail: str = "") -> Case:
        return Case("interrupts", job.name, number, what, detail)

    job.prepare(found.zoo, place / "run")
    command = job.command(found.zoo, place / "run", place, "interrupted")
    delay, to_group = rng.uniform(0, whole.seconds), bool(rng.integers(2))
    running = server.start(command, found.is_real(number))
    if wait_until_caught(running.pid, signal.SIGTERM):
        time.sleep(delay)
        if to_group:
            signal_group(running.pid, chosen)
        else:
            os.kill(running.pid, chosen)
    done = server.finish(running, command, timeout=30)
    when = f"{chosen.name} to the {'group' if to_group else 'process'} after {delay:.3f} s"
    if done.code is None:
        return verdict("hung", f"{when}: still runs 30 s later{done.where()}")
    if crash := done.crash():
        return verdict("crashed", f"{when}: {crash}")
    if done.code not in (0, 128 + chosen):
        return verdict(
            "different", f"{when}: exit code {done.code}, expected {128 + chosen} (or 0: it was done)"
        )
    if done.code and (wrong := _not_one_word(done)):
        return verdict("crashed", f"{when}: {wrong}")
    left = partial_files(place / "run") or temporary_files(place)
    if done.survivors or left:
        return verdict("left over", f"{when}: {left or done.survivors}")
    if half := whole.half(place / "run"):
        return verdict("different", f"{when}: half a file: {half}")
    again = run_again(found, server, job, place, verdict, when, found.is_real(number))
    return verdict("refused") if again.verdict == "same" and done.code else again


def _not_one_word(done: Done) -> str | None:
    lines = done.stderr.replace("\r", "\n").splitlines()
    said = [line for line in lines if ": error: interrupted;" in line or ": stopped by SIG" in line]
    return None if len(said) == 1 else f"{len(said)} lines on stderr say that it was stopped, expected 1"


def run_again(
    found: Campaign,
    server: Server,
    job: Job,
    place: Path,
    verdict: Callable[..., Case],
    when: str,
    real: bool,
) -> Case:
    """Run it again, undisturbed, and compare all that is there then."""
    whole = found.undisturbed[job.name]
    job.prepare(found.zoo, place / "run")
    done = server.run(job.command(found.zoo, place / "run", place, "again"), real=real)
    if done.code is None:
        return verdict("hung", f"{when}: the run after it hangs{done.where()}")
    if crash := done.crash():
        return verdict("crashed", f"{when}: the run after it: {crash}")
    difference, left = (
        whole.difference(place / "run"),
        whole.left_over(place / "run", [target for _, target in job.copies]),
    )
    if job.keeps and done.code == 1 and "exists already" in done.error() and not (difference or left):
        return verdict("refused")
    if done.code:
        return verdict("different", f"{when}: the run after it: exit code {done.code}: {done.error()[:200]}")
    if done.survivors:
        return verdict("left over", f"{when}: the run after it: {done.survivors}")
    if difference:
        return verdict("different", f"{when}: after the next run {difference}")
    if job.prints and not whole.printed(place / "run", done.stdout):
        return verdict("different", f"{when}: the next run printed something else")
    return verdict("left over", f"{when}: after the next run {left}") if left else verdict("same")
