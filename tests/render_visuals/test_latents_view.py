"""The view of all latents in Chromium: the wall, thumbnails, columns, and search in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from in_process import runner
from pages import browser, click, go, wait
from pictured_latents import CROPPED, write_images, write_pictured

from render_visuals.cli import app
from saetools.files.formats import AP_TABLE
from saetools.files.provenance import Provenance
from saetools.files.tables import write_csv

N, P, K = 24, 16, 300
CLASSES = ["Azure Jay", "Frost Owl", "Ember Finch"]
DEAD, ALWAYS = (7, 8), 9
# latent: (trait, AP, prevalence); that of ALWAYS has the largest gain
TRAITS = {
    ALWAYS: ("has_eye_color::black", 0.99, 0.05),
    20: ("wing pattern::red spots", 0.9, 0.1),
    150: ("has_breast_color::red", 0.95, 0.3),
    31: ("has_leg_color::orange red", 0.6, 0.1),
    299: ("has_crown_color::blue", 0.05, 0.1),  # worse than a constant score
}
OPEN = "document.body.dataset.shown !== undefined && document.querySelectorAll('.row').length > 0"

render = runner("render-visuals", app)


def planted() -> np.ndarray:
    """{N, P, K}: latent k is active in about a sixth of the patches of images of one class, and in few others."""
    rng = np.random.default_rng(0)
    f_npk = rng.lognormal(0, 0.5, (N, P, K)) * (rng.random((N, P, K)) < 0.17)
    others = np.arange(N)[:, None] % 3 != np.arange(K) % 3
    f_npk *= (~others | (rng.random((N, K)) < 0.4))[:, None]
    f_npk[2:, :, 100:200] = 0  # active in too few images for a place on the wall by class
    f_npk[0, 3, 100:200] = 1
    f_npk[:, :, list(DEAD)] = 0
    f_npk[:, :, ALWAYS] = rng.lognormal(0, 0.5, (N, P))
    return f_npk.astype(np.float32)


@pytest.fixture(scope="module")
def f_npk() -> np.ndarray:
    return planted()


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, f_npk: np.ndarray) -> dict[str, Path]:
    """Pages of the same latents: with traits and classes; with classes; with neither, in one folder."""
    folder = tmp_path_factory.mktemp("sites")
    paths = write_images(folder / "root", [(44, 40)] * N, classes=1)
    names = [CLASSES[i % 3] for i in range(N)]
    columns = ["scorer", "n_prototypes", "layer", "n_train", "trait", "prototype", "ap", "prevalence"]
    rows = [["sae", K, 3, 10, trait, k, ap, share] for k, (trait, ap, share) in TRAITS.items()]
    write_csv(
        folder / "ap.csv", pd.DataFrame(rows, columns=columns), Provenance.of(AP_TABLE, "score-traits", {})
    )
    grids = [(4, 4)] * N
    found = {}
    for name, classes, options in (
        ("traits", names, ["--table", folder / "ap.csv"]),
        ("classes", names, []),
        ("nothing", None, []),
    ):
        latents = write_pictured(folder / name, f_npk, paths, grids, CROPPED, class_names=classes)
        found[name] = folder / f"site-{name}"
        render("page", latents, "--images", folder / "root", "--top", 8, *options, "--out", found[name])
    return found


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("downloads"), width=1440) as driver:
        yield driver
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def visit(driver: Any, site: Path, where: str = "") -> None:
    driver.get("about:blank")
    driver.get((site / "index.html").as_uri() + where)
    wait(lambda: driver.execute_script(f"return {OPEN}"))


@pytest.fixture
def page(driver: Any, sites: dict[str, Path]) -> Any:
    """The page with traits and classes, as one who has never been there opens it."""
    visit(driver, sites["traits"])
    driver.execute_script("localStorage.clear(); sessionStorage.clear()")
    visit(driver, sites["traits"])
    return driver


def run(page: Any, script: str, *arguments: Any) -> Any:
    return page.execute_script(f"return {script}", *arguments)


def gain(f_npk: np.ndarray, k: int) -> float:
    """The share of its 8 top images in their most common class, minus the share of this class; NaN below 8 images."""
    max_n = f_npk[:, :, k].max(1)
    if (max_n > 0).sum() < 8:
        return np.nan
    top = sorted(range(N), key=lambda n: (-max_n[n], n))[:8]
    return max(np.bincount([n % 3 for n in top])) / 8 - 1 / 3


def expected_order(f_npk: np.ndarray, site: str) -> list[int]:
    """The latents of the wall by their definition."""
    alive = [k for k in range(K) if k not in DEAD and k != ALWAYS]
    mean = {k: f_npk[..., k][f_npk[..., k] > 0].mean() for k in alive}
    first = [k for k in alive if k in TRAITS and TRAITS[k][1] > TRAITS[k][2]] if site == "traits" else []
    first.sort(key=lambda k: TRAITS[k][2] - TRAITS[k][1])
    classed = [] if site == "nothing" else [k for k in alive if k not in first and gain(f_npk, k) > 0]
    classed.sort(key=lambda k: (-np.float32(gain(f_npk, k)), -np.float32(mean[k]), k))
    rest = sorted(set(alive) - {*first, *classed}, key=lambda k: (-mean[k], k))
    return [*first, *classed, *rest]


# --- the wall


@pytest.mark.parametrize(
    ("site", "says"),
    [
        ("traits", ["Ordered by gain: the AP of the trait", "Then by the share of their top images"]),
        ("classes", ["Ordered by the share of their top images that are of one class"]),
        ("nothing", ["Ordered by their mean activation"]),
    ],
)
def test_the_page_opens_on_the_most_telling_latents(
    driver: Any, sites: dict[str, Path], f_npk: np.ndarray, site: str, says: list[str]
) -> None:
    visit(driver, sites[site])
    order = expected_order(f_npk, site)
    assert run(driver, "saetools.wall.order().map(({latent}) => latent)") == order
    tiles = run(driver, "[...document.querySelectorAll('#detail .wall-tile')].map((tile) => tile.id)")
    assert tiles == [f"wall-{k}" for k in order[:24]]
    said = run(driver, "[...document.querySelectorAll('.wall p')].map((p) => p.textContent)")
    assert [text[: len(start)] for text, start in zip(said, says, strict=True)] == says
    assert "Left out: 2 dead latents" in said[0]
    assert "1 active at more than half of all patches" in said[0]
    click(driver, ".wall-more")
    assert len(run(driver, "[...document.querySelectorAll('.wall-tile')]")) == 48
    assert run(driver, "document.activeElement.id") == f"wall-{order[24]}"


def test_a_tile_has_the_name_and_images_with_heat_and_leads_to_its_latent(
    page: Any, f_npk: np.ndarray
) -> None:
    from selenium.webdriver.common.keys import Keys

    text = run(page, "document.querySelector('#wall-20').innerText").split("\n")
    assert text == ["wing pattern::red spots", "AP 0.900 · latent 20"]
    max_n = f_npk[:, :, 20].max(1)
    top = sorted(range(N), key=lambda n: (-max_n[n], n))[:3]
    assert (
        run(page, "[...document.querySelectorAll('#wall-20 .picture')].map((p) => +p.dataset.image)") == top
    )
    heat = "[...document.querySelectorAll('#wall-20 .heat')].map((heat) => heat.naturalWidth)"
    wait(lambda: run(page, heat) == [4, 4, 4])  # one pixel a patch
    by_class = next(k for k in expected_order(f_npk, "traits") if k not in TRAITS)
    text = run(page, f"document.querySelector('#wall-{by_class}').innerText").split("\n")
    assert text[0] == CLASSES[by_class % 3]
    assert text[1].endswith(f"% of its top images · latent {by_class}")
    run(page, "document.querySelector('#wall-20').focus()")
    page.switch_to.active_element.send_keys(Keys.ENTER)
    wait(lambda: run(page, "document.body.dataset.shown") == "#latent=20")
    assert not run(page, "document.querySelector('.wall')")
    click(page, "#tab-latents")
    wait(lambda: run(page, "document.querySelector('#detail .wall') !== null"))


# --- the table


def test_thumbnails_show_the_strongest_patches_of_the_top_images(page: Any, f_npk: np.ndarray) -> None:
    page.execute_script("saetools.rows.update({sort: 'latent', descending: false})")
    wait(lambda: run(page, "document.querySelectorAll('#row-20 .thumb img').length") == 4)
    max_n = f_npk[:, :, 20].max(1)
    top = sorted(range(N), key=lambda n: (-max_n[n], n))[:4]
    wait(lambda: run(page, "[...document.querySelectorAll('#row-20 .thumb img')].every((i) => i.complete)"))
    frames = run(
        page,
        "[...document.querySelectorAll('#row-20 .thumb')].map((thumb) => {"
        " const frame = thumb.getBoundingClientRect(), img = thumb.firstChild, all = img.getBoundingClientRect();"
        " return [img.getAttribute('src'), frame.x, frame.y, frame.width, frame.height,"
        "  all.x, all.y, all.width, all.height]"
        "})",
    )
    for (source, x, y, wide, high, image_x, image_y, image_wide, image_high), n in zip(
        frames, top, strict=True
    ):
        assert source.endswith(f"{n:06d}.jpg")
        assert 24 <= wide == high
        # It is filled, and the middle of the strongest patch is in it.
        assert image_x <= x + 0.5 and image_y <= y + 0.5
        assert image_x + image_wide >= x + wide - 0.5 and image_y + image_high >= y + high - 0.5
        peak = int(f_npk[n, :, 20].argmax())
        at_x, at_y = image_x + (peak % 4 + 0.5) / 4 * image_wide, image_y + (peak // 4 + 0.5) / 4 * image_high
        assert x <= at_x <= x + wide and y <= at_y <= y + high
    names = run(page, "document.querySelector('#row-20 .thumbs').getAttribute('aria-label')")
    assert names == "top images: " + ", ".join(f"{n:04d}.png" for n in top)
    assert (
        run(page, f"document.querySelector('#row-{DEAD[0]} .thumbs').getAttribute('aria-label')")
        == "no image"
    )


def test_scrolling_keeps_few_rows_and_asks_for_pictures_only_at_rest(page: Any) -> None:
    """Rows that stay in sight are the same elements, so that their pictures are not decoded again."""
    page.execute_script("saetools.rows.update({sort: 'latent', descending: false})")
    wait(lambda: run(page, "document.querySelectorAll('#row-5 .thumb img').length") == 4)
    page.execute_script(
        "window.fifth = document.querySelector('#row-5'); document.getElementById('table').scrollTop = 120"
    )
    wait(lambda: run(page, "document.querySelectorAll('.row').length > 16"))
    assert run(page, "window.fifth === document.querySelector('#row-5') && window.fifth.isConnected")
    # While it moves there is no picture in a new row; when it rests there is.
    moving = page.execute_async_script(
        "const done = arguments[0], table = document.getElementById('table'); let frames = 0, most = 0;"
        "requestAnimationFrame(function step() {"
        " table.scrollTop += 400; frames += 1;"
        " most = Math.max(most, document.querySelectorAll('.row').length);"
        " const new_ = [...document.querySelectorAll('.row')].filter((r) => +r.dataset.latent > 100);"
        " if (frames < 20) requestAnimationFrame(step);"
        " else done([most, new_.length, new_.filter((r) => r.querySelector('img')).length]) })"
    )
    assert moving[0] < 60
    assert moving[1] > 0
    assert moving[2] == 0
    wait(lambda: run(page, "document.querySelector('#row-200 .thumb img') !== null"))
    order = run(page, "[...document.querySelectorAll('.row')].map((row) => +row.dataset.latent)")
    assert order == sorted(order)


def test_the_number_of_the_latent_stays_in_sight(page: Any) -> None:
    left = "document.querySelector(arguments[0]).getBoundingClientRect().x"
    cells = ["[data-name=latent]", "#row-20 :first-child"]
    before = [run(page, left, cell) for cell in cells]
    page.execute_script("document.getElementById('table').scrollLeft = 250")
    assert run(page, "document.getElementById('table').scrollLeft") == 250
    assert [run(page, left, cell) for cell in cells] == before
    over = run(
        page,
        "(() => { const {x, y, height} = document.querySelector('#row-20 a').getBoundingClientRect();"
        " return document.elementFromPoint(x + 2, y + height / 2).textContent })()",
    )
    assert over == "20"  # nothing is over it
    assert run(page, "document.querySelector('[data-name=gain]').getAttribute('aria-sort')") == "descending"
    go(page, "latent=20")
    assert run(page, "document.getElementById('table').getAttribute('aria-activedescendant')") == "row-20"


def test_columns_are_chosen_kept_and_reset(page: Any, sites: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    names = "[...document.querySelectorAll('#table-head > span')].map((cell) => cell.dataset.name)"
    every = run(page, names)
    assert every[:5] == ["latent", "tops", "trait", "ap", "gain"]
    page.find_element(By.ID, "columns").send_keys(Keys.ENTER)
    for name in ("ap", "tops"):
        page.find_element(By.CSS_SELECTOR, f"#columns-list [value={name}]").send_keys(Keys.SPACE)
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not run(page, "document.getElementById('columns-dialog').open")
    fewer = [name for name in every if name not in ("ap", "tops")]
    assert run(page, names) == fewer
    row = "document.querySelector('#row-20')"
    assert run(page, f"{row}.children.length") == len(fewer)
    assert run(page, f"{row}.offsetHeight") == 28  # without pictures, rows are lower
    visit(page, sites["classes"])  # another page, which has fewer columns
    assert run(page, names) == [name for name in fewer if name not in ("trait", "gain")]
    visit(page, sites["traits"])
    assert run(page, names) == fewer
    click(page, "#columns")
    assert not run(page, "document.querySelector('#columns-list [value=ap]').checked")
    click(page, "#columns-reset")
    assert run(page, names) == every
    visit(page, sites["traits"])
    assert run(page, names) == every


# --- search


def search(page: Any, query: str) -> list[int]:
    """The latents that are left, by number."""
    page.execute_script(
        "const field = document.getElementById('search'); field.value = arguments[0];"
        "field.dispatchEvent(new Event('input'))",
        query,
    )
    wait(lambda: run(page, "saetools.rows.state.query") == query)
    return sorted(run(page, "[...saetools.rows.state.order]"))


def count(page: Any) -> str:
    return str(run(page, "document.getElementById('count').textContent"))


def of_class(f_npk: np.ndarray, name: str) -> list[int]:
    found = []
    for k in range(K):
        max_n = f_npk[:, :, k].max(1)
        top = [n % 3 for n in sorted(range(N), key=lambda n: (-max_n[n], n)) if max_n[n] > 0][:8]
        if top and CLASSES[max(dict.fromkeys(top), key=top.count)] == name:
            found.append(k)
    return found


def by_trait(fits: Callable[[str, float, float], bool]) -> list[int]:
    return sorted(k for k, (trait, ap, share) in TRAITS.items() if fits(trait, ap, share))


RED = by_trait(lambda trait, *_: "red" in trait)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ('"best trait":red', RED),
        ("best trait:red", RED),
        ("Best Trait: red", RED),
        ("trait:red", RED),
        ('best trait:"red spots"', [20]),
        ('"red spots"', [20]),
        ("red spots", [20]),
        ("red pattern", [20]),
        ('"breast color::red"', [150]),  # an underscore is a space
        ("has_breast_color::red", [150]),
        ('best trait="has_breast_color::red"', [150]),
        ('best trait="red"', []),
        ("best trait:red ap > 0.7", [20, 150]),
        ("AP=0.95", [150]),  # as it is shown
        ("AP = 0.950", [150]),
        ("gain>=0.65", by_trait(lambda _, ap, share: ap - share > 0.64)),
        ("gain<0", [299]),
        ("ap<=0.6", [31, 299]),
        ("has:trait", sorted(TRAITS)),
        ('has:"best trait" ap>90%', [ALWAYS, 150]),
        ("latent<3", [0, 1, 2]),
        ("#150", [150]),
        ("“red spots”", [20]),  # quotation marks as phones write them
        ("", list(range(K))),
        ("   ", list(range(K))),
    ],
)
def test_search_takes_the_names_that_the_page_shows(page: Any, query: str, expected: list[int]) -> None:
    assert search(page, query) == expected
    assert count(page) == f"{len(expected)} of {K} latents"


def test_search_by_class_frequency_and_note(page: Any, f_npk: np.ndarray) -> None:
    owls = of_class(f_npk, "Frost Owl")
    assert 50 < len(owls) < K
    for query in ('top class="Frost Owl"', 'top class:"frost owl"', '"frost owl"', "top class:frost owl"):
        assert search(page, query) == owls
    share = (f_npk > 0).mean((0, 1)).astype(np.float32)
    assert search(page, "frequency<1%") == np.flatnonzero(share < np.float32(0.01)).tolist()
    assert search(page, "freq<0.01") == np.flatnonzero(share < np.float32(0.01)).tolist()
    shown = run(page, f"document.querySelector('#row-{search(page, 'latent=20')[0]}').innerText").split("\n")
    percent = next(text for text in shown if text.endswith("%"))
    assert 20 in search(page, f"frequency={percent}")
    page.execute_script("saetools.notes.write(33, 'Ein_Schnabel, hooked')")
    assert search(page, "has:note") == [33]
    assert search(page, "note:hooked") == [33]
    assert search(page, '"schnabel, hooked"') == [33]


@pytest.mark.parametrize(
    ("query", "says", "left"),
    [
        ("weight>3", "there is no column for weight>3: “weight” is none of latent, frequency, mean", K),
        ("weight > 3 red", "there is no column for weight > 3", len(RED)),
        ("ap>high", "ap>high: AP holds numbers, and “high” is none", K),
        ("ap>0,3", "decimals follow a point: 0.3", K),
        ("ap>", "ap>: what to compare AP with is missing", K),
        ("best trait<red", 'best trait holds words; write "best trait":red', K),
        ("has:beak", "has: is followed by note, or by a column of the table", K),
    ],
)
def test_search_says_what_it_did_not_understand(page: Any, query: str, says: str, left: int) -> None:
    """The rest of the query holds."""
    assert len(search(page, query)) == left
    assert count(page).startswith(f"{left} of {K} latents; left out of the search: ")
    assert says in count(page)


def test_an_empty_result_says_why_and_has_a_way_back(page: Any) -> None:
    said = "document.getElementById('nothing').innerText"
    assert search(page, "ap>0.7 zebra colour:red") == []
    assert not run(page, "document.getElementById('table').offsetParent")
    assert [line for line in run(page, said).split("\n") if line] == [
        "No latent fits all of these:",
        "AP > 0.7 (3 on its own)",
        "“zebra” in its names or note (0 on its own)",
        "“colour:red” in its names or note (no column is called colour) (0 on its own)",
        "Show all latents",
    ]
    region = {"f0": 2, "f1": 3, "v0": 0, "v1": 1}
    page.execute_script("saetools.rows.update({region: arguments[0]})", region)
    assert "in the selected region of the plot (0 on its own)" in run(page, said)
    click(page, "#clear")
    assert count(page) == f"{K} of {K} latents"
    assert run(page, "saetools.rows.state.region") is None
    assert run(page, "document.getElementById('search').value") == ""
    assert run(page, "document.activeElement.id") == "search"
    assert run(
        page, "document.querySelectorAll('.row').length > 5 && document.getElementById('nothing').hidden"
    )


def test_images_are_found_by_class(page: Any) -> None:
    from selenium.webdriver.common.by import By

    click(page, "#tab-images")
    field = page.find_element(By.ID, "image-search")
    field.send_keys("frost owl")
    wait(lambda: page.find_element(By.ID, "image-count").text == f"{N // 3} of {N} images")
    click(page, "#gallery .tile")
    wait(lambda: run(page, "document.body.dataset.shown") == "#image=1")
    assert page.find_element(By.CSS_SELECTOR, "#detail .class").text == "Class: Frost Owl"
    field.send_keys(" zebra")
    wait(lambda: page.find_element(By.ID, "clear-images").is_displayed())
    assert "No image has these words" in page.find_element(By.ID, "no-images").text
    click(page, "#clear-images")
    wait(lambda: page.find_element(By.ID, "image-count").text == f"{N} of {N} images")


# --- narrow screens


def test_on_a_phone_a_strip_of_the_wall_is_above_the_table(sites: dict[str, Path], tmp_path: Path) -> None:
    with browser(tmp_path, width=390, height=844) as page:
        visit(page, sites["traits"])
        within = (
            "(({top, bottom, right}) => [top, bottom, right])"
            "(document.querySelector(arguments[0]).getBoundingClientRect())"
        )
        assert run(page, "[...document.querySelectorAll('#strip .wall-tile')].length") == 24
        wall, table = run(page, within, "#strip .wall-tile"), run(page, within, "#table")
        assert 0 < wall[0] < wall[1] < table[0] < 844
        assert wall[2] <= 390
        assert run(page, "document.documentElement.scrollWidth <= innerWidth")
        small = run(
            page,
            "[...document.querySelectorAll('.row a, .row, #columns, #strip .wall-tile, #table-head button')]"
            ".map((e) => [e.outerHTML.slice(0, 60), e.getBoundingClientRect()])"
            ".filter(([, box]) => box.height && (box.height < 44 || box.width < 44)).map(([html]) => html)",
        )
        assert small == []
        click(page, "#columns")
        assert (
            run(
                page,
                "Math.min(...[...document.querySelectorAll('#columns-list label')].map((l) => l.offsetHeight))",
            )
            >= 44
        )
        click(page, "#columns-dialog form button:last-child")
        page.execute_script("document.querySelector('#wall-150').click()")
        wait(lambda: run(page, "document.body.dataset.shown") == "#latent=150")
        assert not run(page, "document.getElementById('strip').offsetParent")
        page.execute_script("history.back()")
        wait(lambda: run(page, "document.getElementById('strip').offsetParent !== null"))
        click(page, "#tab-images")
        wait(lambda: run(page, "document.getElementById('strip').offsetParent === null"))
