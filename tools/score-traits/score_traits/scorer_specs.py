"""Scorers as they are asked for on the command line: `const`, `random:K`, ..., or a scorer file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saetools.errors import UsageError, near_names
from saetools.files.ap_tables import SEED
from saetools.scorers.baselines import Const, Linear, Units, both_signs
from saetools.scorers.file import TrainedScorer, load_scorer
from saetools.scorers.sae import SAE
from saetools.scorers.start import rebuild_start, training_shards, untrained_topk
from saetools.shards.reader import ShardSet
from score_traits.kmeans import fit_kmeans
from score_traits.pca import fit_pca
from score_traits.random_patches import draw_random, draw_random_centred

# kind -> raises its version when the same request gives another scorer, so that caches do not keep the old one
FITTED = {
    "random": 1,
    "random-centred": 1,
    "kmeans": 2,
    "pca": 1,
    "pca-both": 1,
    "units-both": 1,
    "untrained": 1,
}
DRAWN = ("random", "random-centred", "kmeans")
UNTRAINED = "untrained"
AnyScorer = Const | Units | Linear | SAE
PLAIN = ("const", "units", "units-both", "linear")
COUNTED = ("random", "random-centred", "kmeans", "pca", "pca-both")
EXPECTED = (
    "const, units, units-both, linear, random:K, random-centred:K, kmeans:K, pca:K, pca-both:K, untrained:K:k,"
    " untrained:FILE, or the path of a scorer file that exists"
)


@dataclass(frozen=True)
class Spec:
    """What was asked for: its text as it was typed, and its kind.

    k: K, where it has one; active: k of `untrained:K:k`; file: the path of a scorer file, as it was typed, of a `file`
    and of `untrained:FILE`
    """

    text: str
    kind: str
    k: int = 0
    active: int = 0
    file: str = ""

    @property
    def is_fitted(self) -> bool:
        """Whether it is made of the training patches alone."""
        return self.kind in FITTED

    @property
    def is_drawn(self) -> bool:
        """Whether another seed gives another one."""
        return self.kind in DRAWN or SEED in self.file or self.active > 0

    def path(self, seed: int | None) -> Path:
        """Where the scorer file lies, with the repeat's seed in place of `{seed}`."""
        return Path(self.file if seed is None else self.file.replace(SEED, str(seed)))


def parse_spec(text: str) -> Spec:
    """Raises UsageError where the text is none of them."""
    if text in PLAIN:
        return Spec(text, text)
    kind, _, count = text.partition(":")
    if kind in COUNTED and count.isascii() and count.isdigit() and int(count) > 0:
        return Spec(text, kind, int(count))
    if kind == UNTRAINED and (sizes := re.fullmatch(r"(\d+):(\d+)", count, re.ASCII)):
        d_sae, active = map(int, sizes.groups())
        if not 1 <= active <= d_sae:
            raise UsageError(f"--scorer {text}: expected K:k with k active latents of K, 1 <= k <= K")
        return Spec(text, kind, d_sae, active)
    if kind == UNTRAINED and (Path(count).exists() or SEED in count):
        return Spec(text, kind, file=count)
    if Path(text).exists() or SEED in text:
        return Spec(text, "file", file=text)
    near = near_names(kind, [*PLAIN, *COUNTED, UNTRAINED])
    raise UsageError(f"--scorer {text}: expected {EXPECTED}{near}")


def fit(spec: Spec, train: ShardSet, layer: int, seed: int, device: torch.device) -> Linear | SAE:
    """Draw or fit the scorer on the training patches, in a few passes and bounded memory; raises UserError."""
    if spec.active:
        return untrained_topk(spec.k, spec.active, seed, train.shards, layer)
    if spec.kind == UNTRAINED:
        path = spec.path(seed)
        file = load_scorer(path)
        shards = training_shards(file, str(path), train.shards)
        return rebuild_start(file.provenance.settings, shards, layer, str(path))
    if spec.kind == "random":
        return draw_random(train, layer, spec.k, seed)
    if spec.kind == "random-centred":
        return draw_random_centred(train, layer, spec.k, seed)
    if spec.kind == "kmeans":
        return fit_kmeans(train, layer, spec.k, seed, device).scorer
    if spec.kind == "units-both":
        return both_signs(Linear(torch.eye(train.shape(layer)[1])))
    assert spec.kind in ("pca", "pca-both"), spec.kind
    found = fit_pca(train, layer, spec.k, device)
    return both_signs(found) if spec.kind == "pca-both" else found


def start_columns(spec: Spec) -> dict[str, Any]:
    """Those of `untrained:K:k`."""
    return {"d_sae": spec.k, "activation": "topk", "sparsity": spec.active}


def sae_columns(found: TrainedScorer, path: str) -> dict[str, Any]:
    """The columns of the AP table that tell of a scorer file."""
    columns: dict[str, Any] = {"checkpoint": path}
    if isinstance(found.scorer, SAE):
        settings = found.provenance.settings
        columns |= {name: settings.get(name) for name in ("activation", "objective", "sparsity", "lr")}
        columns["activation"] = found.scorer.config.activation
        columns |= {name: found.evaluation.get(name) for name in ("l0", "mse", "nmse", "nmse_standardized")}
        columns["d_sae"] = found.scorer.n_prototypes
    return columns
