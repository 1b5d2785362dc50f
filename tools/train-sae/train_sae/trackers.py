"""Optional adapters that send the metrics table elsewhere too: TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from saetools.errors import UserError


class Tracker(Protocol):
    def log(self, name: str, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """Those that were asked for; none by default."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self._trackers = trackers

    @staticmethod
    def open(tensorboard: Path | None, wandb: str | None) -> Trackers:
        """A folder for TensorBoard, a project of Weights & Biases; raises UserError where a package is missing."""
        trackers: list[Tracker] = []
        if tensorboard is not None:
            trackers.append(TensorBoard(tensorboard))
        if wandb is not None:
            trackers.append(WeightsAndBiases(wandb))
        return Trackers(trackers)

    def log(self, name: str, row: Mapping[str, Any]) -> None:
        """A row of the metrics table of the SAE of that name."""
        values = {key: float(value) for key, value in row.items() if key != "step"}
        for tracker in self._trackers:
            tracker.log(name, int(row["step"]), values)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.close()


class TensorBoard:
    """One folder of event files per SAE."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("--tensorboard: it is not installed; pip install tensorboard") from error
        self._folder, self._writer = folder, SummaryWriter
        self._writers: dict[str, Any] = {}

    def log(self, name: str, step: int, values: Mapping[str, float]) -> None:
        if name not in self._writers:
            self._writers[name] = self._writer(str(self._folder / name))
        for key, value in values.items():
            self._writers[name].add_scalar(key, value, step)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class WeightsAndBiases:
    """One run per SAE, in one project."""

    def __init__(self, project: str) -> None:
        try:
            self._wandb = importlib.import_module("wandb")
        except ImportError as error:
            raise UserError("--wandb: it is not installed; pip install wandb") from error
        self._project = project
        self._runs: dict[str, Any] = {}

    def log(self, name: str, step: int, values: Mapping[str, float]) -> None:
        if name not in self._runs:
            self._runs[name] = self._wandb.init(project=self._project, name=name, reinit="create_new")
        self._runs[name].log(dict(values), step=step)

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()
