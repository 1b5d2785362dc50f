"""The page in Chromium, opened from disk: what a researcher does with it."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from in_process import runner
from pages import N_IMAGES, N_PATCHES, Chain, S, browser, click, go, wait, write_chain
from PIL import Image
from scipy import sparse

from encode_acts.cli import app as encode_app
from render_visuals.cli import app as render_app
from saetools.files.formats import AP_TABLE
from saetools.files.provenance import Provenance
from saetools.files.tables import write_csv
from saetools.latents.reader import open_latents
from saetools.vision.heat import MAX_ALPHA, MIN_ALPHA, colours, label_colours

encode, render = runner("encode-acts", encode_app), runner("render-visuals", render_app)

# async (image) => its RGBA values
PIXELS = """
const pixels = async (image) => {
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  return [...pen.getImageData(0, 0, canvas.width, canvas.height).data];
};
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, list[str], Chain]:
    """(the page's folder, latents {N, P, S} as scipy reads encode-acts' files, paths, where the files are)."""
    folder = tmp_path_factory.mktemp("page")
    chain = write_chain(folder)
    encode(chain.acts, "--scorer", chain.scorer, "--out", folder / "latents")
    files = sorted((folder / "latents").glob("*.npz"))
    f_npk = np.concatenate([sparse.load_npz(file).toarray() for file in files]).reshape(
        N_IMAGES, N_PATCHES, S
    )
    table = folder / "ap.csv"
    columns = ["scorer", "n_prototypes", "layer", "n_train", "trait", "prototype", "ap", "prevalence"]
    rows = [["sae", S, 3, 10, f"has_colour::c{t}", t * 7, 0.1 + t / 20, 0.05 + t / 40] for t in range(12)]
    write_csv(table, pd.DataFrame(rows, columns=columns), Provenance.of(AP_TABLE, "score-traits", {}))
    options = ["--scorer", chain.scorer, "--table", table, "--out", folder / "site", "--top", 8]
    render("page", folder / "latents", "--images", chain.root, *options, "--title", "Ti<tle> & more")
    return folder / "site", f_npk, open_latents(files).paths, chain


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def opened(made: tuple[Path, np.ndarray, list[str], Chain], downloads: Path) -> Iterator[Any]:
    with browser(downloads) as driver:
        driver.get((made[0] / "index.html").as_uri())
        wait(lambda: driver.execute_script("return document.querySelectorAll('.row').length > 0"))
        yield driver
        # Nothing went wrong unseen, and nothing was asked of a network.
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []
        asked = driver.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
        assert all(name.startswith(("file:", "data:", "blob:")) for name in asked)


@pytest.fixture
def page(opened: Any) -> Any:
    """The page as it is when nothing is chosen."""
    opened.execute_script(
        "location.hash = ''; document.getElementById('tab-latents').click();"
        "saetools.rows.update({query: '', region: null}); document.getElementById('search').value = ''"
    )
    return opened


def rows(page: Any) -> list[int]:
    return page.execute_script(
        "return [...document.querySelectorAll('.row')].map((row) => +row.dataset.latent)"
    )


def search(page: Any, text: str) -> str:
    from selenium.webdriver.common.by import By

    before = page.execute_script("return document.getElementById('count').textContent")
    field = page.find_element(By.ID, "search")
    field.clear()
    field.send_keys(text)
    wait(lambda: page.execute_script("return saetools.rows.state.query") == text)
    return str(page.execute_script("return document.getElementById('count').textContent") or before)


def test_sorting(page: Any, made: tuple[Path, np.ndarray, list[str], Chain]) -> None:
    f_npk = made[1]
    frequency = (f_npk > 0).mean((0, 1)).astype(np.float32)
    click(page, "[data-name=frequency] button")
    shown = rows(page)
    expected = sorted(range(S), key=lambda k: (-frequency[k], k))
    assert len(shown) > 10
    assert shown == expected[: len(shown)]
    click(page, "[data-name=frequency] button")
    assert rows(page) == sorted(range(S), key=lambda k: (frequency[k], k))[: len(shown)]
    click(page, "[data-name=trait] button")  # latents without a trait come last
    assert set(rows(page)[:12]) == {7 * t for t in range(12)}


