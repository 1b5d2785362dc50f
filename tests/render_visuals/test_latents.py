"""render-visuals latents and heatmap: exact pixels, what is drawn again, and what users get wrong."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from in_process import runner
from pictured_latents import CROPPED, NATIVE, sparse_latents, write_images, write_pictured
from PIL import Image
from processes import Tool, error_lines, run_all, run_on_a_full_disk
from small_tables import write_table

from render_visuals.cli import app
from saetools.files.formats import AP_TABLE
from saetools.vision.heat import STOPS
from saetools.vision.preprocess import Preprocess

render = runner("render-visuals", app)


def plain_heat(
    pixels: np.ndarray, grid: tuple[int, int], values: dict[int, float], largest: float
) -> np.ndarray:
    """Heat by its definition, pixel by pixel."""
    height, width, _ = pixels.shape
    rows, columns = grid
    stops = [[int(stop[i : i + 2], 16) for i in (0, 2, 4)] for stop in STOPS]
    out = pixels.copy()
    for y in range(height):
        for x in range(width):
            patch = (y * rows // height) * columns + x * columns // width
            if patch in values:
                strength = values[patch] / largest
                place = strength * (len(stops) - 1)
                low = min(int(place), len(stops) - 2)
                alpha = 0.35 + 0.4 * strength
                for c in range(3):
                    colour = stops[low][c] + (stops[low + 1][c] - stops[low][c]) * (place - low)
                    out[y, x, c] = round(float(pixels[y, x, c]) * (1 - alpha) + colour * alpha)
    return out


def find(picture: np.ndarray, tile: np.ndarray) -> tuple[int, int] | None:
    """(row, column) at which the picture holds exactly these pixels, give or take one level of rounding."""
    height, width, _ = tile.shape
    for y in range(picture.shape[0] - height + 1):
        for x in range(20, min(picture.shape[1] - width + 1, 200)):
            if (np.abs(picture[y, x].astype(int) - tile[0, 0]) > 1).any():
                continue
            if (np.abs(picture[y : y + height, x : x + width].astype(int) - tile) <= 1).all():
                return y, x
    return None


@pytest.mark.parametrize(
    ("preprocess", "size", "grid", "seen"),
    [
        (CROPPED, (70, 40), (4, 4), "crop"),
        (CROPPED, (40, 90), (4, 4), "crop"),
        (NATIVE, (200, 100), (4, 8), (64, 32)),
        (NATIVE, (50, 410), (16, 2), (16, 128)),
    ],
)
def test_heat_is_on_the_very_pixels(
    tmp_path: Path,
    preprocess: Preprocess,
    size: tuple[int, int],
    grid: tuple[int, int],
    seen: str | tuple[int, int],
) -> None:
    paths = write_images(tmp_path / "root", [size])
    n_patches = grid[0] * grid[1]
    f_npk = np.zeros((1, n_patches, 3), np.float32)
    values = {0: 1.0, 3: 2.5, n_patches - 1: 5.0, n_patches // 2: 0.25}
    for patch, value in values.items():
        f_npk[0, patch, 2] = value
    latents = write_pictured(tmp_path / "latents", f_npk, paths, [grid], preprocess, n_shards=1)
    render("latents", latents, "--images", tmp_path / "root", "--out", tmp_path / "out", "--latents", 2)

    image = Image.open(tmp_path / "root" / paths[0])
    if seen == "crop":
        left, top = (image.width - 32) // 2, (image.height - 32) // 2
        pixels = np.asarray(image.crop((left, top, left + 32, top + 32)))
    else:
        assert not isinstance(seen, str)
        pixels = np.asarray(image.resize(seen, Image.Resampling.BILINEAR))
    picture = np.asarray(Image.open(tmp_path / "out" / "latent-000002.png").convert("RGB"))
    assert find(picture, plain_heat(pixels, grid, values, 5.0)) is not None
    assert find(picture, plain_heat(pixels, grid, {0: 1.0, 3: 2.5}, 5.0)) is None  # so the search can fail


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(root, latents): 8 images, 12 latents, masks."""
    folder = tmp_path_factory.mktemp("case")
    paths = write_images(folder / "root", [(60 + 5 * i, 40) for i in range(8)])
    labels = np.random.default_rng(0).integers(0, 3, (8, 16)).astype(np.uint16)
    labels[0, 0] = 65535
    f_npk = sparse_latents(8, 16, 12, share=0.3)
    latents = write_pictured(folder / "latents", f_npk, paths, [(4, 4)] * 8, CROPPED, labels_np=labels)
    return folder / "root", latents


