"""Edits of latents on the page (--edits): what edit-latents wrote, compared with the page's latents, and in chunks.

data/edits.js holds what all edits have in common, their effects and their images; data/edits/NNNN.js one of them, a
(latent, target). The classes of patches are kept as they are; of the probabilities of an image those of the target, of
what is predicted, and of the classes that each edit changes most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from render_visuals.page.data import write_chunk
from render_visuals.page.thumbnails import LARGEST_EDGE, Thumbnail, draw_thumbnail, thumbnail_name
from render_visuals.pictures.redraw import content_key, draw_changed, file_stat
from saetools.errors import UserError
from saetools.files.formats import EDIT_EFFECTS
from saetools.files.provenance import first_difference
from saetools.files.tables import check_columns, read_csv
from saetools.latents.edit_predictions import (
    LOGISTIC,
    NONE,
    PATCHES,
    EditPredictions,
    read_edit_predictions,
)
from saetools.latents.reader import LatentsSet
from saetools.vision.heat import label_colours
from saetools.vision.model_input import Recorded, check_images
from saetools.vision.pictures import open_image, picture_digest, rgb_picture

AGAIN = "run edit-latents again with --keep 40"
# In this order on the page; others follow.
CONTROLS = (NONE, "random-direction", "random-latent", "diff-means", "probe", "reconstruction")
ALIKE = ("operation", "amounts", "controls", "names", "link", "tokens", "model", "layer", "scorer", "head",
         "preprocess", "where")  # fmt: skip
PER_ROW = ("draws", "images", "patches", "relative_change")
WITH_INTERVAL = ("target_changed", "other_changed", "target_logit")
EFFECTS = (
    *PER_ROW,
    *(f"{name}{end}" for name in WITH_INTERVAL for end in ("", "_low", "_high", "_draw_min", "_draw_max")),
)
LARGEST_CHANGES = 5  # classes of an image that each edit keeps


@dataclass(frozen=True)
class Edits:
    """The edits of a folder. effects: of each column {edits, K, A}, in the order of `controls` and `amounts`.

    order_k, order_a: where these are in the files.
    """

    files: list[EditPredictions]
    effects: Mapping[str, np.ndarray]
    controls: list[str]
    amounts: list[float]
    order_k: list[int]
    order_a: list[int]
    uids: list[str]

    def about(self) -> dict[str, Any]:
        """What addresses of edits are checked with."""
        pairs = [[file.latent, file.target] for file in self.files]
        return {"pairs": pairs, "amounts": self.amounts, "n_images": len(self.files[0])}


def read_edits(folder: Path, latents: LatentsSet, root: Path) -> Edits:
    """Read a folder of edit-latents; raises UserError where it is broken, or of other latents or images than the page.

    root: of the images, which must be those of the edits too.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; `edits` is the folder that edit-latents wrote (its --out)"
        )
    paths = sorted(folder.glob("predictions-*.npz"))
    if not paths:
        raise UserError(f"{folder}: it has no predictions-NNN.npz, which the page shows; {AGAIN}")
    table = folder / "effects.csv"
    if not table.exists():
        raise UserError(f"{table}: no such file, but {paths[0].name} is there; {AGAIN}")
    files = [read_edit_predictions(path) for path in paths]
    for path, file in zip(paths, files, strict=True):
        _check_alike(paths[0], files[0], path, file)
        _check_of_page(path, file, latents)
    first = files[0]
    check_images(root, first.path, paths[0])
    _check_digests(paths[0], first, root)
    controls = sorted(
        first.controls, key=lambda name: CONTROLS.index(name) if name in CONTROLS else len(CONTROLS)
    )
    amounts = sorted(first.amounts)
    effects, uid = _read_effects(table, files, controls, amounts)
    order_k = [first.controls.index(name) for name in controls]
    order_a = [first.amounts.index(amount) for amount in amounts]
    return Edits(
        files, effects, controls, amounts, order_k, order_a, [uid, *(f.provenance.uid for f in files)]
    )


def _check_alike(first_path: Path, first: EditPredictions, path: Path, file: EditPredictions) -> None:
    """Raise UserError unless both are of one run: the same edits on the same images."""
    settings = [{name: getattr(one, name) for name in ALIKE} for one in (first, file)]
    difference = first_difference(*settings)
    if difference is None and [first.path, first.digest] != [file.path, file.digest]:
        difference = "the images"
    if difference is not None:
        raise UserError(
            f"{path}: it is of another run than {first_path.name}: {difference};"
            " give each run of edit-latents a folder of its own"
        )


