"""The Edit view in Chromium: what it draws against the files, addresses, Back, the keyboard, and narrow screens."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from birds_page import COLOURS, EDITED, PER_CLASS, SIDE, SQUASHED, UID, planted_latents, render
from edit_files import EditedSet, write_edits
from pages import browser, go, load_axe, serious, wait
from pictured_latents import write_pictured
from PIL import Image

from saetools.latents.edit_predictions import EditPredictions, read_edit_predictions
from saetools.vision.heat import label_colours

AMOUNTS = [-2.0, -1.0, 0.0, 1.0, 2.0]
CONTROLS = ["none", "random-direction", "random-latent", "diff-means"]
EDIT = "edit=59:wing"
OPENED = f"{EDIT}&image=13&amount=-2"


@pytest.fixture(scope="module")
def opened(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with browser(tmp_path_factory.mktemp("downloads"), width=1440) as driver:
        yield driver
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def visit(driver: Any, site: Path, where: str = "") -> None:
    driver.get("about:blank")
    driver.get((site / "index.html").as_uri() + (f"#{where}" if where else ""))
    wait(lambda: driver.execute_script("return document.body.dataset.shown !== undefined"))


@pytest.fixture
def page(opened: Any, birds: Path) -> Any:
    visit(opened, birds)
    opened.execute_script("localStorage.clear(); sessionStorage.clear()")
    visit(opened, birds)
    return opened


def run(page: Any, script: str, *arguments: Any) -> Any:
    return page.execute_script(f"return {script}", *arguments)


def text(page: Any, css: str) -> str:
    return str(run(page, "document.querySelector(arguments[0]).innerText", css))


def figure(control: str) -> str:
    return f"#detail figure[data-control={control}]"


@pytest.fixture(scope="module")
def known(birds: Path) -> EditPredictions:
    return read_edit_predictions(birds.parent / "edits" / f"predictions-{EDITED.index(59):03d}.npz")


def after(known: EditPredictions, control: str, amount: float, image: int) -> np.ndarray:
    found = known.after_kan[known.controls.index(control), known.amounts.index(amount), image]
    return np.asarray(found, int)


def pixels(page: Any, css: str) -> np.ndarray:
    """RGBA of a picture in a data: address."""
    source = run(page, "document.querySelector(arguments[0]).src", css)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("RGBA"))


def edges(changed_p: np.ndarray) -> int:
    """How many edges of patches lie between a patch that changed and one that did not, or the border."""
    changed = np.pad(changed_p.reshape(SIDE, SIDE), 1).astype(int)
    return int(np.abs(np.diff(changed, axis=0)).sum() + np.abs(np.diff(changed, axis=1)).sum())


def test_it_opens_where_there_is_most_to_see(page: Any, known: EditPredictions) -> None:
    """At the amount that changes most of the target, on the image with most changes; and says so in the address."""
    go(page, EDIT)
    changed_n = [(after(known, "none", -2.0, n) != known.before_n[n]).sum() for n in range(len(known))]
    assert int(np.argmax(changed_n)) == 13
    assert run(page, "location.hash") == f"#{OPENED}"
    assert run(page, "document.title") == "Latent 59 → wing · edit – Drawn birds"
    assert run(page, "document.getElementById('tab-edits').getAttribute('aria-current')") == "page"
    assert run(page, "document.querySelector('.row[aria-selected=true]').id") == "row-59"
    assert (
        run(page, "document.querySelector('#edit-images [aria-checked=true] img').alt")
        == known.path[13].rpartition("/")[2]
    )


@pytest.mark.parametrize(("image", "amount"), [(13, -2.0), (4, 2.0), (7, 1.0)])
def test_maps_outlines_and_numbers_are_those_of_the_files(
    page: Any, birds: Path, known: EditPredictions, image: int, amount: float
) -> None:
    go(page, f"{EDIT}&image={image}&amount={amount:g}")
    colours = label_colours(len(known.names))
    before = known.before_n[image].astype(int)
    shown = pixels(page, "#detail .edit-panel:not([data-control]):not(.where) .map")
    assert (
        np.abs(shown[..., :3].reshape(-1, 3).astype(int) - colours[before]).max() <= 2
    )  # as a canvas rounds
    edited = int(known.edited_np[image].sum())
    assert (
        run(page, "document.querySelector('.where path.dots').getAttribute('d').split('M').length - 1")
        == edited
    )
    assert (pixels(page, "#detail .where .map")[..., 3] > 0).sum() == (known.value_np[image] > 0).sum()
    effects = pd.read_csv(birds.parent / "edits/effects.csv")
    target = known.names.index("wing")
    counts = {}
    for control in CONTROLS:
        now = after(known, control, amount, image)
        shown = pixels(page, f"{figure(control)} .map")
        assert np.abs(shown[..., :3].reshape(-1, 3).astype(int) - colours[now]).max() <= 2
        d = run(page, "document.querySelector(arguments[0]).getAttribute('d')", f"{figure(control)} path")
        assert d.count("M") == edges(now != before)
        counts[control] = n = int((now != before).sum())
        words = f"{n} {'patch changes' if n == 1 else 'patches change'} · wing: {(before == target).sum()} → "
        assert text(page, f"{figure(control)} .does") == f"{words}{(now == target).sum()}"
        row = effects.query(f"latent == 59 and amount == {amount} and control == '{control}'").iloc[0]
        for measure in ("target_changed", "other_changed"):
            value, low, high = (
                run(page, "saetools.elements.percent(arguments[0])", float(row[f"{measure}{end}"]))
                for end in ("", "_low", "_high")
            )
            line = f"{figure(control)} [data-measure={measure}]"
            assert text(page, line).split("\n")[-1] == f"{value} ({low.removesuffix('%')} to {high})"
            wide = run(
                page, "parseFloat(document.querySelector(arguments[0]).style.width)", f"{line} .track i"
            )
            assert wide == pytest.approx(100 * row[measure], abs=0.01)
    says = text(page, "#edit-says")
    assert says.startswith(f"Activation × {amount:g}. ".replace("-", "−"))
    assert says.endswith(
        f"{counts['none']} by latent 59, {counts['random-direction']} by random direction,"
        f" {counts['random-latent']} by random latent, {counts['diff-means']} by difference of means."
    )
    alt = run(page, "document.querySelector(arguments[0]).alt", f"{figure('none')} img")
    assert f"after latent 59, activation × {amount:g}".replace("-", "−") in alt
    assert f"{counts['none']} patch" in alt


def test_the_list_of_edits(page: Any, birds: Path) -> None:
    go(page, "edits")
    effects = pd.read_csv(birds.parent / "edits/effects.csv").query("control == 'none'")
    best = effects.sort_values("target_changed", ascending=False).drop_duplicates("latent")
    rows = run(
        page,
        "[...document.querySelectorAll('.edits-table tbody tr')].map((row) => row.innerText.split('\\t'))",
    )
    assert [row[0] for row in rows] == [
        f"Latent {k} → {t}" for k, t in zip(best["latent"], best["target"], strict=True)
    ]
    percent = run(
        page, "arguments[0].map(saetools.elements.percent)", [float(v) for v in best["target_changed"]]
    )
    assert [row[2].strip() for row in rows] == percent
    page.execute_script("document.querySelector('.edits-table a').click()")
    wait(lambda: run(page, "document.body.dataset.shown") == f"#{EDIT}&amount=-2")
    assert run(page, "document.querySelector('#edit-choice option:checked').text") == "Latent 59 → wing"


def test_from_a_latent_and_back(page: Any) -> None:
    """Image and amount are as they were; changing them makes no entries of the history."""
    go(page, "latent=59")
    page.execute_script("document.querySelector('.edits-of a').click()")
    wait(lambda: run(page, "document.body.dataset.shown") == f"#{EDIT}")
    page.execute_script("document.querySelectorAll('#edit-images button')[4].click()")
    page.execute_script(
        "const slider = document.getElementById('edit-amount'); slider.value = 1;"
        "slider.dispatchEvent(new Event('input'))"
    )
    assert run(page, "location.hash") == f"#{EDIT}&image=4&amount=-1"
    page.execute_script("delete document.body.dataset.shown; document.querySelector('#detail h2 a').click()")
    wait(lambda: run(page, "document.body.dataset.shown") == "#latent=59")
    page.execute_script("delete document.body.dataset.shown; history.back()")
    wait(lambda: run(page, "document.body.dataset.shown") == f"#{EDIT}&image=4&amount=-1")
    assert run(page, "document.getElementById('edit-amount').value") == "1"
    checked = (
        "[...document.querySelectorAll('#edit-images button')].map((one) => one.ariaChecked).indexOf('true')"
    )
    assert run(page, checked) == 4
    page.execute_script("delete document.body.dataset.shown; history.back()")
    wait(lambda: run(page, "document.body.dataset.shown") == "#latent=59")
    go(page, "latent=3")
    assert run(page, "document.querySelector('.edits-of')") is None
    go(page, OPENED)
    page.execute_script(
        "delete document.body.dataset.shown; document.querySelector('#edit-images + p a').click()"
    )
    wait(lambda: run(page, "document.body.dataset.shown") == f"#image={13 * PER_CLASS}&latent=59")


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("edit=59", "There is no edit 59 on this page: it has 3 edits, LATENT:TARGET, such as 15:crown."),
        ("edit=59:beak", "There is no edit 59:beak on this page"),
        ("edit=", "There is no edit "),
        (f"{EDIT}&image=24", "these 24 have the numbers 0 to 23."),
        (f"{EDIT}&image=-1", "There is no image -1 among those of the edits"),
        (
            f"{EDIT}&amount=3",
            "There is no amount 3 on this page: its edits have the amounts -2, -1, 0, 1, 2.",
        ),
        (f"{EDIT}&amount=", "There is no amount  on this page"),
    ],
)
def test_addresses_of_what_is_not_there(page: Any, where: str, says: str) -> None:
    go(page, where)
    assert says in run(page, "document.querySelector('#detail .unknown').textContent")
    assert run(page, "document.title") == "Unknown address – Drawn birds"


def test_a_page_without_edits_says_so(opened: Any, birds: Path, tmp_path: Path) -> None:
    folder = birds.parent
    render("page", folder / "latents", "--images", folder / "birds", "--out", tmp_path / "site")
    visit(opened, tmp_path / "site", EDIT)
    assert text(opened, "#detail .unknown") == "This page has no edits: it was made without --edits."
    assert not run(opened, "document.getElementById('tab-edits').checkVisibility()")
    go(opened, "latent=59")
    assert run(opened, "document.querySelector('.edits-of')") is None


def test_by_keyboard_alone(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        for key in keys:
            ActionChains(page).send_keys(key).perform()

    def tab_to(css: str, most: int) -> None:
        for _ in range(most):
            press(Keys.TAB)
            if run(page, "document.activeElement.matches(arguments[0])", css):
                ring = run(page, "getComputedStyle(document.activeElement).outlineStyle")
                assert ring != "none", f"{css} does not show that it has the focus"
                return
        raise AssertionError(f"{css} is not reached by {most} times Tab")

    press("e")
    wait(lambda: run(page, "document.body.dataset.shown") == "#edits")
    page.execute_script("document.getElementById('detail').focus()")
    tab_to(".edits-table", 2)
    tab_to(".edits-table a", 1)
    press(Keys.ENTER)
    wait(lambda: run(page, "document.body.dataset.shown") == f"#{EDIT}&amount=-2")
    assert run(page, "document.activeElement.id") == "detail"
    tab_to("#edit-images [aria-checked=true]", 3)
    press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert run(page, "location.hash") == f"#{EDIT}&image=14&amount=-2"
    assert run(page, "document.activeElement.getAttribute('aria-checked')") == "true"
    press(Keys.END, Keys.ARROW_RIGHT)
    assert run(page, "location.hash") == f"#{EDIT}&image=0&amount=-2"
    press(Keys.ARROW_UP, Keys.HOME)
    tab_to("#edit-amount", 3)
    press(Keys.ARROW_RIGHT)
    assert run(page, "location.hash") == f"#{EDIT}&image=0&amount=-1"
    assert run(page, "document.activeElement.getAttribute('aria-valuetext')") == "activation × −1"
    page.execute_script("document.getElementById('edit-choice').focus()")
    press(Keys.ARROW_UP)  # another edit, on the same image at the same amount; keys go on there
    wait(lambda: run(page, "document.body.dataset.shown") == "#edit=27:throat&image=0&amount=-1")
    wait(lambda: run(page, "document.activeElement.id") == "edit-choice")
    press(Keys.ESCAPE, Keys.ESCAPE)
    wait(lambda: run(page, "document.body.dataset.shown") == "#latents")


# --- heads on images ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def heads(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages with edits of heads of classes, and of traits, on images that the pages do not show otherwise."""
    folder, root = tmp_path_factory.mktemp("heads"), birds.parent / "birds"
    paths = [f"images/{line.split()[1]}" for line in (root / "images.txt").read_text().splitlines()]
    parts = (root / "segmentations/classes.txt").read_text().split()
    f_npk, _ = planted_latents(root, paths, len(parts))
    kept = np.arange(0, len(paths), PER_CLASS)
    shown = np.setdiff1d(np.arange(len(paths)), kept)
    grids = [(SIDE, SIDE)] * len(shown)
    write_pictured(folder / "latents", f_npk[shown], [paths[n] for n in shown], grids, SQUASHED, scorer=UID)
    species = [path.split("/")[1].split(".")[1] for path in paths]
    names = sorted(set(species))
    traits = [f"has_{part}_color::{colour}" for part in parts[1:] for colour in COLOURS]
    found = {}
    for link, label, words, pairs in (
        (
            "softmax",
            np.array([names.index(species[n]) for n in kept]),
            names,
            [(27, "Lemon_Finch"), (3, "Lemon_Finch")],
        ),
        ("logistic", (f_npk[kept][:, :, : len(traits)] > 0).any(1).astype(int), traits, [(27, traits[27])]),
    ):
        of = EditedSet(
            [paths[n] for n in kept], np.full((len(kept), 2), SIDE), f_npk[kept], label, words, UID,
            SQUASHED.to_settings(), "image", link, "times-max", (0.0, 1.0, 4.0), ("none", "random-direction", "probe"),
        )  # fmt: skip
        write_edits(folder / f"edits-{link}", pairs, of)
        found[link] = folder / f"site-{link}"
        render(
            "page",
            folder / "latents",
            "--images",
            root,
            "--edits",
            folder / f"edits-{link}",
            "--out",
            found[link],
        )
    return found


