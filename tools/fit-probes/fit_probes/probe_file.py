"""probes.npz: the fitted probes of every latent and class; and the parts that arrays of jobs make of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fit_probes.problem import NO_PROBE
from saetools.cli.slices import Slice
from saetools.errors import UserError
from saetools.files.formats import PROBES
from saetools.files.npz import read_npz, write_npz
from saetools.files.provenance import Provenance
from saetools.files.reuse import check_reusable

NAME = "probes.npz"
PAIRS = {
    "weight": np.float64,
    "bias": np.float64,
    "loss": np.float64,
    "converged": np.bool_,
    "flags": np.uint8,
}


@dataclass(frozen=True)
class Probes:
    """sigma(weight z + bias) of K latents and C classes, fitted on the training rows; see `problem.ProbeFit`.

    weight, bias, loss, converged, flags {K, C}; prior {C} share of positives, prior_loss {C} and n_positives {C}
    (rows with y >= 1/2) among the training rows; classes {C} their names.
    """

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    converged: npt.NDArray[np.bool_]
    flags: npt.NDArray[np.uint8]
    prior: npt.NDArray[np.float64]
    prior_loss: npt.NDArray[np.float64]
    n_positives: npt.NDArray[np.int64]
    classes: npt.NDArray[np.str_]

    def r(self) -> npt.NDArray[np.float64]:
        """R = 1 - loss / prior loss {K, C} on the training rows; 0 where the prior loss is 0."""
        gain_kc = self.prior_loss - self.loss
        return np.divide(gain_kc, self.prior_loss, out=np.zeros_like(gain_kc), where=self.prior_loss > 0)

    def best_latents(self) -> npt.NDArray[np.int64]:
        """{C}: the latent with the smallest training loss for each class, the first of equal ones; -1 where none has
        a probe."""
        loss_kc = np.where(self.flags & NO_PROBE, np.inf, self.loss)
        best_c = loss_kc.argmin(axis=0)
        return np.where(np.isfinite(loss_kc[best_c, np.arange(len(best_c))]), best_c, -1)

    def best_classes(self) -> npt.NDArray[np.int64]:
        """{K}: the class of the highest training R of each latent among those with a positive weight; -1: none."""
        r_kc = np.where((self.weight > 0) & ((self.flags & NO_PROBE) == 0), self.r(), -np.inf)
        best_k = r_kc.argmax(axis=1)
        return np.where(np.isfinite(r_kc[np.arange(len(best_k)), best_k]), best_k, -1)

    @staticmethod
    def empty(n_latents: int, classes: list[str]) -> Probes:
        """Room for the probes of all pairs."""
        n = len(classes)
        pairs: dict[str, Any] = {name: np.zeros((n_latents, n), dtype) for name, dtype in PAIRS.items()}
        return Probes(
            **pairs,
            prior=np.zeros(n),
            prior_loss=np.zeros(n),
            n_positives=np.zeros(n, np.int64),
            classes=np.array(classes, np.str_),
        )

    def set_classes(self, positions: npt.NDArray[np.int64], part: Probes) -> None:
        """Put the classes of a part into their places."""
        for name in PAIRS:
            getattr(self, name)[:, positions] = getattr(part, name)
        for name in ("prior", "prior_loss", "n_positives"):
            getattr(self, name)[positions] = getattr(part, name)


def part_name(part: Slice) -> str:
    return f"probes-{part.number:04d}-of-{part.count:04d}.npz"


def save_probes(path: Path, probes: Probes, provenance: Provenance) -> None:
    write_npz(path, provenance, {name: getattr(probes, name) for name in Probes.__dataclass_fields__})


def load_probes(path: Path, wanted: Provenance | None = None) -> tuple[Provenance, Probes]:
    """Read probes; raises UserError where they are broken, or were made otherwise than `wanted` says."""
    provenance, arrays = read_npz(path, PROBES)
    if missing := [name for name in Probes.__dataclass_fields__ if name not in arrays]:
        raise UserError(f"{path}: the member {missing[0]!r} is missing; fit the probes again")
    n_latents, n_classes = arrays["weight"].shape
    for name in Probes.__dataclass_fields__:
        expected = (n_latents, n_classes) if name in PAIRS else (n_classes,)
        if arrays[name].shape != expected:
            raise UserError(
                f"{path}: {name} has shape {arrays[name].shape}, expected {expected}; fit the probes again"
            )
    if wanted is not None:
        check_reusable(path, provenance, wanted)
    return provenance, Probes(**{name: arrays[name] for name in Probes.__dataclass_fields__})


def find_parts(folder: Path) -> list[Path]:
    """The parts 1/n to n/n in a folder; none where there are none.

    Raises UserError where some are missing, or where they are parts of different numbers of parts.
    """
    found = sorted(path.name for path in folder.glob("probes-????-of-????.npz"))
    if not found:
        return []
    count = int(found[0].removesuffix(".npz")[-4:])
    wanted = [part_name(Slice(number, count)) for number in range(1, count + 1)]
    if others := [name for name in found if name not in wanted]:
        raise UserError(
            f"{folder / others[0]}: not one of the {count} parts beside it; remove one kind of parts"
        )
    if missing := [number + 1 for number, name in enumerate(wanted) if name not in found]:
        listed = ", ".join(f"{number}/{count}" for number in missing[:10])
        raise UserError(
            f"{folder}: the parts {listed} are missing; run them with `classes`, or remove the parts to fit all at once"
        )
    return [folder / name for name in wanted]
