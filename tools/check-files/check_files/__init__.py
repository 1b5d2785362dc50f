def main() -> None:
    """The command `check-files`."""
    from saetools.cli.process import start

    start("check-files")
