"""The scorers that are asked for, and each of them layer by layer and seed by seed.

A scorer is asked for by its spec (`const`, `random:K`, ...), by the path of a scorer file, or as an object in memory.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from saetools.errors import UsageError, UserError, near_names
from saetools.files.ap_tables import SEED
from saetools.files.formats import SCORERS
from saetools.files.provenance import Provenance, canonical_json, first_difference
from saetools.scorers.baselines import Linear, Scorer, both_signs
from saetools.scorers.compatibility import check_scorer_fits, trained_on_these, warn_if_trained_on
from saetools.scorers.file import load_scorer
from saetools.scorers.record import TrainedScorer
from saetools.scorers.sae import SAE, sae_record
from saetools.scorers.start import rebuild_start, training_shards, untrained_topk
from saetools.shards.header import layer_group
from saetools.shards.reader import ShardSet
from score_traits.fitted_scorers import draw_random, draw_random_centred, fit_kmeans, fit_pca

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
    and of `untrained:FILE`; given: a scorer in memory, of kind `file` too
    """

    text: str
    kind: str
    k: int = 0
    active: int = 0
    file: str = ""
    given: TrainedScorer | None = field(default=None, compare=False)

    @property
    def is_fitted(self) -> bool:
        """Whether it is made from the training patches alone."""
        return self.kind in FITTED

    @property
    def is_drawn(self) -> bool:
        """Whether another seed gives another one."""
        return self.kind in DRAWN or SEED in self.file or self.active > 0

    def path(self, seed: int | None) -> Path:
        """Where the scorer file lies, with the repeat's seed in place of `{seed}`."""
        return Path(self.file if seed is None else self.file.replace(SEED, str(seed)))


def parse_spec(scorer: str | Path | Scorer | TrainedScorer, name: str = "") -> Spec:
    """The spec of a scorer; raises UsageError for a text that is none. name: what the table calls one in memory."""
    if not isinstance(scorer, str | Path):
        return Spec(name, "file", file=name, given=_in_memory(scorer))
    text = str(scorer)
    if text in PLAIN:
        return Spec(text, text)
    kind, _, count = text.partition(":")
    if kind in COUNTED and count.isascii() and count.isdigit() and int(count) > 0:
        return Spec(text, kind, int(count))
    if kind == UNTRAINED and (sizes := re.fullmatch(r"(\d+):(\d+)", count, re.ASCII)):
        d_sae, active = map(int, sizes.groups())
        if not 1 <= active <= d_sae:
            raise UsageError(f"`scorers` {text}: expected K:k with k active latents of K, 1 <= k <= K")
        return Spec(text, kind, d_sae, active)
    if kind == UNTRAINED and (Path(count).exists() or SEED in count):
        return Spec(text, kind, file=count)
    if Path(text).exists() or SEED in text:
        return Spec(text, "file", file=text)
    near = near_names(kind, [*PLAIN, *COUNTED, UNTRAINED])
    raise UsageError(f"`scorers` {text}: expected {EXPECTED}{near}")


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


def _in_memory(scorer: Any) -> TrainedScorer:
    """A scorer in memory as if it had been read from a file."""
    if isinstance(scorer, TrainedScorer):
        return scorer
    if not callable(scorer) or not hasattr(scorer, "n_prototypes"):
        raise UsageError(
            f"`scorers`: found a {type(scorer).__name__}; expected {EXPECTED}, or a scorer in memory: a callable with"
            " n_prototypes"
        )
    if isinstance(scorer, SAE):
        return sae_record(scorer)
    kind = type(scorer).__name__.lower()
    return TrainedScorer(kind, scorer, Provenance.of(SCORERS, "score-traits", {}, []), {})


def start_columns(spec: Spec) -> dict[str, Any]:
    """Those of `untrained:K:k`."""
    return {"d_sae": spec.k, "activation": "topk", "sparsity": spec.active}


def sae_columns(found: TrainedScorer, path: str) -> dict[str, Any]:
    """The columns of the AP table for a scorer file."""
    columns: dict[str, Any] = {"checkpoint": path}
    if isinstance(found.scorer, SAE):
        settings = found.provenance.settings
        columns |= {name: settings.get(name) for name in ("activation", "objective", "sparsity", "lr")}
        columns["activation"] = found.scorer.config.activation
        columns |= {name: found.evaluation.get(name) for name in ("l0", "mse", "nmse", "nmse_standardized")}
        columns["d_sae"] = found.scorer.n_prototypes
    return columns


@dataclass(frozen=True)
class ScorerRun:
    """A scorer on one layer, with one seed; seed None where the scorer is the same for every seed.

    identity: a digest of what the scorer depends on; columns: its values for columns of the AP table; listed: the entry
    of a scorer file in the table's sidecar
    """

    layer: int
    spec: Spec
    seed: int | None
    name: str
    identity: str
    columns: dict[str, Any] = field(default_factory=dict)
    listed: dict[str, Any] | None = None

    @property
    def requested(self) -> str:
        """What was asked for: a file by its contents, wherever it is."""
        return self.identity if self.spec.file else self.spec.text

    @property
    def file_stem(self) -> str:
        """The name of the file that the scorer is saved in, without .h5."""
        spec = self.spec
        if spec.file:
            return f"layer{self.layer}-{spec.kind}-{spec.path(self.seed).stem}"
        sizes = "".join(f"-{size}" for size in (spec.k, spec.active) if size)
        seed = "" if self.seed is None else f"-seed{self.seed}"
        return f"layer{self.layer}-{spec.kind}{sizes}{seed}"

    def score_settings(self, shards: ShardSet, pool: str, device: str) -> dict[str, Any]:
        """What decides the scores of all images of `shards`."""
        activations = activations_digest(shards, self.layer)
        return {"activations": activations, "scorer": self.identity, "pool": pool, "device": device}


