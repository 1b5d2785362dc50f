"""The settings that decide the initialisation of an SAE; their defaults are those of train-sae.

Without torch: the options of train-sae are made from them, and --help must be fast.
"""

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
START_L0 = 32.0  # of ReLU and JumpReLU, if not given


@dataclass(frozen=True)
class StartSettings:
    """Settings that decide the initialisation, named as in a scorer file of train-sae.

    d_sae S; activation, k and bandwidth of the SAE; normalize, blend, b_dec and start_l0 as in `start.make_start`;
    holdout and exclude_labels: which tokens are not trained on; batch_size and pool_bytes of the stream; arriving:
    whether the shards came through a pipe during training; processes: number of processes that trained together.
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
    pool_bytes: int = parse_bytes("`pool_memory`", POOL_MEMORY)
    seed: int = 0
    arriving: bool = False
    processes: int = 1

    @staticmethod
    def of(settings: Mapping[str, Any], what: str = "the settings") -> StartSettings:
        """From the settings of a training run; raises UserError, naming `what`, if one is missing.

        Older files do not record `arriving` and `processes`: one process and no pipe are assumed.
        """
        given = {name: settings[name] for name in _NAMES if name in settings}
        missing = [name for name in _NAMES if name not in given]
        if set(missing) - {"arriving", "processes"}:
            raise UserError(
                f"{what}: the setting {missing[0]} is missing, so its initialisation cannot be rebuilt;"
                " train it again with this version of train-sae"
            )
        if missing:
            logger.warning(
                "%s: it does not record whether its shards came through a pipe; assuming that they did not",
                what,
            )
        return StartSettings(**{**given, "exclude_labels": tuple(given["exclude_labels"])})


_NAMES = [field.name for field in fields(StartSettings)]
