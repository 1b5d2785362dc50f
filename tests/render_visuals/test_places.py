"""Where one is on the page: addresses, Back, the browser's tab, the keyboard alone, and notes from elsewhere."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from birds_page import DEAD_LATENT, N_IMAGES, N_LATENTS, UID
from pages import browser, click, go, wait

TITLE = "Drawn birds"
KINGFISHER = 30  # an image
LATENTS = f"its {N_LATENTS} latents have the numbers 0 to {N_LATENTS - 1}"
IMAGES = f"its {N_IMAGES} images have the numbers 0 to {N_IMAGES - 1}"
OTHER = "c" * 32  # uid of another SAE


@pytest.fixture(scope="module")
def opened(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("downloads"), width=1440) as driver:
        yield driver
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.fixture
def page(opened: Any, birds: Path) -> Any:
    """The page as one who has never been there opens it."""
    opened.get((birds / "page.css").as_uri())  # of the same origin, and left without a trace
    opened.execute_script("localStorage.clear(); sessionStorage.clear()")
    opened.get((birds / "index.html").as_uri())
    wait(lambda: opened.execute_script("return document.body.dataset.shown !== undefined"))
    # A tab keeps 50 entries. When it is full, Chromium drops first those that scripts made, as `go` does: Back then
    # leads to another test's page.
    opened.execute_cdp_cmd("Page.resetNavigationHistory", {})
    assert opened.execute_script("return history.length") == 1
    return opened


def shown(page: Any, where: str) -> None:
    wait(lambda: page.execute_script("return document.body.dataset.shown") == where)


def step(page: Any, by: int) -> None:
    """Back or forward in the history."""
    page.execute_script("delete document.body.dataset.shown; history.go(arguments[0])", by)
    wait(lambda: page.execute_script("return document.body.dataset.shown !== undefined"))


def scrolled(page: Any, what: str) -> int:
    return round(page.execute_script("return document.getElementById(arguments[0]).scrollTop", what))


def scroll(page: Any, what: str, top: int) -> None:
    page.execute_script("document.getElementById(arguments[0]).scrollTop = arguments[1]", what, top)


def test_back_returns_to_where_one_was(page: Any) -> None:
    """Search, sorting and scroll positions of table, view and gallery, after links of all kinds."""

    def state() -> list:
        return page.execute_script(
            "const {query, sort, descending, order} = saetools.rows.state;"
            "return [query, sort, descending, order.length]"
        )

    def search(query: str, sort: str, descending: bool) -> None:
        page.execute_script(
            "const [query, sort, descending] = arguments; document.getElementById('search').value = query;"
            "saetools.rows.update({query, sort, descending})",
            query, sort, descending,
        )  # fmt: skip

    search("color", "ap", False)
    scroll(page, "table", 400)
    searched = state()
    assert searched[3] == 72
    go(page, "latent=20")
    assert scrolled(page, "detail") == 0
    scroll(page, "detail", 310)
    search("wing", "frequency", True)
    narrowed = state()
    assert narrowed[3] == 6
    page.execute_script("document.querySelector('#top .tile:nth-child(5)').click()")
    wait(lambda: page.execute_script("return location.hash").startswith("#image="))
    wait(lambda: page.execute_script("return document.body.dataset.shown").startswith("#image="))
    click(page, "#tab-images")
    shown(page, "#images")
    scroll(page, "gallery", 700)
    click(page, "#tab-heatmap")
    shown(page, "#heatmap")
    assert (
        page.execute_script("return document.getElementById('tab-heatmap').getAttribute('aria-current')")
        == "page"
    )

    step(page, -1)
    assert page.execute_script("return location.hash") == "#images"
    assert scrolled(page, "gallery") == 700
    assert page.execute_script("return document.getElementById('latents').hidden")
    step(page, -1)
    assert page.execute_script("return location.hash").startswith("#image=")
    assert not page.execute_script("return document.getElementById('latents').hidden")
    step(page, -1)
    assert page.execute_script("return location.hash") == "#latent=20"
    assert scrolled(page, "detail") == 310
    assert state() == narrowed
    step(page, -1)
    assert state() == searched
    assert page.execute_script("return document.getElementById('search').value") == "color"
    assert scrolled(page, "table") == 400
    assert not page.execute_script("return document.body.classList.contains('has-detail')")
    step(page, 1)
    assert scrolled(page, "detail") == 310
    assert state() == narrowed


def test_back_after_leaving_the_page(page: Any) -> None:
    """To another document and back: the entry is found again in the session's storage."""
    go(page, "latent=20")
    scroll(page, "detail", 250)
    page.execute_script("saetools.rows.update({query: 'wing'})")
    page.get("about:blank")
    page.back()
    wait(lambda: page.execute_script("return document.body.dataset.shown") == "#latent=20")
    assert scrolled(page, "detail") == 250
    assert page.execute_script("return saetools.rows.state.query") == "wing"


