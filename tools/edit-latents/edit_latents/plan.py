"""What is edited: latents with their targets, amounts, the patches, and the controls beside each latent."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edit_latents.controls import like_latents, random_directions
from saetools.errors import UsageError, UserError, near_names, some_of
from saetools.files.ap_tables import rows_of_scorer
from saetools.files.edit_tables import CONTROLS as ALL_CONTROLS
from saetools.files.edit_tables import NONE, RECONSTRUCTION
from saetools.files.formats import AP_TABLE, PROBE_TABLE
from saetools.files.provenance import Provenance
from saetools.files.tables import read_csv
from saetools.files.user_csv import read_user_csv
from saetools.log import logger
from saetools.scorers.record import TrainedScorer
from saetools.shards.reader import ShardSet
from saetools.vision.edits import EVERYWHERE, FIRING

RANDOM_DIRECTION, RANDOM_LATENT = "random-direction", "random-latent"
DIFF_MEANS, PROBE = "diff-means", "probe"
CONTROLS = ALL_CONTROLS[1:]  # beside the latent itself
FROM, LABELS = "from:", "labels:"


@dataclass(frozen=True)
class Case:
    """A latent, and the class (or trait) that its edit is to change: its position among those of the head."""

    latent: int
    target: int


@dataclass(frozen=True)
class Edit:
    """One change of the patches: amount number `amount` of a case, along the latent or the direction {D} of a control.

    Of the control `reconstruction`, which has neither, there is one.
    """

    case: int
    control: str
    draw: int
    amount: int
    direction: torch.Tensor | None = None


def choose_cases(
    latents: str | int | Sequence[int],
    targets: Sequence[str],
    names: Sequence[str],
    scorer: TrainedScorer,
    test_uids: Collection[str],
) -> tuple[list[Case], list[str]]:
    """The latents with their targets, and the uids of the table that they were chosen in.

    latents: numbers, or `from:FILE`: of fit-probes' probes.csv or of an AP table. targets: of numbers, one for each or
    one for all; of a table, those to take. names: of the head. Raises UserError (UsageError for arguments).
    """
    if isinstance(latents, str) and latents.startswith(FROM):
        found, uids = _from_table(Path(latents.removeprefix(FROM)), scorer, test_uids)
        wanted = list(targets) or [name for name, _ in found]
        latent_of = dict(found)
        for name in wanted:
            if name not in latent_of:
                raise UserError(
                    f"{latents.removeprefix(FROM)}: it has no latent for {name!r}{near_names(name, list(latent_of))}"
                )
        absent = [name for name in wanted if name not in names]
        if len(absent) == len(wanted):
            raise UserError(
                f"{latents.removeprefix(FROM)}: none of its classes ({some_of(wanted, 3)}) is one of the head's"
                f" ({some_of(list(names), 3)}); give the same `class_names` where the table and the head are made"
            )
        if absent:
            logger.warning("left out, since the head does not have them: %s", some_of(absent, 10))
        pairs = [(latent_of[name], name) for name in wanted if name in names]
    else:
        numbers, uids = _numbers(latents), []
        if len(targets) not in (1, len(numbers)):
            raise UsageError(
                f"`targets`: found {len(targets)} for {len(numbers)} latents; give the class that each is to change, or"
                " one for all"
            )
        pairs = list(zip(numbers, list(targets) * (len(numbers) if len(targets) == 1 else 1), strict=True))
    place = {name: i for i, name in enumerate(names)}
    n_latents = scorer.scorer.n_prototypes
    cases = []
    for latent, name in pairs:
        if not 0 <= latent < n_latents:
            raise UserError(f"`latents` {latent}: the SAE has latents 0 to {n_latents - 1}")
        if name not in place:
            raise UserError(
                f"`targets` {name!r}: the head has no such class{near_names(name, list(names))};"
                f" it has {some_of(list(names), 5)}"
            )
        cases.append(Case(latent, place[name]))
    if twice := [names[case.target] for case in cases if cases.count(case) > 1]:
        raise UsageError(f"`latents`: {twice[0]!r} is to be changed by one latent twice; give each pair once")
    return cases, uids


def _numbers(latents: str | int | Sequence[int]) -> list[int]:
    if isinstance(latents, int):
        return [latents]
    try:
        return [int(part) for part in (latents.split(",") if isinstance(latents, str) else latents)]
    except ValueError:
        raise UsageError(
            f"`latents` {latents}: expected numbers with commas between them, or from:FILE, a table of fit-probes or"
            " score-traits"
        ) from None


def _from_table(
    path: Path, scorer: TrainedScorer, test_uids: Collection[str]
) -> tuple[list[tuple[str, int]], list[str]]:
    """(class, latent) of a table; those without a latent are said."""
    table, known = read_csv(path, (PROBE_TABLE, AP_TABLE))
    uid = scorer.provenance.uid
    if known.format == AP_TABLE.name:
        _check_chosen_on_train(path, known, test_uids)
        table = rows_of_scorer(
            path, table, uid=uid, kind=scorer.kind, n_prototypes=scorer.scorer.n_prototypes
        )
        table = table[table["n_train"] == table["n_train"].max()]
        name, number = "trait", "prototype"
    else:
        if known.settings.get("scorer") != uid:
            raise UserError(
                f"{path}: made with the scorer {known.settings.get('scorer')}, but `scorer` is {uid};"
                " give the table of this scorer's latents"
            )
        name, number = "class", "latent"
        if absent := table["class"][table["weight"] < 0].astype(str).tolist():
            logger.warning("%s: the latent of %s fires where the class is not", path, some_of(absent, 10))
    chosen = table[table[number].notna()]
    if len(chosen) < len(table):
        without = [str(one) for one in table[name][table[number].isna()]]
        logger.warning("%s: no latent was chosen for %s", path, some_of(without, 10))
    if chosen.empty:
        raise UserError(f"{path}: it has no latent for any class; give a table with some")
    return list(zip(chosen[name].astype(str), chosen[number].astype(int), strict=True)), [known.uid]


def _check_chosen_on_train(path: Path, known: Provenance, test_uids: Collection[str]) -> None:
    """The parents of an AP table are its training shards and then its test shards."""
    if known.parents and known.parents[0] in test_uids:
        raise UserError(
            f"{path}: its latents were chosen on images of `test`, on which edits are measured;"
            " choose them on other images: score-traits --train ... --test ..."
        )


def check_controls(controls: Sequence[str]) -> list[str]:
    """Those asked for, in the usual order; raises UsageError."""
    for name in controls:
        if name not in CONTROLS:
            raise UsageError(f"`controls` {name}: expected some of {', '.join(CONTROLS)}")
    return [name for name in CONTROLS if name in controls]


@dataclass(frozen=True)
class Directions:
    """Where controls point, from training images alone; None: not available.

    diff_means, probe {C, D} of the head's classes; frequency_s {S}: share of patches in which each latent fires.
    """

    diff_means: torch.Tensor | None = None
    probe: torch.Tensor | None = None
    frequency_s: np.ndarray | None = None


def list_edits(
    cases: Sequence[Case],
    n_amounts: int,
    controls: Collection[str],
    draws: int,
    seed: int,
    W_dec: torch.Tensor,
    known: Directions,
) -> list[Edit]:
    """All edits: by case, control, draw, amount."""
    edits = []
    for number, case in enumerate(cases):
        for control, directions in _directions(case, controls, draws, seed, W_dec, known):
            for draw, direction in enumerate(directions):
                amounts = 1 if control == RECONSTRUCTION else n_amounts
                edits += [Edit(number, control, draw, amount, direction) for amount in range(amounts)]
    return edits


def _directions(
    case: Case, controls: Collection[str], draws: int, seed: int, W_dec: torch.Tensor, known: Directions
) -> Iterator[tuple[str, Sequence[torch.Tensor | None]]]:
    yield NONE, [None]
    if RANDOM_DIRECTION in controls:
        of_case = int.from_bytes(hashlib.sha256(f"{seed} {case.latent}".encode()).digest()[:4], "little")
        yield RANDOM_DIRECTION, list(random_directions(draws, W_dec.shape[1], of_case).to(W_dec))
    if RANDOM_LATENT in controls and known.frequency_s is not None:
        others = like_latents(known.frequency_s, case.latent, draws, seed)
        if len(others) < draws:
            logger.warning(
                "latent %d: %d of %d random latents; no others fire about as often",
                *(case.latent, len(others), draws),
            )
        if others:
            yield RANDOM_LATENT, [W_dec[other] for other in others]
    for control, table in ((DIFF_MEANS, known.diff_means), (PROBE, known.probe)):
        if control not in controls or table is None:
            continue
        if bool(torch.isfinite(table[case.target]).all()) and bool(table[case.target].any()):
            yield control, [table[case.target]]
        else:
            logger.warning(
                "%s of latent %d: left out; train has no rows to tell its target", control, case.latent
            )
    if RECONSTRUCTION in controls:
        yield RECONSTRUCTION, [None]


class Places:
    """The patches in which latents are edited: `firing`, `all`, `labels:3,4` (patch labels), or a CSV path,patch."""

    def __init__(self, where: str, test: ShardSet, layer: int) -> None:
        self.where, self.mask_np = where, None
        if where in (FIRING, EVERYWHERE):
            return
        n_patches, _ = test.shape(layer)
        if where.startswith(LABELS):
            self.mask_np = _labelled(where, test, layer)
        else:
            self.mask_np = _listed(Path(where), test.paths, n_patches)
        if not self.mask_np.any():
            raise UserError(f"`where` {where}: no patch of the images is named by it")

    def at(self, images: np.ndarray) -> str | torch.Tensor:
        """For `latent_change`: a name, or bool {b, P} of these images."""
        return self.where if self.mask_np is None else torch.from_numpy(self.mask_np[images])

    def settings(self) -> Any:
        """What decides it: its name, and a digest of what it names."""
        if self.mask_np is None:
            return self.where
        kind = self.where if self.where.startswith(LABELS) else "file"
        return [kind, hashlib.sha256(np.packbits(self.mask_np).tobytes()).hexdigest()]


def _labelled(where: str, test: ShardSet, layer: int) -> np.ndarray:
    try:
        wanted = [int(part) for part in where.removeprefix(LABELS).split(",")]
    except ValueError:
        raise UsageError(f"`where` {where}: expected labels:N,N with numbers of patch labels") from None
    found = []
    for shard in test.shards:
        labels_np = shard.labels(layer)
        if labels_np is None:
            raise UserError(
                f"{shard.path}: `where` {where}: it has no patch labels; record the images with masks"
            )
        found.append(np.isin(labels_np, wanted))
    return np.concatenate(found)


def _listed(path: Path, paths: Sequence[str], n_patches: int) -> np.ndarray:
    """bool {N, P} of a CSV with the columns path and patch (from 0, row by row)."""
    table = read_user_csv(path, "firing, all, labels:N, or a CSV with the columns path and patch")
    for column in ("path", "patch"):
        if column not in table.header:
            raise UserError(f"{path}: it has no column {column!r}{near_names(column, table.header)}")
    place = {path: i for i, path in enumerate(paths)}
    mask_np = np.zeros((len(paths), n_patches), bool)
    unknown = []
    for line, name, text in zip(table.line, table.column("path"), table.column("patch"), strict=True):
        if not text.strip().isdecimal() or int(text) >= n_patches:
            raise UserError(f"{path}: line {line}: found patch {text!r}, expected 0 to {n_patches - 1}")
        if name in place:
            mask_np[place[name], int(text)] = True
        else:
            unknown.append(name)
    if unknown:
        logger.warning("%s: %d images are not in `test`: %s", path, len(unknown), some_of(unknown, 3))
    return mask_np
