"""Changes of the same size in other directions: what an edit of a latent has to beat.

Each control moves every patch by as much as the latent's edit does, |x' - x|, with the same sign, along another
direction u of norm 1:

    random-direction   u uniform on the sphere
    random-latent      the decoder row of a latent that fires about as often, drawn at random
    diff-means         mean of the target's patches (or images) in train, less that of the rest
    probe              the weights of a linear probe for the target, fitted on train

Both last are computed from training activations alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from saetools.errors import UserError

LIKE_FREQUENCY = 64  # random latents are drawn among so many of the nearest frequency


def same_size(change_bpd: torch.Tensor, own_d: torch.Tensor, direction_d: torch.Tensor) -> torch.Tensor:
    """The change {b, P, D} of a latent, turned into another direction {D}: the same norm and sign in every patch.

    own_d: the latent's own direction (its decoder row), by which the sign is told.
    """
    sign_bp = torch.sign(change_bpd @ own_d.to(change_bpd))
    length_bp = change_bpd.norm(dim=2) * sign_bp
    return length_bp[..., None] * unit(direction_d).to(change_bpd)


def unit(direction_d: torch.Tensor) -> torch.Tensor:
    """The direction with norm 1; raises UserError where it has none."""
    norm = direction_d.double().norm()
    if not bool(norm > 0) or not bool(torch.isfinite(norm)):
        raise UserError(
            "a control's direction is zero or not finite: the means or weights it comes from do not differ"
        )
    return (direction_d.double() / norm).to(direction_d)


def random_directions(n: int, d_model: int, seed: int) -> torch.Tensor:
    """float32 {n, D}, uniform on the sphere, drawn by seed."""
    drawn = np.random.default_rng(seed).standard_normal((n, d_model))
    return torch.from_numpy(drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).float()


def like_latents(
    frequency_s: np.ndarray, latent: int, n: int, seed: int, not_these: Sequence[int] = ()
) -> list[int]:
    """n other latents that fire about as often in training patches, drawn by seed; fewer where there are fewer.

    Drawn among the LIKE_FREQUENCY nearest in log frequency; dead latents and `not_these` are left out.
    """
    candidates = np.flatnonzero(frequency_s > 0)
    candidates = candidates[~np.isin(candidates, [latent, *not_these])]
    if not len(candidates) or frequency_s[latent] <= 0:
        return []
    far = np.abs(np.log(frequency_s[candidates]) - np.log(frequency_s[latent]))
    near = candidates[np.argsort(far, kind="stable")[:LIKE_FREQUENCY]]
    draw = np.random.default_rng([seed, latent])
    return [int(k) for k in draw.choice(near, size=min(n, len(near)), replace=False)]
