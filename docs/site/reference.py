"""What the site says of the commands and of the Python API: Markdown, made from their options and docstrings."""

from __future__ import annotations

import functools
import html
import inspect
import logging
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import typer

import saetools
from saetools.cli.umbrella import described, tools

log = logging.getLogger("mkdocs.plugins.reference")  # a warning here ends a strict build

# What functions of `saetools.__all__` return.
RETURNED = {
    "ShardSet": "saetools.shards.reader",
    "LatentsSet": "saetools.latents.reader",
    "VisionModel": "saetools.vision.models",
    "TrainedSAE": "train_sae.api",
    "Edited": "edit_latents.files",
    "Head": "saetools.scorers.head",
    "TrainedScorer": "saetools.scorers.record",
}
_ITEM = re.compile(r"(\*{0,2}[A-Za-z_]\w*(?:, \*{0,2}[A-Za-z_]\w*)*):\s+(\S.*)")  # name, name: what it is
# What Typer adds to the help of an option: [default: 1; x>=0]
_FACTS = re.compile(r"(?:^|\s\s)\[([^\[\]]*)\]$")
# All pages that are made here stand two folders deep.
_PAGE, _LINK = re.compile(r"\b(docs/\w+\.md)"), r"[\1](../../\1)"
_LINE = 90  # characters of a signature on one line


def command_page(name: str) -> str:
    """All options of a tool (or of `saetools`), its subcommands and examples."""
    app = import_module(
        "saetools.cli.umbrella.cli" if name == "saetools" else f"{name.replace('-', '_')}.cli"
    )
    command: Any = typer.main.get_command(app.app)
    context = command.context_class(command, info_name=name)
    parts = [
        f"## {'saetools' if name == 'saetools' else 'All options'}",
        *_command(command, context, level=3, prefix=""),
    ]
    if name != "saetools":
        for each in command.list_commands(context) if hasattr(command, "list_commands") else ():
            below = command.get_command(context, each)
            inner = below.context_class(below, info_name=each, parent=context)
            parts += [f"## {name} {each}", *_command(below, inner, level=3, prefix=each)]
    return "\n\n".join(parts) + "\n"


def tools_page() -> str:
    """All tools, and the options of `saetools`."""
    rows = "\n".join(f"| [`{name}`](../../tools/{name}/README.md) | {described(name)} |" for name in tools())
    return (
        "# All commands\n\nEach page has the tool's manual and all its options, as `--help` lists them.\n\n"
        f"| tool | what it does |\n|---|---|\n{rows}\n\n{command_page('saetools')}"
    )


def api_page() -> str:
    """The names of `saetools.__all__`, and what they return."""
    parts = [
        "# Python API",
        "Every name of `import saetools as st`, from the docstrings. [From Python](../python.md) shows them at work."
        " Letters in braces are shapes: N images, P patches, D the model's width, S or K latents.",
    ]
    for name in sorted(saetools.__all__, key=lambda one: (not one.islower(), one.lower())):
        parts += _documented(f"st.{name}", getattr(saetools, name))
    parts.append("## What they return")
    for name, module in RETURNED.items():
        parts += _documented(name, getattr(import_module(module), name), level=3)
    return "\n\n".join(parts) + "\n"


# --- commands ----------------------------------------------------------------------------------------


def _command(command: Any, context: Any, level: int, prefix: str) -> Iterator[str]:
    yield _prose(command.help or "")
    yield f"```text\n{context.command_path} {' '.join(command.collect_usage_pieces(context))}\n```"
    for heading, rows in command.sections(context).items():
        yield f"{'#' * level} {heading}" + (f" {{#{_slug(prefix)}-{_slug(heading)}}}" if prefix else "")
        for parameter, typed, text in rows:
            yield from _option(context.command_path, parameter, typed, text, level + 1, prefix)
    heading, *lines = (command.epilog or "").split("\n\n")
    if lines:
        anchor = f" {{#{_slug(prefix)}-examples}}" if prefix else ""
        yield (
            f"{'#' * level} Examples{anchor}\n\n"
            + "```console\n"
            + "".join(f"$ {one}\n" for one in lines)
            + "```"
        )


def _option(path: str, parameter: Any, typed: str, text: str, level: int, prefix: str) -> Iterator[str]:
    """A heading, so that the search finds it and an address leads to it; what it does; choices, default and range."""
    facts: list[str] = []
    if found := _FACTS.search(text):
        text, facts = text[: found.start()], [_fact(fact) for fact in found[1].split("; ")]
    if not text.strip():
        log.warning("%s: %s has no help text", path, typed)
    if "|" in typed:
        typed, _, choices = typed.rpartition(" ")
        facts.insert(0, "one of " + " ".join(f"`{word}`" for word in choices.split("|")))
    name = max(parameter.opts, key=len).strip("[]{}.")
    anchor = f"{prefix}{'' if name.startswith('-') or not prefix else '-'}{name}"
    yield f"{'#' * level} `{typed}` {{#{anchor} .option}}"
    yield _prose(text) + (f" <span class='facts' markdown>{' · '.join(facts)}</span>" if facts else "")


