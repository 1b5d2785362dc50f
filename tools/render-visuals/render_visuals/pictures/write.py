"""The command `latents`: one picture for each selected latent, and a table of them. Begin here: `draw_latents`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from render_visuals.analysis.similar import near_misses
from render_visuals.analysis.survey import ActivationMaps, ImageIndex, Survey, activation_maps, survey
from render_visuals.page.annotations import Annotations, read_tables
from render_visuals.pictures.grid import LatentPicture, Tile, draw_latent
from render_visuals.pictures.redraw import content_key, draw_changed, file_stat
from render_visuals.tables import CLASSES, LATENT_TABLES, TRAITS, check_latent_numbers, read_table
from saetools.errors import UserError
from saetools.files.formats import LATENT_PICTURES
from saetools.files.provenance import Provenance
from saetools.files.reuse import check_place, writing
from saetools.files.tables import write_csv
from saetools.labels.splits import classes_of_images
from saetools.latents.reader import LatentsSet
from saetools.vision.model_input import check_images

if TYPE_CHECKING:
    import pandas as pd

N_NEAR_MISSES = 5
N_TEMPLATE_IMAGES = 8
N_NAMED, LONGEST_NOTE = 3, 200  # traits or classes; characters


@dataclass(frozen=True)
class LatentSelection:
    """Which latents to draw: by number, or `n_random` drawn from those within both ranges.

    table: the source of the numbers, for errors. log_frequency, log_value: (min, max) of log10 of the share of patches
    at which a latent is active, and of its mean activation.
    """

    latents: list[int] | None = None
    table: Path | None = None
    n_random: int | None = None
    log_frequency: tuple[float, float] = (-np.inf, np.inf)
    log_value: tuple[float, float] = (-np.inf, np.inf)
    seed: int = 0

    def choose(self, survey: Survey) -> list[int]:
        """The selected latents in their order, without repetitions; raises UserError where there is no such latent."""
        n_latents = len(survey.count_k)
        if self.latents is not None:
            return check_latent_numbers(self.latents, n_latents, str(self.table or "--latents"))
        return self._random(survey)

    def _random(self, survey: Survey) -> list[int]:
        with np.errstate(divide="ignore"):
            frequency_k, value_k = np.log10(survey.frequency_k), np.log10(survey.mean_k)
        fits_k = survey.count_k > 0
        for values_k, (low, high) in ((frequency_k, self.log_frequency), (value_k, self.log_value)):
            fits_k &= (values_k >= low) & (values_k <= high)
        among = np.flatnonzero(fits_k)
        if not len(among):
            fired = survey.count_k > 0
            seen = (
                f"the {int(fired.sum()):,} active ones have log10 frequencies from {frequency_k[fired].min():.2f} to"
                f" {frequency_k[fired].max():.2f} and log10 mean activations from {value_k[fired].min():.2f} to"
                f" {value_k[fired].max():.2f}"
                if fired.any()
                else "no latent is active at all"
            )
            raise UserError(f"`random`: no latent is within the ranges; {seen}")
        drawn = np.random.default_rng(self.seed).permutation(among)[: self.n_random]
        return sorted(int(latent) for latent in drawn)


@dataclass(frozen=True)
class PictureSettings:
    """root: of the images; top: images of each latent; spread: also examples at lower activations, and near misses.

    tables: of traits, classes or notes, which pictures name besides those of the selection's own table.
    """

    root: Path
    out: Path
    selection: LatentSelection
    top: int
    spread: bool
    label_names: list[str] | None
    workers: int
    tables: list[Path]


@dataclass(frozen=True)
class _Shown:
    """An image in a latent's picture. section: 0 top image, 1 lower activation, 2 near miss."""

    latent: int
    image: int
    section: int
    note: str = ""


def draw_latents(latents: LatentsSet, settings: PictureSettings) -> Path:
    """Draw the pictures that have changed and write index.csv; returns its path."""
    check_place(settings.out, folder=True)
    source = latents.files[0].path.parent
    check_images(settings.root, latents.paths, source)
    known = _read_known(latents, settings)
    found = survey(latents, settings.top, settings.selection.seed)
    chosen = settings.selection.choose(found)
    image_index = ImageIndex(latents)
    shown = _choose_images(latents, image_index, found, chosen, settings)
    heat = activation_maps(
        latents, image_index, np.array([one.latent for one in shown]), np.array([one.image for one in shown])
    )
    index = settings.out / "index.csv"
    choice = {"chosen": chosen, "top": settings.top, "spread": settings.spread, "seed": settings.selection.seed,
              "scorer": latents.header.scorer, "kind": latents.header.kind}  # fmt: skip
    provenance = Provenance.of(LATENT_PICTURES, "render-visuals latents", choice, latents.uids)
    about = [
        [describe(found, latent), _describe_scorer(latents), *_names(known, latent)] for latent in chosen
    ]
    with writing(settings.out, {**choice, "names": settings.label_names}, latents.uids, folder=True):
        tasks = _tasks(latents, image_index, found, chosen, about, shown, heat, settings)
        pictures = [(task.target, task.key, task) for task in tasks]
        draw_changed("drawing", draw_latent, pictures, settings.workers)
        write_csv(index, _index(latents, found, tasks, chosen), provenance)
    return index


