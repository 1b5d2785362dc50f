"""What a check finds out about a file that is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from saetools.errors import UserError


@dataclass(frozen=True)
class Facts:
    """summary: for a person. uid, parents: of its provenance. source: which activations it is about
    (model, weights, hook, preprocess), where it says so.
    """

    summary: str
    uid: str
    parents: Sequence[str] = ()
    source: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """Of a file or folder: its facts, or what is wrong with it."""

    path: Path
    facts: Sequence[Facts] = ()
    fault: str | None = None

    def line(self) -> str:
        """`PATH: ok, ...` or `PATH: what is wrong`."""
        if self.fault is not None:
            return f"{self.path}: {self.fault}"
        return f"{self.path}: ok, {self.facts[0].summary}"


def fault_of(path: Path, error: UserError) -> Verdict:
    """The verdict that says what a reader says, in one line."""
    text = " ".join(str(error).split())
    return Verdict(path, fault=text.removeprefix(f"{path}: "))
