def main() -> None:
    """The command `score-traits`."""
    from saetools.cli.process import start

    start("score-traits")
