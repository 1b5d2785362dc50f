"""The formulas of docs/training.md as a program: its Python blocks, run. The oracle of the training steps."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from train_sae.steps import StepSettings
from train_sae.steps.prefixes import draw_prefixes

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def printed_code() -> str:
    """The page's Python blocks, one after the other."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE))


def run_printed(code: str) -> SimpleNamespace:
    """What the blocks define: `act`, `losses` and the rest."""
    defined: dict[str, object] = {}
    exec(compile(code, str(PAGE), "exec"), defined)
    return SimpleNamespace(**defined)


def printed_losses(
    printed: SimpleNamespace,
    settings: StepSettings,
    weights: dict[str, Tensor],
    x_bd: Tensor,
    dead_s: Tensor,
    key: tuple[int, int],
    scale: float = 1.0,
) -> tuple[dict[str, Tensor], Tensor]:
    """The losses of step `key`, (seed, number), and f {B, S}; `weights` as `SAEParameters.trained` names them."""
    w, s = weights, len(weights["b_enc_s"])
    prefixes = [s]
    if settings.objective == "matryoshka":
        drawn = draw_prefixes(s, settings.n_prefixes, settings.prefix_min, settings.prefix_power, key)
        prefixes = drawn.tolist()
    theta = w["log_threshold_s"].exp() if "log_threshold_s" in w else None
    parts, f_bs = printed.losses(
        *(
            x_bd,
            w["enc_sd"].T,
            w["b_enc_s"],
            w["dec_sd"],
            w["b_dec_d"],
            theta,
            settings.activation,
            settings.k,
        ),
        *(settings.bandwidth, prefixes, settings.l1 * scale, settings.l0 * scale),
        *(settings.aux_k, settings.aux_weight, dead_s),
    )
    return {name: torch.as_tensor(value) for name, value in parts.items()}, f_bs
