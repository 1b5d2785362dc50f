"""Every view of the page as it is seen: by axe-core, by fingers, and compared with pictures of it.

The pictures in `views/` are a third as wide as the screen. `make screenshots` takes them again after a change of what
the page looks like: look at them, and commit them with the change.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from birds_page import DEAD_LATENT
from pages import browser, go, load_axe, serious, wait
from PIL import Image

VIEWS = {
    "latents": "latents",
    "images": "images",
    "latent": "latent=59",
    "dead": f"latent={DEAD_LATENT}",
    "image": "image=30&patches=75,76,90",
    "heatmap": "heatmap",
    "edits": "edits",
    "edit": "edit=59:wing&image=13&amount=-2",
    "unknown": "latent=99999",
}
DIALOGS = ("help", "notes", "columns")
WIDE, NARROW = (1440, 900), (390, 840)
SIZES, SCHEMES = (WIDE, NARROW), ("light", "dark")
REFERENCES = Path(__file__).parent / "views"
SMALLER, CELL = (
    3,
    12,
)  # a reference is so many times smaller; pixels of the screen along an edge of a compared cell
# Levels of 255 by which a cell's mean colour may differ, in how many cells it may differ by more, and the mean of all.
# Other hinting and smoothing of the fonts reaches 17, 0 and 0.8; without its heat, a view has 0.1 to 2% such cells.
LIMIT, SHARE, MEAN = 24, 0.001, 2.0
FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"  # the same font on every machine: the same lines

# Whether all pictures in sight are there, with their heat.
WHOLE = """
const inSight = (e) => {
  const {width, left, right, top, bottom} = e.getBoundingClientRect();
  return width && bottom > 0 && top < innerHeight && right > 0 && left < innerWidth;
};
return [...document.querySelectorAll('.picture, .thumb, .exemplars')].filter(inSight).every((frame) => {
  const images = [...frame.querySelectorAll('img')];
  return images.length && images.every((image) => image.getAttribute('src') && image.complete && image.naturalWidth);
});
"""
DECODED = """
const done = arguments[0], images = [...document.images].filter((image) => image.complete && image.naturalWidth);
Promise.all(images.map((image) => image.decode().catch(() => {})))
  .then(() => requestAnimationFrame(() => requestAnimationFrame(done)));
"""
WITH_FONT = """
const [css, done] = arguments;
document.head.append(Object.assign(document.createElement('style'), {textContent: css}));
Promise.all([400, 650].map((weight) => document.fonts.load(`${weight} 12px "Test Sans"`))).then(() => {
  document.dispatchEvent(new CustomEvent('colours')); // canvases are drawn again
  done();
});
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("downloads")) as driver:
        yield driver
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.fixture
def page(opened: Any, birds: Path, size: tuple[int, int], scheme: str) -> Any:
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 700}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    opened.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
    opened.get("about:blank")
    opened.get((birds / "index.html").as_uri())
    wait(lambda: opened.execute_script("return document.body.dataset.shown !== undefined"))
    opened.execute_async_script(WITH_FONT, font_css())
    return opened


def font_css() -> str:
    faces = [
        f"@font-face {{ font-family: 'Test Sans'; font-weight: {weight};"
        f" src: url(data:font/ttf;base64,{base64.b64encode((FONTS / name).read_bytes()).decode()}) }}"
        for weight, name in ((400, "DejaVuSans.ttf"), (650, "DejaVuSans-Bold.ttf"))
    ]
    return "".join(faces) + ":root { --sans: 'Test Sans' } kbd, code { font-family: 'Test Sans' }"


def each(sizes: Any = SIZES, schemes: Any = SCHEMES) -> pytest.MarkDecorator:
    cases = [(size, scheme) for size in sizes for scheme in schemes]
    return pytest.mark.parametrize(("size", "scheme"), cases, ids=[f"{size[0]}-{s}" for size, s in cases])


def show(page: Any, view: str) -> None:
    """Show it as one sees it who has opened the page at its table, with all pictures in sight."""
    page.execute_script("location.hash = 'nonsense'")
    wait(lambda: page.execute_script("return document.body.dataset.shown") == "#nonsense")
    go(page, "latents")
    page.execute_script("document.getElementById('table').scrollTop = 0")
    if view != "latents":
        go(page, VIEWS[view])
    page.execute_script("document.activeElement.blur()")
    wait(lambda: page.execute_script(WHOLE))