def test_filtering(page: Any, made: tuple[Path, np.ndarray, list[str], Chain]) -> None:
    frequency = (made[1] > 0).mean((0, 1)).astype(np.float32)
    assert search(page, "c11").startswith("1 of 96")
    assert rows(page) == [77]
    limit = float(np.median(frequency))
    search(page, f"frequency>{limit}")
    assert (
        page.execute_script("return saetools.rows.state.order.length")
        == (frequency > np.float32(limit)).sum()
    )
    search(page, "ap>=0.4 colour")
    assert sorted(rows(page)) == [7 * t for t in range(12) if np.float32(0.1 + t / 20) >= 0.4]
    assert search(page, "frequency<100%") == "96 of 96 latents"
    assert "there is no column for" in search(page, "weight>3")


def test_selecting_in_the_plot(page: Any, made: tuple[Path, np.ndarray, list[str], Chain]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    f_npk = made[1]
    plot = page.find_element(By.ID, "scatter")
    width, height = plot.size["width"], plot.size["height"]
    drag = ActionChains(page).move_to_element_with_offset(plot, 0, int(-height / 2) + 5).click_and_hold()
    drag.move_by_offset(int(width / 2) - 14, height - 40).release().perform()
    region = wait(lambda: page.execute_script("return saetools.rows.state.region"))
    fires = f_npk > 0
    frequency = fires.mean((0, 1))
    mean = f_npk.sum((0, 1)) / np.maximum(fires.sum((0, 1)), 1)
    inside = (frequency >= region["f0"]) & (frequency <= region["f1"])
    inside &= (mean >= region["v0"]) & (mean <= region["v1"])
    kept = page.execute_script("return [...saetools.rows.state.order]")
    assert 0 < len(kept) < S
    assert sorted(kept) == np.flatnonzero(inside).tolist()
    click(page, "#unselect")
    assert page.execute_script("return saetools.rows.state.order.length") == S
    at = page.execute_script("return saetools.scatter.place(42)")
    ActionChains(page).move_to_element_with_offset(
        plot, int(at[0] - width / 2), int(at[1] - height / 2)
    ).click().perform()
    wait(lambda: page.execute_script("return location.hash").startswith("#latent="))


def test_a_latent(page: Any, made: tuple[Path, np.ndarray, list[str], Chain]) -> None:
    _, f_npk, paths, chain = made
    search(page, "77")
    click(page, ".row")
    wait(lambda: page.execute_script("return document.body.dataset.shown") == "#latent=77")
    max_n = f_npk[:, :, 77].max(1)
    top = sorted((n for n in range(N_IMAGES) if max_n[n] > 0), key=lambda n: (-max_n[n], n))[:8]
    shown = page.execute_script(
        "return [...document.querySelectorAll('#top .tile')].map((tile) => tile.title)"
    )
    assert shown == [paths[n] for n in top]
    # The heat of each tile is on the patches at which the latent fires, and on no other.
    heat = page.execute_async_script(
        PIXELS + "const done = arguments[0];"
        "Promise.all([...document.querySelectorAll('#top .heat')].map(async (heat) => {"
        " const image = heat.parentElement.querySelector('img').getBoundingClientRect(),"
        "  own = heat.getBoundingClientRect(), data = await pixels(heat);"
        " return {width: heat.naturalWidth, alpha: data.filter((_, i) => i % 4 === 3),"
        "  over: Math.abs(image.width - own.width) + Math.abs(image.height - own.height)"
        "   + Math.abs(image.x - own.x) + Math.abs(image.y - own.y)}})).then(done)"
    )
    for one, n in zip(heat, top, strict=True):
        assert one["width"] == 4
        assert one["over"] < 0.1
        assert np.flatnonzero(one["alpha"]).tolist() == np.flatnonzero(f_npk[n, :, 77] > 0).tolist()
    # Its nearest latents are those of the decoder.
    from saetools.scorers.file import load_scorer

    decoder = load_scorer(chain.scorer).scorer.W_dec.numpy().astype(np.float64)  # type: ignore[union-attr]
    unit = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    near = np.argsort(-(unit @ unit[77]))[1:17]
    listed = page.execute_script(
        "return [...document.querySelectorAll('.near .tile b')].map((e) => +e.textContent)"
    )
    assert listed == near.tolist()


def test_heat_has_the_colours_of_the_pictures(
    page: Any, made: tuple[Path, np.ndarray, list[str], Chain]
) -> None:
    """What a tile shows is, to the rounding of a canvas, what `with_heat` mixes into a picture."""
    _, f_npk, paths, _ = made
    go(page, "latent=77")
    shown = page.execute_script(
        "return [...document.querySelectorAll('#top .tile')].map((tile) =>"
        " [tile.title, tile.querySelector('.heat').src])"
    )
    largest = f_npk[:, :, 77].max()
    assert shown
    for path, source in shown:
        heat_p = f_npk[paths.index(path), :, 77]
        with Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))) as image:
            rgba_pc = np.asarray(image.convert("RGBA")).reshape(-1, 4)
        active = heat_p > 0
        strength = heat_p[active] / largest
        assert (rgba_pc[~active] == 0).all()
        assert np.abs(rgba_pc[active, :3] - colours(strength)).max() <= 3
        alpha = MIN_ALPHA + (MAX_ALPHA - MIN_ALPHA) * strength
        assert np.abs(rgba_pc[active, 3] / 255 - alpha).max() < 0.01