def test_back_in_a_full_history(page: Any) -> None:
    """A tab keeps 50 entries. After as many, Back still returns to the latest that a person made."""
    page.execute_script("for (let i = 0; i < 60; i++) history.pushState(null, '', `?${i}`)")
    click(page, "#tab-latents")
    shown(page, "#latents")
    scroll(page, "table", 600)
    click(page, "#tab-images")
    shown(page, "#images")
    scroll(page, "gallery", 500)
    click(page, "#tab-heatmap")
    shown(page, "#heatmap")
    assert page.execute_script("return history.length") == 50
    step(page, -1)
    assert scrolled(page, "gallery") == 500
    step(page, -1)
    assert page.execute_script("return location.hash") == "#latents"
    assert scrolled(page, "table") == 600


def test_a_reload_gives_no_number_twice(page: Any) -> None:
    """Where the session's storage is switched off: a new entry after a reload is none of those before it."""
    off = {"source": "Storage.prototype.setItem = () => { throw new Error('switched off'); };"}
    script = page.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", off)
    try:
        page.refresh()
        shown(page, "")
        go(page, "latent=20")
        go(page, f"image={KINGFISHER}")
        page.refresh()
        shown(page, f"#image={KINGFISHER}")
        numbers = [page.execute_script("return history.state.entry")]
        for where in ("latent=35", "latent=36", "latent=37"):
            go(page, where)
            numbers.append(page.execute_script("return history.state.entry"))
        for _ in range(5):
            step(page, -1)
            numbers.append(page.execute_script("return history.state.entry"))
        assert len(set(numbers)) == 6
    finally:
        page.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


@pytest.fixture
def narrow(page: Any) -> Iterator[Any]:
    """The page on a phone, where a view hides the list."""
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
    )
    wait(lambda: page.execute_script("return innerWidth") == 390)  # a change of the layout moves lists
    yield page
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_back_on_a_narrow_screen(narrow: Any) -> None:
    """By Back and by the button, one is again where one was in the list."""
    page = narrow
    go(page, "images")
    scroll(page, "gallery", 500)
    go(page, "latents")
    scroll(page, "table", 600)
    page.execute_script("document.getElementById('wall-tiles').scrollLeft = 700")
    page.execute_script("window.scrollTo(0, 150)")
    at = page.execute_script("return window.scrollY")
    assert at > 50
    assert scrolled(page, "table") == 600
    go(page, "latent=20")
    assert page.execute_script("return window.scrollY") == 0
    page.execute_script("window.scrollTo(0, 333)")
    go(page, f"image={KINGFISHER}")
    step(page, -1)
    assert page.execute_script("return window.scrollY") == 333
    step(page, -1)
    assert scrolled(page, "table") == 600
    assert across(page) == 700
    assert page.execute_script("return window.scrollY") == at
    go(page, f"image={KINGFISHER}")
    click(page, ".back")
    shown(page, "#latents")
    assert scrolled(page, "table") == 600
    assert across(page) == 700
    assert page.execute_script("return document.activeElement.id") == "table"
    click(page, "#tab-images")
    shown(page, "#images")
    assert scrolled(page, "gallery") == 500


def across(page: Any) -> int:
    """How far the strip of the most telling latents is scrolled."""
    return round(page.execute_script("return document.getElementById('wall-tiles').scrollLeft"))


def test_leaving_before_a_view_is_made(narrow: Any) -> None:
    """On a narrow screen a latent hides the table at once: left before its data has come, the place is kept."""
    page = narrow
    go(page, "latents")
    scroll(page, "table", 600)
    page.execute_script("document.getElementById('wall-tiles').scrollLeft = 700")
    page.execute_script(
        "delete document.body.dataset.shown;"
        "const get = saetools.latent; saetools.latent = () => new Promise(() => {});"
        "location.hash = 'latent=20';"
        "addEventListener('hashchange', () => { saetools.latent = get; location.hash = 'images'; }, {once: true})"
    )
    shown(page, "#images")
    go(page, "latents")
    assert scrolled(page, "table") == 600
    assert across(page) == 700


