"""What has to be scored: every scorer on every layer and seed that it is asked for, and where its scores lie."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from saetools.errors import UserError
from saetools.sae import SAE
from saetools.scorer_file import ScorerFile, load_scorer
from saetools.scorer_inputs import check_scorer_fits
from saetools.shard_reader import ShardSet
from score_traits.score_files import activations_digest, key_of
from score_traits.scorer_specs import COUNTED, Spec, sae_columns


@dataclass(frozen=True)
class Job:
    """A scorer of one layer; seed None where the scorer is the same for every seed.

    identity: what decides the scorer, by content; columns: its own of the AP table
    """

    layer: int
    spec: Spec
    seed: int | None
    name: str
    identity: str
    columns: dict[str, Any] = field(default_factory=dict)

    def score_settings(self, shards: ShardSet, pool: str, device: str) -> dict[str, Any]:
        """What decides the scores of all images of `shards`."""
        activations = activations_digest(shards, self.layer)
        return {"activations": activations, "scorer": self.identity, "pool": pool, "device": device}


def make_jobs(
    specs: Sequence[Spec], layers: Sequence[int], seeds: Sequence[int], train: ShardSet
) -> list[Job]:
    """All jobs, layer by layer; a scorer file stands at its own layer. Raises UserError where one does not fit."""
    files = {spec.text: load_scorer(Path(spec.text)) for spec in specs if spec.kind == "file"}
    layer_of: dict[str, int] = {}
    for text, found in files.items():
        own = found.trained_on.get("layer")
        if own is None and len(layers) > 1:
            raise UserError(
                f"{text}: it does not say which layer it was trained on, and --layer names {len(layers)};"
                " score it with its own layer alone"
            )
        layer_of[text] = own if isinstance(own, int) and own in layers else layers[0]
        check_scorer_fits(found, Path(text), train.shards[0], layer_of[text])
    digests = {text: _scorer_digest(found) for text, found in files.items()}
    jobs = []
    for layer in layers:
        for spec in specs:
            if spec.kind == "file":
                if layer_of[spec.text] == layer:
                    columns = sae_columns(files[spec.text], spec.text)
                    jobs.append(Job(layer, spec, None, files[spec.text].kind, digests[spec.text], columns))
            else:
                for seed in seeds if spec.is_drawn else [None]:
                    jobs.append(Job(layer, spec, seed, spec.kind, _identity(spec, layer, seed, train)))
    return jobs


def _identity(spec: Spec, layer: int, seed: int | None, train: ShardSet) -> str:
    if not spec.is_fitted:
        return spec.kind
    made_of = {"spec": spec.text, "seed": seed, "activations": activations_digest(train, layer)}
    return f"{spec.kind}-{key_of({**made_of, 'version': COUNTED[spec.kind]})}"


def _scorer_digest(found: ScorerFile) -> str:
    """Of what the scores depend on: a file that was converted, moved or written again has the same."""
    scorer = found.scorer
    digest = hashlib.sha256(found.kind.encode())
    if isinstance(scorer, SAE):
        digest.update(repr((scorer.config, scorer.scale)).encode())
        tensors = [scorer.W_enc, scorer.b_enc, scorer.b_dec, scorer.mean, scorer.threshold]
    else:
        tensors = [scorer.vectors, scorer.bias]
    for tensor in tensors:
        if tensor is not None:
            digest.update(np.ascontiguousarray(tensor.numpy()).data)
    return f"file-{digest.hexdigest()[:24]}"