def probabilities(logits: np.ndarray, link: str) -> np.ndarray:
    powers = np.exp(logits.astype(float))
    return powers / (1 + powers) if link == "logistic" else powers / powers.sum()


@pytest.mark.parametrize("link", ["softmax", "logistic"])
def test_bars_are_the_classes_that_change_most(opened: Any, heads: dict[str, Path], link: str) -> None:
    site = heads[link]
    known = read_edit_predictions(site.parent / f"edits-{link}/predictions-000.npz")
    visit(opened, site, f"edit=27:{known.target}&image=1&amount=4")
    t = known.names.index(known.target)
    before = probabilities(known.before_n[1], link)
    own = probabilities(known.after_kan[0, 2, 1], link)
    change = np.abs(own - before)
    change[t] = -1
    for k, control in enumerate(known.controls):
        now = probabilities(known.after_kan[k, 2, 1], link)
        bars = run(
            opened,
            "[...document.querySelectorAll(arguments[0])].map((li) => [li.querySelector('.who').title,"
            " ...[...li.querySelectorAll('.track i')].map((bar) => parseFloat(bar.style.width))])",
            f"{figure(control)} .bars li",
        )
        shown = [known.names.index(bar[0]) for bar in bars]
        assert shown[0] == t and len(set(shown)) == 6
        assert change[shown[1:]].min() >= np.sort(change)[-5] - 1e-3  # as float16 tells them apart
        np.testing.assert_allclose([bar[1] for bar in bars], 100 * before[shown], rtol=2e-3)
        np.testing.assert_allclose([bar[2] for bar in bars], 100 * now[shown], rtol=2e-3)
        words = text(opened, f"{figure(control)} .does")
        if link == "softmax":
            was, then = (known.names[int(one.argmax())] for one in (before, now))
            assert words == f"Predicted: {f'still {was}' if was == then else f'{was} → {then}'}"
        else:
            said = ["yes" if one[t] > 0.5 else "no" for one in (before, now)]
            assert words.startswith(
                f"{known.target}: {f'still {said[0]}' if said[0] == said[1] else ' → '.join(said)}"
            )
    assert "label: " in text(opened, ".where .does")
    assert run(opened, "document.querySelector('#edit-images + p a')") is None  # not among the page's images
    opened.execute_script("document.querySelectorAll('#edit-images button')[2].click()")
    assert (
        run(opened, "document.querySelector('.where img').getAttribute('src')") == "images/edits/000002.jpg"
    )


@pytest.mark.parametrize("link", ["softmax", "logistic"])
@pytest.mark.parametrize("size", [(1440, 900), (390, 844), (320, 640)])
def test_bars_on_every_screen(
    heads: dict[str, Path], tmp_path: Path, link: str, size: tuple[int, int]
) -> None:
    with browser(tmp_path, *size) as page:
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            for where in (
                "edits",
                "edit=27:" + ("Lemon_Finch" if link == "softmax" else "has_throat_color::yellow"),
            ):
                visit(page, heads[link], where)
                load_axe(page)
                assert serious(page) == []
                assert run(page, "document.documentElement.scrollWidth") <= size[0]
                wide = run(page, "(({scrollWidth, clientWidth}) => [scrollWidth, clientWidth])(arguments[0])",
                           page.find_element("id", "detail"))  # fmt: skip
                assert wide[0] <= wide[1]
        if size[0] < 900:
            small = run(
                page,
                "[...document.querySelectorAll('#detail :is(a, button, input, select)')]"
                ".map((e) => [e.outerHTML, e.getBoundingClientRect()])"
                ".filter(([, box]) => box.height < 44 || box.width < 44).map(([html]) => html)",
            )
            assert small == []
