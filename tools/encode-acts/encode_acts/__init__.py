def main() -> None:
    """The command `encode-acts`."""
    from saetools.cli.process import start

    start("encode-acts")
