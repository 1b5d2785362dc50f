"""The files of the site, for mkdocs: pages stand where they are in the repository, so links hold in both places."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import api_page, command_page, tools_page

PAGES = ("*.md", "docs/*.md", "shared/README.md", "examples/*/README.md")
MEDIA = ("docs/images/*", "examples/*/*.jpg", "examples/*/*.png")
NOTEBOOKS = "examples/notebooks/*.ipynb"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    root = Path(config.config_file_path).parent
    for pattern in (*PAGES, *MEDIA):
        for path in sorted(root.glob(pattern)):
            files.append(File.generated(config, path.relative_to(root).as_posix(), abs_src_path=str(path)))
    for name, content in _made(root):
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    if page.parent is None:  # alone in its tab: no list of pages beside it
        page.meta["hide"] = ["navigation"]
    if page.file.src_uri in (
        "CHANGELOG.md",
        "CONTRIBUTING.md",
    ):  # they name everything, and explain little of it
        page.meta["search"] = {"boost": 0.3}
    return markdown.replace(".ipynb)", ".md)")  # a notebook is a page here


def _made(root: Path) -> Iterator[tuple[str, str]]:
    """Path and Markdown of each page that is not a file of the repository, or not all of it."""
    for path in sorted(root.glob("tools/*/README.md")):
        tool = path.parent.name
        yield f"tools/{tool}/README.md", path.read_text(encoding="utf-8") + "\n" + command_page(tool)
    for path in sorted(root.glob(NOTEBOOKS)):
        yield path.relative_to(root).with_suffix(".md").as_posix(), _notebook(path)
    yield "docs/reference/commands.md", tools_page()
    yield "docs/reference/python.md", api_page()


def _notebook(path: Path) -> str:
    """A notebook with its stored output: text, tables and pictures."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![Output](data:image/png;base64,{''.join(data['image/png'].split())})")
            else:
                text = "".join(data.get("text/plain", output.get("text", "")))
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"
