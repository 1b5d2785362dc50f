"""The rows of the metrics table: what they hold beyond a step's own report, and where else they are sent.

`diagnose` measures an SAE on a batch, `batch_entropy` how well the batch is mixed; `Trackers` are the optional
adapters for TensorBoard and Weights & Biases.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from saetools.compute.devices import in_float64
from saetools.errors import UserError
from saetools.scorers.evaluation import SAEEvaluation
from saetools.scorers.sae import SAE

PROBED_TOKENS = 1024
SAMPLED_LATENTS = 256
BLOCK = 4096


def diagnose(sae: SAE, x_bd: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
    """On the first 1,024 tokens of a batch {B, D}: nmse, nmse_standardized, explained_variance, l1_norm and dense as in
    `SAEEvaluation`, and

    correlation   mean |Pearson correlation| of the values of two different latents, of at most 256 random ones
                  that fired on some of the tokens and not alike on all
    coherence     largest |cosine| between the decoder row of one of 256 random latents and that of any other
    decoder_norm  mean norm of the decoder's rows
    """
    x_bd = x_bd[:PROBED_TOKENS]
    evaluation = SAEEvaluation(sae.config.d_model, sae.config.d_sae)
    f_bs = evaluation.add(sae, x_bd)
    found = evaluation.summary()
    return {
        "nmse": found["nmse"],
        "nmse_standardized": found["nmse_standardized"],
        "explained_variance": found["explained_variance"],
        "l1_norm": found["l1"],
        "dense": found["dense"],
        "correlation": mean_correlation(f_bs, generator),
        "coherence": coherence(sae.W_dec, generator),
        "decoder_norm": in_float64(sae.W_dec.norm(dim=1)).mean().item(),
    }


def mean_correlation(f_bs: torch.Tensor, generator: torch.Generator) -> float:
    """See `diagnose`; 0 where fewer than two latents vary."""
    varies = torch.nonzero(f_bs.amax(0) > f_bs.amin(0)).flatten().cpu()
    chosen = varies[torch.randperm(len(varies), generator=generator)[:SAMPLED_LATENTS]]
    k = len(chosen)
    if k < 2:
        return 0.0
    f_bk = in_float64(f_bs[:, chosen.to(f_bs.device)])
    f_bk = torch.nn.functional.normalize(f_bk - f_bk.mean(0), dim=0)
    correlation_kk = (f_bk.T @ f_bk).abs()
    return ((correlation_kk.sum() - correlation_kk.diagonal().sum()) / (k * (k - 1))).item()


def coherence(W_dec: torch.Tensor, generator: torch.Generator) -> float:
    """See `diagnose`; 0 for a dictionary of one."""
    rows = torch.randperm(len(W_dec), generator=generator)[:SAMPLED_LATENTS].to(W_dec.device)
    sampled_kd = torch.nn.functional.normalize(W_dec[rows], dim=1)
    largest = 0.0
    for start in range(0, len(W_dec), BLOCK):
        block_sd = torch.nn.functional.normalize(W_dec[start : start + BLOCK], dim=1)
        cosine_ks = (sampled_kd @ block_sd.T).abs()
        own = (rows >= start) & (rows < start + len(block_sd))
        cosine_ks[own, rows[own] - start] = 0
        largest = max(largest, cosine_ks.max().item())
    return largest


def batch_entropy(origins_b: np.ndarray, n_possible: int) -> dict[str, float]:
    """How evenly the B tokens of a batch are spread over N images (or over the N patch positions of an image).

    origins_b {B}: the image (or position) of each token.

    entropy              H = -sum_i p_i ln p_i, with p_i the fraction of the tokens from i (nats)
    entropy_normalized   H / ln(min(B, N)): 1 where the tokens are spread as evenly as they can be
    coverage             the number of different i, divided by min(B, N)
    """
    _, counts = np.unique(origins_b, return_counts=True)
    most = min(len(origins_b), n_possible)
    share = counts / len(origins_b)
    entropy = float(-(share * np.log(share)).sum()) + 0.0
    return {
        "entropy": entropy,
        "entropy_normalized": entropy / math.log(most) if most > 1 else 1.0,
        "coverage": len(counts) / most,
    }


class Tracker(Protocol):
    def log(self, name: str, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Trackers:
    """The trackers that were asked for; none by default."""

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
            raise UserError("`tensorboard`: it is not installed; pip install tensorboard") from error
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
            raise UserError("`wandb`: it is not installed; pip install wandb") from error
        self._project = project
        self._runs: dict[str, Any] = {}

    def log(self, name: str, step: int, values: Mapping[str, float]) -> None:
        if name not in self._runs:
            self._runs[name] = self._wandb.init(project=self._project, name=name, reinit="create_new")
        self._runs[name].log(dict(values), step=step)

    def close(self) -> None:
        for run in self._runs.values():
            run.finish()