def test_pictures_and_index(case: tuple[Path, Path], tmp_path: Path, tool: Tool) -> None:
    root, latents = case
    out = tmp_path / "out"
    done = tool(
        "render-visuals",
        "latents",
        latents,
        "--images",
        root,
        "--out",
        out,
        "--latents",
        "3,0,3,11",
        "--spread",
    )
    assert done.stdout == f"{out / 'index.csv'}\n"
    with (out / "index.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["latent"] for row in rows] == ["3", "0", "11"]
    page = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    described = page.split("<!-- table: picture columns -->\n")[1].split("\n\n")[0].splitlines()[2:]
    assert list(rows[0]) == [line.split("`")[1] for line in described]
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["index.csv", "index.csv.json", *(row["picture"] for row in rows)]
    )
    assert rows[2]["n_images"] == "0"  # it never fires, and is drawn all the same
    f_npk = sparse_latents(8, 16, 12, share=0.3)
    assert float(rows[0]["frequency"]) == pytest.approx((f_npk[..., 3] > 0).mean())
    assert float(rows[0]["mean_value"]) == pytest.approx(f_npk[..., 3][f_npk[..., 3] > 0].mean(), rel=1e-6)
    with Image.open(out / "latent-000003.png") as with_spread:
        tall = with_spread.height
    render("latents", latents, "--images", root, "--out", tmp_path / "top", "--latents", 3, "--top", 2)
    with Image.open(tmp_path / "top" / "latent-000003.png") as short:
        assert short.height < tall


def test_label_maps_are_beside_the_images(case: tuple[Path, Path], tmp_path: Path) -> None:
    root, latents = case
    names = tmp_path / "names.txt"
    names.write_text("sky\nroad\ntree\n")
    arguments = ["latents", latents, "--images", root, "--latents", 1, "--top", 1]
    render(*arguments, "--out", tmp_path / "plain")
    render(*arguments, "--out", tmp_path / "named", "--class-names", names)
    plain, named = (
        np.asarray(Image.open(tmp_path / which / "latent-000001.png").convert("RGB")).astype(int)
        for which in ("plain", "named")
    )
    tile_row = plain[180]  # through the tile: 32 pixels of image, 4 of gap, 32 of label map
    assert (tile_row[20 + 32 : 20 + 36] == 255).all()
    assert not (tile_row[20 + 36 : 20 + 68] == 255).all()
    assert (tile_row[20 + 69 :] == 255).all()
    assert (plain != named).any()


