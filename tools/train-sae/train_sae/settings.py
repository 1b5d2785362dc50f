"""What decides how one SAE is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from saetools.scorers.start_settings import StartSettings
from train_sae.steps.settings import StepSettings

OPTIMIZERS = ("adam", "muon")


@dataclass(frozen=True)
class TrainingSettings:
    """d_sae S; tokens to train on, in whole batches; warmup and sparsity_warmup: shares of the steps; decay as in
    schedule.py; normalize, blend, b_dec and start_l0 as in saetools.scorers.start; holdout and exclude_labels as in
    saetools.shards.token_source; log_every in steps; autocast: matrix products in bfloat16 on a GPU."""

    d_sae: int
    tokens: int
    batch_size: int
    optimizer: str
    lr: float
    warmup: float
    decay: str
    sparsity_warmup: float
    normalize: str
    blend: float
    b_dec: str
    start_l0: float
    holdout: float
    exclude_labels: tuple[int, ...]
    pool_bytes: int
    seed: int
    log_every: int
    autocast: bool
    step: StepSettings

    @property
    def n_steps(self) -> int:
        """0 where no tokens are asked for: then the start itself is the result."""
        return max(1, self.tokens // self.batch_size) if self.tokens else 0

    def within_one_epoch(self, n_tokens: int) -> TrainingSettings:
        """The same, with no more tokens than there are."""
        return replace(self, tokens=min(self.tokens, n_tokens))

    @property
    def sparsity(self) -> float:
        """What sets how sparse the latents are: k, or the weight of the L1 or L0 penalty."""
        step = self.step
        return {"relu": step.l1, "jumprelu": step.l0}.get(step.activation, step.k)

    @property
    def stream(self) -> tuple[Any, ...]:
        """What decides the batches: SAEs that agree in it are trained on one stream."""
        return (
            self.n_steps > 0,
            self.batch_size,
            self.holdout,
            self.exclude_labels,
            self.pool_bytes,
            self.seed,
        )

    def start(self, arriving: bool = False, processes: int = 1) -> StartSettings:
        """What decides where it starts, of shards that arrive or are there, in one process or in several."""
        return StartSettings.of({**self.to_json(), "arriving": arriving, "processes": processes})

    def to_json(self) -> dict[str, Any]:
        """All settings, flat, with the names that the AP table uses."""
        plain = asdict(self)
        flat = {**plain, **plain.pop("step"), "sparsity": self.sparsity}
        flat.pop("step")
        return {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()}
