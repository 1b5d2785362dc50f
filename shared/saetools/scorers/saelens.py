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

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from saetools.errors import UserError
from saetools.files.atomic import atomic_path, write_text
from saetools.scorers.foreign import foreign_scorer, make_sae, take
from saetools.scorers.record import TrainedScorer
from saetools.scorers.sae import SAE, SAEConfig
from saetools.scorers.saev import shift_bias

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
ARCHITECTURES = ("standard", "topk", "jumprelu")
OURS = "saetools"  # in `metadata`: what we know of an SAE that we exported


def is_saelens(path: Path) -> bool:
    return (path / CONFIG).is_file()


def read_saelens(folder: Path) -> TrainedScorer:
    """Read a folder; raises UserError where it is broken, or where its SAE cannot be had in one matrix product."""
    weights = folder / WEIGHTS
    try:
        cfg: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        state = load_file(weights)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{folder}: expected {CONFIG} and {WEIGHTS}, as SAELens saves them: {error}"
        ) from error
    architecture, k = _architecture(cfg)
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
    d, s = int(cfg["d_in"]), int(cfg["d_sae"])
    shapes = {"W_enc": (d, s), "b_enc": (s,), "W_dec": (s, d), "b_dec": (d,)}
    tensors = take(folder, state, {**shapes, **({"threshold": (s,)} if architecture == "jumprelu" else {})})
    if not cfg.get("apply_b_dec_to_input", True):
        tensors["b_enc"] = shift_bias(tensors, +1)
    if architecture == "topk" and cfg.get("rescale_acts_by_decoder_norm", False):
        norm_s = tensors["W_dec"].norm(dim=1)
        tensors["W_enc"], tensors["b_enc"] = tensors["W_enc"] * norm_s, tensors["b_enc"] * norm_s
        tensors["W_dec"] = tensors["W_dec"] / norm_s[:, None]
    activation = {"standard": "relu"}.get(architecture, architecture)
    sae = make_sae(SAEConfig(d, s, activation, k if activation == "topk" else None), tensors)
    uid = hashlib.sha256(weights.read_bytes()).hexdigest()[:32]
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
    if ours is None:
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
    """Write a folder: the same latents and reconstructions for the same inputs. The configuration comes last."""
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
        "metadata": metadata,
    }
    if architecture == "topk":
        cfg |= {"k": config.k, "rescale_acts_by_decoder_norm": False}
    tensors = {name: getattr(sae, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    if sae.threshold is not None:
        tensors["threshold"] = sae.threshold
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial)
    write_text(folder / CONFIG, json.dumps(cfg, indent=1) + "\n")


def _architecture(cfg: dict[str, Any]) -> tuple[str, int | None]:
    """The name, and k; older folders call TopK `standard` with an activation function of that name."""
    architecture, k = cfg.get("architecture", "standard"), cfg.get("k")
    function = cfg.get("activation_fn", cfg.get("activation_fn_str", "relu"))
    if architecture == "standard" and function != "relu":
        return str(function), (cfg.get("activation_fn_kwargs") or {}).get("k", k)
    return architecture, k