def list_entry(
    spec: Spec, layer: int, seed: int | None, found: TrainedScorer, **more: object
) -> dict[str, Any]:
    """The entry of a scorer file in the table's sidecar, see docs/formats.md."""
    own = {"spec": spec.text, "kind": found.kind, "n_prototypes": found.scorer.n_prototypes}
    return {**own, "layer": layer, "seed": seed, **more, "uid": found.provenance.uid}


def list_runs(
    specs: Sequence[Spec], layers: Sequence[int], seeds: Sequence[int], train: ShardSet, test: ShardSet
) -> list[ScorerRun]:
    """All runs, layer by layer; a scorer file is scored on its own layer. Raises UserError where one does not fit.

    Warns where a scorer file was trained on test shards.
    """
    files = {spec: _load_files(spec, seeds) for spec in specs if spec.file}
    layer_of: dict[Spec, int] = {}
    for spec, found in files.items():
        for seed, file in found.items():
            own = file.trained_on.get("layer")
            if own is None and len(layers) > 1:  # its scores on other layers would mean nothing
                raise UserError(
                    f"{spec.path(seed)}: the layer that it was trained on is not recorded, and `layer` names"
                    f" {len(layers)}; score it on its own layer alone"
                )
            layer_of[spec] = own if isinstance(own, int) and own in layers else layers[0]
            d_model = train.shape(layer_of[spec])[1]
            if spec.given is None or file.trained_on:
                check_scorer_fits(file, spec.path(seed), train.shards[0], layer_of[spec])
            elif (own_width := getattr(file.scorer, "d_model", d_model)) != d_model:
                raise UsageError(
                    f"`scorers`: the scorer {spec.text} scores activations of width {own_width}; the shards' width is"
                    f" {d_model}"
                )
            warn_if_trained_on(file, spec.path(seed), test.shards)
            if spec.kind == UNTRAINED:
                training_shards(file, str(spec.path(seed)), train.shards)
    runs = []
    for layer in layers:
        for spec in specs:
            if not spec.file:
                columns = start_columns(spec) if spec.active else {}
                for seed in seeds if spec.is_drawn else [None]:
                    runs.append(
                        ScorerRun(layer, spec, seed, spec.kind, _identity(spec, layer, seed, train), columns)
                    )
            elif layer_of[spec] == layer:
                for seed, file in files[spec].items():
                    if spec.kind == UNTRAINED:
                        # the evaluation was measured after the training, so it is not that of the start
                        columns = sae_columns(replace(file, evaluation={}), spec.file)
                        identity = _identity(spec, layer, seed, train, dict(file.provenance.settings))
                        runs.append(ScorerRun(layer, spec, seed, spec.kind, identity, columns))
                    else:
                        columns = sae_columns(file, spec.file)
                        of_caller = spec.given is not None and not file.trained_on
                        listed = None if of_caller else list_entry(spec, layer, seed, file)
                        identity = _scorer_digest(file)
                        runs.append(ScorerRun(layer, spec, seed, file.kind, identity, columns, listed))
    return runs


def _load_files(spec: Spec, seeds: Sequence[int]) -> dict[int | None, TrainedScorer]:
    """The scorer file of a spec under None; of one with `{seed}` that of each seed, alike in all but the seed.

    Raises UserError where they are not, or where two of them are the same scorer.
    """
    if spec.given is not None:
        return {None: spec.given}
    if not spec.is_drawn:
        return {None: load_scorer(spec.path(None))}
    files: dict[int | None, TrainedScorer] = {}
    path_of: dict[str, Path] = {}
    for seed in seeds:
        path = spec.path(seed)
        file = files[seed] = load_scorer(path)
        if (digest := _scorer_digest(file)) in path_of:
            raise UserError(
                f"{path}: the same scorer as {path_of[digest]}, but repeats must differ in their seed;"
                f" train one for each seed, here with seed {seed}"
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
    """Everything in which repeats of one scorer must agree: all but the seed."""
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
    """settings: those of the training, for `untrained:FILE`; they count in place of the file's name."""
    if not spec.is_fitted:
        return spec.kind
    what: Any = (
        {"spec": spec.text, "seed": seed} if settings is None else {"settings": settings, "layer": layer}
    )
    made_of = {**what, "activations": activations_digest(train, layer)}
    return f"{spec.kind}-{key_of({**made_of, 'version': FITTED[spec.kind]})}"


def _scorer_digest(found: TrainedScorer) -> str:
    """A digest of what the scores depend on; it stays when a file is converted, moved or written again."""
    scorer = found.scorer
    if not isinstance(scorer, SAE | Linear):
        return f"memory-{uuid.uuid4().hex[:24]}"  # an object of the caller's, whose contents are not known
    digest = hashlib.sha256(found.kind.encode())
    if isinstance(scorer, SAE):
        digest.update(repr((scorer.config, scorer.scale)).encode())
        tensors = [scorer.W_enc, scorer.b_enc, scorer.b_dec, scorer.mean, scorer.threshold]
    else:
        tensors = [scorer.vectors, scorer.bias]
    for tensor in tensors:
        if tensor is not None:
            digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).data)
    return f"file-{digest.hexdigest()[:24]}"


def key_of(settings: Mapping[str, Any]) -> str:
    """A digest of settings, for names of files."""
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()[:24]


def activations_digest(shards: ShardSet, layer: int) -> str:
    """A digest of the activations' bytes where the shards hold digests, else of the shards' uids."""
    group = f"/{layer_group(layer)}"
    parts = []
    for shard in shards.shards:
        parts.append(shard.digests.get(f"{group}/patches", shard.provenance.uid))
        parts.append(shard.digests.get(f"{group}/scale", ""))  # of int8
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