def test_choosing_patches_makes_no_entries(page: Any) -> None:
    go(page, f"image={KINGFISHER}")
    entries = page.execute_script("return history.length")
    for patch in (75, 76):
        page.execute_script(
            "const frame = document.querySelector('.asking .picture'), p = arguments[0];"
            "const {x, y, width, height} = frame.getBoundingClientRect();"
            "frame.dispatchEvent(new PointerEvent('pointerdown', {button: 0, clientX: x + (p % 14 + .5) / 14 * width,"
            " clientY: y + (Math.floor(p / 14) + .5) / 14 * height}))",
            patch,
        )
    assert page.execute_script("return location.hash") == f"#image={KINGFISHER}&patches=75,76"
    assert page.execute_script("return history.length") == entries
    go(page, "latent=35")
    step(page, -1)
    assert page.execute_script("return location.hash") == f"#image={KINGFISHER}&patches=75,76"


@pytest.mark.parametrize(
    ("where", "title"),
    [
        ("latents", TITLE),
        ("latent=20", f"Latent 20 · has_face_color::red – {TITLE}"),
        (f"latent={DEAD_LATENT}", f"Latent {DEAD_LATENT} – {TITLE}"),
        (f"image={KINGFISHER}", f"River_Kingfisher_0001.jpg – {TITLE}"),
        (f"image={KINGFISHER}&patches=75,76", f"River_Kingfisher_0001.jpg · 2 patches – {TITLE}"),
        ("images", f"Images – {TITLE}"),
        ("heatmap", f"Heat map – {TITLE}"),
        ("nonsense", f"Unknown address – {TITLE}"),
    ],
)  # fmt: skip
def test_the_tab_says_where_one_is(page: Any, where: str, title: str) -> None:
    go(page, where)
    assert page.title == title
    assert page.execute_script("return document.getElementById('where').textContent") == title[
        : -len(TITLE)
    ].rstrip(" –")


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("nonsense", "No view of this page has this address."),
        ("latent/99999", "No view of this page has this address."),
        ("latent=99999", f"There is no latent 99999 on this page: {LATENTS}."),
        ("latent=-1", "There is no latent -1 on this page"),
        ("image=none", f"There is no image none on this page: {IMAGES}."),
        ("image=3&latent=x", "There is no latent x on this page"),
        ("image=3&patches=1,196", "There is no patch 196 in an image of this page: the 196 patches have the"),
        ("%E0%A4%A", "No view of this page has this address."),
        ("image=<img src=x onerror=alert(1)>", "There is no image <img src=x onerror=alert(1)> on this page"),
    ],
)  # fmt: skip
def test_an_unknown_address_says_so(page: Any, where: str, says: str) -> None:
    page.execute_script("location.hash = arguments[0]", where)
    wait(lambda: page.execute_script("return document.querySelector('#detail .unknown')"))
    assert page.execute_script("return document.querySelector('#detail .unknown').textContent").startswith(
        says
    )
    assert page.execute_script("return document.querySelectorAll('#detail img').length") == 0
    click(page, "#detail a[href='#images']")
    shown(page, "#images")
    assert page.execute_script("return document.getElementById('gallery').offsetParent !== null")


def test_a_dead_latent_says_so(page: Any) -> None:
    go(page, f"latent={DEAD_LATENT}")
    text = page.execute_script("return document.getElementById('detail').innerText")
    assert (
        f"Latent {DEAD_LATENT} is never active in these {N_IMAGES} images: there is nothing to show." in text
    )
    assert "Top 0" not in text
    assert (
        page.execute_script(
            "return document.querySelectorAll('#detail .heading .scale, #detail .modes, #top .tile').length"
        )
        == 0
    )
    go(page, "latent=20")
    assert page.execute_script("return document.querySelector('#detail .dead')") is None