def screenshot(page: Any) -> Image.Image:
    page.execute_async_script(DECODED)
    return Image.open(io.BytesIO(page.get_screenshot_as_png())).convert("RGB")


# --- axe-core, fingers, texts ---------------------------------------------------------------------------


@each()
def test_axe_core_finds_nothing_serious(page: Any) -> None:
    load_axe(page)
    for view in VIEWS:
        show(page, view)
        assert serious(page) == [], view
    for name in DIALOGS:
        page.execute_script("document.getElementById(`${arguments[0]}-dialog`).showModal()", name)
        assert serious(page) == [], name
        page.execute_script("document.getElementById(`${arguments[0]}-dialog`).close()", name)
    page.execute_script("saetools.elements.trouble(new Error('x')); saetools.elements.say('done', 'y')")
    assert serious(page) == []
    page.execute_script("saetools.rows.update({query: 'nothing has this word'})")
    assert serious(page) == []


@each([WIDE], ["light"])
def test_axe_core_is_asked(page: Any) -> None:
    """It does find what is wrong: a text in the colour of the paper, and a button without a name."""
    load_axe(page)
    show(page, "unknown")
    page.execute_script(
        "document.querySelector('#detail .unknown').style.color = 'var(--wash)';"
        "document.getElementById('help').replaceChildren();"
        "document.getElementById('help').removeAttribute('aria-label');"
        "document.getElementById('help').removeAttribute('title')"
    )
    assert {found.split(":")[0] for found in serious(page)} == {"color-contrast", "button-name"}


@each([NARROW], ["light"])
def test_fingers_meet_what_they_aim_at(page: Any) -> None:
    """44 pixels at least, of everything that can be touched, on every view and in every dialog."""
    small = (
        "return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility()).flatMap((e) => {"
        " const box = (e.closest('label') || e).getBoundingClientRect();"
        " const enough = box.width >= 44 && box.height >= 44;"
        " return enough ? [] : [`${e.outerHTML.slice(0, 90)} ${box.width}x${box.height}`]})"
    )
    touched = "a[href], button, input, select, textarea"
    for view in VIEWS:
        show(page, view)
        assert page.execute_script(small, touched) == [], view
    for name in DIALOGS:
        page.execute_script("document.getElementById(`${arguments[0]}-dialog`).showModal()", name)
        assert page.execute_script(small, ":modal :is(a[href], button, input)") == [], name
        page.execute_script("document.getElementById(`${arguments[0]}-dialog`).close()", name)
    page.execute_script(
        "document.querySelectorAll('.said').forEach((e) => e.remove()); saetools.elements.say('done', 'y')"
    )
    assert page.execute_script(small, ".said button") == []


@each([WIDE], ["light"])
def test_everything_has_a_text(page: Any) -> None:
    """Images, canvases, and what a button does."""
    for view in VIEWS:
        show(page, view)
        assert page.execute_script("return document.querySelectorAll('img:not([alt])').length") == 0
        assert (
            page.execute_script(
                "return document.querySelectorAll('canvas:not(.choice):not([aria-label])').length"
            )
            == 0
        )
        bare = page.execute_script(
            "return [...document.querySelectorAll('button, .button')].filter((e) => !e.title)"
            ".map((e) => e.outerHTML)"
        )
        assert bare == [], view
    show(page, "latent")
    first = page.execute_script("return document.querySelector('#top .tile img').alt")
    heat = page.execute_script("return saetools.latent(59).then(({top}) => top[0].patch.length)")
    name = page.execute_script("return document.querySelector('#top .tile .path').textContent.slice(1)")
    assert first == f"{name}, active at {heat} of 196 patches"


# --- what it looks like --------------------------------------------------------------------------------


def reference(view: str, size: tuple[int, int], scheme: str) -> Path:
    return REFERENCES / f"{view}-{size[0]}-{scheme}.png"


