"""Imports run one way: no circles, tools never import each other, and groups of the shared package stand in layers."""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter

import pytest
from our_imports import MODULES, TOOLS, imported

# Groups of saetools, lowest first. A group imports those of lower layers, and its own.
LAYERS = (
    ("errors", "log", "unfinished"),
    ("compute", "files", "cli"),
    ("shards",),
    ("scorers",),
    ("latents",),
    ("labels", "metrics"),
    ("vision",),
)


def group(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_no_import_circle() -> None:
    # The front door names its modules for type checkers, and every module may ask it for the version.
    graph = {
        name: set(imported(path, types=name != "saetools")) - {name, "saetools"}
        for name, path in MODULES.items()
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("tool", [tool.name for tool in TOOLS])
def test_a_tool_imports_no_other_tool(tool: str) -> None:
    others = {path.name for path in TOOLS} - {tool}
    for name, path in MODULES.items():
        if name.split(".")[0] == tool:
            assert not {found.split(".")[0] for found in imported(path)} & others, name


def test_the_shared_package_imports_no_tool() -> None:
    for name, path in MODULES.items():
        if name.split(".")[0] == "saetools":
            assert {found.split(".")[0] for found in imported(path)} <= {"saetools"}, name


def test_groups_of_the_shared_package_import_lower_ones() -> None:
    layer = {name: number for number, names in enumerate(LAYERS) for name in names}
    named = {group(name) for name in MODULES if name.startswith("saetools.")}
    assert named == set(layer), "every group has its layer here"
    for name, path in MODULES.items():
        if name.startswith("saetools."):
            for found in imported(path):
                mine, theirs = group(name), group(found)
                if theirs and theirs != mine:
                    assert layer[theirs] < layer[mine], f"{name} imports {found}"


def test_only_programs_import_the_command_line_kit() -> None:
    for name, path in MODULES.items():
        if "saetools.cli.app" in imported(path):
            assert name.startswith("saetools.cli.") or name.split(".")[0] != "saetools", name
        if name.startswith(("saetools.files", "saetools.compute", "saetools.errors")):
            assert not any(found.startswith("saetools.cli") for found in imported(path)), name
