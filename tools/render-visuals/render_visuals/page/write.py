"""The command `page`: writes a static folder that opens from disk. Begin here: `write_page`."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from render_visuals.analysis.heat_matrix import Groups, group_images, heat_matrix, image_classes
from render_visuals.analysis.kernels import lower_edge
from render_visuals.analysis.similar import nearest_latents
from render_visuals.analysis.survey import ImageIndex, survey
from render_visuals.page import data as page_data
from render_visuals.page.annotations import Annotations, Column, read_tables
from render_visuals.page.columns import own_columns, write_images, write_table
from render_visuals.page.data import write_chunk
from render_visuals.page.edits import Edits, draw_edit_images, read_edits, write_edits
from render_visuals.page.thumbnails import draw_thumbnails
from render_visuals.pictures.redraw import content_key, file_stat
from saetools.errors import UserError
from saetools.files.atomic import write_text
from saetools.files.provenance import command_line
from saetools.files.reuse import check_place, writing
from saetools.labels.splits import classes_of_images
from saetools.latents.reader import LatentsSet
from saetools.log import logger
from saetools.vision.heat import MAX_ALPHA, MIN_ALPHA, STOPS, label_colours
from saetools.vision.model_input import check_images

N_NEIGHBOURS = 16
KEY_LINE = "<!-- made of "


@dataclass(frozen=True)
class PageSettings:
    """The options of the command; root: of the images."""

    root: Path
    out: Path
    scorer: Path | None
    tables: list[Path]
    top: int
    per_patch: int
    by: str
    by_table: Path | None
    n_heatmap: int
    label_names: list[str] | None
    title: str | None
    seed: int
    workers: int
    edits: Path | None = None


def write_page(latents: LatentsSet, settings: PageSettings) -> Path:
    """Write what has changed; returns the path of index.html, which exists only while the page is complete."""
    site = settings.out
    check_place(site, folder=True)
    check_images(settings.root, latents.paths, latents.files[0].path.parent)
    if settings.scorer is not None and not settings.scorer.exists():
        raise UserError(f"{settings.scorer}: no such file; expected the scorer file that made these latents")
    of_classes = classes_of_images(latents, latents)[2]
    known = read_tables(settings.tables, latents.header, settings.scorer, settings.label_names, of_classes)
    classes = image_classes(latents)
    groups = group_images(settings.by, latents.paths, settings.root, settings.by_table, classes)
    edits = read_edits(settings.edits, latents, settings.root) if settings.edits else None
    _check_folder(site)
    key = _key(latents, settings, edits)
    with writing(site, {"what the page is made of": key}, folder=True):
        return _write(latents, settings, known, groups, classes, edits, key)


def _write(
    latents: LatentsSet,
    settings: PageSettings,
    known: Annotations,
    groups: Groups,
    classes: list[str] | None,
    edits: Edits | None,
    key: str,
) -> Path:
    site, index = settings.out, settings.out / "index.html"
    image_index = ImageIndex(latents)
    whole = _key_of_page(index) == key
    neighbours = None
    if not whole:
        if (
            settings.scorer is not None
        ):  # first: a broken scorer is refused before anything is removed or drawn
            neighbours = nearest_latents(settings.scorer, latents.header, N_NEIGHBOURS)
        index.unlink(missing_ok=True)
    draw_thumbnails(latents, image_index, settings.root, site, settings.workers)
    draw_edit_images(edits, latents, settings.root, site, settings.workers)
    if whole:
        logger.info("%s: nothing to do: made of the same files with the same settings", site)
        return index
    shutil.rmtree(site / "data", ignore_errors=True)
    found = survey(latents, settings.top, settings.seed)
    page_data.write_latent_chunks(site, latents, image_index, found, settings.top, neighbours)
    per_chunk = page_data.images_per_chunk(latents, settings.per_patch)
    page_data.write_image_chunks(site, latents, image_index, per_chunk, settings.per_patch)
    matrix = heat_matrix(latents, groups, None, settings.n_heatmap)
    largest_m = np.maximum(matrix.value_mn.max(1, initial=0), 1e-30)
    write_chunk(
        site,
        "heatmap",
        {
            "latents": matrix.latents.astype(np.uint32),
            "images": matrix.images.astype(np.uint32),
            "strength": np.rint(matrix.value_mn / largest_m[:, None] * 255).astype(np.uint8).ravel(),
            "group": groups.group_n[groups.order].astype(np.uint32),
            "names": groups.names,
            "by": settings.by,
        },
    )
    write_images(site, latents, image_index, classes)
    columns = own_columns(latents, found, classes) + known.columns
    write_table(site, columns, known)
    if edits is not None:
        write_edits(site, edits, latents)
    n_near = neighbours[0].shape[1] if neighbours else 0
    write_chunk(site, "about", _about(latents, settings, columns, per_chunk, n_near, edits))
    _write_assets(site, key, settings.title or _default_title(latents))
    return index


def _about(
    latents: LatentsSet, settings: PageSettings, columns: list[Column], per_chunk: int, n_near: int,
    edits: Edits | None,
) -> dict[str, Any]:  # fmt: skip
    header = latents.header
    return {
        "title": settings.title or _default_title(latents),
        "scorer": header.scorer,
        "kind": header.kind,
        "model": header.source["model"],
        "layer": header.layer,
        "n_latents": latents.n_latents,
        "n_images": latents.n_images,
        "n_patches": latents.n_patches,
        "latents_per_chunk": page_data.LATENTS_PER_CHUNK,
        "images_per_chunk": per_chunk,
        "per_patch": settings.per_patch,
        "n_near": n_near,
        "edits": edits.about() if edits is not None else None,
        "columns": [{"name": c.name, "title": c.title, "hint": c.hint, "text": c.is_text} for c in columns],
        "has_labels": latents.files[0].labels is not None,
        "label_names": settings.label_names or [],
        "label_colours": label_colours(256).tolist() if latents.files[0].labels is not None else [],
        "heat": {
            "stops": list(STOPS),
            "min_alpha": MIN_ALPHA,
            "max_alpha": MAX_ALPHA,
        },
        "bin_edges": [lower_edge(place) for place in range(97)],
        "command": command_line(),
    }


def _default_title(latents: LatentsSet) -> str:
    header = latents.header
    return f"{header.source['model'].split('/')[-1]}, layer {header.layer}: {latents.n_latents:,} latents"


def _key(latents: LatentsSet, settings: PageSettings, edits: Edits | None) -> str:
    tables = [hashlib.sha256(path.read_bytes()).hexdigest() for path in settings.tables]
    by_table = hashlib.sha256(settings.by_table.read_bytes()).hexdigest() if settings.by_table else None
    return content_key(
        latents.uids, tables, by_table, file_stat(settings.scorer) if settings.scorer else None, settings.top,
        settings.per_patch, settings.by, settings.n_heatmap, settings.label_names, settings.title, settings.seed,
        edits.uids if edits is not None else None,
        [hashlib.sha256(asset.encode()).hexdigest() for _, asset in _assets()],
    )  # fmt: skip


def _assets() -> list[tuple[str, str]]:
    folder = importlib.resources.files("render_visuals.page") / "assets"
    return sorted(
        (item.name, item.read_text(encoding="utf-8")) for item in folder.iterdir() if item.is_file()
    )


def _write_assets(site: Path, key: str, title: str) -> None:
    """Write the files of assets/, index.html last: if it exists, the page is complete."""
    index = ""
    for name, text in _assets():
        if name == "index.html":
            index = text.replace("{{title}}", title.replace("&", "&amp;").replace("<", "&lt;"))
        else:
            write_text(site / name, text)
    write_text(site / "index.html", f"{index}{KEY_LINE}{key} -->\n")


def _key_of_page(index: Path) -> str | None:
    if not index.is_file():
        return None
    _, found, rest = index.read_text(encoding="utf-8", errors="replace").rpartition(KEY_LINE)
    return rest.split(" ", 1)[0] if found else None


def _check_folder(site: Path) -> None:
    """Raise UserError if the folder holds other files than those of a page: they must not be removed."""
    if site.exists() and not site.is_dir():
        raise UserError(f"{site}: it is a file; `out` is the folder of the page")
    ours = {"index.html", "data", "images", *(name for name, _ in _assets())}
    if site.is_dir():
        strange = sorted(name for name in os.listdir(site) if name not in ours and not name.startswith("."))  # noqa: PTH208
        data_is_ours = not (site / "data").is_dir() or all(
            path.is_dir() or path.suffix == ".js" or path.name.startswith(".")
            for path in (site / "data").rglob("*")
        )
        if strange or not data_is_ours:
            raise UserError(
                f"{site}: it holds other files ({', '.join(strange[:3]) or 'in data/'}); choose a new folder for `out`,"
                " or the folder of an earlier page"
            )