def test_pictures_say_what_they_show(case: tuple[Path, Path], tmp_path: Path) -> None:
    """The latent, its SAE, the traits for which it was chosen, and the numbers of its colours."""
    root, latents = case
    ap = tmp_path / "ap.csv"
    traits = [
        (f"has_wing::{name}", 3, value)
        for name, value in zip("abcde", (0.3, 0.9, 0.5, 0.4, 0.8), strict=True)
    ]
    row = {"scorer": "sae", "n_prototypes": 12, "layer": 3, "n_train": 9, "prevalence": 0.25}
    table = [
        {**row, "trait": name, "prototype": k, "ap": value} for name, k, value in [*traits, ("other", 1, 0.7)]
    ]
    write_table(ap, pd.DataFrame(table), AP_TABLE)
    own = tmp_path / "notes.csv"
    own.write_text("latent;note\n3;a wing\n0;nothing\n")
    arguments = ["latents", latents, "--images", root]
    run_all(
        "render-visuals",
        [*arguments, "--latents", "3,11", "--table", ap, "--table", own, "--out", tmp_path / "given"],
        [*arguments, "--from", ap, "--out", tmp_path / "from"],
        [*arguments, "--latents", "3", "--out", tmp_path / "plain"],
    )
    largest = sparse_latents(8, 16, 12, share=0.3)[..., 3].max()
    f_k = (sparse_latents(8, 16, 12, share=0.3)[..., 3] > 0).mean()

    def said(where: str, latent: int = 3) -> list[str]:
        with Image.open(tmp_path / where / f"latent-{latent:06d}.png") as picture:
            return str(picture.info["Description"]).splitlines()

    plain = said("plain")
    assert plain[0] == "Latent 3"
    assert plain[1].startswith(f"active at {f_k:.3%} of patches")
    assert plain[1].endswith(f"max {largest:.3g}")
    assert plain[2:] == ["one of 12 latents of sae 55555555, layer 3 of timm/test"]
    named = [
        "best latent for the trait has_wing::b: AP 0.900, prevalence 0.25",
        "best latent for the trait has_wing::e: AP 0.800, prevalence 0.25",
        "best latent for the trait has_wing::c: AP 0.500, prevalence 0.25",
        "and for 2 more",
    ]
    assert said("from") == [*plain, *named]
    assert said("given") == [*plain, *named, "note: a wing"]
    assert said("given", 11) == ["Latent 11", "active in none of these 8 images", plain[2]]
    # What is said is drawn, below the title; and the scale: every colour from 0 to the largest value.
    heights = {}
    for where in ("plain", "given"):
        with Image.open(tmp_path / where / "latent-000003.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        heights[where] = len(pixels)
        colours = [[int(stop[i : i + 2], 16) for i in (0, 2, 4)] for stop in STOPS]
        first, last = (
            np.argwhere((pixels[:, :240] == colour).all(-1)) for colour in (colours[0], colours[-1])
        )
        assert len(first) and len(last)
        assert last[0, 0] == first[0, 0]
        assert last[0, 1] - first[0, 1] == 199
        below = pixels[first[0, 0] + 12 : first[0, 0] + 26, :240].min(axis=(0, 2)) < 100
        assert below[20:30].any() and below[110:130].any() and below[200:222].any()  # three numbers
    assert heights["given"] - heights["plain"] == 18 * 5
    with Image.open(tmp_path / "given" / "latent-000011.png") as picture:  # a dead latent has no scale
        pixels = np.asarray(picture.convert("RGB"))
    assert not (pixels == [[int(STOPS[-1][i : i + 2], 16) for i in (0, 2, 4)]]).all(-1).any()


def test_long_names_of_traits_stay_in_the_picture(case: tuple[Path, Path], tmp_path: Path) -> None:
    root, latents = case
    own = tmp_path / "notes.csv"
    own.write_text(f"latent,note\n3,{'a word ' * 40}\n4,{'x' * 400}\n")
    render(
        "latents", latents, "--images", root, "--latents", "3,4", "--table", own, "--out", tmp_path / "out"
    )
    for latent in (3, 4):
        with Image.open(tmp_path / "out" / f"latent-{latent:06d}.png") as picture:
            pixels = np.asarray(picture.convert("RGB"))
        assert (pixels[:140, -15:] == 255).all()  # nothing runs into the margin


def test_only_what_changed_is_drawn_again(case: tuple[Path, Path], tmp_path: Path) -> None:
    root, latents = case
    arguments = [
        "latents",
        latents,
        "--images",
        root,
        "--out",
        tmp_path,
        "--latents",
        "0,1,2",
        "--workers",
        1,
    ]
    render(*arguments)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    (tmp_path / "latent-000001.png").write_bytes(b"broken")
    done = render(*arguments)
    after = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.png")}
    assert "2 of 3 were there already" in done.stderr
    assert [name for name in before if before[name] != after[name]] == ["latent-000001.png"]
    render(*arguments, "--top", 3)
    assert all((tmp_path / name).stat().st_mtime_ns != after[name] for name in ("latent-000002.png",))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--latents", "3,12"], "--latents: there is no latent 12; latents are numbered 0 to 11"),
        (["--random", 3, "--log-freq", "1,2"], "no latent is within the ranges"),
        (["--from", "nothing.csv"], "nothing.csv: no such file"),
    ],
)
def test_latents_that_do_not_exist(
    case: tuple[Path, Path], tmp_path: Path, options: list[object], said: str
) -> None:
    root, latents = case
    done = render("latents", latents, "--images", root, "--out", tmp_path, *options, code=1)
    assert said in error_lines(done)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--latents", "1", "--random", "3"],
        ["--latents", "x"],
        ["--latents", "1", "--log-freq", "-3,-1"],
        ["--random", "3", "--log-freq", "1"],
        ["--random", "3", "--log-freq", "2,1"],
    ],
)
def test_wrong_usage(case: tuple[Path, Path], tmp_path: Path, options: list[str]) -> None:
    render("latents", case[1], "--images", case[0], "--out", tmp_path / "o", *options, code=2)


def test_images_by_a_csv(case: tuple[Path, Path], tmp_path: Path) -> None:
    """A list of images as dump-acts takes it, for every command; a table without paths is refused."""
    root, latents = case
    paths = sorted(path.relative_to(root).as_posix() for path in root.glob("images/*/*.png"))
    listed = root / "list.csv"
    listed.write_text("path,target\n" + "".join(f"{path},bird\n" for path in paths))
    given: dict[str, list[Path]] = {}
    for images in (root, listed):
        out = tmp_path / images.name
        render("latents", latents, "--images", images, "--latents", "1,2", "--out", out / "pictures")
        render("page", latents, "--images", images, "--out", out / "page")
        given[images.name] = sorted(path.relative_to(out) for path in out.rglob("*.[pj][np]g"))
    assert given[root.name] == given["list.csv"]
    assert len(given["list.csv"]) == 2 + len(paths)
    render("heatmap", latents, "--images", listed, "--out", tmp_path / "heat.png")
    listed.write_text("file,target\n" + "".join(f"{path},bird\n" for path in paths))
    for command in ("latents", "page", "heatmap"):
        some = ["--latents", "1"] if command == "latents" else []
        out = tmp_path / "none.png"
        done = render(command, latents, "--images", listed, *some, "--out", out, code=1)
        said = error_lines(done)
        assert f"{listed}: it has no column 'path'" in said
        assert "a folder, or a CSV with the column path" in said
        assert not out.exists()


