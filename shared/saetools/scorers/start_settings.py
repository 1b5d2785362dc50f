"""What decides where the training of an SAE starts; its defaults are train-sae's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from saetools.cli.quantities import parse_bytes
from saetools.errors import UserError
from saetools.log import logger

NORMALIZATIONS = ("none", "mean", "sqrt-d")
B_DEC_STARTS = ("mean", "geometric-median")
POOL_MEMORY = "2GB"
START_L0 = 32.0  # of ReLU and JumpReLU, where it is not given


@dataclass(frozen=True)
class StartSettings:
    """Settings of the start, with their names in a scorer file of train-sae.

    d_sae S; activation, k and bandwidth of the SAE; normalize, blend, b_dec and start_l0 as in sae_start.py; holdout
    and exclude_labels: which tokens are not trained on; batch_size and pool_bytes of the stream. arriving: whether the
    shards came in while training went on; processes: how many trained together.
    """

    d_sae: int
    activation: str = "topk"
    k: int = 32
    bandwidth: float = 0.03
    normalize: str = "sqrt-d"
    blend: float = 0.8
    b_dec: str = "mean"
    start_l0: float = 0.0
    holdout: float = 0.05
    exclude_labels: tuple[int, ...] = ()
    batch_size: int = 4096
    pool_bytes: int = parse_bytes("--pool-memory", POOL_MEMORY)
    seed: int = 0
    arriving: bool = False
    processes: int = 1

    @staticmethod
    def of(settings: Mapping[str, Any], what: str = "the settings") -> StartSettings:
        """Out of all settings of a training run; raises UserError, naming `what`, where they are not those of one.

        Files written before `arriving` and `processes` were recorded: one process, and shards that were all there.
        """
        given = {name: settings[name] for name in _NAMES if name in settings}
        missing = [name for name in _NAMES if name not in given]
        if set(missing) - {"arriving", "processes"}:
            raise UserError(
                f"{what}: {missing[0]} is missing among the settings, without which the start of its training cannot"
                " be known; train it again with this version of train-sae"
            )
        if missing:
            logger.warning(
                "%s: it does not say whether its shards came through a pipe; taken as if they had all been there",
                what,
            )
        return StartSettings(**{**given, "exclude_labels": tuple(given["exclude_labels"])})


_NAMES = [field.name for field in fields(StartSettings)]
