"""Matryoshka's random prefixes of the dictionary."""

from __future__ import annotations

import numpy as np

from train_sae.steps.settings import StepSettings


def draw_prefixes(
    n_latents: int, n_prefixes: int, minimum: int, power: float, key: tuple[int, int]
) -> np.ndarray:
    """Increasing lengths of `n_prefixes` distinct prefixes, the last of which is the whole dictionary.

    The other lengths are floor(l) of independent draws l from a Pareto law truncated to [minimum, S),

        p(l) ~ l^-(1 + power),    l = (a - u (a - b))^(-1 / power),  a = minimum^-power, b = S^-power, u ~ U[0, 1)

    drawn again while they repeat. `key` is (seed, step): the draw of a step does not depend on the steps before.

    Returns int64 {n_prefixes}. Source: arXiv 2503.17547, section 3 (random prefixes as in its appendix).
    """
    rng = np.random.default_rng(key)
    low, high = float(minimum) ** -power, float(n_latents) ** -power
    drawn: set[int] = set()
    attempts = 0
    while len(drawn) < n_prefixes - 1:
        length = int((low - rng.random() * (low - high)) ** (-1 / power))
        attempts += 1
        if (
            attempts > 1000 * n_prefixes
        ):  # a tail too thin for so many distinct lengths: take the shortest left
            length = next(free for free in range(minimum, n_latents) if free not in drawn)
        if minimum <= length < n_latents:
            drawn.add(length)
    return np.array([*sorted(drawn), n_latents], dtype=np.int64)


def prefixes_of_step(settings: StepSettings, n_latents: int, key: tuple[int, int]) -> np.ndarray:
    """The lengths of the prefixes whose mean squared errors the loss of step `key` averages."""
    if settings.objective == "mse":
        return np.array([n_latents], dtype=np.int64)
    return draw_prefixes(n_latents, settings.n_prefixes, settings.prefix_min, settings.prefix_power, key)
