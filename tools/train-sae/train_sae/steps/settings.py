"""The settings of a training step: activation, objective and optimiser."""

from __future__ import annotations

from dataclasses import dataclass

from saetools.scorers.start_settings import StartSettings

TRAINABLE = ("topk", "batchtopk", "relu", "jumprelu")
OBJECTIVES = ("mse", "matryoshka")


@dataclass(frozen=True)
class StepSettings:
    """Settings of one training step; its formulas are in `train_sae.steps`.

    - `k`: active latents per token (topk), or on average per token (batchtopk).
    - `l1`: weight of the mean over tokens of sum |f| (every activation; the usual choice for relu).
    - `l0`: weight of the mean over tokens of the count of f > 0 (jumprelu alone).
    - `bandwidth`: width of the window of JumpReLU's straight-through estimate, in units of pre-activations.
      arXiv 2407.14435 takes 0.001 for inputs of unit mean squared norm, which is 0.028 when that is D = 768.
    - `n_prefixes`, `prefix_min`, `prefix_power`: how Matryoshka's prefixes are drawn, see `steps.prefixes`.
    - `aux_k`: dead latents that reconstruct the residual (0: no AuxK); `aux_weight`: the weight of that loss.
    - `dead_after_tokens`: a latent that was inactive for that many tokens is dead.
    - `threshold_decay`: of BatchTopK's running threshold.
    - `eps` is smaller than usual, because gradients of a mean over B*D numbers are small.
    - `grad_clip`: maximum global norm of the gradient (None: no clipping).
    - `prescreen`: let sparse codes choose their candidates by bfloat16 products, which provably hold all that is
      active, and score only those in float32; None leaves it to the machine.
    """

    activation: str = "topk"
    objective: str = "mse"
    k: int = StartSettings.k
    l1: float = 0.0
    l0: float = 0.0
    bandwidth: float = StartSettings.bandwidth
    n_prefixes: int = 10
    prefix_min: int = 1
    prefix_power: float = 0.5
    aux_k: int = 0
    aux_weight: float = 1 / 32
    dead_after_tokens: int = 10_000_000
    threshold_decay: float = 0.99
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-10
    grad_clip: float | None = None
    prescreen: bool | None = None

    def __post_init__(self) -> None:
        assert self.activation in TRAINABLE, self.activation
        assert self.objective in OBJECTIVES, self.objective
        assert self.k >= 1 and self.aux_k >= 0 and self.dead_after_tokens >= 1
        assert self.n_prefixes >= 1 and self.prefix_min >= 1 and self.prefix_power > 0
        assert self.bandwidth > 0 and self.eps > 0
        assert self.grad_clip is None or self.grad_clip > 0
        assert self.l0 == 0 or self.activation == "jumprelu", "l0 is JumpReLU's penalty"

    def check(self, n_latents: int) -> None:
        """Asserts that the settings fit a dictionary of that size; `SAETraining.settings` raises UsageError before."""
        assert self.activation not in ("topk", "batchtopk") or self.k <= n_latents, (self.k, n_latents)
        assert self.aux_k <= n_latents, (self.aux_k, n_latents)
        if self.objective == "matryoshka":
            possible = max(0, n_latents - self.prefix_min)
            assert self.n_prefixes - 1 <= possible, (self.n_prefixes, self.prefix_min, n_latents)
