"""The columns of `effects.csv` and `fidelity.csv`, which edit-latents writes: docs/formats.md, docs/metrics.md."""

from __future__ import annotations

NONE = "none"  # the control of the rows of the latent itself
RECONSTRUCTION = "reconstruction"  # the one whose change is not of the size of the latent's
CONTROLS = (NONE, "random-direction", "random-latent", "diff-means", "probe", RECONSTRUCTION)
INPUTS = ("x", RECONSTRUCTION, "mean", "zero")

# Each with its interval: NAME, NAME_low, NAME_high
MEASURES = (
    "target_changed",
    "other_changed",
    "target_logit",
    "other_logits",
    "kl",
    "accuracy_before",
    "accuracy_after",
)
SHARES = ("target_changed", "other_changed", "accuracy_before", "accuracy_after")  # from 0 to 1
# Of these also NAME_draw_min, NAME_draw_max: over the draws of a random control
DRAWN = ("target_changed", "other_changed", "target_logit")


def with_interval(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def draw_range(name: str) -> list[str]:
    return [f"{name}_draw_min", f"{name}_draw_max"]


EFFECT_COLUMNS = [
    "latent",
    "target",
    "operation",
    "amount",
    "control",
    "draws",
    "images",
    "patches",
    "relative_change",
    *(column for name in MEASURES for column in with_interval(name)),
    *(column for name in DRAWN for column in draw_range(name)),
]
FIDELITY_COLUMNS = [
    "input",
    "images",
    "rows",
    *with_interval("accuracy"),
    *with_interval("cross_entropy"),
    *with_interval("ce_recovered"),
]