def test_colour_bars_have_the_numbers_of_the_heat(page: Any) -> None:
    def largest(latent: int) -> str:
        return page.execute_script(
            "return saetools.elements.number(saetools.page.table.columns.max[arguments[0]])", latent
        )

    def ends() -> list[str]:
        return page.execute_script(
            "return [...document.querySelectorAll('#detail .scale .ends span')].map((e) => e.textContent)"
        )

    go(page, "latent=20")
    assert [ends()[0], ends()[2]] == ["0", largest(20)]
    half = page.execute_script("return saetools.elements.number(saetools.page.table.columns.max[20] / 2)")
    assert ends()[1] == half
    go(page, f"image={KINGFISHER}&latent=34")
    assert ends()[2] == largest(34)
    says = page.execute_script("return document.querySelector('#detail .scale').getAttribute('aria-label')")
    assert says == f"Colours of the heat, from 0 to {largest(34)}: activation of latent 34"
    # Another latent of the list is pointed at: its heat, its numbers. Without any heat there is no bar.
    page.execute_script(
        "document.querySelector('#fires li:nth-child(2)').dispatchEvent(new PointerEvent('pointerenter'))"
    )
    second = page.execute_script("return +document.querySelector('#fires li:nth-child(2)').dataset.latent")
    assert ends()[2] == largest(second)
    go(page, f"image={KINGFISHER}")
    assert ends() == ["", "", ""]
    # Where no heat is shown, there are no colours to read.
    visible = "return getComputedStyle(document.querySelector('#detail .scale')).visibility"
    page.execute_script("saetools.tiles.toggle()")
    assert page.execute_script(visible) == "hidden"
    go(page, "heatmap")
    assert page.execute_script(visible) == "visible"
    page.execute_script("saetools.tiles.toggle(); saetools.tiles.toggle()")
    assert ends() == ["0", "", "maximum"]
    page.execute_script(
        "document.getElementById('heatmap').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowDown'}))"
    )
    latent = page.execute_script(
        "return +document.querySelector('#heatmap-says a').hash.replace('#latent=', '')"
    )
    assert ends()[2] == largest(latent)


