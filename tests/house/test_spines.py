"""CONTRIBUTING.md lists the files of each flow: they exist, are few and short, and import one another in turn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from our_imports import MODULES, ROOT, imported

PAGE = (ROOT / "CONTRIBUTING.md").read_text()
MOST_FILES, MOST_LINES = 8, 1500
FLOWS = ("dump-acts", "train-sae", "score-traits", "fit-probes", "render-visuals page", "expand-sweep")


def spine(flow: str) -> list[Path]:
    """The files of the numbered list under the heading of a flow, in reading order."""
    section = PAGE.split(f"### `{flow}")[1].split("\n### ")[0].split("\n## ")[0]
    return [ROOT / path for path in re.findall(r"^\d+\. `([^`]+)`", section, flags=re.M)]


@pytest.mark.parametrize("flow", FLOWS)
def test_a_newcomer_reads_a_flow_in_an_hour(flow: str) -> None:
    files = spine(flow)
    assert files[0].name == "cli.py"
    gone = [str(path.relative_to(ROOT)) for path in files if not path.is_file()]
    assert not gone, f"CONTRIBUTING.md lists files that are gone: {gone}"
    assert len(files) == len(set(files)) <= MOST_FILES
    assert sum(len(path.read_text().splitlines()) for path in files) <= MOST_LINES


@pytest.mark.parametrize("flow", FLOWS)
def test_each_file_of_a_flow_is_imported_by_one_before_it(flow: str) -> None:
    files = spine(flow)
    reached = {files[0]}
    for path in files[1:]:
        names = {name for before in reached for name in imported(before)}
        names |= {name.rpartition(".")[0] for name in names}  # a module's package is imported with it
        found = {MODULES[name] for name in names if name in MODULES}
        assert path in found, f"{path.relative_to(ROOT)}: no file before it imports it"
        reached.add(path)


def test_every_path_that_the_page_names_is_there() -> None:
    for path in re.findall(r"`((?:shared|tools|tests|docs|benchmarks|examples)/[\w/.-]*)`", PAGE):
        assert (ROOT / path).exists(), path
