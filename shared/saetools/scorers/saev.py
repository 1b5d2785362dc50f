"""Checkpoints of the saev library (`sae.pt`): one line of JSON, then a state dict of torch.

    f     = act(x W_enc + b_enc)    from schema 2 on; before, the encoder sees x - b_dec
    x_hat = f W_dec + b_dec

Where fewer than k pre-activations of a token are positive, that library's TopK keeps negative ones too; ours has
zeros there.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import xxhash

from saetools.errors import UserError
from saetools.files.atomic import write_bytes
from saetools.files.provenance import canonical_json
from saetools.files.reading import parse_json, read_bytes
from saetools.files.torch_files import load_torch, saved_by_torch
from saetools.scorers.foreign import foreign_scorer, make_sae, setting, take
from saetools.scorers.record import TrainedScorer
from saetools.scorers.sae import SAE, SAEConfig

NEWEST_SCHEMA = 5
OURS = "saetools"  # in the header: the digest of a checkpoint that we wrote
NAME_OF_CLASS = {"Relu": "relu", "TopK": "topk", "BatchTopK": "batchtopk"}


def read_saev(
    path: Path, *, centred: bool | None = None, threshold: float | None = None, as_topk: bool = False
) -> TrainedScorer:
    """Read a checkpoint of any schema; raises UserError where it is broken or says too little.

    The CRC-32 of each tensor is compared, and of a checkpoint that `write_saev` made, a digest of all of it.

    centred: whether the encoder sees x - b_dec, where the schema does not tell (schema 2 of a Matryoshka SAE). Of a
    BatchTopK without its threshold: threshold to use, or as_topk, to keep the k largest of each token.
    """
    content = read_bytes(path, "expected a saev checkpoint")
    line, end, rest = content.partition(b"\n")
    if not (end and line.lstrip().startswith((b"{", b"["))):
        raise UserError(
            f"{path}: found no line of JSON with a torch state dict after it, expected a saev checkpoint;"
            " copy it again from where it was trained"
        )
    header = parse_json(line, path, "its first line", "get it again")
    state = load_torch(path, io.BytesIO(rest))
    ours = header.get(OURS)
    if isinstance(ours, dict) and ours.get("digest") != _digest(header, rest):
        raise UserError(
            f"{path}: it is damaged: its digest differs from the one in its first line; get it again"
        )
    schema = header.get("schema", 0)
    if type(schema) is not int or schema not in range(NEWEST_SCHEMA + 1):
        raise UserError(
            f"{path}: found schema {schema!r} of saev, this program knows those up to {NEWEST_SCHEMA};"
            " update saetools"
        )
    cfg = header if schema == 0 else setting(path, header, "cfg", dict)
    activation, k = _activation(path, header, cfg, schema)
    d_model = setting(path, cfg, "d_model" if "d_model" in cfg else "d_vit", int)
    factor = 1 if cfg.get("d_sae") else d_model
    d_sae = factor * setting(path, cfg, "d_sae" if cfg.get("d_sae") else "exp_factor", int)
    name = "topk" if as_topk else NAME_OF_CLASS[activation]
    tensors = take(
        path,
        state,
        {"W_enc": (d_model, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_model), "b_dec": (d_model,)},
    )
    subtracts = schema < 2 if centred is None else centred
    if not subtracts:
        tensors["b_enc"] = shift_bias(tensors, +1)
    if name == "batchtopk":
        found = state.get("activation.threshold")
        if threshold is None and found is not None:
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) and found.numel() == 1 else ()
            threshold = take(path, state, {"activation.threshold": shape})["activation.threshold"].item()
        if threshold is None:
            raise UserError(
                f"{path}: a BatchTopK SAE of schema {schema} has no threshold, without which single tokens have no"
                " latents; convert it with convert-sae --threshold T, or with --as-topk"
            )
        tensors["threshold"] = torch.full((d_sae,), max(threshold, 0.0))
    config = SAEConfig(d_model, d_sae, name, k if name in ("topk", "batchtopk") else None)
    sae = make_sae(config, tensors)
    uid = hashlib.sha256(content).hexdigest()[:32]
    return foreign_scorer(path, sae, uid, "saev", schema, header)


def write_saev(path: Path, sae: SAE) -> None:
    """Write a checkpoint of the newest schema: the same latents and reconstructions for the same inputs.

    Raises UserError where that library has no such activation: JumpReLU, unless its thresholds are all alike.
    """
    sae = sae.folded()
    config = sae.config
    threshold = None
    if sae.threshold is not None:
        if not torch.all(sae.threshold == sae.threshold[0]):
            raise UserError(
                f"{path}: saev has no JumpReLU with a threshold for each latent; convert to a SAELens folder instead"
            )
        threshold = sae.threshold[0].clone()
    no_aux = {"cls": "NoAux", "params": {"key": "no-aux"}}
    no_sparsity = {"cls": "NoSparsity", "params": {"key": "no-sparsity"}}
    auxk = {"cls": "AuxK", "params": {"key": "auxk", "k_aux": 512, "alpha": 0.03125}}
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "relu": ("Relu", {"key": "relu", "aux": no_aux}),
        "topk": ("TopK", {"key": "top-k", "top_k": config.k, "aux": auxk}),
        "batchtopk": ("BatchTopK", {"key": "batch-top-k", "top_k": config.k, "momentum": 0.1, "aux": auxk}),
    }
    kinds["jumprelu"] = "BatchTopK", {**kinds["batchtopk"][1], "top_k": config.k or 1}
    cls, params = kinds[config.activation]
    header = {
        "schema": NEWEST_SCHEMA,
        "cfg": {
            "d_model": config.d_model,
            "d_sae": config.d_sae,
            "activation": {"cls": cls, "params": {**params, "sparsity": no_sparsity}},
            "reinit_blend": 0.8,
            "reinit_enc_dec_tranpose": True,
            "remove_parallel_grads": True,
            # A decoder whose rows are not of unit norm must not be scaled when it is loaded.
            "normalize_w_dec": bool(
                torch.allclose(sae.W_dec.norm(dim=1), torch.ones(config.d_sae), atol=1e-5)
            ),
        },
        "commit": "unknown",
        "lib": "saetools",
    }
    tensors = {name: getattr(sae, name).detach() for name in ("W_dec", "b_dec", "W_enc", "b_enc")}
    tensors["b_enc"] = shift_bias(tensors, -1)
    if threshold is not None:
        tensors["activation.threshold"] = threshold
    state = saved_by_torch(tensors)
    header[OURS] = {"digest": _digest(header, state)}
    write_bytes(path, f"{json.dumps(header)}\n".encode() + state)


def _digest(header: Mapping[str, Any], state: bytes) -> str:
    """XXH3-128 of a checkpoint that we write: of its header without this digest, and of its tensors as stored."""
    known = {name: value for name, value in header.items() if name != OURS}
    digest = xxhash.xxh3_128(canonical_json(known).encode() + b"\n")
    digest.update(state)
    return digest.hexdigest()


def shift_bias(tensors: Mapping[str, torch.Tensor], sign: int) -> torch.Tensor:
    """b_enc + sign * b_dec W_enc: from an encoder that sees x to one that sees x - b_dec, or (-1) back."""
    shift_s = tensors["b_dec"].double() @ tensors["W_enc"].double()
    return (tensors["b_enc"].double() + sign * shift_s).float()


def _activation(
    path: Path, header: Mapping[str, Any], cfg: Mapping[str, Any], schema: int
) -> tuple[str, int | None]:
    """The name of the class, and its k; raises UserError where the class is not known."""
    if schema > 2 or "activation" in cfg:
        described = setting(path, cfg, "activation", dict)
        cls, params = setting(path, described, "cls", str), setting(path, described, "params", dict, {})
    else:
        # Schema 1 has the class always, the first one only where it is no ReLU
        cls, params = setting(path, header, "cls", str, None if schema or "top_k" in cfg else "Relu"), cfg
        cls = "Relu" if cls == "SparseAutoencoderConfig" else cls
    if cls not in NAME_OF_CLASS:
        raise UserError(f"{path}: unknown activation {cls!r}; known are {', '.join(NAME_OF_CLASS)}")
    return cls, None if cls == "Relu" else setting(path, params, "top_k", int)
