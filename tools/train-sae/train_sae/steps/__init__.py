"""One optimisation step of a sparse autoencoder (SAE), as fast as the machine allows.

For a batch x {B, D}, with S latents and unit rows in W_dec:

    z     = (x - b_dec) W_enc + b_enc                   {B, S}
    f     = act(z)
    x_hat = f W_dec + b_dec
    loss  = reconstruction + l1 * mean_b sum_s f + l0 * mean_b |{s: f > 0}| + aux_weight * aux

Activations (ties go to the lower token and latent):

    topk       ReLU(z) where z is among the k largest of its token, else 0               (arXiv 2406.04093, 2.3)
    batchtopk  ReLU(z) where it is among the k B largest of the batch, else 0            (arXiv 2412.06410, 3)
    relu       ReLU(z)
    jumprelu   z where z > theta, else 0; theta {S} > 0 is trained through its logarithm (arXiv 2407.14435)

theta gets its gradient through windows K = [|z - theta| < bandwidth / 2]: df/dtheta = -theta / bandwidth K, and
-K / bandwidth for the count. `l0` belongs to jumprelu alone; `sparsity_scale` multiplies l1 and l0 (warm-up).

Reconstruction:

    mse         mean over tokens and dimensions of (x_hat - x)^2
    matryoshka  mean over n prefixes p of the mse of x_hat_p = f[:, :p] W_dec[:p] + b_dec (arXiv 2503.17547);
                their lengths are drawn anew each step, see `prefixes.draw_prefixes`

AuxK (arXiv 2406.04093, equation 7): of the latents that were off for `dead_after_tokens` tokens, the aux_k with the
largest z of a token reconstruct the residual, which is detached:

    aux = mean over tokens and dimensions of (a W_dec - (x - x_hat))^2,    a = ReLU(z) (z itself for relu, jumprelu)

and 0 when none is dead. b_dec takes no part in that reconstruction.

The gradient: its part parallel to the rows of W_dec is removed; then it is scaled to a global norm of at most
`grad_clip`; then Adam, as `torch.optim.Adam`; then the rows of W_dec are scaled to unit norm.

    parameters = SAEParameters.from_arrays(W_enc.T, b_enc, W_dec, b_dec)
    step = make_step(parameters, StepSettings(activation="topk", k=32), batch_size=4096, seed=0)
    report = step.step(x_bd, lr=3e-4)  # {"loss": ..., "mse": ..., "l1": ..., "l0": ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from train_sae.steps.settings import StepSettings

if TYPE_CHECKING:  # the options are made from StepSettings too, and --help must not wait for torch
    import numpy as np
    from torch import Tensor

    from train_sae.steps.parameters import SAEParameters

__all__ = ["StepSettings", "TrainingStep", "make_step"]


class TrainingStep(Protocol):
    """Parameters in training. Same seed, same batches, same machine: the same bytes."""

    parameters: SAEParameters
    settings: StepSettings

    @property
    def fired_s(self) -> np.ndarray:
        """Tokens since each latent last fired, int64 {S}."""
        ...

    @property
    def threshold_s(self) -> np.ndarray | None:
        """The threshold at inference, float32 {S}: JumpReLU's, or BatchTopK's running one; None for others."""
        ...

    def step(
        self, x_bd: Tensor, lr: float, sparsity_scale: float = 1.0, log_norm: bool = False
    ) -> Mapping[str, float]:
        """One step on x {B, D}, float32, B at most the batch size; the parameters change in place.

        Returns, of the parameters before the step: `loss`; its parts `mse` (of the whole dictionary), `l1` and, with
        AuxK, `aux`, both with their weights; `l0`, active latents per token; `grad_norm` (before clipping) if the
        settings clip it or `log_norm` asks for it: sparse steps take a pass more for it. On a GPU, looking at a
        value waits until the step is done.
        """
        ...

    def state_dict(self) -> dict[str, np.ndarray]:
        """All that a later step depends on, except the parameters (which have a `state_dict` of their own)."""
        ...

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Continues where `state_dict` was taken."""
        ...


def make_step(
    parameters: SAEParameters, settings: StepSettings, batch_size: int, seed: int, autocast: bool = False
) -> TrainingStep:
    """The step for the device that the parameters are on: numba kernels for a CPU, torch for others.

    `autocast`: matrix products in bfloat16, on devices other than the CPU.
    """
    settings.check(parameters.n_latents)
    assert (parameters.log_threshold_s is not None) == (settings.activation == "jumprelu"), (
        settings.activation
    )
    if parameters.dec_sd.device.type == "cpu":
        from train_sae.steps.cpu.cpu_step import CpuStep

        return CpuStep(parameters, settings, batch_size, seed)
    from train_sae.steps.torch_step import TorchStep

    return TorchStep(parameters, settings, batch_size, seed, autocast)
