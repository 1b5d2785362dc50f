"""Encodes shards one by one, each into one file of latents; files that exist already are kept."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from encode_acts.encoder import Encoder
from encode_acts.scorer_choice import ScorerChoice
from saetools.cli.progress import Progress
from saetools.errors import UserError
from saetools.files.formats import LATENTS
from saetools.files.provenance import Provenance, first_difference
from saetools.files.reuse import check_place, check_reusable, writing
from saetools.latents.file import LatentsFile
from saetools.latents.header import LatentsHeader, latents_name
from saetools.latents.writer import new_latents
from saetools.shards.reader import Shard, choose_layer

READ_BYTES = 64 << 20  # of float32 activations read at a time


@dataclass(frozen=True)
class EncodingSettings:
    """layer: None where the shards hold one; threshold, top: see `Encoder`; dtype: of the stored values."""

    layer: int | None
    threshold: float | None
    top: int | None
    dtype: str


def encode_shards(
    shards: Iterable[Shard],
    scorer: ScorerChoice,
    folder: Path,
    settings: EncodingSettings,
    device: torch.device,
) -> Iterator[Path]:
    """Write FOLDER/latents-NNNNNN.npz for every shard and yield its path when it is complete.

    Raises UserError where the scorer was not made for these shards, or `folder` holds latents of other settings.
    """
    check_place(folder, folder=True)
    _check_folder(folder, scorer, settings)
    arriving = iter(shards)
    for first in arriving:
        given = {**asdict(settings), "scorer": scorer.uid, "code": scorer.code}
        with writing(folder, {**given, "recording": first.provenance.settings}, folder=True):
            _check_folder(folder, scorer, settings)
            yield from _encode_missing(chain([first], arriving), scorer, folder, settings, device)


def _encode_missing(
    shards: Iterable[Shard],
    scorer: ScorerChoice,
    folder: Path,
    settings: EncodingSettings,
    device: torch.device,
) -> Iterator[Path]:
    encoder: Encoder | None = None
    with Progress("encoding", total=None, unit="images") as progress:
        for shard in shards:
            layer = choose_layer(shard, settings.layer)
            fitting = scorer.scorer_for(shard, layer)
            target = folder / latents_name(shard.header.shard_index)
            provenance = _provenance(shard, scorer, layer, settings)
            if target.exists():
                check_reusable(target, LatentsFile(target).provenance, provenance)
            else:
                encoder = encoder or Encoder(fitting, settings.threshold, settings.top, device)
                _encode_shard(target, shard, scorer, layer, encoder, settings, provenance, progress)
            yield target


def _encode_shard(
    target: Path,
    shard: Shard,
    scorer: ScorerChoice,
    layer: int,
    encoder: Encoder,
    settings: EncodingSettings,
    provenance: Provenance,
    progress: Progress,
) -> None:
    n_patches, d_model = shard.shape(layer)
    header = LatentsHeader(
        scorer=scorer.uid,
        kind=scorer.kind,
        n_latents=encoder.n_latents,
        n_patches=n_patches,
        layer=layer,
        source=shard.header.source(),
        threshold=settings.threshold,
        top=settings.top,
        n_examples_total=shard.header.n_examples_total,
        shard_index=shard.header.shard_index,
        n_shards=shard.header.n_shards,
        code=scorer.code,
        trained_on_these=scorer.was_trained_on(shard),
    )
    examples = replace(shard.examples, grid=shard.grid(layer))
    n_images = max(1, READ_BYTES // (4 * n_patches * d_model))
    with new_latents(
        target, header, provenance, examples, shard.labels(layer), dtype=settings.dtype
    ) as writer:
        for start in range(0, shard.n_images, n_images):
            x_bd = shard.patches(layer, start, start + n_images).reshape(-1, d_model)
            for first in range(0, len(x_bd), encoder.tokens):
                try:
                    active = encoder(x_bd[first : first + encoder.tokens])
                except UserError as error:
                    raise UserError(f"{shard.path}: {error}") from error
                writer.append(active.count_b, active.latent_e, active.value_e)
            progress.advance(min(n_images, shard.n_images - start))


def _provenance(shard: Shard, scorer: ScorerChoice, layer: int, settings: EncodingSettings) -> Provenance:
    """Its settings are those that change what the file holds: runs with equal ones can write to one folder."""
    examples = hashlib.sha256("\n".join(shard.examples.path).encode()).hexdigest()
    plain: dict[str, Any] = {
        "layer": layer,
        "threshold": settings.threshold,
        "top": settings.top,
        "dtype": settings.dtype,
        "images": examples,
    }
    return Provenance.of(LATENTS, "encode-acts", plain, [shard.provenance.uid, scorer.uid])


def _check_folder(folder: Path, scorer: ScorerChoice, settings: EncodingSettings) -> None:
    """Raise UserError where the folder holds latents of another scorer or settings, before anything is computed."""
    wanted = {
        "scorer": scorer.uid,
        "threshold": settings.threshold,
        "top": settings.top,
        "dtype": settings.dtype,
    }
    for path in sorted(folder.glob("latents-*.npz")):
        found = LatentsFile(path)
        here = {**found.provenance.settings, "scorer": found.header.scorer}
        if found.header.code != scorer.code and found.header.scorer == scorer.uid:
            raise UserError(
                f"{path}: its values are another code of the same scorer: {found.header.code!r} against"
                f" {scorer.code!r}; choose another --out, or remove it"
            )
        if difference := first_difference({name: here.get(name) for name in wanted}, wanted):
            raise UserError(
                f"{path}: it was made with other settings: {difference}; choose another --out, or remove it"
            )