def test_heat_on_and_off(page: Any) -> None:
    from selenium.webdriver.common.by import By

    go(page, "latent=77")
    shown = lambda: page.execute_script(  # noqa: E731
        "return getComputedStyle(document.querySelector('#top .heat')).display !== 'none'"
    )
    assert shown()
    page.find_element(By.TAG_NAME, "body").send_keys("h")
    assert not shown()
    page.find_element(By.TAG_NAME, "body").send_keys("h")  # labels
    drawn = wait(
        lambda: page.execute_async_script(
            PIXELS + "const done = arguments[0], labels = document.querySelector('#top .labels');"
            "if (labels && labels.naturalWidth === 4) pixels(labels).then(done); else done(null)"
        )
    )
    colours = np.array(drawn).reshape(16, 4)[:, :3]
    first = label_colours(3)[np.arange(16) % 3]
    assert np.abs(colours - first.astype(int)).max() <= 2  # a canvas keeps colours multiplied by their alpha
    assert not shown()
    click(page, "[data-heat-mode=on]")
    assert shown()


def test_asking_three_patches(page: Any, made: tuple[Path, np.ndarray, list[str], Chain]) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    f_npk = made[1]
    image, patches = 17, [1, 6, 15]
    go(page, f"image={image}")
    frame = page.find_element(By.CSS_SELECTOR, ".asking .picture")
    width, height = frame.size["width"], frame.size["height"]
    for patch in patches:
        x, y = (patch % 4 + 0.5) / 4 - 0.5, (patch // 4 + 0.5) / 4 - 0.5
        ActionChains(page).move_to_element_with_offset(
            frame, int(x * width), int(y * height)
        ).click().perform()
    listed = page.execute_script(
        "return [...document.querySelectorAll('#fires li[data-latent]')]"
        ".map((e) => [+e.dataset.latent, +e.dataset.sum])"
    )
    summed = f_npk[image, patches].sum(0)
    expected = sorted(np.flatnonzero(summed > 0).tolist(), key=lambda k: -summed[k])
    assert {k for k, _ in listed} == set(expected)
    assert [total for _, total in listed] == sorted((total for _, total in listed), reverse=True)
    for k, total in listed:
        assert total == pytest.approx(summed[k], rel=2e-3)  # the page has values as float16
    exemplars = wait(
        lambda: page.execute_script(
            "return [...document.querySelectorAll('#fires li:first-child .tile')].map((e) => e.title)"
        )
    )
    max_n = f_npk[:, :, listed[0][0]].max(1)
    others = sorted((n for n in range(N_IMAGES) if max_n[n] > 0 and n != image), key=lambda n: (-max_n[n], n))
    assert exemplars == [made[2][n] for n in others[:4]]
    assert "patches=1,6,15" in page.execute_script("return location.hash")  # so the question can be sent
    ActionChains(page).move_to_element_with_offset(
        frame, int(-0.125 * width), int(-0.375 * height)
    ).click().perform()
    assert "patches=6,15" in page.execute_script("return location.hash")
    # By keys alone: from the first patch two to the right, chosen.
    click(page, "#clear-patches")
    page.execute_script(
        "document.querySelector('.asking .picture').dispatchEvent(new PointerEvent('pointerleave'))"
    )
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", " "):
        page.execute_script(
            "document.querySelector('.asking .picture')"
            ".dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0]}))",
            key,
        )
    assert "patches=2" in page.execute_script("return location.hash")


def test_notes_are_kept_and_exported(page: Any, downloads: Path) -> None:
    from selenium.webdriver.common.by import By

    text = 'a beak, "hooked"\nat the tip'
    go(page, "latent=77")
    page.find_element(By.ID, "note").send_keys(text)
    page.refresh()
    wait(lambda: page.execute_script("return document.getElementById('note')"))
    assert page.find_element(By.ID, "note").get_attribute("value") == text
    wait(lambda: page.execute_script("return document.getElementById('n-notes').textContent") == " (1)")
    search(page, "has:note")
    assert rows(page) == [77]
    click(page, "#notes")
    click(page, "#export")
    page.switch_to.active_element.send_keys("\ue00c")  # Escape
    wait(lambda: (downloads / "notes.csv").is_file())
    with (downloads / "notes.csv").open(newline="") as file:
        exported = list(csv.DictReader(file))
    assert [(row["latent"], row["note"], row["trait"]) for row in exported] == [
        ("77", text, "has_colour::c11")
    ]
    assert float(exported[0]["ap"]) == pytest.approx(0.65)


def test_images_and_heat_map(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By

    click(page, "#tab-images")
    page.find_element(By.ID, "image-search").send_keys("kind_b")
    wait(lambda: page.find_element(By.ID, "image-count").text == "10 of 30 images")
    click(page, "#gallery .tile")
    wait(lambda: page.execute_script("return document.body.dataset.shown") == "#image=1")
    go(page, "heatmap")
    canvas = page.find_element(By.ID, "heatmap")
    ActionChains(page).move_to_element(canvas).click().perform()
    says = page.find_element(By.ID, "heatmap-says")
    assert "latent " in says.text
    assert "Kind_B" in says.text
    assert len(says.find_elements(By.TAG_NAME, "a")) == 2


def test_keys(page: Any) -> None:
    from selenium.webdriver.common.by import By

    page.execute_script("document.activeElement.blur()")
    body = page.find_element(By.TAG_NAME, "body")
    order = page.execute_script("return [...saetools.rows.state.order]")
    for latent in order[:2]:
        body.send_keys("j")
        wait(lambda latent=latent: page.execute_script("return saetools.table.selected()") == latent)
    assert page.execute_script("return location.hash") == f"#latent={order[1]}"
    body.send_keys("k")
    wait(lambda: page.execute_script("return location.hash") == f"#latent={order[0]}")
    body.send_keys("/")
    assert page.execute_script("return document.activeElement.id") == "search"
    page.switch_to.active_element.send_keys("\ue00c")  # Escape
    body.send_keys("?")
    assert page.execute_script("return document.getElementById('help-dialog').open")
    click(page, "#help-dialog button")


def test_narrow_screens_show_one_thing_at_a_time(
    made: tuple[Path, np.ndarray, list[str], Chain], downloads: Path
) -> None:
    with browser(downloads, width=390, height=800) as page:
        page.get((made[0] / "index.html").as_uri())
        wait(lambda: page.execute_script("return document.querySelectorAll('.row').length > 0"))
        visible = lambda what: page.execute_script(  # noqa: E731
            "return document.getElementById(arguments[0]).offsetParent !== null", what
        )
        assert visible("table")
        assert not visible("detail")
        go(page, "image=3&patches=2,3")
        assert visible("detail")
        assert not visible("table")
        assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        click(page, ".back")
        wait(lambda: visible("table"))


def test_titles_are_no_markup(page: Any) -> None:
    assert page.title == "Ti<tle> & more"
