"""saetools: list the tools, or run one of them."""

from __future__ import annotations

from importlib import import_module
from typing import Any, NoReturn

import typer

from saetools.cli.app import VersionOption, new_app, run, write_line
from saetools.cli.help import Group
from saetools.cli.umbrella import described, tools
from saetools.errors import UsageError, near_names


class _Tools(Group):
    """The tools as subcommands: for the completion of the shell, and for expand-sweep, which checks command lines."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        return tools()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in tools():
            return None
        return typer.main.get_command(import_module(f"{cmd_name.replace('-', '_')}.cli").app)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] in tools() or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        near = near_names(args[0], tools()) or "; `saetools` lists the tools"
        raise UsageError(f"saetools has no tool {args[0]!r}{near}")

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        with formatter.section("Tools"):
            formatter.write_dl([(name, described(name)) for name in tools()], col_max=34)


app = new_app(_Tools)


@app.callback(invoke_without_command=True)
def saetools(context: typer.Context, version: VersionOption = False) -> None:
    """List the tools, or run one: `saetools dump-acts ...` is `dump-acts ...`.

    The options of a tool: saetools TOOL --help
    """
    if context.invoked_subcommand is None:
        write_line(context.get_help())


def main() -> NoReturn:
    run("saetools", app)
