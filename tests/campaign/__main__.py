"""The fault campaign as a command; `make campaign` calls it.

    python tests/campaign --seed 1 --kills 100 --corruptions 1000
    python tests/campaign --only kills:1:57                           # one case again

Prints each fault with the command that repeats it, and at the end a table. Exit code 1 unless there are none.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from campaign import campaign, run_cases
from corruptions import arrange, corrupt
from disks import fill
from kills import interrupt, kill
from mixtures import make, mix
from pairs import pair
from record import COLUMNS, MEANING, Record, markdown

ATTEMPTS = {
    "kills": kill,
    "interrupts": interrupt,
    "disks": fill,
    "corruptions": corrupt,
    "mixtures": mix,
    "pairs": pair,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="campaign", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for kind in ATTEMPTS:
        parser.add_argument(f"--{kind}", type=int, default=0, metavar="N", help=f"number of {kind}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only", metavar="KIND:SEED:NUMBER[-NUMBER]", help="these cases alone; their folders are kept"
    )
    parser.add_argument("--jobs", type=int, default=2, help="cases at a time")
    parser.add_argument(
        "--out", type=Path, action="append", default=[], help="the table as .csv or .md; repeatable"
    )
    parser.add_argument(
        "--keep", type=Path, help="folder for the runs with faults; default: a new one in TMPDIR"
    )
    options = parser.parse_args()
    seed, numbers = options.seed, {kind: range(getattr(options, kind)) for kind in ATTEMPTS}
    if options.only:
        kind, seed_text, which = options.only.split(":")
        first, _, last = which.partition("-")
        seed, numbers = int(seed_text), {kind: range(int(first), int(last or first) + 1)}
    root = options.keep or Path(tempfile.mkdtemp(prefix="campaign-"))
    root = root.resolve()
    shutil.rmtree(root / "zoo", ignore_errors=True)
    shutil.rmtree(root / "undisturbed", ignore_errors=True)
    record, begin = Record(), time.monotonic()
    with campaign(root, seed, options.jobs) as found:
        say(f"the inputs are made, in {time.monotonic() - begin:.0f} s: {found.zoo}")
        arrange(found.zoo)
        make(found.zoo)
        for kind, wanted in numbers.items():
            since = time.monotonic()
            run_cases(found, record, kind, wanted, ATTEMPTS[kind])
            if wanted:
                say(f"{len(wanted)} {kind} in {time.monotonic() - since:.0f} s")
    meaning = "\n".join(f"{verdict}: {what}" for verdict, what in MEANING.items())
    sys.stdout.write(f"{markdown(record.rows(), COLUMNS)}\n\n{meaning}\n")
    for out in options.out:
        record.write(out)
    if n_faults := record.n_faults():
        say(f"{n_faults} faults; their folders are in {root}")
        return 1
    if not options.keep and not options.only:
        shutil.rmtree(root)
    return 0


def say(text: str) -> None:
    sys.stderr.write(f"campaign: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
