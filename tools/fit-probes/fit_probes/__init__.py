"""fit-probes: a one-dimensional logistic probe for every (latent, class) pair."""


def main() -> None:
    """The command `fit-probes`."""
    from saetools.cli.process import start

    start("fit-probes")
