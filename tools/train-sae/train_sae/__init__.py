def main() -> None:
    """The command `train-sae`."""
    from saetools.cli.process import start

    start("train-sae")
