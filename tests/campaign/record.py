"""What became of each case, the table of all, and its files."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

# What may become of a case. The last five are faults: the campaign fails if there are any.
GOOD = ("refused", "same", "unchecked")
FAULTS = ("different", "crashed", "hung", "left over", "missed")
COLUMNS = ("kind", "of", "tried", *GOOD, *FAULTS)

MEANING = {
    "refused": "an error of one to three lines and exit code 1 or 2 (interrupts: the signal's exit code)",
    "same": "the result of an undisturbed run, or the values of the undamaged file",
    "unchecked": "other values from a format that holds no check: foreign formats, and files of earlier versions",
    "different": "other values, other outputs, or half a file, without an error; or a re-run that fails",
    "crashed": "a traceback, a signal, or an error message that is not one to three lines",
    "hung": "still running after its time was over",
    "left over": "temporary files or processes that stay",
    "missed": "refused by a reader, but not by check-files --deep",
}


@dataclass(frozen=True)
class Case:
    """What became of one case. of: the tool or format; verdict: one of GOOD and FAULTS; detail: what happened."""

    kind: str
    of: str
    number: int
    verdict: str
    detail: str = ""

    def is_fault(self) -> bool:
        return self.verdict in FAULTS


class Record:
    """Cases, as they come."""

    def __init__(self) -> None:
        self.cases: list[Case] = []

    def rows(self) -> list[dict[str, str | int]]:
        """A row for each kind and what it was tried on, then a row for each kind."""
        found: dict[tuple[str, str], Counter[str]] = {}
        for case in self.cases:
            for of in (case.of, "all"):
                found.setdefault((case.kind, of), Counter())[case.verdict] += 1
        kinds = list(dict.fromkeys(case.kind for case in self.cases))
        keys = sorted(found, key=lambda key: (kinds.index(key[0]), key[1] == "all", key[1]))
        return [
            {
                "kind": kind,
                "of": of,
                "tried": found[kind, of].total(),
                **{verdict: found[kind, of][verdict] for verdict in (*GOOD, *FAULTS)},
            }
            for kind, of in keys
        ]

    def n_faults(self) -> int:
        return sum(case.is_fault() for case in self.cases)

    def write(self, out: Path) -> None:
        """The table as CSV, or as Markdown by the name's suffix; of Markdown the rows of whole kinds first."""
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = self.rows()
        if out.suffix == ".md":
            whole = markdown([row for row in rows if row["of"] == "all"], [c for c in COLUMNS if c != "of"])
            each = markdown([row for row in rows if row["of"] != "all"], COLUMNS)
            out.write_text(f"{whole}\n\n{each}\n")
            return
        with out.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def markdown(rows: Iterable[dict[str, str | int]], columns: Sequence[str]) -> str:
    lines = [
        f"| {' | '.join(columns)} |",
        "|" + "|".join("---" if c in ("kind", "of") else "---:" for c in columns) + "|",
    ]
    lines += [
        f"| {' | '.join(f'{row[c]:,}' if isinstance(row[c], int) else str(row[c]) for c in columns)} |"
        for row in rows
    ]
    return "\n".join(lines)
