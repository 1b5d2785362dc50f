"""Stopping and resuming: signals that end a training run, and the saved state from which the same call resumes."""

from __future__ import annotations

import contextlib
import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import numpy as np

from saetools.cli.process import SIGNALS
from saetools.errors import UserError
from saetools.files.formats import TRAINING_STATES
from saetools.files.hdf5 import new_hdf5, open_hdf5
from saetools.files.provenance import Provenance, first_difference
from saetools.log import logger


@dataclass(frozen=True)
class TrainingState:
    """All that later steps depend on, after n_steps steps: parameters with the optimiser's moments, the step's own
    state, the input normalisation (mean, scale), and the metrics table so far. The position in the stream of tokens
    and in the schedules follows from n_steps."""

    n_steps: int
    seconds: float
    rows: list[dict[str, Any]]
    parameters: dict[str, np.ndarray]
    step: dict[str, np.ndarray]
    mean: np.ndarray
    scale: float


def state_path(out: Path) -> Path:
    """A hidden file beside the scorer file, removed once that is written."""
    return out.with_name(f".{out.name}.training")


def save_state(out: Path, state: TrainingState, settings: Mapping[str, Any], shards: Sequence[str]) -> None:
    """Write it, complete or not at all. shards: identities of the shards read so far."""
    provenance = Provenance.of(TRAINING_STATES, "train-sae", {**settings, "shards": list(shards)})
    rows = json.dumps(state.rows)
    arrays = [*state.parameters.values(), *state.step.values(), state.mean]
    n_bytes = sum(array.nbytes for array in arrays) + len(rows) + len(json.dumps(provenance.settings))
    with new_hdf5(state_path(out), n_bytes) as file:
        for name, value in provenance.to_attributes().items():
            file.attrs[name] = value
        file.attrs["n_steps"], file.attrs["seconds"], file.attrs["scale"] = (
            state.n_steps,
            state.seconds,
            state.scale,
        )
        file["rows"] = rows
        file["mean"] = state.mean
        for group, named in (("parameters", state.parameters), ("step", state.step)):
            for name, array in named.items():
                file[f"{group}/{name}"] = array


def load_state(out: Path, settings: Mapping[str, Any]) -> tuple[TrainingState, list[str]] | None:
    """The saved state of an unfinished run and the identities of the shards it had read; None if there is none.

    Raises UserError if its settings were others.
    """
    path = state_path(out)
    if not path.exists():
        return None
    with open_hdf5(path, TRAINING_STATES) as file:
        found = dict(Provenance.from_attributes(file.attrs, TRAINING_STATES, path).settings)
        shards = found.pop("shards")
        if difference := first_difference(found, settings):
            raise UserError(
                f"{path}: an unfinished run with other settings: {difference};"
                " run the same command as before, choose another `out`, or remove this file"
            )
        arrays: dict[str, dict[str, np.ndarray]] = {"parameters": {}, "step": {}}
        for group, into in arrays.items():
            file[group].visititems(
                lambda name, item, into=into: (
                    into.update({name: item[...]}) if isinstance(item, h5py.Dataset) else None
                )
            )
        state = TrainingState(
            n_steps=int(file.attrs["n_steps"]),
            seconds=float(file.attrs["seconds"]),
            rows=json.loads(file["rows"].asstr()[()]),
            parameters=arrays["parameters"],
            step=arrays["step"],
            mean=file["mean"][...],
            scale=float(file.attrs["scale"]),
        )
    return state, shards


def check_shards(out: Path, before: Sequence[str], now: Sequence[str], *, all_arrived: bool) -> None:
    """Raise UserError unless a resumed run reads the same shards in the same order as before.

    From a pipe, only the shards that have arrived by now are compared.
    """
    n = len(before) if all_arrived else min(len(before), len(now))
    if list(now[:n]) != list(before[:n]):
        raise UserError(
            f"{state_path(out)}: an unfinished run on other shards, or in another order;"
            " run the same command as before, choose another `out`, or remove this file"
        )


class Stopped(Exception):
    """A signal came at a moment when nothing has to be finished first."""


class StopSignals:
    """Within its block, notes SIGTERM, SIGHUP, SIGUSR1 and Ctrl-C instead of ending the process.

    >>> with StopSignals() as stop:
    ...     with stop.interruptible():
    ...         x_bd = next(batches)
    ...     if stop.number:
    ...         ...
    """

    def __init__(self, active: bool) -> None:
        self.number = 0
        self.active, self._idle = active, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if self.active:
            heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within this block, a signal raises Stopped at once."""
        self._idle = True
        try:
            if self.number:
                raise Stopped
            yield
        finally:
            self._idle = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        if self._idle:
            self._idle = False
            raise Stopped


def leave(number: int, where: str) -> None:
    """End the process as the signal would: exit code 130 after Ctrl-C, else 128 + its number."""
    logger.info("%s; the same command goes on there", where)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