def as_reference(picture: Image.Image) -> Image.Image:
    """SMALLER, and rounded to multiples of 8 levels, which takes half the bytes."""
    size = (picture.width // SMALLER, picture.height // SMALLER)
    small = np.asarray(picture.resize(size, Image.Resampling.BOX), int)
    return Image.fromarray(np.clip((small + 4) // 8 * 8, 0, 255).astype(np.uint8))


def cells(small: Image.Image) -> np.ndarray:
    """The mean colour of each cell of a reference, {rows, columns, 3}."""
    size = (small.width * SMALLER // CELL, small.height * SMALLER // CELL)
    return np.asarray(small.convert("RGB").resize(size, Image.Resampling.BOX), float)


def difference(page: Any, view: str, size: tuple[int, int], scheme: str, folder: Path) -> str:
    """How what is shown differs from the reference by more than fonts may; empty if it does not."""
    shown, known = screenshot(page), reference(view, size, scheme)
    if os.environ.get("SCREENSHOTS") == "renew":
        REFERENCES.mkdir(exist_ok=True)
        as_reference(shown).save(known, optimize=True)
        return ""
    assert known.is_file(), f"{known}: no such file; `make screenshots` takes it"
    with Image.open(known) as before:
        levels_rc = np.abs(cells(as_reference(shown)) - cells(before)).max(2)
        if (levels_rc > LIMIT).mean() <= SHARE and levels_rc.mean() <= MEAN:
            return ""
        both = Image.new("RGB", (2 * size[0], size[1]))
        both.paste(before.convert("RGB").resize(size), (0, 0))
    marked = np.kron(levels_rc > LIMIT, np.ones((CELL, CELL), bool))[..., None]
    pixels = np.asarray(shown)[: marked.shape[0], : marked.shape[1]]
    both.paste(Image.fromarray(np.where(marked, (255, 0, 255), pixels).astype(np.uint8)), (size[0], 0))
    both.save(folder / f"{known.stem}.png")
    return (
        f"{known.stem}: {100 * (levels_rc > LIMIT).mean():.2f}% of the cells differ by more than {LIMIT} levels"
        f" (at most {100 * SHARE}%), all by {levels_rc.mean():.2f} (at most {MEAN}): {folder / known.stem}.png"
    )


@each()
def test_views_look_as_before(page: Any, size: tuple[int, int], scheme: str, tmp_path: Path) -> None:
    found = []
    for view in VIEWS:
        show(page, view)
        found.append(difference(page, view, size, scheme, tmp_path))
    assert [one for one in found if one] == []


@pytest.mark.skipif(os.environ.get("SCREENSHOTS") == "renew", reason="references are being taken")
@pytest.mark.parametrize(
    ("view", "css"),
    [
        ("latents", "#scatter { visibility: hidden }"),
        ("latents", "#table-body { visibility: hidden }"),
        ("latents", ".heat { display: none !important }"),
        ("images", "#gallery img { visibility: hidden }"),
        ("latent", ".heat { display: none !important }"),
        ("latent", ".scale { visibility: hidden }"),
        ("latent", ".facts { display: none }"),
        ("image", ".heat { display: none !important }"),
        ("image", "canvas.choice { display: none }"),
        ("heatmap", "#heatmap { visibility: hidden }"),
        ("edit", ".map { display: none !important }"),
        ("edit", ".effects { visibility: hidden }"),
        ("edit", ".edit-legend { visibility: hidden }"),
        ("unknown", ".unknown { visibility: hidden }"),
        ("latent", ":root { --paper: #e4e6e9 }"),
    ],
)
@each([WIDE], ["light"])
def test_what_is_missing_is_seen(
    page: Any, view: str, css: str, size: tuple[int, int], scheme: str, tmp_path: Path
) -> None:
    show(page, view)
    assert difference(page, view, size, scheme, tmp_path) == ""
    page.execute_script(
        "document.head.append(Object.assign(document.createElement('style'), {textContent: arguments[0]}))",
        css,
    )
    assert difference(page, view, size, scheme, tmp_path) != ""


@pytest.mark.skipif(os.environ.get("SCREENSHOTS") == "renew", reason="references are being taken")
@each(schemes=["light"])
def test_how_fonts_are_smoothed_is_not(page: Any, size: tuple[int, int], scheme: str, tmp_path: Path) -> None:
    page.execute_script(
        "document.head.append(Object.assign(document.createElement('style'), {textContent:"
        " '* { text-rendering: geometricPrecision; -webkit-text-stroke: 0.2px }'}))"
    )
    for view in VIEWS:
        show(page, view)
        assert difference(page, view, size, scheme, tmp_path) == ""