def test_images_that_moved(case: tuple[Path, Path], tmp_path: Path) -> None:
    root, latents = case
    wrong = root / "images"
    said = error_lines(
        render("latents", latents, "--images", wrong, "--out", tmp_path, "--latents", 1, code=1)
    )
    assert f"{wrong / 'images'}" in said
    assert "8 of them are not there" in said
    assert f"did you mean --images {root}?" in said
    nowhere = tmp_path / "empty"
    nowhere.mkdir()
    said = error_lines(
        render("latents", latents, "--images", nowhere, "--out", tmp_path, "--latents", 1, code=1)
    )
    assert "such that ROOT/images/" in said


def test_an_image_that_changed_since_the_dump(tmp_path: Path) -> None:
    root = tmp_path / "root"
    paths = write_images(root, [(200, 100), (100, 200)])
    f_npk = sparse_latents(2, 32, 4, share=0.5)
    latents = write_pictured(tmp_path / "latents", f_npk, paths, [(4, 8), (8, 4)], NATIVE)
    Image.new("RGB", (300, 100)).resize((100, 300)).save(root / paths[0])
    arguments = ["latents", latents, "--images", root, "--out", tmp_path / "out", "--latents", "1,2"]
    said = error_lines(render(*arguments, "--workers", 1, code=1))
    assert "it is 100 x 300 pixels" in said
    assert "4 x 8 were recorded" in said
    (root / paths[0]).write_bytes(b"no image any more")
    said = error_lines(render(*arguments, "--workers", 1, code=1))
    assert "not an image that can be decoded" in said


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk(case: tuple[Path, Path], tmp_path: Path, workers: int) -> None:
    root, latents = case
    options = ["--latents", ",".join(map(str, range(11))), "--workers", str(workers)]
    pictures = ["latents", latents, "--images", root, "--out", tmp_path, *options]
    done = run_on_a_full_disk(2000, "render-visuals", *pictures)
    assert done.returncode == 1
    assert "free some space" in error_lines(done) or "too large" in error_lines(done).lower()
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".png"]


def test_heatmap(case: tuple[Path, Path], tmp_path: Path) -> None:
    root, latents = case
    for out in ("a.png", "b.svg"):
        done = render("heatmap", latents, "--by", "class", "--out", tmp_path / out)
        assert done.stdout == f"{tmp_path / out}\n"
    drawn = (tmp_path / "b.svg").read_text()
    assert "Kind_A" in drawn
    assert "of sae 55555555, layer 3 of timm/test" in drawn
    assert "largest value in the image / the latent's largest value" in drawn.replace("&apos;", "'")
    assert all(f">{number}</text>" in drawn for number in ("0", "0.5", "1"))  # of the colour bar
    few = render("heatmap", latents, "--latents", "1,2,3,4", "--out", tmp_path / "few.png")
    assert few.returncode == 0
    said = error_lines(render("heatmap", latents, "--latents", "1,77", "--out", tmp_path / "x.png", code=1))
    assert "there is no latent 77" in said
    render("heatmap", latents, "--out", tmp_path / "x.gif", code=2)
    said = error_lines(
        render("heatmap", latents, "--by", "genus", "--images", root, "--out", tmp_path / "x.png", code=1)
    )
    assert "class_scientific_names.csv" in said


def test_images_by_a_column_of_a_table(case: tuple[Path, Path], tmp_path: Path) -> None:
    """The option has one name in heatmap and page; the name that heatmap had is refused with it."""
    root, latents = case
    paths = sorted(path.relative_to(root).as_posix() for path in root.glob("images/*/*.png"))
    table = tmp_path / "habitats.csv"
    table.write_text(
        "path,habitat\n" + "".join(f"{path},{['reed', 'wood'][i % 2]}\n" for i, path in enumerate(paths))
    )
    by = ["--by", "habitat", "--by-table", table]
    render("heatmap", latents, *by, "--out", tmp_path / "heat.svg")
    assert "reed" in (tmp_path / "heat.svg").read_text()
    render("page", latents, "--images", root, *by, "--out", tmp_path / "page")
    assert '"names":["reed","wood"]' in (tmp_path / "page/data/heatmap.js").read_text()
    done = render(
        "heatmap", latents, "--by", "habitat", "--table", table, "--out", tmp_path / "x.svg", code=2
    )
    assert "--by-table" in error_lines(done)
    said = error_lines(render("heatmap", latents, "--by", "habitat", "--out", tmp_path / "x.svg", code=1))
    assert "give the table too, as --by-table" in said
