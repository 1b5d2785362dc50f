"""The numbers of the page, in chunks that it loads when it needs them.

Each chunk is a script: a page that is opened from disk may load scripts, but no other files.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from render_visuals.analysis.survey import ActivationMaps, ImageIndex, Survey, activation_maps
from saetools.cli.progress import Progress
from saetools.files.atomic import atomic_path
from saetools.latents.reader import LatentsSet

TYPES = {"<f2": "f2", "<f4": "f4", "|u1": "u1", "<u2": "u2", "<u4": "u4", "<i4": "i4"}
LATENTS_PER_CHUNK = 32
ACTIVE_PER_CHUNK = 60_000
N_TOPS = 4


def images_per_chunk(latents: LatentsSet, per_patch: int) -> int:
    """The number of images of which a chunk holds about ACTIVE_PER_CHUNK active latents, 1 to 64."""
    each = min(int(latents.count.sum()) / max(latents.n_images, 1), per_patch * latents.n_patches)
    return int(np.clip(ACTIVE_PER_CHUNK / max(each, 1), 1, 64))


def write_latent_chunks(
    site: Path, latents: LatentsSet, image_index: ImageIndex, found: Survey, n_top: int,
    neighbours: tuple[np.ndarray, np.ndarray] | None,
) -> None:  # fmt: skip
    """Write data/latents/NNNN.js, LATENTS_PER_CHUNK latents each: examples with activation maps, histogram, neighbours;
    and data/tops.js: the first N_TOPS top images of every latent, -1 if it has fewer, and the patch of their maximum.

    example_ptr, patch_ptr: where a latent's examples and an example's patches start. quantile: of the example's maximum
    activation; 2 for top images.
    """
    k = latents.n_latents
    peak_ki = np.zeros((k, N_TOPS), np.uint16)
    with Progress("writing latents", total=k, unit="latents") as progress:
        for start in range(0, k, LATENTS_PER_CHUNK * 128):
            some = range(start, min(start + LATENTS_PER_CHUNK * 128, k))
            pairs, quantiles = _examples(found, some, n_top)
            heat = activation_maps(latents, image_index, pairs[:, 0], pairs[:, 1])
            rank = np.arange(len(pairs)) - np.searchsorted(pairs[:, 0], pairs[:, 0])
            shown = (quantiles > 1) & (rank < N_TOPS)
            peak_ki[pairs[shown, 0], rank[shown]] = heat.peaks()[shown]
            for first in range(some.start, some.stop, LATENTS_PER_CHUNK):
                few = np.arange(first, min(first + LATENTS_PER_CHUNK, k))
                chunk = _latent_chunk(few, pairs, quantiles, heat, found)
                if neighbours is not None:
                    chunk["near"], chunk["cosine"] = neighbours[0][few].ravel(), neighbours[1][few].ravel()
                write_chunk(site, f"latents/{first // LATENTS_PER_CHUNK:04d}", chunk)
                progress.advance(len(few))
    image_ki = np.full((k, N_TOPS), -1, np.int32)
    image_ki[:, : found.top_image_km.shape[1]] = found.top_image_km[:, :N_TOPS]
    write_chunk(site, "tops", {"image": image_ki.ravel(), "patch": peak_ki.ravel(), "each": N_TOPS})


def _examples(found: Survey, some: range, n_top: int) -> tuple[np.ndarray, np.ndarray]:
    pairs: list[tuple[int, int]] = []
    quantiles: list[float] = []
    for latent in some:
        top = found.top_images(latent, n_top)
        spread = found.spread_images(latent, set(top))
        pairs += [(latent, image) for image in top] + [(latent, image) for _, image in spread]
        quantiles += [2.0] * len(top) + [quantile for quantile, _ in spread]
    return np.array(pairs, np.int64).reshape(-1, 2), np.array(quantiles, np.float32)


def _latent_chunk(
    few: np.ndarray, pairs: np.ndarray, quantiles: np.ndarray, heat: ActivationMaps, found: Survey
) -> dict[str, Any]:
    bounds = np.searchsorted(pairs[:, 0], [few[0], few[-1] + 1])
    here = slice(int(bounds[0]), int(bounds[1]))
    active = slice(int(heat.ptr[here.start]), int(heat.ptr[here.stop]))
    used_b = np.flatnonzero(found.hist_kb[few].any(0))
    bins = slice(int(used_b[0]), int(used_b[-1]) + 1) if len(used_b) else slice(0, 0)
    return {
        "first_bin": bins.start,
        "n_bins": bins.stop - bins.start,
        "hist": found.hist_kb[few, bins].ravel(),
        "example_ptr": np.searchsorted(pairs[here, 0], [*few, few[-1] + 1]).astype(np.uint32),
        "image": pairs[here, 1].astype(np.uint32),
        "quantile": quantiles[here],
        "patch_ptr": (heat.ptr[here.start : here.stop + 1] - active.start).astype(np.uint32),
        "patch": heat.patch_e[active],
        **_halves(heat.value_e[active]),
    }


def _halves(value_e: np.ndarray) -> dict[str, Any]:
    """Values as scale * float16: half the bytes of float32, with a relative error of at most 1/2048."""
    scale = float(value_e.max(initial=0)) or 1.0
    return {"scale": scale, "value": (value_e / np.float32(scale)).astype(np.float16)}


def write_image_chunks(
    site: Path, latents: LatentsSet, image_index: ImageIndex, per_chunk: int, per_patch: int
) -> None:
    """Write data/images/NNNN.js, for per_chunk images each: the active latents of each patch, the per_patch largest.

    row_ptr {images * P + 1}; latents are uint16 if their number allows it.
    """
    latent_type = np.uint16 if latents.n_latents <= 1 << 16 else np.uint32
    with Progress("writing images", total=latents.n_images, unit="images") as progress:
        for start in range(0, latents.n_images, per_chunk):
            stop = min(start + per_chunk, latents.n_images)
            counts, which, values, labels = [], [], [], []
            for image in range(start, stop):
                file, i = image_index.file(image)
                indptr, latent_e, value_e = file.images(i, i + 1)
                kept_counts, kept = largest_per_patch(indptr, np.asarray(value_e, np.float32), per_patch)
                counts.append(kept_counts)
                which.append(np.asarray(latent_e)[kept].astype(latent_type))
                values.append(np.asarray(value_e, np.float32)[kept])
                if (labels_p := image_index.labels(image)) is not None:
                    labels.append(labels_p)
            chunk: dict[str, Any] = {
                "row_ptr": np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.uint32),
                "latent": np.concatenate(which),
                **_halves(np.concatenate(values)),
            }
            if labels:
                chunk["labels"] = np.concatenate(labels).astype(np.uint16)
            write_chunk(site, f"images/{start // per_chunk:04d}", chunk)
            progress.advance(stop - start)


def largest_per_patch(
    indptr: np.ndarray, value_e: np.ndarray, per_patch: int
) -> tuple[np.ndarray, np.ndarray]:
    """(how many of each row are kept, which): values above 0, at most the per_patch largest of a row."""
    row_e = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    keep = np.flatnonzero(value_e > 0)
    counts = np.bincount(row_e[keep], minlength=len(indptr) - 1)
    if counts.max(initial=0) > per_patch:
        order = keep[np.lexsort((-value_e[keep], row_e[keep]))]
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        keep = np.sort(order[rank < per_patch])
        counts = np.minimum(counts, per_patch)
    return counts, keep


def write_chunk(site: Path, name: str, value: Any) -> None:
    """Write SITE/data/NAME.js, which calls `saetools.put(NAME, value)`; an array becomes {"t": type, "b": base64}."""
    target = site / "data" / f"{name}.js"
    target.parent.mkdir(parents=True, exist_ok=True)
    # "</" would end the script element of a page into which a chunk is pasted
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace(
        "</", "<\\/"
    )
    with atomic_path(target) as partial:
        partial.write_text(f"saetools.put({json.dumps(name)},{text});\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        return {"t": TYPES[little.dtype.str], "b": base64.b64encode(little.tobytes()).decode("ascii")}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