def _choose_images(
    latents: LatentsSet, image_index: ImageIndex, found: Survey, chosen: list[int], settings: PictureSettings
) -> list[_Shown]:
    shown: list[_Shown] = []
    misses: list[list[int]] = [[] for _ in chosen]
    if settings.spread:
        misses = near_misses(
            latents,
            image_index,
            chosen,
            _strongest_patches(latents, image_index, found, chosen),
            N_NEAR_MISSES,
        )
    for latent, missed in zip(chosen, misses, strict=True):
        top = found.top_images(latent, settings.top)
        shown += [_Shown(latent, image, 0) for image in top]
        if settings.spread:
            spread = found.spread_images(latent, set(top))
            shown += [_Shown(latent, image, 1, f"quantile {quantile:g}") for quantile, image in spread]
            shown += [_Shown(latent, image, 2) for image in missed]
    return shown


def _strongest_patches(
    latents: LatentsSet, image_index: ImageIndex, found: Survey, chosen: list[int]
) -> list[list[tuple[int, int]]]:
    pairs = [(latent, image) for latent in chosen for image in found.top_images(latent, N_TEMPLATE_IMAGES)]
    heat = activation_maps(
        latents, image_index, np.array([k for k, _ in pairs], int), np.array([n for _, n in pairs], int)
    )
    strongest: dict[int, list[tuple[int, int]]] = {latent: [] for latent in chosen}
    for pair, (latent, image) in enumerate(pairs):
        patch_e, value_e = heat.of(pair)
        strongest[latent].append((image, int(patch_e[np.argmax(value_e)])))
    return list(strongest.values())


def _tasks(
    latents: LatentsSet, image_index: ImageIndex, found: Survey, chosen: list[int], about: list[list[str]],
    shown: list[_Shown], heat: ActivationMaps, settings: PictureSettings,
) -> list[LatentPicture]:  # fmt: skip
    preprocess = latents.header.source["preprocess"]
    titles = (
        "Top images",
        "Examples at lower activations",
        "Near misses: similar in all other latents, but this one is not active",
    )
    tiles: dict[int, list[list[Tile]]] = {latent: [[], [], []] for latent in chosen}
    digests = {latent: hashlib.sha256() for latent in chosen}
    for pair, one in enumerate(shown):
        patch_e, value_e = heat.of(pair)
        path = latents.paths[one.image]
        recorded = image_index.recorded(one.image)
        tile = Tile(path, recorded, patch_e, value_e, image_index.labels(one.image), one.note)
        tiles[one.latent][one.section].append(tile)
        what = f"{one.section} {path} {one.note} {recorded} {file_stat(settings.root / path)}"
        digests[one.latent].update(what.encode() + patch_e.tobytes() + value_e.tobytes())
        if tile.labels_p is not None:
            digests[one.latent].update(tile.labels_p.tobytes())
    pictures = []
    for latent, lines in zip(chosen, about, strict=True):
        title = f"Latent {latent}"
        key = content_key(digests[latent].hexdigest(), dict(preprocess), title, lines, settings.label_names)
        pictures.append(
            LatentPicture(
                settings.out / f"latent-{latent:06d}.png",
                key,
                settings.root,
                preprocess,
                title,
                lines,
                float(found.top_value_km[latent, 0]),
                list(zip(titles, tiles[latent], strict=True)),
                settings.label_names,
            )
        )
    return pictures


def _read_known(latents: LatentsSet, settings: PictureSettings) -> Annotations:
    """What tables say of the latents: those given for it, and the selection's own where it names traits or classes."""
    paths, source = list(settings.tables), settings.selection.table
    if source is not None and source not in paths:
        columns = set(read_table(source, LATENT_TABLES)[0].columns)
        paths += [source] if columns >= TRAITS or columns >= CLASSES else []
    class_names = classes_of_images(latents, latents)[2]
    return read_tables(paths, latents.header, None, settings.label_names, class_names)


def _names(known: Annotations, latent: int) -> list[str]:
    """The traits and classes for which a latent is the best one, the highest AP first; then texts about it."""
    best = sorted((one for one in known.best_for if one[0] == latent), key=lambda one: -one[3])
    lines = []
    for _, kind, name, ap, _, prevalence in best[:N_NAMED]:
        of = "" if np.isnan(prevalence) else f", prevalence {prevalence:.3g}"
        lines.append(f"best latent for the {kind} {name}: AP {ap:.3f}{of}")
    if len(best) > N_NAMED:
        lines.append(f"and for {len(best) - N_NAMED} more")
    for column in known.columns:
        if column.is_text and not column.title.startswith("best ") and column.values[latent]:
            lines.append(f"{column.title}: {column.values[latent][:LONGEST_NOTE]}")
    return lines


def _describe_scorer(latents: LatentsSet) -> str:
    header = latents.header
    what = header.kind if header.scorer == header.kind else f"{header.kind} {header.scorer[:8]}"
    model = header.source.get("model", "an unknown model")
    return f"one of {header.n_latents:,} latents of {what}, layer {header.layer} of {model}"


def describe(found: Survey, latent: int) -> str:
    """How often and how strongly a latent is active, in words."""
    if not found.count_k[latent]:
        return f"active in none of these {found.n_images:,} images"
    return (
        f"active at {found.frequency_k[latent]:.3%} of patches, in {found.n_images_k[latent]:,} of"
        f" {found.n_images:,} images; mean {found.mean_k[latent]:.3g}, max {found.top_value_km[latent, 0]:.3g}"
    )


def _index(latents: LatentsSet, found: Survey, tasks: list[LatentPicture], chosen: list[int]) -> pd.DataFrame:
    import pandas as pd

    top = [found.top_images(latent, 1) for latent in chosen]
    return pd.DataFrame(
        {
            "latent": chosen,
            "picture": [task.target.name for task in tasks],
            "frequency": found.frequency_k[chosen],
            "mean_value": found.mean_k[chosen],
            "max_value": found.top_value_km[chosen, 0],
            "n_images": found.n_images_k[chosen],
            "top_image": [latents.paths[images[0]] if images else "" for images in top],
        }
    )
