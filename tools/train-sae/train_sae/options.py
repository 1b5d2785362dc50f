"""The fields of `config.SAETraining` as options of the command line, and as the table in the README."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from types import NoneType
from typing import Annotated, Any, Optional, TypeVar, get_args, get_type_hints

import typer

from saetools.cli.app import completing
from train_sae.config import SAETraining

GROUPS = {
    "Data": "layer val holdout exclude_labels allow_incomplete allow_overlap consume pool_memory",
    "The SAE": "out d_sae expansion activation k objective n_prefixes prefix_min prefix_power threshold_decay"
    " bandwidth normalize b_dec blend start_l0 seed",
    "Loss": "l1 l0 sparsity_warmup aux_k aux_weight dead_after",
    "Steps": "tokens batch_size optimizer lr warmup decay grad_clip autocast",
    "Many SAEs": "grid sweep sae_memory",
    "Running": "checkpoint_every log_every tensorboard wandb",
}
F = TypeVar("F", bound=Callable[..., None])


def with_options_of(settings: type, after: str) -> Callable[[F], F]:
    """The command takes the fields of a dataclass (see `config.option`) as options too, in place of its `**options`.

    after: the parameter of the command that they follow in --help
    """

    def changed(command: F) -> F:
        own = inspect.signature(command, eval_str=True).parameters.values()
        parameters: list[inspect.Parameter] = []
        for parameter in own:
            if parameter.kind is not parameter.VAR_KEYWORD:
                parameters.append(parameter.replace(kind=parameter.KEYWORD_ONLY))
            if parameter.name == after:
                parameters += _options(settings)
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return changed


def _options(settings: type) -> Iterator[inspect.Parameter]:
    """Each field as Typer reads an option from a function's parameter."""
    hints = get_type_hints(settings)
    for each in fields(settings):
        kinds = get_args(hints[each.name]) or (hints[each.name],)
        kind = str if str in kinds else kinds[0]  # text stands for counts and lists too
        names = [f"--{each.name.replace('_', '-')}"] if kind is bool else []  # no --no-... beside it
        smallest, largest = each.metadata["bounds"] or (None, None)
        words = each.metadata["choices"]
        option = typer.Option(
            *names,
            metavar="|".join(words) or None,
            autocompletion=completing(*words) if words else None,
            min=smallest,
            max=largest if largest != math.inf else None,
            help=each.metadata["help"],
        )
        annotation: Any = Annotated[Optional[kind] if NoneType in kinds else kind, option]  # noqa: UP045
        yield inspect.Parameter(
            each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=annotation
        )


def options_table() -> str:
    """The options of `SAETraining` as the Markdown table of the README."""
    lines = ["| option | default | what it sets |", "|---|---|---|"]
    for each in fields(SAETraining):
        unset, text = each.metadata["unset"], each.metadata["help"].partition(" [default:")[0]
        default = each.default if each.default is not None else "" if unset is None else unset
        shown = f"{default:g}" if isinstance(default, float) else "" if default is False else default
        lines.append(f"| `--{each.name.replace('_', '-')}` | {shown} | {text} |")
    return "\n".join(lines)
