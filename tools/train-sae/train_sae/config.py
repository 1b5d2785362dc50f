"""What can be set for a training run: the options of `train-sae`, and the settings that follow from them.

Each option is written once, as a field of `SAETraining`: type, default, bounds, help. The options of the command line
(cli.py), the keyword arguments of `train_sae.api.train_sae`, the docstring of the class and the table in the README are
made from these fields. Nothing here imports torch, so that --help is fast.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from types import NoneType
from typing import Any, get_args, get_type_hints

from saetools.cli.quantities import parse_bytes, parse_count
from saetools.errors import UsageError
from saetools.log import logger
from saetools.scorers.start_settings import B_DEC_STARTS, NORMALIZATIONS, POOL_MEMORY, START_L0, StartSettings
from train_sae import planned
from train_sae.steps.settings import OBJECTIVES, TRAINABLE, StepSettings

OPTIMIZERS = ("adam", "muon")
DECAYS = ("cosine", "linear", "none")


def option(
    default: Any,
    text: str,
    unset: Any = None,
    *,
    bounds: tuple[float, float] | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    only: tuple[str, tuple[str, ...]] | None = None,
) -> Any:
    """A field of `SAETraining`.

    unset: what the default None stands for
    bounds: smallest and largest number allowed; above: numbers must be larger than this
    choices: the words allowed
    only: (another option, its values with which this one has an effect)
    """
    if unset is not None:
        text += f" [default: {unset if isinstance(unset, str) else f'{unset:g}'}]"
    more = {"unset": unset, "bounds": bounds, "above": above, "choices": choices, "only": only}
    return field(default=default, metadata={"help": text, **more})


AT_LEAST_0, AT_LEAST_1, FRACTION = (0, math.inf), (1, math.inf), (0, 1)
JUMPRELU, BATCHTOPK = ("activation", ("jumprelu",)), ("activation", ("batchtopk",))
THRESHOLDED, NESTED = ("activation", ("relu", "jumprelu")), ("objective", ("matryoshka",))


# fmt: off
@dataclass(frozen=True)
class SAETraining:
    """How one SAE is trained: the options of `train-sae` that decide the result.

    None leaves a value to the default that its text names. Counts and sizes may be text: "500k", "2GB".
    """

    d_sae: int | None = option(
        None, "Number of latents.", "--expansion times the model width", bounds=AT_LEAST_1)
    expansion: int = option(
        8, "Number of latents per model dimension, if --d-sae is not given.", bounds=AT_LEAST_1)
    activation: str = option(
        StartSettings.activation, "Activation function: topk, batchtopk, relu or jumprelu.", choices=TRAINABLE)
    objective: str = option(
        "mse", "Reconstruction loss: mse, or matryoshka: the mean MSE over random prefixes of the latents.",
        choices=OBJECTIVES)
    k: int | None = option(
        None, "topk, batchtopk: active latents per token.", StepSettings.k, bounds=AT_LEAST_1)
    l1: float | None = option(
        None, "Weight of the L1 penalty: sum of a token's latents, mean over tokens.", "0.01 for relu, else 0",
        bounds=AT_LEAST_0)
    l0: float | None = option(
        None, "jumprelu: weight of the L0 penalty: mean number of active latents per token.", 0.01,
        bounds=AT_LEAST_0, only=JUMPRELU)
    bandwidth: float | None = option(
        None, "jumprelu: width of the kernel that estimates the threshold's gradient.", StepSettings.bandwidth,
        above=0, only=JUMPRELU)
    threshold_decay: float | None = option(
        None, "batchtopk: decay of the moving average that becomes the threshold for single tokens.",
        StepSettings.threshold_decay, bounds=FRACTION, only=BATCHTOPK)
    n_prefixes: int | None = option(
        None, "matryoshka: prefixes per step.", StepSettings.n_prefixes, bounds=AT_LEAST_1, only=NESTED)
    prefix_min: int | None = option(
        None, "matryoshka: latents in the shortest prefix.", StepSettings.prefix_min, bounds=AT_LEAST_1, only=NESTED)
    prefix_power: float | None = option(
        None, "matryoshka: exponent of the prefix lengths' Pareto law; higher: long prefixes are rarer.",
        StepSettings.prefix_power, above=0, only=NESTED)
    aux_k: int = option(
        0, "AuxK loss: dead latents per token that reconstruct the residual; 0: no such loss.", bounds=AT_LEAST_0)
    aux_weight: float | None = option(
        None, "Weight of the AuxK loss.", StepSettings.aux_weight, bounds=AT_LEAST_0)
    dead_after: str | int | None = option(
        None, "Tokens without activity after which a latent counts as dead.", planned.DEFAULT_DEAD_AFTER)
    tokens: str | int | None = option(
        None, "Tokens to train on: 500k, 100M; 0 writes the untrained SAE.", planned.DEFAULT_TOKENS)
    batch_size: int = option(StartSettings.batch_size, "Tokens per batch.", bounds=AT_LEAST_1)
    optimizer: str = option(
        "adam", "adam, or muon for the encoder's and decoder's weights (slower on a CPU).", choices=OPTIMIZERS)
    lr: float = option(1e-3, "Peak learning rate.", bounds=AT_LEAST_0)
    warmup: float = option(0.05, "Learning-rate warm-up, as a fraction of the steps.", bounds=FRACTION)
    decay: str = option(
        "cosine", "Learning-rate decay after the warm-up: cosine or linear (both down to 0), or none.", choices=DECAYS)
    sparsity_warmup: float = option(
        0.0, "Warm-up of the L1 and L0 penalties from 0, as a fraction of the steps.", bounds=FRACTION)
    grad_clip: float | None = option(
        None, "Gradient clipping: maximum norm over all parameters.", "no clipping", above=0)
    normalize: str = option(
        StartSettings.normalize, "Input normalisation: none; mean: subtract the mean; sqrt-d: also scale to a mean"
        " square of 1.", choices=NORMALIZATIONS)
    blend: float = option(
        StartSettings.blend, "Decoder initialisation: weight of a data point against random noise.", bounds=FRACTION)
    b_dec: str = option(
        StartSettings.b_dec, "Initial decoder bias: mean or geometric-median of the data.", choices=B_DEC_STARTS)
    start_l0: float | None = option(
        None, "relu, jumprelu: active latents per token at initialisation; 0: encoder biases start at 0.", START_L0,
        bounds=AT_LEAST_0, only=THRESHOLDED)
    exclude_labels: str | Sequence[int] | None = option(
        None, "Patch labels to leave out of training and evaluation: 0 or 0,255.")
    holdout: float = option(
        StartSettings.holdout, "Fraction of the images held out for evaluation, if there is no --val.",
        bounds=(0, 0.9))
    pool_memory: str | int = option(POOL_MEMORY, "Memory of the pool in which tokens are shuffled.")
    seed: int = option(StartSettings.seed, "Random seed.")
    autocast: bool = option(False, "On a GPU: matrix products in bfloat16 (mixed precision).")
    # fmt: on

    def check(self) -> None:
        """Raise UsageError where a value is unknown, out of bounds, or has no effect beside the others."""
        hints = get_type_hints(SAETraining)
        for each in fields(self):
            _check_value(each, getattr(self, each.name), hints[each.name])
        for each in fields(self):
            if each.metadata["only"] is not None and getattr(self, each.name) is not None:
                other, values = each.metadata["only"]
                if getattr(self, other) not in values:
                    raise _no_effect(each.name, f"`{other}` {' or '.join(values)}")
        if self.aux_weight is not None and not self.aux_k:
            raise _no_effect("aux_weight", "`aux_k`")
        if self.sparsity_warmup > 0 and not (self._l1() or self._l0()):
            raise _no_effect("sparsity_warmup", "an L1 or L0 penalty to warm up")
        if self.k is not None and self.activation in THRESHOLDED[1]:
            logger.warning("k = %d has no effect with %s", self.k, self.activation)

    def n_tokens(self, epoch: int) -> int:
        """Tokens to train on, where an epoch has so many; raises UsageError."""
        return planned.default_tokens(epoch) if self.tokens is None else _count("tokens", self.tokens, 0)

    def settings(
        self, d_model: int, epoch: int, holdout: float, log_every: int | None = None, once: bool = False
    ) -> TrainingSettings:
        """Every value decided, for inputs of width d_model and epochs of so many tokens; raises UsageError.

        once: no more tokens than an epoch has.
        """
        tokens = min(self.n_tokens(epoch), epoch) if once else self.n_tokens(epoch)
        n_latents = self.d_sae or self.expansion * d_model
        k = self._value("k")
        if k > n_latents or self.aux_k > n_latents:
            raise UsageError(
                f"`k` {k} `aux_k` {self.aux_k}: there are only {n_latents} latents; raise `d_sae`"
            )
        optional = ("bandwidth", "threshold_decay", "n_prefixes", "prefix_min", "prefix_power", "aux_weight")
        step = StepSettings(
            activation=self.activation,
            objective=self.objective,
            k=k,
            l1=self._l1(),
            l0=self._l0(),
            aux_k=self.aux_k,
            dead_after_tokens=_count("dead_after", planned.dead_after(self.dead_after, tokens), 1),
            grad_clip=self.grad_clip,
            **{name: self._value(name) for name in optional},
        )
        if self.objective == "matryoshka" and step.n_prefixes - 1 > n_latents - step.prefix_min:
            raise UsageError(
                f"`n_prefixes` {step.n_prefixes} `prefix_min` {step.prefix_min}: {n_latents} latents have fewer"
                " different prefixes; lower them, or raise `d_sae`"
            )
        memory = f"{self.pool_memory}B" if isinstance(self.pool_memory, int) else self.pool_memory
        return TrainingSettings(
            options=self,
            d_sae=n_latents,
            tokens=tokens,
            start_l0=self._start_l0(),
            holdout=holdout,
            exclude_labels=_labels(self.exclude_labels),
            pool_bytes=parse_bytes("`pool_memory`", memory),
            log_every=log_every or planned.default_log_every(tokens // self.batch_size),
            step=step,
        )

    def _value(self, name: str) -> Any:
        """As given, else the default that its help names."""
        given = getattr(self, name)
        return self.__dataclass_fields__[name].metadata["unset"] if given is None else given

    def _l1(self) -> float:
        return self.l1 if self.l1 is not None else 1e-2 if self.activation == "relu" else 0.0

    def _l0(self) -> float:
        return float(self._value("l0")) if self.activation == "jumprelu" else 0.0

    def _start_l0(self) -> float:
        return float(self._value("start_l0")) if self.activation in THRESHOLDED[1] else 0.0


@dataclass(frozen=True)
class TrainingSettings:
    """`SAETraining` for inputs of a known width: what its options leave open is decided.

    options: as given; what is not listed below is read from there. d_sae S; tokens, in whole batches; start_l0 as in
    saetools.scorers.start; holdout and exclude_labels as in saetools.shards.token_source; log_every in steps.
    """

    options: SAETraining
    d_sae: int
    tokens: int
    start_l0: float
    holdout: float
    exclude_labels: tuple[int, ...]
    pool_bytes: int
    log_every: int
    step: StepSettings

    @property
    def n_steps(self) -> int:
        """0 where no tokens are asked for: then the untrained SAE is the result."""
        return max(1, self.tokens // self.options.batch_size) if self.tokens else 0

    @property
    def stream(self) -> tuple[Any, ...]:
        """What decides the batches: SAEs that agree in it are trained on one stream."""
        own = (self.options.batch_size, self.holdout, self.exclude_labels, self.pool_bytes, self.options.seed)
        return (self.n_steps > 0, *own)

    def start(self, arriving: bool = False, processes: int = 1) -> StartSettings:
        """What decides its initialisation, for shards that arrive or are there, in one process or in several."""
        return StartSettings.of({**self.to_json(), "arriving": arriving, "processes": processes})

    def to_json(self) -> dict[str, Any]:
        """All settings, flat, with the names that scorer files and the AP table use."""
        own = {each.name: getattr(self, each.name) for each in fields(self)[1:-1]}
        flat = {**asdict(self.options), **own, **asdict(self.step)}
        for name in ("expansion", "dead_after", "pool_memory"):  # as d_sae, dead_after_tokens, pool_bytes
            del flat[name]
        # What sets how sparse the latents are: k, or the weight of the L1 or L0 penalty.
        weights = {"relu": self.step.l1, "jumprelu": self.step.l0}
        flat["sparsity"] = weights.get(self.step.activation, self.step.k)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()}


def _check_value(option: Field[Any], value: Any, hint: Any) -> None:
    kinds = get_args(hint) or (hint,)
    if value is None and NoneType in kinds:
        return
    bounds, above, choices = (option.metadata[key] for key in ("bounds", "above", "choices"))
    found = f"`{option.name}` {value}"
    if choices and value not in choices:
        raise UsageError(f"{found}: expected one of {', '.join(choices)}")
    if bool in kinds and not isinstance(value, bool):
        raise UsageError(f"{found}: expected True or False")
    if int in kinds and str not in kinds and (isinstance(value, bool) or not isinstance(value, int)):
        raise UsageError(f"{found}: expected a whole number")
    if float in kinds and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise UsageError(f"{found}: expected a number")
    if bounds is not None and not (bounds[0] <= value <= bounds[1] and math.isfinite(value)):
        upper = f" and at most {bounds[1]}" if bounds[1] < math.inf else ""
        raise UsageError(f"{found}: expected a number of at least {bounds[0]}{upper}")
    if above is not None and not above < value < math.inf:
        raise UsageError(f"{found}: expected a number above {above}")


def _no_effect(name: str, needs: str) -> UsageError:
    return UsageError(f"`{name}`: it does nothing without {needs}; leave it out")


def _count(name: str, value: str | int, minimum: int) -> int:
    return parse_count(f"`{name}`", str(value), minimum)


def _labels(labels: str | Sequence[int] | None) -> tuple[int, ...]:
    if labels is None:
        return ()
    parts = labels.split(",") if isinstance(labels, str) else [str(label) for label in labels]
    if not all(re.fullmatch(r"\s*\d+\s*", part) and int(part) <= 65535 for part in parts):
        raise UsageError(f"`exclude_labels` {labels!r}: expected numbers from 0 to 65535 with commas between them")
    return tuple(sorted({int(part) for part in parts}))


def _described(settings: type) -> str:
    """The docstring of a dataclass of options, with a line for each field."""
    helps = ((each.name, each.metadata["help"]) for each in fields(settings))
    named = (
        f"    {name}: {re.sub('--([a-z0-9-]+)', lambda found: found[1].replace('-', '_'), text)}"
        for name, text in helps
    )
    return "\n".join([str(settings.__doc__).rstrip(), "", *named])


SAETraining.__doc__ = _described(SAETraining)
