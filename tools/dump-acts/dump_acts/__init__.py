def main() -> None:
    """The command `dump-acts`."""
    from saetools.cli.process import start

    start("dump-acts")