def _fact(fact: str) -> str:
    """`default: 1`, `x>=0` or `required`, as Typer writes them."""
    word, colon, value = fact.partition(": ")
    return f"{word}{colon}`{value}`" if colon else fact if fact == "required" else f"`{fact}`"


# --- Python ------------------------------------------------------------------------------------------


def _documented(shown: str, what: Any, level: int = 2) -> Iterator[str]:
    if not inspect.getdoc(what):
        log.warning("%s has no docstring", shown)
    anchor = shown.rpartition(".")[2]
    yield f"{'#' * level} `{shown}` {{#{anchor}}}"
    if not (inspect.isclass(what) and issubclass(what, Exception)):
        yield f"```python\n{signature(shown, what)}\n```"
    yield _docstring(what)
    for name, member in _members(what) if inspect.isclass(what) else ():
        yield f"{'#' * (level + 1)} `{name}` {{#{anchor}.{name} .option}}"
        if not isinstance(member, property | functools.cached_property):
            yield f"```python\n{signature(name, member)}\n```"
        yield _docstring(member)


def _members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties with a docstring of their own, in the order of the class; not those of torch."""
    own = (
        [kind]
        if kind.__name__ in RETURNED
        else [base for base in kind.__mro__ if base.__module__ == kind.__module__]
    )
    for name, member in ((name, member) for base in own for name, member in vars(base).items()):
        found = getattr(member, "__func__", member)  # of static and class methods
        documented = inspect.isroutine(found) or isinstance(found, property | functools.cached_property)
        if documented and found.__doc__ and not name.startswith("_"):
            yield name, found


def signature(name: str, what: Any) -> str:
    """`name(a: int, *, b: str = "x") -> bool`, over several lines where it is long."""
    found = inspect.signature(what)
    parts, starred = [], False
    for each in found.parameters.values():
        if each.name == "self":
            continue
        if each.kind is each.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred = starred or each.kind in (each.KEYWORD_ONLY, each.VAR_POSITIONAL)
        stars = "**" if each.kind is each.VAR_KEYWORD else "*" if each.kind is each.VAR_POSITIONAL else ""
        kind = "" if each.annotation is each.empty else f": {_annotation(each.annotation)}"
        equals = " = " if kind else "="
        parts.append(
            f"{stars}{each.name}{kind}" + ("" if each.default is each.empty else f"{equals}{each.default!r}")
        )
    returns = (
        ""
        if inspect.isclass(what) or found.return_annotation is found.empty
        else f" -> {_annotation(found.return_annotation)}"
    )
    whole = f"{name}({', '.join(parts)}){returns}"
    if len(whole) <= _LINE:
        return whole
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){returns}"


def _annotation(found: Any) -> str:
    return found if isinstance(found, str) else getattr(found, "__name__", str(found))


def _docstring(what: Any) -> str:
    return _prose(inspect.getdoc(what) or "")


# --- text --------------------------------------------------------------------------------------------


def _prose(text: str) -> str:
    """Plain text as Markdown: paragraphs, lists of `name: what it is`, examples after >>>, lines after \\b."""
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        lines = block.splitlines()
        if lines and lines[0].lstrip().startswith(">>>"):
            blocks.append("```pycon\n" + inspect.cleandoc(block) + "\n```")
        elif block.lstrip(" ").startswith("\b"):  # as click marks what keeps its lines
            blocks.append("```text\n" + block.strip(" \b\n") + "\n```")
        elif lines and _ITEM.match(lines[0]):
            items: list[str] = []
            for line in lines:
                if found := _ITEM.match(line):
                    names = ", ".join(f"`{name}`" for name in found[1].split(", "))
                    items.append(f"- {names}: {plain(found[2])}")
                else:
                    items[-1] += f" {plain(line.strip())}"
            blocks.append("\n".join(items))
        else:
            blocks.append(plain("\n".join(line.strip() for line in lines)))
    return "\n\n".join(blocks)


def plain(text: str) -> str:
    """Text that Markdown leaves as it is; only `code` in back quotes is code."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(part if part[:1] == "`" else _PAGE.sub(_LINK, _escaped(part)) for part in parts)


def _escaped(text: str) -> str:
    return re.sub(r"([\\*_\[\]{}#|])", r"\\\1", html.escape(text, quote=False))


def _slug(text: str) -> str:
    return re.sub(r"[^\w-]", "", text.lower().replace(" ", "-"))
