"""Linear heads on the tokens of a block, written by fit-heads: `saetools-head` of docs/formats.md."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from saetools.errors import UserError
from saetools.files.formats import HEADS
from saetools.files.hdf5 import new_hdf5, open_hdf5
from saetools.files.provenance import Provenance, canonical_json, first_difference

LINKS = ("softmax", "logistic")
TOKENS = ("cls", "mean", "patches")
ARRAYS: Mapping[str, tuple[str, Any]] = {
    "label": ("C", np.int64),
    "train_rows": ("C", np.int64),
    "test_rows": ("C", np.int64),
    "class_accuracy": ("C", np.float64),
    "iou": ("C", np.float64),
    "cv_l2": ("L", np.float64),
    "cv_log_loss": ("L", np.float64),
}
"""Data sets of a head file besides weight, bias and class: axis and type; iou is there for patches alone."""


@dataclass(frozen=True)
class Head:
    """Logits of C classes or traits from tokens x {D}: W x + b, in float64.

    weight {C, D}, bias {C}, names {C}
    link:       softmax (one class a row) or logistic (each trait by itself)
    tokens:     cls, mean (of the patches of an image) or patches, of block trained_on["layer"], before the final norm
    trained_on: model, weights, hook, preprocess, layer
    l2:         the penalty that was chosen; arrays: those of ARRAYS; evaluation: scores on test by name of the head
    """

    weight: torch.Tensor
    bias: torch.Tensor
    names: list[str]
    link: str
    tokens: str
    trained_on: Mapping[str, Any]
    l2: float
    provenance: Provenance
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    evaluation: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __call__(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens {..., D} to logits float64 {..., C}; gradients flow."""
        return torch.nn.functional.linear(tokens.to(self.weight.dtype), self.weight, self.bias)

    def probabilities(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens {..., D} to probabilities {..., C}."""
        logits = self(tokens)
        return logits.softmax(-1) if self.link == "softmax" else logits.sigmoid()

    def to(self, device: torch.device | str) -> Head:
        """The same on a device that has float64."""
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device))

    @property
    def layer(self) -> int:
        return int(self.trained_on["layer"])

    @property
    def d_model(self) -> int:
        return self.weight.shape[1]

    def __repr__(self) -> str:
        return (
            f"Head({len(self.names)} {'classes' if self.link == 'softmax' else 'traits'}, {self.tokens} of layer"
            f" {self.layer} of {self.trained_on.get('model')}, l2={self.l2:g})"
        )


def load_head(path: str | Path) -> Head:
    """Read a head onto the CPU; raises UserError where it is broken, or something is missing."""
    path = Path(path)
    with open_hdf5(path, HEADS) as file:
        provenance = Provenance.from_attributes(file.attrs, HEADS, path)
        texts = {name: str(_attribute(file, name, path)) for name in ("link", "tokens")}
        for name, known in (("link", LINKS), ("tokens", TOKENS)):
            if texts[name] not in known:
                raise UserError(
                    f"{path}: its {name} is {texts[name]!r}, expected one of {', '.join(known)}; update saetools"
                )
        names = [str(name) for name in file["class"].asstr()[()]]
        n_classes = len(names)
        weight_cd, bias_c = (_read(file, name, path) for name in ("weight", "bias"))
        if weight_cd.ndim != 2 or len(weight_cd) != n_classes or bias_c.shape != (n_classes,):
            raise UserError(
                f"{path}: /weight has shape {weight_cd.shape} and /bias {bias_c.shape} for {n_classes} classes;"
                f" expected (C, D) and (C,); write it again with {HEADS.made_by}"
            )
        arrays = {
            name: np.asarray(file[name][()], kind)
            for name, (_, kind) in ARRAYS.items()
            if name != "iou" or name in file
        }
        sizes = {"C": n_classes, "L": arrays["cv_l2"].size}
        for name, found in arrays.items():
            if found.shape != (expected := (sizes[ARRAYS[name][0]],)):
                raise UserError(
                    f"{path}: /{name} has shape {found.shape}, expected {expected}; write it again with {HEADS.made_by}"
                )
        return Head(
            *(torch.from_numpy(weight_cd), torch.from_numpy(bias_c), names, texts["link"], texts["tokens"]),
            trained_on=json.loads(_attribute(file, "trained_on", path)),
            l2=float(_attribute(file, "l2", path)),
            provenance=provenance,
            arrays=arrays,
            evaluation=json.loads(_attribute(file, "evaluation", path)),
        )


def save_head(target: Path, head: Head) -> None:
    """Write a head file, complete or not at all."""
    attributes = {
        **head.provenance.to_attributes(),
        "link": head.link,
        "tokens": head.tokens,
        "l2": head.l2,
        "trained_on": canonical_json(head.trained_on),
        "evaluation": canonical_json(head.evaluation),
    }
    arrays = {
        "weight": head.weight.cpu().numpy().astype("<f8"),
        "bias": head.bias.cpu().numpy().astype("<f8"),
        **head.arrays,
    }
    texts = [*map(str, attributes.values()), *head.names]
    n_bytes = sum(array.nbytes for array in arrays.values()) + sum(len(t.encode()) + 16 for t in texts)
    with new_hdf5(target, n_bytes) as file:
        for name, array in arrays.items():
            file[name] = np.ascontiguousarray(array)
        file.create_dataset("class", data=np.array(head.names, object), dtype=h5py.string_dtype())
        for name, value in attributes.items():
            file.attrs[name] = value


def check_head_fits(
    head: Head, path: Path, source: Mapping[str, Any], layer: int | None = None, tokens: str | None = None
) -> None:
    """Raise UserError, saying what differs, unless the head is one for these activations.

    source: model, weights, hook and preprocess, see `ShardHeader.source`; layer, tokens: None for those of the head.
    """
    here = {**source, "layer": head.layer if layer is None else layer, "tokens": tokens or head.tokens}
    mine = {**head.trained_on, "tokens": head.tokens}
    if difference := first_difference({name: mine.get(name) for name in here}, here):
        raise UserError(
            f"{path}: the head was fitted on other activations: {difference};"
            f" fit one on these with {HEADS.made_by}"
        )


def _attribute(file: h5py.File, name: str, path: Path) -> Any:
    if name not in file.attrs:
        raise UserError(
            f"{path}: the attribute {name!r} is missing; {HEADS.name} files have it;"
            f" write it again with {HEADS.made_by}"
        )
    return file.attrs[name]


def _read(file: h5py.File, name: str, path: Path) -> np.ndarray:
    values = np.asarray(file[name][()], np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{path}: /{name} holds NaN or infinite values; write it again with {HEADS.made_by}")
    return values