def test_by_keyboard_alone(page: Any) -> None:
    """From the opening to a latent, to one of its images, some patches, a latent that is active there, and Back."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        for key in keys:
            ActionChains(page).send_keys(key).perform()

    def tab_to(css: str, most: int) -> None:
        for _ in range(most):
            press(Keys.TAB)
            if page.execute_script("return document.activeElement.matches(arguments[0])", css):
                ring = page.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
                assert ring != "none", f"{css} does not show that it has the focus"
                return
        raise AssertionError(f"{css} is not reached by {most} times Tab")

    tab_to("#search", 12)
    press(*"wing")
    wait(lambda: page.execute_script("return saetools.rows.state.order.length") == 6)
    tab_to("#table", 6)
    press(Keys.ARROW_DOWN)
    first, second = page.execute_script("return [...saetools.rows.state.order].slice(0, 2)")
    shown(page, f"#latent={first}")
    assert page.execute_script("return document.activeElement.id") == "table"
    press(Keys.ARROW_DOWN)
    shown(page, f"#latent={second}")
    press(Keys.ENTER)
    assert page.execute_script("return document.activeElement.id") == "detail"
    tab_to("#top .tile:nth-child(2)", 12)
    where = page.execute_script("return document.activeElement.getAttribute('href')")
    press(Keys.ENTER)
    shown(page, where)
    image = where.split("&")[0]
    tab_to(".asking .picture", 8)
    press(Keys.ARROW_DOWN, Keys.ARROW_RIGHT, Keys.SPACE, Keys.ARROW_RIGHT, Keys.ENTER)
    assert page.execute_script("return location.hash") == f"{image}&patches=15,16&latent={second}"
    press(Keys.SPACE)
    assert page.execute_script("return location.hash") == f"{image}&patches=15&latent={second}"
    tab_to("#clear-patches", 3)
    press(Keys.ENTER)
    assert page.execute_script("return location.hash") == f"{image}&latent={second}"
    tab_to("#fires li:nth-child(2) .who a", 12)
    another = page.execute_script("return document.activeElement.getAttribute('href')")
    press(Keys.ENTER)
    shown(page, another)
    step(page, -1)
    assert page.execute_script("return location.hash") == f"{image}&latent={second}"
    assert page.execute_script("return document.activeElement.getAttribute('href')") == another
    step(page, -1)
    assert page.execute_script("return [location.hash, document.activeElement.getAttribute('href')]") == [
        f"#latent={second}",
        where,
    ]
    press(Keys.ESCAPE)
    shown(page, "#latents")
    assert page.execute_script("return document.activeElement.id") == "table"
    # The heat map, cell by cell; its links come next.
    press("m")
    shown(page, "#heatmap")
    tab_to("#heatmap", 30)
    press(Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_RIGHT)
    cell = page.execute_script("return document.getElementById('heatmap-says').textContent")
    press(Keys.ARROW_RIGHT)
    assert page.execute_script("return document.getElementById('heatmap-says').textContent") != cell
    tab_to("#heatmap-says a", 1)
    press(Keys.ENTER)
    wait(lambda: page.execute_script("return location.hash").startswith("#latent="))


def bring_in(page: Any, path: Path) -> str:
    """Import notes; returns what the page says of it."""
    from selenium.webdriver.common.by import By

    page.execute_script("document.querySelectorAll('.said').forEach((e) => e.remove())")
    page.find_element(By.ID, "import-file").send_keys(str(path))
    wait(lambda: page.execute_script("return document.querySelector('.said')"))
    return page.execute_script("return document.querySelector('.said p').textContent")


def notes(page: Any) -> dict[str, str]:
    return page.execute_script(
        "return JSON.parse(localStorage.getItem('saetools-notes:' + saetools.page.about.scorer) || '{}')"
    )


def test_exported_notes_can_be_imported(page: Any, tmp_path: Path) -> None:
    """Into a browser without notes all of them; again, nothing more; into other notes, both texts."""
    mine = {"3": 'a beak,\n"hooked"', "20": "red; face", "7": "ü ½ 鳥"}
    page.execute_script(
        "for (const [k, text] of Object.entries(arguments[0])) saetools.notes.write(+k, text)", mine
    )
    exported = tmp_path / "notes.csv"
    exported.write_bytes(page.execute_script("return saetools.notes.csv()").encode())
    page.execute_script(
        "for (const k of [3, 7]) saetools.notes.write(k, ''); saetools.notes.write(20, 'a finch')"
    )
    go(page, "latent=3")
    assert bring_in(page, exported) == "notes.csv: 2 notes added, 1 joined with the one that was there."
    both = mine | {"20": "a finch\nred; face"}
    assert notes(page) == both
    assert page.execute_script("return document.getElementById('note').value") == mine["3"]
    assert page.execute_script("return document.getElementById('n-notes').textContent") == " (3)"
    assert bring_in(page, exported) == "notes.csv: 0 notes added, 3 already there."
    assert notes(page) == both


def test_notes_as_spreadsheets_save_them(page: Any, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_bytes(
        '\ufefflatent;species;note\r\n5;Finch;"white; two lines\r\nof it"\r\n\r\n6;Owl;\r\n'.encode()
    )
    assert bring_in(page, table) == "table.csv: 1 note added."
    assert notes(page) == {"5": "white; two lines\nof it"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"latent,text\n3,beak\n", 'it has no column "note", but "latent", "text"; expected a CSV that'),
        (b"\x89PNG\r\n\x1a\n\x00\x00", 'it is not UTF-8; save it as "CSV UTF-8"'),
        (
            f"latent,note,scorer_uid\n3,beak,{OTHER}\n".encode(),
            f"its notes are on latents of another SAE (line 2: scorer_uid {OTHER}; this page: {UID})",
        ),
        (b"latent,note\n3,beak\n\n99999,wing\n", 'line 4: "99999" is no latent of this page; expected a number '),
        (b"latent,note\nthree,beak\n", 'line 2: "three" is no latent of this page'),
        (b"latent,note\n3,a beak, hooked\n", "line 2 has 3 fields, the first line 2"),
        (b'latent,note\n3,"a beak\n4,wing\n', "the quoted field that begins in line 2 never ends"),
        (b'latent,note\n3,"a" beak\n', 'line 2: after a quoted field comes " ", not a separator'),
    ],
)  # fmt: skip
def test_what_is_no_csv_of_notes_is_refused_whole(
    page: Any, tmp_path: Path, content: bytes, says: str
) -> None:
    page.execute_script("saetools.notes.write(1, 'mine')")
    path = tmp_path / "notes.csv"
    path.write_bytes(content)
    found = bring_in(page, path)
    assert found.startswith(f"notes.csv: {says}")
    assert found.endswith("Nothing was imported.")
    assert page.execute_script("return document.querySelector('.said').getAttribute('role')") == "alert"
    assert notes(page) == {"1": "mine"}


def test_exported_notes_name_their_sae(page: Any) -> None:
    page.execute_script("saetools.notes.write(20, 'x')")
    row = next(csv.DictReader(page.execute_script("return saetools.notes.csv()").splitlines()))
    assert (row["latent"], row["note"], row["scorer_uid"]) == ("20", "x", UID)
