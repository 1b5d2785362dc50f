"""docs/python.md and the notebook: they run as they stand, and print what they show."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from doc_examples import ROOT, examples, prepare, run, run_commands

MOST_LINES = 10  # from files to an answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    prepare(folder)
    return folder


def test_the_page_prints_what_it_shows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    found = list(examples((ROOT / "docs/python.md").read_text()))
    assert sum(each.kind == "python" for each in found) >= 7
    for each in found:
        assert len(each.code.strip().splitlines()) <= MOST_LINES, each.code
        if each.kind == "console":
            run_commands(each.code)
        elif each.exact:
            assert run(each.code, names) == each.shown
        else:
            assert run(each.code, names).count("\n") == each.shown.count("\n")


def test_the_notebook_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code cells, in the folder of the page's files; its stored outputs are small and no errors."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    file = ROOT / "examples/notebooks/birds.ipynb"
    assert file.stat().st_size < 400_000
    cells = json.loads(file.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    kinds = [output["output_type"] for cell in code for output in cell["outputs"]]
    assert "error" not in kinds and "display_data" in kinds and {"stream", "execute_result"} & set(kinds)
    names: dict[str, object] = {}
    for cell in code:
        text = "".join(cell["source"])
        assert len(text.strip().splitlines()) <= MOST_LINES, text
        run(text, names)
    assert (folder / "top-images.png").stat().st_size > 10_000
