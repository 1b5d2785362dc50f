"""The --help of every command: plain text in groups of options, as wide as the terminal; choices as choices.

It is formatted here, not by Rich, which takes longer to import than the rest of a --help, shortens long options, and
draws boxes in a pipe, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from saetools.errors import UsageError, near_names

COMMON = "Common options"  # of all tools: they come last
_COMMON_NAMES = ("device", "verbose", "version", "help", "install_completion", "show_completion")
_TYPE = re.compile(
    r"<(?:list\[)?(\w+)[^>]*>"
)  # newer versions of Typer write <int range>, older ones INTEGER RANGE
_TYPE_NAMES = {"str": "TEXT", "int": "N", "float": "X"}
WIDEST = 110


class _Plain:
    """groups: heading -> the parameters below it, in order; those in none are below `Options`."""

    groups: Mapping[str, str] = {}

    def sections(self, ctx: Any) -> dict[str, list[tuple[Any, str, str]]]:
        """Heading -> (parameter, how it is typed, what it does) of each below it, as --help and the reference show."""
        names = {name: heading for heading, listed in self.groups.items() for name in listed.split()}
        names |= dict.fromkeys(_COMMON_NAMES, COMMON)
        rows: dict[str, dict[str, tuple[Any, str, str]]] = {
            heading: {} for heading in ("Arguments", *self.groups, "Options", COMMON)
        }
        for parameter in self.get_params(ctx):  # type: ignore[attr-defined]
            if record := parameter.get_help_record(ctx):
                is_argument = parameter.param_type_name == "argument"
                heading = "Arguments" if is_argument else names.get(parameter.name, "Options")
                left = _TYPE.sub(lambda found: _TYPE_NAMES.get(found[1], found[1].upper()), record[0])
                right = record[1].replace(r"\[", "[")  # older versions of Typer escape it
                rows[heading][parameter.name] = (parameter, left, right)
        ordered = {
            heading: (self.groups.get(heading, "").split() or list(found)) for heading, found in rows.items()
        }
        return {
            heading: [found[name] for name in ordered[heading] if name in found]
            for heading, found in rows.items()
            if found
        }

    def format_options(self, ctx: Any, formatter: Any) -> None:
        for heading, rows in self.sections(ctx).items():
            with formatter.section(heading):
                formatter.write_dl([(left, right) for _, left, right in rows], col_max=34)
        if hasattr(self, "format_commands"):
            self.format_commands(ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """The examples, each on one line as it is typed, however long."""
        heading, *lines = (self.epilog or "").split("\n\n")  # type: ignore[attr-defined]
        if lines:
            formatter.write(f"\n{heading}\n" + "".join(f"  {line}\n" for line in lines))


class _Command(_Plain, TyperCommand):
    pass


class Group(_Plain, TyperGroup):
    pass


class App(typer.Typer):
    """A Typer app whose commands have this help."""

    def command(
        self, name: str | None = None, *, groups: Mapping[str, str] | None = None, **settings: Any
    ) -> Callable[..., Any]:
        """As of Typer. groups: headings of the help, with the names of the parameters below each."""
        kind = type("Command", (_Command,), {"groups": groups or {}})
        return super().command(name, cls=kind, **settings)


def new_app(group: type[Group] = Group) -> App:
    """An empty app with the behaviour that every command shares."""
    return App(
        cls=group,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDEST},
    )


def completing(*words: str) -> Callable[[str], list[str]]:
    """For `typer.Option(autocompletion=...)`: the words that begin as what was typed."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def choice(*words: str, **settings: Any) -> Any:
    """A Typer option whose value is one of the words, which are completed; another one is a UsageError."""

    def check(parameter: typer.CallbackParam, value: str | None) -> str | None:
        if value is not None and value not in words:
            near = near_names(value, words)
            raise UsageError(f"{parameter.opts[0]} {value}: expected one of {', '.join(words)}{near}")
        return value

    return typer.Option(
        callback=check, autocompletion=completing(*words), metavar="|".join(words), **settings
    )
