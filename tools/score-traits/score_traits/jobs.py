"""What has to be scored: every scorer on every layer and seed that it is asked for, and where its scores lie."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from saetools.errors import UserError
from saetools.files.provenance import first_difference
from saetools.scorers.compatibility import check_scorer_fits, trained_on_these, warn_if_trained_on
from saetools.scorers.file import TrainedScorer, load_scorer
from saetools.scorers.sae import SAE
from saetools.scorers.start import training_shards
from saetools.shards.reader import ShardSet
from score_traits.score_files import activations_digest, key_of
from score_traits.scorer_specs import FITTED, UNTRAINED, Spec, sae_columns, start_columns


@dataclass(frozen=True)
class Job:
    """A scorer of one layer; seed None where the scorer is the same for every seed.

    identity: what decides the scorer, by content; columns: its own of the AP table; listed: of a scorer file that was
    given, what the table's sidecar says of it
    """

    layer: int
    spec: Spec
    seed: int | None
    name: str
    identity: str
    columns: dict[str, Any] = field(default_factory=dict)
    listed: dict[str, Any] | None = None

    def score_settings(self, shards: ShardSet, pool: str, device: str) -> dict[str, Any]:
        """What decides the scores of all images of `shards`."""
        activations = activations_digest(shards, self.layer)
        return {"activations": activations, "scorer": self.identity, "pool": pool, "device": device}


def list_file(
    spec: Spec, layer: int, seed: int | None, found: TrainedScorer, **more: object
) -> dict[str, Any]:
    """What the table's sidecar says of a scorer file, see docs/formats.md."""
    own = {"spec": spec.text, "kind": found.kind, "n_prototypes": found.scorer.n_prototypes}
    return {**own, "layer": layer, "seed": seed, **more, "uid": found.provenance.uid}


def make_jobs(
    specs: Sequence[Spec], layers: Sequence[int], seeds: Sequence[int], train: ShardSet, test: ShardSet
) -> list[Job]:
    """All jobs, layer by layer; a scorer file stands at its own layer. Raises UserError where one does not fit.

    Warns of a scorer file that was trained on test shards.
    """
    files = {spec: _load_files(spec, seeds) for spec in specs if spec.file}
    layer_of: dict[Spec, int] = {}
    for spec, found in files.items():
        for seed, file in found.items():
            own = file.trained_on.get("layer")
            if own is None and len(layers) > 1:
                raise UserError(
                    f"{spec.path(seed)}: it does not say which layer it was trained on, and --layer names"
                    f" {len(layers)}; score it with its own layer alone"
                )
            layer_of[spec] = own if isinstance(own, int) and own in layers else layers[0]
            check_scorer_fits(file, spec.path(seed), train.shards[0], layer_of[spec])
            warn_if_trained_on(file, spec.path(seed), test.shards)
            if spec.kind == UNTRAINED:
                training_shards(file, str(spec.path(seed)), train.shards)
    jobs = []
    for layer in layers:
        for spec in specs:
            if not spec.file:
                columns = start_columns(spec) if spec.active else {}
                for seed in seeds if spec.is_drawn else [None]:
                    jobs.append(
                        Job(layer, spec, seed, spec.kind, _identity(spec, layer, seed, train), columns)
                    )
            elif layer_of[spec] == layer:
                for seed, file in files[spec].items():
                    if spec.kind == UNTRAINED:
                        # what was measured after the training says nothing of the start
                        columns = sae_columns(replace(file, evaluation={}), spec.file)
                        identity = _identity(spec, layer, seed, train, dict(file.provenance.settings))
                        jobs.append(Job(layer, spec, seed, spec.kind, identity, columns))
                    else:
                        columns, listed = sae_columns(file, spec.file), list_file(spec, layer, seed, file)
                        jobs.append(Job(layer, spec, seed, file.kind, _scorer_digest(file), columns, listed))
    return jobs


def _load_files(spec: Spec, seeds: Sequence[int]) -> dict[int | None, TrainedScorer]:
    """The scorer file of a spec under None; of one with `{seed}` that of each seed, alike in all but the seed.

    Raises UserError where they are not, or where two of them are the same scorer.
    """
    if not spec.is_drawn:
        return {None: load_scorer(spec.path(None))}
    files: dict[int | None, TrainedScorer] = {}
    path_of: dict[str, Path] = {}
    for seed in seeds:
        path = spec.path(seed)
        file = files[seed] = load_scorer(path)
        if (digest := _scorer_digest(file)) in path_of:
            raise UserError(
                f"{path}: the same scorer as {path_of[digest]}, though repeats are to differ in their seed;"
                f" train one for each seed, with --seed {seed} here"
            )
        path_of[digest] = path
        first = spec.path(seeds[0])
        if difference := first_difference(_alike(files[seeds[0]]), _alike(file)):
            raise UserError(
                f"{path}: it differs from {first} in more than the seed: {difference};"
                " give files that were made with the same settings, one for each seed"
            )
    return files


def _alike(found: TrainedScorer) -> dict[str, Any]:
    """What scorers that are repeats of each other agree in."""
    settings = {name: value for name, value in found.provenance.settings.items() if name != "seed"}
    trained_on = {f"trained on, {name}": value for name, value in found.trained_on.items()}
    parents = sorted(found.provenance.parents) if trained_on_these(found, []) is not None else []
    own = {"kind": found.kind, "prototypes": found.scorer.n_prototypes}
    if isinstance(found.scorer, SAE):
        own |= asdict(found.scorer.config)
    return {**settings, **own, **trained_on, "shards": parents}


def _identity(
    spec: Spec, layer: int, seed: int | None, train: ShardSet, settings: dict[str, Any] | None = None
) -> str:
    """settings: of the training whose start it is, which count in place of the file's name."""
    if not spec.is_fitted:
        return spec.kind
    what: Any = (
        {"spec": spec.text, "seed": seed} if settings is None else {"settings": settings, "layer": layer}
    )
    made_of = {**what, "activations": activations_digest(train, layer)}
    return f"{spec.kind}-{key_of({**made_of, 'version': FITTED[spec.kind]})}"


def _scorer_digest(found: TrainedScorer) -> str:
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