def _check_of_page(path: Path, file: EditPredictions, latents: LatentsSet) -> None:
    """Raise UserError unless the edits are of the latents that the page shows."""
    header = latents.header
    mine = {"scorer": header.scorer, "model": header.source["model"], "layer": header.layer,
            "preprocess": dict(header.source["preprocess"])}  # fmt: skip
    other = {name: getattr(file, name) for name in mine}
    if difference := first_difference(mine, other):
        raise UserError(
            f"{path}: its edits are of other latents than {latents.files[0].path}: {difference}\n"
            "give the latents of the scorer that was edited, of the same model and preprocessing"
        )
    if file.latent >= latents.n_latents:
        raise UserError(f"{path}: its latent is {file.latent}, but these are 0 to {latents.n_latents - 1}")


def _check_digests(source: Path, file: EditPredictions, root: Path) -> None:
    for path, digest in zip(file.path, file.digest, strict=True):
        if not digest:
            continue
        with open_image(root / path) as image:
            found = picture_digest(rgb_picture(image, root / path))
        if found != digest:
            raise UserError(
                f"{root / path}: it is not the picture that {source} was made from, by its digest;\n"
                "restore it, or give `images` the root of the images that were edited"
            )


def _read_effects(
    path: Path, files: list[EditPredictions], controls: list[str], amounts: list[float]
) -> tuple[dict[str, np.ndarray], str]:
    """Columns of effects.csv as float32 {edits, K, A}, NaN where a cell is empty; and its uid."""
    table, provenance = read_csv(path, EDIT_EFFECTS)
    key = ["latent", "target", "operation", "amount", "control"]
    check_columns(path, table, [*key, *EFFECTS], "the page")
    texts = table[["target", "operation", "control"]].astype(str).itertuples(index=False)
    row_of = {
        (int(latent), target, operation, float(amount), control): row
        for row, (latent, amount, (target, operation, control)) in enumerate(
            zip(table["latent"], table["amount"], texts, strict=True)
        )
    }
    rows = np.empty((len(files), len(controls), len(amounts)), np.int64)
    for i, file in enumerate(files):
        for k, control in enumerate(controls):
            for a, amount in enumerate(amounts):
                wanted = (file.latent, file.target, file.operation, float(amount), control)
                if wanted not in row_of:
                    raise UserError(
                        f"{path}: it has no row of latent {file.latent}, target {file.target!r}, {file.operation}"
                        f" {amount:g}, control {control}, which the predictions beside it have; {AGAIN}"
                    )
                rows[i, k, a] = row_of[wanted]
    return {name: table[name].to_numpy(np.float32)[rows] for name in EFFECTS}, provenance.uid


# --- chunks ---------------------------------------------------------------------------------------------


def write_edits(site: Path, edits: Edits, latents: LatentsSet) -> None:
    """Write data/edits.js and data/edits/NNNN.js."""
    first = edits.files[0]
    number = {path: image for image, path in enumerate(latents.paths)}
    write_chunk(
        site,
        "edits",
        {
            **{name: getattr(first, name) for name in ("operation", "tokens", "link", "head", "where", "names")},
            "amounts": edits.amounts,
            "controls": edits.controls,
            "colours": label_colours(len(first.names)).tolist() if first.tokens == PATCHES else [],
            "path": first.path,
            "file": [edit_image_name(i, number.get(path)) for i, path in enumerate(first.path)],
            "on_page": [number.get(path, -1) for path in first.path],
            "grid": first.grid_n2.astype(np.uint16).ravel(),
            "n_patches": first.value_np.shape[1],
            "effects": {name: column.ravel() for name, column in edits.effects.items()},
        },
    )  # fmt: skip
    for i, file in enumerate(edits.files):
        after_kan = file.after_kan[edits.order_k][:, edits.order_a]
        of_tokens = _patches if file.tokens == PATCHES else _probabilities
        inside_np = np.arange(file.value_np.shape[1]) < file.grid_n2.prod(1)[:, None]
        shared = {
            "value": np.where(inside_np, file.value_np, 0).astype(np.float16).ravel(),
            "edited": file.edited_np.astype(np.uint8).ravel(),
        }
        write_chunk(site, f"edits/{i:04d}", {**shared, **of_tokens(file, after_kan)})


