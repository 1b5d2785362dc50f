"""What the metrics table says of an SAE in training, beyond its step's own report."""

from __future__ import annotations

import torch

from saetools.compute.devices import in_float64
from saetools.scorers.evaluation import SAEEvaluation
from saetools.scorers.sae import SAE

PROBED_TOKENS = 1024
SAMPLED_LATENTS = 256
BLOCK = 4096


def diagnose(sae: SAE, x_bd: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
    """On the first 1,024 tokens of a batch {B, D}: nmse, nmse_standardized, explained_variance, l1_norm and dense as in
    `SAEEvaluation`, and

    correlation   mean |Pearson correlation| of the values of two different latents, of at most 256 random ones
                  that fired on some of the tokens and not alike on all
    coherence     largest |cosine| between the decoder row of one of 256 random latents and that of any other
    decoder_norm  mean norm of the decoder's rows
    """
    x_bd = x_bd[:PROBED_TOKENS]
    evaluation = SAEEvaluation(sae.config.d_model, sae.config.d_sae)
    f_bs = evaluation.add(sae, x_bd)
    found = evaluation.summary()
    return {
        "nmse": found["nmse"],
        "nmse_standardized": found["nmse_standardized"],
        "explained_variance": found["explained_variance"],
        "l1_norm": found["l1"],
        "dense": found["dense"],
        "correlation": mean_correlation(f_bs, generator),
        "coherence": coherence(sae.W_dec, generator),
        "decoder_norm": in_float64(sae.W_dec.norm(dim=1)).mean().item(),
    }


def mean_correlation(f_bs: torch.Tensor, generator: torch.Generator) -> float:
    """See `diagnose`; 0 where fewer than two latents vary."""
    varies = torch.nonzero(f_bs.amax(0) > f_bs.amin(0)).flatten().cpu()
    chosen = varies[torch.randperm(len(varies), generator=generator)[:SAMPLED_LATENTS]]
    k = len(chosen)
    if k < 2:
        return 0.0
    f_bk = in_float64(f_bs[:, chosen.to(f_bs.device)])
    f_bk = torch.nn.functional.normalize(f_bk - f_bk.mean(0), dim=0)
    correlation_kk = (f_bk.T @ f_bk).abs()
    return ((correlation_kk.sum() - correlation_kk.diagonal().sum()) / (k * (k - 1))).item()


def coherence(W_dec: torch.Tensor, generator: torch.Generator) -> float:
    """See `diagnose`; 0 for a dictionary of one."""
    rows = torch.randperm(len(W_dec), generator=generator)[:SAMPLED_LATENTS].to(W_dec.device)
    sampled_kd = torch.nn.functional.normalize(W_dec[rows], dim=1)
    largest = 0.0
    for start in range(0, len(W_dec), BLOCK):
        block_sd = torch.nn.functional.normalize(W_dec[start : start + BLOCK], dim=1)
        cosine_ks = (sampled_kd @ block_sd.T).abs()
        own = (rows >= start) & (rows < start + len(block_sd))
        cosine_ks[own, rows[own] - start] = 0
        largest = max(largest, cosine_ks.max().item())
    return largest
