"""Turns a sweep into commands, a Makefile or Slurm arrays."""


def main() -> None:
    """The command `expand-sweep`."""
    from saetools.cli.process import start

    start("expand-sweep")
