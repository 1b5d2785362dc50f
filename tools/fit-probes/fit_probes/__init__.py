"""fit-probes: a one-dimensional logistic probe for every (latent, class) pair."""
