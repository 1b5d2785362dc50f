"""The options of train-sae, and what they mean together: flags of one SAE, from the command line or a grid."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saetools.cli.app import parse_numbers
from saetools.cli.quantities import parse_bytes, parse_count
from saetools.errors import UsageError
from saetools.log import logger
from saetools.scorers.start_settings import B_DEC_STARTS, NORMALIZATIONS, START_L0, StartSettings

if TYPE_CHECKING:
    from train_sae.settings import TrainingSettings

DSaeOption = Annotated[int | None, typer.Option(min=1, help="Number of latents.")]
ExpansionOption = Annotated[
    int, typer.Option(min=1, help="Number of latents, in model widths, where --d-sae is not given.")
]
ActivationOption = Annotated[str, typer.Option(help="topk, batchtopk, relu or jumprelu.")]
ObjectiveOption = Annotated[
    str, typer.Option(help="mse, or matryoshka: the mean MSE over random prefixes of the latents.")
]
KOption = Annotated[
    int | None, typer.Option(min=1, help="topk, batchtopk: latents kept per token. [default: 32]")
]
L1Option = Annotated[
    float | None,
    typer.Option(min=0, help="Weight of the latents' mean L1 norm. [default: 0.01 for relu, else 0]"),
]
L0Option = Annotated[
    float | None, typer.Option(min=0, help="jumprelu: weight of the mean number of latents. [default: 0.01]")
]
BandwidthOption = Annotated[
    float | None, typer.Option(help="jumprelu: width of the window in which it is learnt. [default: 0.03]")
]
ThresholdDecayOption = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="batchtopk: memory of the running threshold. [default: 0.99]"),
]
NPrefixesOption = Annotated[
    int | None, typer.Option(min=1, help="matryoshka: prefixes drawn in a step. [default: 10]")
]
PrefixMinOption = Annotated[
    int | None, typer.Option(min=1, help="matryoshka: latents in the shortest prefix. [default: 1]")
]
PrefixPowerOption = Annotated[
    float | None, typer.Option(help="matryoshka: how fast long prefixes become rare. [default: 0.5]")
]
AuxKOption = Annotated[
    int, typer.Option(min=0, help="Dead latents that reconstruct what is left (AuxK); 0: none.")
]
AuxWeightOption = Annotated[float | None, typer.Option(min=0, help="Weight of AuxK's loss. [default: 1/32]")]
DeadAfterOption = Annotated[str, typer.Option(help="Tokens after which a latent that never fired is dead.")]
TokensOption = Annotated[str, typer.Option(help="Tokens to train on: 500k, 100M; 0 writes the start.")]
BatchSizeOption = Annotated[int, typer.Option(min=1, help="Tokens in a batch.")]
OptimizerOption = Annotated[str, typer.Option(help="adam, or muon for the two matrices (slower on a CPU).")]
LrOption = Annotated[float, typer.Option(min=0, help="Highest learning rate.")]
WarmupOption = Annotated[
    float, typer.Option(min=0, max=1, help="Share of the steps in which the rate rises.")
]
DecayOption = Annotated[
    str, typer.Option(help="Of the rate after that: cosine or linear, down to 0, or none.")
]
SparsityWarmupOption = Annotated[
    float,
    typer.Option(min=0, max=1, help="Share of the steps in which the L1 and L0 penalties rise from 0."),
]
GradClipOption = Annotated[
    float | None, typer.Option(help="Largest norm of the gradient of all parameters. [default: no limit]")
]
NormalizeOption = Annotated[
    str, typer.Option(help="Of inputs: none; mean: less their mean; sqrt-d: and to a mean square of 1.")
]
BlendOption = Annotated[
    float, typer.Option(min=0, max=1, help="Share of a data point in a latent's first direction.")
]
BDecOption = Annotated[str, typer.Option(help="Where b_dec starts: mean or geometric-median of the data.")]
StartL0Option = Annotated[
    float | None,
    typer.Option(min=0, help="relu, jumprelu: latents active per token at first; 0: those above b_enc = 0."),
]
HoldoutOption = Annotated[
    float, typer.Option(min=0, max=0.9, help="Share of the images held out where there is no --val.")
]
ExcludeLabelsOption = Annotated[
    str | None, typer.Option(help="Patch labels to leave out, in training and evaluation: 0 or 0,255.")
]
PoolMemoryOption = Annotated[str, typer.Option(help="Memory of the pool in which tokens are shuffled.")]
AutocastOption = Annotated[bool, typer.Option("--autocast", help="On a GPU: matrix products in bfloat16.")]

DECAYS = ("cosine", "linear", "none")
AT_LEAST_ONE = ("d_sae", "expansion", "k", "n_prefixes", "prefix_min", "batch_size")
SHARES = ("warmup", "sparsity_warmup", "blend", "threshold_decay")


@dataclass(frozen=True)
class Flags:
    """The flags that decide what an SAE becomes, as they are typed; each can be swept by a grid."""

    d_sae: int | None
    expansion: int
    activation: str
    objective: str
    k: int | None
    l1: float | None
    l0: float | None
    bandwidth: float | None
    threshold_decay: float | None
    n_prefixes: int | None
    prefix_min: int | None
    prefix_power: float | None
    aux_k: int
    aux_weight: float | None
    dead_after: str
    tokens: str
    batch_size: int
    optimizer: str
    lr: float
    warmup: float
    decay: str
    sparsity_warmup: float
    grad_clip: float | None
    normalize: str
    blend: float
    b_dec: str
    start_l0: float | None
    holdout: float
    exclude_labels: str | None
    pool_memory: str
    seed: int
    autocast: bool

    @staticmethod
    def of(parameters: Mapping[str, Any]) -> Flags:
        """Out of all parameters of the command."""
        return Flags(**{field.name: parameters[field.name] for field in fields(Flags)})

    def check(self) -> None:
        """Raise UsageError where a value is unknown or has no meaning beside the others."""
        from train_sae.settings import OPTIMIZERS
        from train_sae.steps.settings import ACTIVATIONS, OBJECTIVES

        for flag, value, known in (
            ("--activation", self.activation, ACTIVATIONS),
            ("--objective", self.objective, OBJECTIVES),
            ("--normalize", self.normalize, NORMALIZATIONS),
            ("--optimizer", self.optimizer, OPTIMIZERS),
            ("--decay", self.decay, DECAYS),
            ("--b-dec", self.b_dec, B_DEC_STARTS),
        ):
            if value not in known:
                raise UsageError(f"{flag} {value}: expected one of {', '.join(known)}")
        self._check_ranges()
        penalised = bool(self._l1() or self._l0())
        for flag, given, used, needs in (
            ("--l0", self.l0 is not None, self.activation == "jumprelu", "--activation jumprelu"),
            (
                "--bandwidth",
                self.bandwidth is not None,
                self.activation == "jumprelu",
                "--activation jumprelu",
            ),
            (
                "--threshold-decay",
                self.threshold_decay is not None,
                self.activation == "batchtopk",
                "--activation batchtopk",
            ),
            ("--start-l0", self.start_l0 is not None, self._thresholded(), "--activation relu or jumprelu"),
            ("--n-prefixes", self.n_prefixes is not None, self._nested(), "--objective matryoshka"),
            ("--prefix-min", self.prefix_min is not None, self._nested(), "--objective matryoshka"),
            ("--prefix-power", self.prefix_power is not None, self._nested(), "--objective matryoshka"),
            ("--aux-weight", self.aux_weight is not None, self.aux_k > 0, "--aux-k"),
            ("--sparsity-warmup", self.sparsity_warmup > 0, penalised, "an L1 or L0 penalty to warm up"),
        ):
            if given and not used:
                raise UsageError(f"{flag}: it does nothing without {needs}; leave it out")
        if self.k is not None and self._thresholded():
            logger.warning("--k %d: %s has no use for it", self.k, self.activation)

    def _check_ranges(self) -> None:
        """The values of a grid have not passed through the command line's own checks."""
        for flag, number, least, most in (
            *((flag, getattr(self, flag), 1, math.inf) for flag in AT_LEAST_ONE),
            *((flag, getattr(self, flag), 0, 1) for flag in SHARES),
            ("holdout", self.holdout, 0, 0.9),
            ("start_l0", self.start_l0, 0, math.inf),
        ):
            if number is not None and not least <= number <= most:
                upper = f" and at most {most}" if most < math.inf else ""
                raise UsageError(
                    f"--{flag.replace('_', '-')} {number}: expected a number of at least {least}{upper}"
                )
        for flag in ("bandwidth", "prefix_power", "grad_clip"):
            if (number := getattr(self, flag)) is not None and not 0 < number < math.inf:
                raise UsageError(f"--{flag.replace('_', '-')} {number}: expected a number above 0")

    def excluded(self) -> tuple[int, ...]:
        """The patch labels to leave out; raises UsageError."""
        return _labels(self.exclude_labels)

    def settings(self, d_model: int, holdout: float, log_every: int) -> TrainingSettings:
        """As settings, for inputs of width d_model; raises UsageError where they do not fit together."""
        from train_sae.settings import TrainingSettings
        from train_sae.steps import StepSettings

        n_latents = self.d_sae or self.expansion * d_model
        k = StartSettings.k if self.k is None else self.k
        if k > n_latents or self.aux_k > n_latents:
            raise UsageError(
                f"--k {k} --aux-k {self.aux_k}: there are only {n_latents} latents; raise --d-sae"
            )
        given = {
            name: getattr(self, name)
            for name in (
                "bandwidth",
                "threshold_decay",
                "n_prefixes",
                "prefix_min",
                "prefix_power",
                "aux_weight",
            )
            if getattr(self, name) is not None
        }
        step = StepSettings(
            activation=self.activation,
            objective=self.objective,
            k=k,
            l1=self._l1(),
            l0=self._l0(),
            aux_k=self.aux_k,
            dead_after_tokens=parse_count("--dead-after", self.dead_after),
            grad_clip=self.grad_clip,
            **given,
        )
        if self._nested() and step.n_prefixes - 1 > n_latents - step.prefix_min:
            raise UsageError(
                f"--n-prefixes {step.n_prefixes} --prefix-min {step.prefix_min}: {n_latents} latents have fewer"
                " different prefixes; lower them, or raise --d-sae"
            )
        return TrainingSettings(
            d_sae=n_latents,
            tokens=parse_count("--tokens", self.tokens, least=0),
            batch_size=self.batch_size,
            optimizer=self.optimizer,
            lr=self.lr,
            warmup=self.warmup,
            decay=self.decay,
            sparsity_warmup=self.sparsity_warmup,
            normalize=self.normalize,
            blend=self.blend,
            b_dec=self.b_dec,
            start_l0=self._start_l0(),
            holdout=holdout,
            exclude_labels=self.excluded(),
            pool_bytes=parse_bytes("--pool-memory", self.pool_memory),
            seed=self.seed,
            log_every=log_every,
            autocast=self.autocast,
            step=step,
        )

    def _nested(self) -> bool:
        return self.objective == "matryoshka"

    def _thresholded(self) -> bool:
        return self.activation in ("relu", "jumprelu")

    def _start_l0(self) -> float:
        return 0.0 if not self._thresholded() else START_L0 if self.start_l0 is None else self.start_l0

    def _l1(self) -> float:
        return self.l1 if self.l1 is not None else 1e-2 if self.activation == "relu" else 0.0

    def _l0(self) -> float:
        return 0.0 if self.activation != "jumprelu" else 1e-2 if self.l0 is None else self.l0


def _labels(text: str | None) -> tuple[int, ...]:
    if text is None:
        return ()
    labels = parse_numbers("--exclude-labels", text, int)
    if not all(0 <= label <= 65535 for label in labels):
        raise UsageError(f"--exclude-labels {text}: expected numbers from 0 to 65535")
    return tuple(sorted(set(labels)))