def _patches(file: EditPredictions, after_kan: np.ndarray) -> dict[str, Any]:
    """Classes of patches in one byte each, where there are fewer than 256; the largest number is none."""
    return {
        name: _codes(classes, len(file.names)).ravel()
        for name, classes in (("label", file.label_n), ("before", file.before_n), ("after", after_kan))
    }


def _codes(classes: np.ndarray, n_classes: int) -> np.ndarray:
    kind = np.uint8 if n_classes < 256 else np.uint16
    return np.where(classes < 0, np.iinfo(kind).max, classes).astype(kind)


def _probabilities(file: EditPredictions, after_kan: np.ndarray) -> dict[str, Any]:
    """Probabilities of the classes of each image that matter: the target, what is predicted, and largest changes.

    ptr {N+1} into class {E}, before {E} and after {K, A, E}. Of classes predicted {N}, predicted_after {K, A, N}; of
    traits the decision on the target, and how many others an edit turns.
    """
    n_images, n_classes = file.before_n.shape
    target = file.names.index(file.target)
    p_nc, p_kanc = (probabilities(logits, file.link) for logits in (file.before_n, after_kan))
    keep_nc = np.zeros((n_images, n_classes), bool)
    most = min(LARGEST_CHANGES, n_classes)
    changes_kanm = np.argpartition(-np.abs(p_kanc - p_nc), most - 1, axis=-1)[..., :most]
    keep_nc[np.arange(n_images)[:, None], changes_kanm] = True
    keep_nc[:, target] = True
    if file.link == LOGISTIC:
        said_nc, said_kanc = file.before_n > 0, after_kan > 0
        turned_kanc = said_nc != said_kanc
        turned_kan = turned_kanc.sum(-1) - turned_kanc[..., target]
        more = {
            "label": _codes(file.label_n[:, target], 2),
            "predicted": said_nc[:, target].astype(np.uint8),
            "predicted_after": said_kanc[..., target].astype(np.uint8).ravel(),
            "turned": turned_kan.astype(np.uint16).ravel(),
        }
    else:
        was_n, now_kan = file.before_n.argmax(1), after_kan.argmax(-1)
        keep_nc[np.arange(n_images), was_n] = True
        keep_nc[np.arange(n_images), now_kan] = True
        more = {
            "label": _codes(file.label_n, n_classes),
            "predicted": _codes(was_n, n_classes),
            "predicted_after": _codes(now_kan, n_classes).ravel(),
        }
    image_e, class_e = np.nonzero(keep_nc)
    return {
        **more,
        "ptr": np.concatenate([[0], np.cumsum(keep_nc.sum(1))]).astype(np.uint32),
        "class": class_e.astype(np.uint16),
        "before": p_nc[image_e, class_e].astype(np.float16),
        "after": p_kanc[..., image_e, class_e].astype(np.float16).ravel(),
    }


def probabilities(logits: np.ndarray, link: str) -> np.ndarray:
    """Logits {..., C} to probabilities in float64: softmax, or the sigmoid of each."""
    logits = logits.astype(np.float64)
    if link == LOGISTIC:
        small = np.exp(-np.abs(logits))
        return np.where(logits >= 0, 1, small) / (1 + small)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


# --- images ---------------------------------------------------------------------------------------------


def edit_image_name(image: int, on_page: int | None) -> str:
    """The picture of an image of the edits: the page's own, where it shows the image anyway."""
    return f"images/edits/{image:06d}.jpg" if on_page is None else thumbnail_name(on_page)


def draw_edit_images(edits: Edits | None, latents: LatentsSet, root: Path, site: Path, workers: int) -> None:
    """Draw the images that the page does not show anyway and that have changed, and remove those of other edits."""
    tasks: list[tuple[Path, str, Thumbnail]] = []
    if edits is not None:
        first, preprocess = edits.files[0], latents.header.source["preprocess"]
        known = set(latents.paths)
        for image, path in enumerate(first.path):
            if path in known:
                continue
            target = site / edit_image_name(image, None)
            target.parent.mkdir(parents=True, exist_ok=True)
            rows, columns = (int(edge) for edge in first.grid_n2[image])
            recorded = Recorded((rows, columns), None)
            key = content_key(path, file_stat(root / path), dict(preprocess), str(recorded), LARGEST_EDGE)
            tasks.append((target, key, Thumbnail(target, key, root, path, preprocess, recorded)))
    wanted = {target for target, _, _ in tasks}
    for old in site.glob("images/edits/*.jpg"):
        if old not in wanted:
            old.unlink()
    if tasks:
        draw_changed("drawing images of edits", draw_thumbnail, tasks, workers)
