"""Scorers on disk: one HDF5 file each, see docs/formats.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from saetools.errors import UserError
from saetools.files.formats import SCORERS
from saetools.files.hdf5 import new_hdf5, open_hdf5
from saetools.files.provenance import Provenance, canonical_json
from saetools.scorers.baselines import Linear, Nearest
from saetools.scorers.hub import HUB, download
from saetools.scorers.record import TrainedScorer
from saetools.scorers.sae import SAE, SAEConfig, check_config
from saetools.scorers.saelens import read_saelens
from saetools.scorers.saev import read_saev

__all__ = [
    "SCORERS",
    "TrainedScorer",
    "load_sae",
    "load_scorer",
    "needs_threshold",
    "save_sae",
    "save_scorer",
    "with_origin",
]

LATENTS = ("frequency", "mean_value")  # of each latent in the evaluation
SAE_KINDS = ("sae", "untrained")  # untrained: as it was before its training
CHANGED_FROM = (
    "changed_from"  # setting of an SAE that was saved from Python with other weights: the first one's uid
)
LINEAR_KINDS = ("random", "random-centred", "kmeans", "pca", "pca-both", "units-both", "linear")


def save_scorer(target: Path, contents: TrainedScorer) -> None:
    """Write a scorer file, complete or not at all."""
    scorer = contents.scorer
    attributes: dict[str, Any] = {"kind": contents.kind, **contents.provenance.to_attributes()}
    attributes["trained_on"] = canonical_json(contents.trained_on)
    attributes["evaluation"] = canonical_json(contents.evaluation)
    if isinstance(scorer, SAE):
        attributes["config"] = canonical_json(asdict(scorer.config))
        attributes["scale"] = scorer.scale
        tensors = {name: getattr(scorer, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec", "mean")}
        if scorer.threshold is not None:
            tensors["threshold"] = scorer.threshold
    else:
        tensors = {"vectors": scorer.vectors, "bias": scorer.bias}
    for name in LATENTS:
        if (tensor := getattr(contents, f"{name}_s")) is not None:
            tensors[name] = tensor
    n_bytes = sum(4 * tensor.numel() for tensor in tensors.values()) + sum(
        len(str(v)) for v in attributes.values()
    )
    with new_hdf5(target, n_bytes) as file:
        for name, tensor in tensors.items():
            file[name] = np.ascontiguousarray(tensor.detach().cpu().numpy(), "<f4")
        for name, value in attributes.items():
            file.attrs[name] = value


def load_scorer(path: str | Path) -> TrainedScorer:
    """Read a scorer onto the CPU: ours, a `.pt` of the saev library, or a folder of SAELens.

    Raises UserError where it is broken, unknown or incomplete.
    """
    path = Path(path)
    if path.is_dir():
        return read_saelens(path)
    if path.suffix == ".pt":
        return read_saev(path)
    with open_hdf5(path, SCORERS) as file:
        provenance = Provenance.from_attributes(file.attrs, SCORERS, path)
        kind = _attribute(file, "kind", path)
        trained_on = json.loads(_attribute(file, "trained_on", path))
        evaluation = json.loads(file.attrs.get("evaluation", "{}"))
        if kind in SAE_KINDS:
            scorer: SAE | Linear = _read_sae(file, path)
            kind = "untrained" if trained_on.get("tokens") == 0 else kind  # of train-sae --tokens 0 too
        elif kind in LINEAR_KINDS:
            vectors = _read(file, "vectors", (None, None), path)
            bias = _read(file, "bias", (len(vectors),), path)
            scorer = Nearest(vectors) if kind == "kmeans" else Linear(vectors, bias)
        else:
            raise UserError(
                f"{path}: unknown kind of scorer {kind!r}; known are {', '.join(SAE_KINDS + LINEAR_KINDS)};"
                " update saetools"
            )
        latents = {
            f"{name}_s": _read(file, name, (scorer.n_prototypes,), path) for name in LATENTS if name in file
        }
    return TrainedScorer(kind, scorer, provenance, trained_on, evaluation, **latents)


def load_sae(path: str | Path) -> SAE:
    """Read an SAE: all that `load_scorer` reads, and `hf://OWNER/NAME/FILE` of the Hugging Face hub.

    Its `origin` is the file's record. Raises UserError where the file holds another kind of scorer.
    """
    if str(path).startswith(HUB):
        path = download(str(path))
    return with_origin(load_scorer(path), str(path))


def with_origin(found: TrainedScorer, what: str = "the scorer") -> SAE:
    """The SAE of a record, which it keeps as its `origin`; raises UserError, naming `what`, of another scorer."""
    sae = found.scorer
    if not isinstance(sae, SAE):
        raise UserError(
            f"{what}: found a scorer of kind {found.kind!r}, expected an SAE; use load_scorer for it"
        )
    sae.origin, sae.origin_digest = found, _digest(sae)
    return sae


def save_sae(path: Path, sae: SAE) -> None:
    """See `SAE.save`."""
    save_scorer(path, sae_record(sae))


def sae_record(sae: SAE) -> TrainedScorer:
    """What is known of an SAE in memory: its own record, or a new one where its weights were changed since then."""
    found = sae.origin
    if found is not None and found.provenance.format == SCORERS.name and _digest(sae) == sae.origin_digest:
        return replace(found, scorer=sae)
    settings: dict[str, Any] = {"activation": sae.config.activation, "sparsity": sae.config.k}
    parents: Sequence[str] = ()
    if found is not None:
        settings = {**found.provenance.settings, CHANGED_FROM: found.provenance.uid}
        parents = found.provenance.parents
    # Of changed weights, what was counted and measured after the training holds no longer.
    trained_on = {name: value for name, value in sae.trained_on.items() if name != "tokens"}
    return TrainedScorer("sae", sae, Provenance.of(SCORERS, "saetools", settings, parents), trained_on)


def _digest(sae: SAE) -> str:
    """SHA-256 of the weights and of all else that decides what the SAE computes."""
    digest = hashlib.sha256(repr((sae.config, sae.scale)).encode())
    for name, tensor in sae.state_dict().items():
        digest.update(name.encode() + str(tensor.dtype).encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_sae(file: h5py.File, path: Path) -> SAE:
    settings = json.loads(_attribute(file, "config", path))
    if unknown := set(settings) - set(SAEConfig.__dataclass_fields__):
        raise UserError(f"{path}: unknown setting {min(unknown)!r} in its config; update saetools")
    config = SAEConfig(**settings)
    check_config(config, str(path))
    d, s = config.d_model, config.d_sae
    return SAE(
        config,
        W_enc=_read(file, "W_enc", (d, s), path),
        b_enc=_read(file, "b_enc", (s,), path),
        W_dec=_read(file, "W_dec", (s, d), path),
        b_dec=_read(file, "b_dec", (d,), path),
        threshold=_read(file, "threshold", (s,), path) if needs_threshold(config) else None,
        mean=_read(file, "mean", (d,), path),
        scale=float(_attribute(file, "scale", path)),
    )


def needs_threshold(config: SAEConfig) -> bool:
    return config.activation in ("batchtopk", "jumprelu")


def _attribute(file: h5py.File, name: str, path: Path) -> Any:
    if name not in file.attrs:
        raise UserError(
            f"{path}: the attribute {name!r} is missing; {SCORERS.name} files have it; train again"
        )
    return file.attrs[name]


def _read(file: h5py.File, name: str, shape: tuple[int | None, ...], path: Path) -> torch.Tensor:
    if name not in file:
        raise UserError(f"{path}: /{name} is missing; its kind of scorer needs it; train again")
    found = file[name].shape
    fits = len(found) == len(shape) and all(e in (None, f) for e, f in zip(shape, found, strict=True))
    if not fits:
        raise UserError(f"{path}: /{name} has shape {found}, expected {shape}; train again")
    values = file[name][...].astype(np.float32)
    if not np.isfinite(values).all():
        raise UserError(
            f"{path}: /{name} holds NaN or infinite values; train again with a lower learning rate"
        )
    return torch.from_numpy(values)
