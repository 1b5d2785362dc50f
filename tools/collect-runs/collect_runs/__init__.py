def main() -> None:
    """The command `collect-runs`."""
    from saetools.cli.process import start

    start("collect-runs")
