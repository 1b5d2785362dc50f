def main() -> None:
    """The command `convert-sae`."""
    from saetools.cli.process import start

    start("convert-sae")
