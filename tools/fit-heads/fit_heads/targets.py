"""Labels of rows, and the loss of logits: softmax over classes, or a logit for each trait."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from saetools.labels.rows import RowLabels

Span = tuple[int, int]  # rows from the first to before the last


class Targets(Protocol):
    """Labels of R rows for C outputs.

    is_softmax: whether the outputs are classes, with one loss together, or traits with one each. n_groups: 1 or C.
    """

    is_softmax: bool
    n_outputs: int
    n_groups: int

    def used(self, start: int, stop: int) -> torch.Tensor:
        """bool {b}: rows with a label."""
        ...

    def counts(self, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
        """(labels that are yes {C}, rows with a label {C}), int64."""
        ...

    def residual_(self, logits_bc: torch.Tensor, start: int, weight_c: torch.Tensor) -> torch.Tensor:
        """The loss {n_groups}, summed over rows; the logits become its gradient, times weight_c {C}.

        A logit of -inf is an output that is not there; rows of it are left out.
        """
        ...


class ClassTargets:
    """ids {R} from 0, -1 where a row has no label.  loss = logsumexp(z) - z_y"""

    is_softmax, n_groups = True, 1

    def __init__(self, ids_n: np.ndarray, n_classes: int, device: torch.device) -> None:
        self.n_outputs = n_classes
        self._ids = torch.from_numpy(np.ascontiguousarray(ids_n, np.int64)).to(device)

    def used(self, start: int, stop: int) -> torch.Tensor:
        return self._ids[start:stop] >= 0

    def counts(self, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
        count_c = np.zeros(self.n_outputs, np.int64)
        for first, last in spans:
            ids_b = self._ids[first:last]
            count_c += torch.bincount(ids_b[ids_b >= 0], minlength=self.n_outputs).cpu().numpy()
        return count_c, np.full(self.n_outputs, count_c.sum())

    def residual_(self, logits_bc: torch.Tensor, start: int, weight_c: torch.Tensor) -> torch.Tensor:
        ids_b = self._ids[start : start + len(logits_bc)]
        at_b1 = ids_b.clamp(min=0)[:, None]
        own_b1 = logits_bc.gather(1, at_b1)
        used_b1 = (ids_b >= 0)[:, None] & torch.isfinite(own_b1)
        lse_b1 = logits_bc.logsumexp(1, keepdim=True)
        loss = torch.where(used_b1, lse_b1 - own_b1, 0).sum()
        logits_bc.sub_(lse_b1).exp_()
        logits_bc.scatter_add_(1, at_b1, torch.full_like(own_b1, -1))
        logits_bc.mul_(used_b1 * weight_c)
        return loss[None]


class TraitTargets:
    """table {R, C} of 0 and 1, known {R, C}.  loss_c = ln(1 + e^z) - y z, where it is known"""

    is_softmax = False

    def __init__(self, table_nc: np.ndarray, known_nc: np.ndarray, device: torch.device) -> None:
        self.n_outputs = self.n_groups = table_nc.shape[1]
        self._table = torch.from_numpy(np.ascontiguousarray(table_nc, bool)).to(device)
        self._known = torch.from_numpy(np.ascontiguousarray(known_nc, bool)).to(device)

    def used(self, start: int, stop: int) -> torch.Tensor:
        return self._known[start:stop].any(1)

    def counts(self, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
        yes_c, known_c = np.zeros((2, self.n_outputs), np.int64)
        for first, last in spans:
            known_bc = self._known[first:last]
            yes_c += (self._table[first:last] & known_bc).sum(0).cpu().numpy()
            known_c += known_bc.sum(0).cpu().numpy()
        return yes_c, known_c

    def residual_(self, logits_bc: torch.Tensor, start: int, weight_c: torch.Tensor) -> torch.Tensor:
        rows = slice(start, start + len(logits_bc))
        table_bc, known_bc = self._table[rows], self._known[rows] & torch.isfinite(logits_bc)
        loss_bc = torch.nn.functional.softplus(logits_bc).sub_(table_bc * logits_bc)
        loss_c = torch.where(known_bc, loss_bc, 0).sum(0)
        logits_bc.sigmoid_().sub_(table_bc.double()).mul_(known_bc * weight_c)
        return loss_c


def make_targets(labels: RowLabels, rows: np.ndarray, device: torch.device) -> Targets:
    """The labels of some rows, in that order."""
    if labels.ids is not None:
        return ClassTargets(labels.ids[rows], labels.n_classes, device)
    assert labels.table is not None and labels.known is not None
    return TraitTargets(labels.table[rows], labels.known[rows], device)


def chance(targets: Targets, spans: Sequence[Span]) -> tuple[np.ndarray, np.ndarray]:
    """The shares p {C} of the classes (or of yes, for a trait), and the logits that give them; -inf for p = 0.

    A trait that is yes in every row, or in none, is not there either: -inf.
    """
    yes_c, known_c = targets.counts(spans)
    p_c = yes_c / np.maximum(known_c, 1)
    there_c = yes_c > 0 if targets.is_softmax else (yes_c > 0) & (yes_c < known_c)
    log_p, log_q = np.log(np.where(there_c, p_c, 0.5)), np.log(np.where(there_c, 1 - p_c, 0.5))
    return p_c, np.where(there_c, log_p if targets.is_softmax else log_p - log_q, -np.inf)
