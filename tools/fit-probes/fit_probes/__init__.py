"""fit-probes: a one-dimensional logistic probe for every (latent, class) pair."""

__version__ = "0.1.0"
