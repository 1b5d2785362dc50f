"""SAEs in SAELens's folders: `cfg.json` and `sae_weights.safetensors`.

    f     = act((x - b_dec) W_enc + b_enc)    (x W_enc + b_enc where apply_b_dec_to_input is false)
    x_hat = f W_dec + b_dec

Architectures: standard (ReLU), topk, jumprelu, the last of which is what a BatchTopK SAE is saved as. With
rescale_acts_by_decoder_norm, latents are n times as large and decoder rows divided by n, their norm; this is folded
into the weights.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from saetools.errors import UserError
from saetools.files.atomic import atomic_folder
from saetools.files.provenance import canonical_json
from saetools.files.reading import parse_json, read_bytes
from saetools.files.torch_files import load_safetensors
from saetools.scorers.foreign import foreign_scorer, make_sae, setting, take
from saetools.scorers.record import TrainedScorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.scorers.saev import shift_bias

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = ("standard", "topk", "jumprelu")
OURS = "saetools"  # in `metadata`: what we know of an SAE that we exported, and a digest of the folder


def is_saelens(path: Path) -> bool:
    return (path / CONFIG).is_file()


def read_saelens(folder: Path) -> TrainedScorer:
    """Read a folder; raises UserError where it is broken, or where its SAE cannot be had in one matrix product.

    Of a folder that `write_saelens` made, a digest of the weights and settings is compared; SAELens itself has none.
    """
    text, weights = (
        read_bytes(folder / name, f"expected {CONFIG} and {WEIGHTS}, as SAELens saves them")
        for name in (CONFIG, WEIGHTS)
    )
    cfg = parse_json(text, folder, CONFIG, "get it again")
    _check_digest(folder, cfg, weights)
    state = load_safetensors(folder / WEIGHTS, weights)
    architecture, k = _architecture(folder, cfg)
    if architecture not in ARCHITECTURES:
        raise UserError(f"{folder}: architecture {architecture!r}; known are {', '.join(ARCHITECTURES)}")
    for name, harmless in (
        ("normalize_activations", (None, "none")),
        ("reshape_activations", (None, "none")),
    ):
        if cfg.get(name) not in harmless:
            raise UserError(
                f"{folder}: {name} is {cfg[name]!r}, which is not in the weights; fold it into them with SAELens, then"
                " save it again"
            )
    d, s = setting(folder, cfg, "d_in", int), setting(folder, cfg, "d_sae", int)
    shapes = {"W_enc": (d, s), "b_enc": (s,), "W_dec": (s, d), "b_dec": (d,)}
    tensors = take(folder, state, {**shapes, **({"threshold": (s,)} if architecture == "jumprelu" else {})})
    if not setting(folder, cfg, "apply_b_dec_to_input", bool, True):
        tensors["b_enc"] = shift_bias(tensors, +1)
    if architecture == "topk" and setting(folder, cfg, "rescale_acts_by_decoder_norm", bool, False):
        norm_s = tensors["W_dec"].norm(dim=1)
        tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * norm_s, tensors["b_enc"] * norm_s
        tensors["W_dec"] = tensors["W_dec"] / norm_s[:, None]
    activation = {"standard": "relu"}.get(architecture, architecture)
    sae = make_sae(SAEConfig(d, s, activation, k if activation == "topk" else None), tensors)
    uid = hashlib.sha256(weights).hexdigest()[:32]
    return replace(foreign_scorer(folder, sae, uid, "saelens", 1, cfg), trained_on=_trained_on(folder, cfg))


def metadata_of(found: TrainedScorer) -> dict[str, Any]:
    """What a scorer says that it was trained on, and its uid, as plain JSON for the folder's `metadata`."""
    if not found.trained_on:
        return {}
    return {OURS: {"trained_on": dict(found.trained_on), "uid": found.provenance.uid}}


def _trained_on(folder: Path, cfg: dict[str, Any]) -> dict[str, Any]:
    """What `metadata_of` wrote; nothing of a folder that SAELens made. Raises UserError where it is broken."""
    metadata = cfg.get("metadata")
    ours = metadata.get(OURS) if isinstance(metadata, dict) else None
    if ours is None or (isinstance(ours, dict) and set(ours) <= {"digest"}):
        return {}
    trained_on = ours.get("trained_on") if isinstance(ours, dict) else None
    needed = {"model", "weights", "hook", "preprocess", "layer"}
    if not isinstance(trained_on, dict) or not needed <= set(trained_on):
        raise UserError(
            f"{folder / CONFIG}: its metadata says {OURS!r}, but not what the SAE was trained on"
            f" ({', '.join(sorted(needed))}); convert the SAE again with convert-sae"
        )
    return trained_on


def write_saelens(folder: Path, sae: SAE, metadata: dict[str, Any]) -> None:
    """Write a folder, complete or not at all: the same latents and reconstructions for the same inputs.

    Raises UserError where the folder is there already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: it exists already; remove it, or choose another name")
    sae = sae.folded()
    config = sae.config
    architecture = {"relu": "standard", "batchtopk": "jumprelu"}.get(config.activation, config.activation)
    cfg: dict[str, Any] = {
        "architecture": architecture,
        "d_in": config.d_model,
        "d_sae": config.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    if architecture == "topk":
        cfg |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
    tensors = {name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if sae.threshold is not None:
        tensors["threshold"] = sae.threshold
    weights = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    ours = metadata.get(OURS, {})
    cfg["metadata"] = {**metadata, OURS: {**ours, "digest": _digest(cfg, ours, weights)}}
    with atomic_folder(folder) as partial:
        (partial / WEIGHTS).write_bytes(weights)
        (partial / CONFIG).write_text(json.dumps(cfg, indent=1) + "\n", encoding="utf-8", newline="")


def _digest(cfg: dict[str, Any], ours: dict[str, Any], weights: bytes) -> str:
    """SHA-256 of the weights as stored, of all settings in cfg, and of what we know of the SAE, without the digest."""
    settings = {name: value for name, value in cfg.items() if name != "metadata"}
    known = {name: value for name, value in ours.items() if name != "digest"}
    return hashlib.sha256(
        canonical_json([settings, known, hashlib.sha256(weights).hexdigest()]).encode()
    ).hexdigest()


def _check_digest(folder: Path, cfg: dict[str, Any], weights: bytes) -> None:
    """Raise UserError unless the weights and settings are those that `write_saelens` wrote; others have no digest."""
    metadata = cfg.get("metadata")
    ours = metadata.get(OURS) if isinstance(metadata, dict) else None
    if isinstance(ours, dict) and "digest" in ours and ours["digest"] != _digest(cfg, ours, weights):
        raise UserError(
            f"{folder}: its weights or settings are not those that convert-sae wrote: it is damaged, so convert the SAE"
            f" again; or another program changed it, then remove 'digest' from metadata.{OURS} in {CONFIG}"
        )


def _architecture(folder: Path, cfg: dict[str, Any]) -> tuple[str, int | None]:
    """The name, and k; older folders call TopK `standard` with an activation function of that name."""
    name = "activation_fn" if "activation_fn" in cfg else "activation_fn_str"
    old = name in cfg  # then the architecture may be missing
    architecture, settings = setting(folder, cfg, "architecture", str, "standard" if old else None), cfg
    function = setting(folder, cfg, name, str, "relu")
    if architecture == "standard" and function != "relu":
        architecture = function
        settings = {"k": cfg.get("k"), **setting(folder, cfg, "activation_fn_kwargs", dict, {})}
    return architecture, setting(folder, settings, "k", int) if architecture == "topk" else None
