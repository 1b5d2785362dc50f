"""The sparse autoencoder (SAE), as every tool sees it.

    f     = act((x' - b_dec) W_enc + b_enc)        x' = (x - mean) / scale
    x_hat = (f W_dec + b_dec) * scale + mean

with x {..., D}, f {..., S}, W_enc {D, S}, W_dec {S, D}; rows of W_dec have unit norm. The activation is
one of `ACTIVATIONS`; `mean` and `scale` are the input normalisation of the training run and stay with
the weights, so that nobody can forget to apply them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from saetools.compute.devices import in_float64
from saetools.errors import UserError
from saetools.files.formats import SCORERS
from saetools.files.provenance import Provenance, canonical_json
from saetools.scorers.record import TrainedScorer, save_scorer

if TYPE_CHECKING:
    from saetools.scorers.baselines import Scorer


# setting of an SAE that was saved from Python with other weights: the uid of the first one
CHANGED_FROM = "changed_from"


@dataclass(frozen=True)
class SAEConfig:
    """d_model D, d_sae S, the activation and, for topk and batchtopk, its k."""

    d_model: int
    d_sae: int
    activation: str
    k: int | None = None


class SAE(nn.Module):
    """Weights of one SAE; `sae(x)` is the reconstruction x_hat {..., D}, `sae.encode(x)` its latents f {..., S}.

    Parameters W_enc {D, S}, b_enc {S}, W_dec {S, D}, b_dec {D}; buffers mean {D} and threshold {S} or None; scale, a
    number. The parameters need no gradients until `sae.requires_grad_()`: gradients with respect to x are there
    always. No gradient reaches a threshold.

    origin: the file's whole record where the SAE comes from a file or from a training (see `trained_on`).
    """

    W_enc: nn.Parameter
    b_enc: nn.Parameter
    W_dec: nn.Parameter
    b_dec: nn.Parameter
    threshold: torch.Tensor | None
    mean: torch.Tensor

    def __init__(
        self,
        config: SAEConfig,
        W_enc: torch.Tensor,
        b_enc: torch.Tensor,
        W_dec: torch.Tensor,
        b_dec: torch.Tensor,
        threshold: torch.Tensor | None = None,
        mean: torch.Tensor | None = None,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.config, self.scale = config, scale
        for name, tensor in {"W_enc": W_enc, "b_enc": b_enc, "W_dec": W_dec, "b_dec": b_dec}.items():
            setattr(self, name, nn.Parameter(tensor, requires_grad=False))
        self.register_buffer("threshold", threshold)
        self.register_buffer("mean", torch.zeros_like(b_dec) if mean is None else mean)
        self.origin: TrainedScorer | None = None
        self.origin_digest = ""  # of the weights as they were then
        self._folded_encoder: _FoldedEncoder | None = None

    def pre_activations(self, x_bd: torch.Tensor) -> torch.Tensor:
        """x {B, D} -> {B, S}, before the activation function."""
        if torch.is_grad_enabled() and any(w.requires_grad for w in (self.W_enc, self.b_enc, self.b_dec)):
            return torch.addmm(self.b_enc, (x_bd - self.mean) / self.scale - self.b_dec, self.W_enc)
        weights = self.W_enc, self.b_enc, self.b_dec, self.mean
        if self._folded_encoder is None or not self._folded_encoder.is_of(weights, self.scale):
            self._folded_encoder = _FoldedEncoder(weights, self.scale)
        return torch.addmm(self._folded_encoder.offset_s, x_bd, self._folded_encoder.w_in_ds)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """x {..., D} -> latents f {..., S} >= 0."""
        x_bd = x.reshape(-1, x.shape[-1])
        return ACTIVATIONS[self.config.activation](self.pre_activations(x_bd), self).view(*x.shape[:-1], -1)

    def decode(self, f: torch.Tensor) -> torch.Tensor:
        """Latents f {..., S} -> x_hat {..., D}."""
        x_hat_bd = torch.addmm(self.b_dec, f.reshape(-1, f.shape[-1]), self.W_dec) * self.scale + self.mean
        return x_hat_bd.view(*f.shape[:-1], -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x {..., D} -> x_hat {..., D}."""
        return self.decode(self.encode(x))

    @property
    def n_prototypes(self) -> int:
        return self.config.d_sae

    @property
    def d_model(self) -> int:
        return self.config.d_model

    def contents(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """What a scorer file holds of it: attributes, and float32 tensors by name."""
        tensors = {name: getattr(self, name) for name in ("W_enc", "b_enc", "W_dec", "b_dec", "mean")}
        if self.threshold is not None:
            tensors["threshold"] = self.threshold
        return {"config": canonical_json(asdict(self.config)), "scale": self.scale}, tensors

    @property
    def trained_on(self) -> Mapping[str, Any]:
        """model, weights, hook, preprocess, layer, and the number of tokens; empty where that is not known."""
        return {} if self.origin is None else self.origin.trained_on

    @property
    def evaluation(self) -> Mapping[str, float]:
        """The metrics of `saetools.scorers.evaluation` after training; empty where that is not known."""
        return {} if self.origin is None else self.origin.evaluation

    def folded(self) -> SAE:
        """The same function of x without input normalisation: mean 0, scale 1. Decoder rows have norm `scale` then.

        W_enc / scale, b_enc, W_dec * scale, b_dec * scale + mean
        """
        b_dec_d = (in_float64(self.b_dec) * self.scale + in_float64(self.mean)).to(self.b_dec)
        w_enc_ds, w_dec_sd = self.W_enc / self.scale, self.W_dec * self.scale
        return SAE(self.config, w_enc_ds, self.b_enc, w_dec_sd, b_dec_d, self.threshold)

    def save(self, path: str | Path) -> None:
        """Write a scorer file (HDF5, docs/formats.md), complete or not at all.

        A copy of an unchanged file has its record: what it was trained on, its settings, evaluation and uid. Of changed
        weights there is a new uid, with that of the file they come from as the parent.
        """
        save_scorer(Path(path), sae_record(self))

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor(self.scale, dtype=torch.float64)

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.scale = state.item()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: what can be computed again is left out."""
        return {**self.__dict__, "_folded_encoder": None}

    def __repr__(self) -> str:
        config, known = self.config, self.trained_on
        k = "" if config.k is None else f", k={config.k}"
        what = f"SAE({config.activation}, d_model={config.d_model:,}, d_sae={config.d_sae:,}{k}"
        if "model" in known:
            what += f", trained on layer {known.get('layer')} of {known['model']}"
        return f"{what}, {known['tokens']:,} tokens)" if "tokens" in known else f"{what})"


class _FoldedEncoder:
    """(x' - b_dec) W_enc + b_enc = x (W_enc / scale) + offset: one matrix product on the raw input.

    Kept from call to call. Weights that were replaced or changed in place are noticed, by PyTorch's own count of
    changes; what is written into `.data` or a NumPy view it does not count.
    """

    def __init__(self, weights: tuple[torch.Tensor, ...], scale: float) -> None:
        self._made_of = _versions(weights, scale)
        with torch.no_grad():
            w_enc_ds, b_enc_s, b_dec_d, mean_d = weights
            self.w_in_ds = (w_enc_ds / scale).contiguous() if scale != 1.0 else w_enc_ds
            self.offset_s = b_enc_s - (in_float64(mean_d / scale + b_dec_d) @ in_float64(w_enc_ds)).to(
                b_enc_s
            )

    def is_of(self, weights: tuple[torch.Tensor, ...], scale: float) -> bool:
        return self._made_of is not None and self._made_of == _versions(weights, scale)


def _versions(weights: tuple[torch.Tensor, ...], scale: float) -> tuple[object, ...] | None:
    """What changes when a weight does; None of inference tensors, whose changes are not counted."""
    if any(weight.is_inference() for weight in weights):
        return None
    return scale, *((w.data_ptr(), w.device, w.dtype, w._version) for w in weights)


class LatentScores:
    """An SAE as a Scorer: its latents are the scores."""

    def __init__(self, sae: SAE) -> None:
        self.sae, self.n_prototypes = sae, sae.n_prototypes

    def __call__(self, activations: torch.Tensor) -> torch.Tensor:
        return self.sae.encode(activations)


def as_scorer(scorer: SAE | Scorer) -> Scorer:
    """Any of our scorers by the one interface: float32 {B, D} -> float32 {B, K}."""
    return LatentScores(scorer) if isinstance(scorer, SAE) else scorer


def _relu(pre_bs: torch.Tensor, _sae: SAE) -> torch.Tensor:
    return pre_bs.relu_()


def _topk(pre_bs: torch.Tensor, sae: SAE) -> torch.Tensor:
    """Keep the k largest of each token, where they are positive (arXiv 2406.04093, section 2.3)."""
    assert sae.config.k is not None
    values_bk, index_bk = pre_bs.topk(sae.config.k, dim=1, sorted=False)
    return torch.zeros_like(pre_bs).scatter_(1, index_bk, values_bk.relu_())


def _above_threshold(pre_bs: torch.Tensor, sae: SAE) -> torch.Tensor:
    """z where z exceeds the latent's threshold, else 0 (JumpReLU, arXiv 2407.14435)."""
    assert sae.threshold is not None
    kept_bs = pre_bs > sae.threshold
    if pre_bs.requires_grad:  # autograd needs what relu_ has written
        return pre_bs.relu() * kept_bs
    return pre_bs.relu_().mul_(kept_bs)


# The names in checkpoints. BatchTopK (arXiv 2412.06410) keeps, of single tokens, what exceeds the
# running threshold of its training.
ACTIVATIONS: dict[str, Callable[[torch.Tensor, SAE], torch.Tensor]] = {
    "relu": _relu,
    "topk": _topk,
    "batchtopk": _above_threshold,
    "jumprelu": _above_threshold,
}


def check_config(config: SAEConfig, what: str) -> None:
    """Raise UserError, naming `what`, where the activation is unknown or its k does not fit the width."""
    if config.activation not in ACTIVATIONS:
        raise UserError(
            f"{what}: unknown activation {config.activation!r}; known are {', '.join(ACTIVATIONS)}"
        )
    if config.activation in ("topk", "batchtopk") and not (config.k and 1 <= config.k <= config.d_sae):
        raise UserError(
            f"{what}: k is {config.k}; {config.activation} needs 1 <= k <= {config.d_sae} latents"
        )


def sae_record(sae: SAE) -> TrainedScorer:
    """What is known of an SAE in memory: its own record, or a new one where its weights were changed since then."""
    found = sae.origin
    if found is not None and found.provenance.format == SCORERS.name and sae_digest(sae) == sae.origin_digest:
        return replace(found, scorer=sae)
    settings: dict[str, Any] = {"activation": sae.config.activation, "sparsity": sae.config.k}
    parents: Sequence[str] = ()
    if found is not None:
        settings = {**found.provenance.settings, CHANGED_FROM: found.provenance.uid}
        parents = found.provenance.parents
    # Of changed weights, what was counted and measured after the training holds no longer.
    trained_on = {name: value for name, value in sae.trained_on.items() if name != "tokens"}
    return TrainedScorer("sae", sae, Provenance.of(SCORERS, "saetools", settings, parents), trained_on)


def sae_digest(sae: SAE) -> str:
    """SHA-256 of the weights and of all else that decides what the SAE computes."""
    digest = hashlib.sha256(repr((sae.config, sae.scale)).encode())
    for name, tensor in sae.state_dict().items():
        digest.update(name.encode() + str(tensor.dtype).encode())
        digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
