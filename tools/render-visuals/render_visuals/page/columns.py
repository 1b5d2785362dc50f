"""What the page shows of every latent and image: the table's own columns, and each image's path and class."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from render_visuals.analysis.survey import ImageIndex, Survey
from render_visuals.page.annotations import Annotations, Column
from render_visuals.page.data import write_chunk
from render_visuals.page.thumbnails import thumbnail_name
from saetools.latents.reader import LatentsSet


def own_columns(latents: LatentsSet, found: Survey, classes: list[str] | None) -> list[Column]:
    """The columns that every page has. classes: of the images; without, purity is that of folders."""
    columns = [
        Column("frequency", "frequency", "share of all patches at which it is active", found.frequency_k),
        Column("mean", "mean", "mean activation where it is active", found.mean_k),
        Column("max", "max", "maximum activation", found.top_value_km[:, 0].astype(np.float64)),
        Column("images", "images", "images in which it is active", found.n_images_k.astype(np.float64)),
    ]
    group_n = classes or [Path(path).parent.name for path in latents.paths]
    what = "class" if classes else "folder"
    if len(set(group_n)) > 1:
        names, shares = [""] * latents.n_latents, np.full(latents.n_latents, np.nan)
        for latent in np.flatnonzero(found.n_images_k):
            top = [group_n[image] for image in found.top_images(int(latent), found.top_image_km.shape[1])]
            names[latent], n = Counter(top).most_common(1)[0]
            shares[latent] = n / len(top)
        name = "top_class" if classes else "folder"
        columns.append(Column(name, f"top {what}", f"the most common {what} of its top images", names))
        columns.append(
            Column("purity", "purity", f"share of its top images that are of the top {what}", shares)
        )
    return columns


def write_table(site: Path, columns: list[Column], known: Annotations) -> None:
    """Write data/table.js: numbers as float32, texts as `coded`; and for which traits a latent is the best one."""
    table = {c.name: coded(c.values) if c.is_text else np.asarray(c.values, np.float32) for c in columns}
    found = [
        [k, kind, name, *(None if np.isnan(v) else v for v in values)]
        for k, kind, name, *values in known.best_for
    ]
    write_chunk(site, "table", {"columns": table, "found": found})


def coded(values: list[str]) -> dict[str, Any]:
    """Texts as a list of distinct texts, and an index for each value."""
    texts = list(dict.fromkeys(values))
    number = {text: i for i, text in enumerate(texts)}
    return {"texts": texts, "code": np.array([number[v] for v in values], np.uint32)}


def write_images(site: Path, latents: LatentsSet, image_index: ImageIndex, classes: list[str] | None) -> None:
    """Write data/images.js: path, picture and grid of patches of every image, and its class where it has a name."""
    images = {
        "path": latents.paths,
        "file": [thumbnail_name(image) for image in range(latents.n_images)],
        "grid": image_index.grid_n2.astype(np.uint16).ravel(),
    }
    write_chunk(site, "images", images if classes is None else {**images, "class": coded(classes)})
