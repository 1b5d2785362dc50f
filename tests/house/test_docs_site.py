"""The site of the documentation: built strictly, complete, opened from disk in a browser."""

from __future__ import annotations

import html
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from pages import browser, load_axe, serious
from processes import BIN

import saetools

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(path.parent.name for path in ROOT.glob("tools/*/pyproject.toml"))
SUBCOMMANDS = {"render-visuals": ("latents", "page", "heatmap", "plot")}
OPTION = re.compile(r"--[a-z][a-z0-9-]*")


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` and `make check` build it."""
    plan = subprocess.run(["make", "-n", "docs"], cwd=ROOT, capture_output=True, text=True, check=True)
    (line,) = (line for line in plan.stdout.splitlines() if "mkdocs build" in line)
    environment, program, *options = shlex.split(line)
    assert program == ".venv/bin/mkdocs"
    return subprocess.run(
        ["env", environment, BIN / "mkdocs", *options, "--config-file", config, "--site-dir", site],
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT / "mkdocs.yml", folder)
    assert done.returncode == 0, done.stderr
    return folder


@dataclass
class Html(HTMLParser):
    """What a page has and asks for."""

    text: str
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)  # headings of options
    paragraphs: list[str] = field(default_factory=list)
    inside: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.update({found.get("id") or ""} - {""})
        if tag == "a" and "href" in found:
            self.links.append(found["href"] or "")
        if tag in ("img", "script", "iframe", "link"):
            self.loaded += [value for name in ("src", "href") if (value := found.get(name))]
        if "option" in (found.get("class") or ""):
            self.inside = "option"
            self.options.append("")
        if tag == "p":
            self.inside = "paragraph"
            self.paragraphs.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h3", "h4", "p"):
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            (self.options if self.inside == "option" else self.paragraphs)[-1] += data


def pages(site: Path) -> dict[Path, Html]:
    return {
        path: Html(path.read_text(encoding="utf-8"))
        for path in sorted(site.rglob("*.html"))
        if path.name != "404.html"  # its addresses are those of a server
    }


def test_every_link_leads_somewhere(site: Path) -> None:
    """Also those in what is made from the commands, and of the theme; nothing is loaded from elsewhere."""
    found = pages(site)
    checked = 0
    for path, page in found.items():
        assert not [one for one in page.loaded if "//" in one and not one.startswith("data:")], path
        for link in page.links + page.loaded:
            address = urlsplit(link)
            if address.scheme in ("http", "https", "data", "mailto"):
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            assert target.is_file(), f"{path.relative_to(site)}: {link}"
            if address.fragment and target in found and not address.fragment.startswith("__"):
                assert unquote(address.fragment) in found[target].ids, f"{path.relative_to(site)}: {link}"
            checked += 1
    assert checked > 1000
    for style in [*site.rglob("*.css"), site / "iframe-worker.js"]:
        assert not re.search(r"(url\(|import)\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style


def test_markdown_is_read_as_on_a_git_forge(site: Path) -> None:
    """Lists and tables that the site's Markdown takes for text, because no empty line stands before them."""
    for path, page in pages(site).items():
        assert not re.search(r"[\x00-\x08]", page.text), path  # of click: what keeps its lines
        for text in page.paragraphs:
            assert not re.search(r"^\s*([-*] |\d+\. |\|.*\|$|#+ )", text, flags=re.M), (
                f"{path.relative_to(site)}: {text}"
            )


def test_every_page_of_the_repository_is_there(site: Path) -> None:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/*/README.md")]:
        made = site / path.relative_to(ROOT).with_suffix(".html")
        assert (made.with_name("index.html") if path.name == "README.md" else made).is_file(), path
    text = (site / "index.html").read_text(encoding="utf-8")
    assert "Small command-line tools that find visual traits" in text  # the README is the home page


@pytest.mark.parametrize("tool", [*TOOLS, "saetools"])
def test_the_reference_has_the_options_of_help(tool: str, site: Path) -> None:
    page = "docs/reference/commands.html" if tool == "saetools" else f"tools/{tool}/index.html"
    shown = Html((site / page).read_text(encoding="utf-8"))
    expected = []
    for more in ("", *SUBCOMMANDS.get(tool, ())):
        done = subprocess.run(
            [BIN / tool, *more.split(), "--help"],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"COLUMNS": "300"},
        )
        # The left column; the examples and the commands have none.
        rows = re.findall(r"^  (-.*?)(?:  |$)", done.stdout, flags=re.M)
        expected.append([OPTION.findall(row) for row in rows])
    listed = [OPTION.findall(heading) for heading in shown.options if heading.startswith("-")]
    assert listed == [row for rows in expected for row in rows]
    assert len(listed) >= 3


def test_the_reference_has_groups_choices_defaults_and_examples(site: Path) -> None:
    """Of dump-acts, as its --help has them."""
    done = subprocess.run(
        [BIN / "dump-acts", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "300"},
    )
    markup = (site / "tools/dump-acts/index.html").read_text(encoding="utf-8")
    text = html.unescape(re.sub(r"<[^>]*>", "", markup[markup.index('id="all-options"') :]))
    headings = re.findall(r"^(\w.*):$", done.stdout, flags=re.M)
    places = [text.index(f"\n{heading}¶") for heading in headings]
    assert len(headings) == 8 and places == sorted(places)
    assert re.search(
        r"--layout¶\s+Layout of the data set\. one of auto folder cub200 masks csv · default: auto\n", text
    )
    assert re.search(r"--batch-size N¶\s+Images in one forward pass\. default: 32 · x>=1\n", text)
    examples = done.stdout[done.stdout.index("Examples:") :].splitlines()[1:]
    assert len(examples) == 4
    for example in filter(None, examples):
        assert f"$ {example.strip()}" in text


def test_the_api_has_every_name(site: Path) -> None:
    page = Html((site / "docs/reference/python.html").read_text(encoding="utf-8"))
    assert set(saetools.__all__) <= page.ids
    assert {"SAE.encode", "LatentsSet.top_images", "ShardSet.read", "VisionModel.record"} <= page.ids
    assert "Activations float32 {n, P, D} of a layer" in page.text  # shapes as they are written
    returned = {
        getattr(saetools, name).__annotations__.get("return", "")
        for name in saetools.__all__
        if not isinstance(getattr(saetools, name), type)
    }
    ours = {name for name in returned if name.isidentifier() and name not in ("Image",)}
    assert ours <= page.ids, "RETURNED of docs/site/reference.py lacks what a function returns"


FAULT = """
import typer

made = typer.main.get_command


def without_help(app):
    command = made(app)
    for parameter in command.params:
        if parameter.name == "repeats":
            parameter.help = None
    return command


typer.main.get_command = without_help
"""


def test_each_fault_fails_the_build(tmp_path: Path) -> None:
    """A broken link, a missing anchor, a missing picture, a page outside of the navigation, an option without help."""
    for name in ("tools", "shared", "examples", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    faults = "\n\n[a](no-such-page.md) [b](formats.md#no-such-anchor) ![c](images/no-such-picture.png)\n"
    with (tmp_path / "docs/metrics.md").open("a") as page:
        page.write(faults)
    (tmp_path / "docs/lost.md").write_text("# Lost\n")
    (tmp_path / "fault.py").write_text(FAULT)
    config = (ROOT / "mkdocs.yml").read_text().replace("hooks: [", "hooks: [fault.py, ")
    (tmp_path / "mkdocs.yml").write_text(config)
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    for word in (
        "no-such-page.md",
        "no-such-anchor",
        "no-such-picture.png",
        "score-traits: --repeats N has no help text",
    ):
        assert sum(word in line for line in warnings) == 1, done.stderr
    assert "docs/lost.md" in done.stderr
    assert "Aborted with 5 warnings in strict mode" in done.stdout  # each counts
    assert len(warnings) == 5, done.stderr


# --- in a browser, from disk ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("wide"), 1440, 900, requests=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("narrow"), 390, 844) as opened:
        yield opened


def results(opened: Any, words: str) -> list[str]:
    """Type words into the search; the addresses that it finds, best first."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    opened.find_element(By.CSS_SELECTOR, ".md-search__input").click()
    box = opened.find_element(By.CSS_SELECTOR, ".md-search__input")
    WebDriverWait(opened, 30).until(lambda _: box.is_displayed())
    box.clear()
    box.send_keys(words)
    done = re.compile(r"\d+ matching|No matching|1 matching")
    WebDriverWait(opened, 30).until(
        lambda _: done.search(opened.find_element(By.CSS_SELECTOR, ".md-search-result__meta").text)
    )
    links = opened.find_elements(By.CSS_SELECTOR, ".md-search-result__link")
    return [link.get_attribute("href") for link in links]


@pytest.mark.parametrize(
    "words, expected",
    [
        ("--split-validation", "tools/dump-acts/index.html#--split-validation"),
        ("top_images", "docs/reference/python.html#LatentsSet.top_images"),
    ],
)
def test_the_search_works_from_disk(words: str, expected: str, site: Path, wide: Any) -> None:
    wide.get((site / "index.html").as_uri())
    found = [re.sub(r"\?h=[^#]*", "", address) for address in results(wide, words)]
    assert (site / expected.partition("#")[0]).as_uri() + "#" + expected.partition("#")[2] in found[:3]


def test_nothing_is_asked_of_a_network(site: Path, wide: Any) -> None:
    wide.get("about:blank")
    wide.get_log("performance")  # of the browser's own first page
    for name in ("index.html", "docs/formats.html", "examples/notebooks/birds.html"):
        wide.get((site / name).as_uri())
        results(wide, "seals")
        sent = (json.loads(entry["message"])["message"] for entry in wide.get_log("performance"))
        asked = [
            each["params"]["request"]["url"] for each in sent if each["method"] == "Network.requestWillBeSent"
        ]
        assert (site / "search/search_index.js").as_uri() in asked
        assert [one for one in asked if not one.startswith(("file:", "data:"))] == []
        errors = [entry for entry in wide.get_log("browser") if entry["level"] == "SEVERE"]
        assert errors == []


@pytest.mark.slow
def test_no_page_scrolls_sideways(site: Path, narrow: Any) -> None:
    for path in pages(site):
        narrow.get(path.as_uri())
        width = narrow.execute_script("return document.documentElement.scrollWidth")
        assert width <= 390, f"{path.relative_to(site)}: {width} pixels"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_those_of_the_system(scheme: str, site: Path, wide: Any) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    wide.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    wide.get((site / "index.html").as_uri())
    colour = wide.execute_script("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
    assert brightness > 200 if scheme == "light" else brightness < 60


def test_the_commands_of_a_console_are_copied_alone(site: Path, wide: Any) -> None:
    """As the theme does it: it marks the block, and takes the text that is shown then."""
    wide.get((site / "docs/visuals.html").as_uri())
    copied = wide.execute_script(
        "const code = document.querySelector('pre > code'); code.setAttribute('data-md-copying', '');"
        " return code.innerText"
    )
    assert copied.strip().startswith("render-visuals page ")
    assert "site/index.html" not in copied  # what it printed


def test_what_scrolls_takes_the_focus(site: Path, narrow: Any) -> None:
    narrow.get((site / "docs/models.html").as_uri())
    found = narrow.execute_script(
        "return [...document.querySelectorAll('.md-typeset__scrollwrap, pre > code')]"
        ".map(each => [each.scrollWidth > each.clientWidth, each.tabIndex])"
    )
    assert [True, 0] in found
    assert all((tab == 0) == scrolls for scrolls, tab in found)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", ["wide", "narrow"])
def test_axe_core_finds_nothing_serious(size: str, scheme: str, site: Path, request: Any) -> None:
    opened = request.getfixturevalue(size)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    for name in (
        "index",
        "tools/dump-acts/index",
        "docs/reference/python",
        "docs/formats",
        "docs/gallery",
        "docs/slurm",
    ):
        opened.get((site / f"{name}.html").as_uri())
        load_axe(opened)
        assert serious(opened) == [], name


def test_the_gallery_has_every_picture() -> None:
    text = (ROOT / "docs/gallery.md").read_text(encoding="utf-8")
    for picture in [*ROOT.glob("docs/images/*"), *ROOT.glob("examples/*/*.jpg")]:
        assert f"{picture.relative_to(ROOT).as_posix().removeprefix('docs/')})" in text, picture
    commands = re.findall(r"^\$ (\S+)", text, flags=re.M)
    assert len(commands) >= 4 and set(commands) <= {"make", "python", *TOOLS}
