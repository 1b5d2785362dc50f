"""fit-heads: a linear head on the tokens of a block, for edits to act on."""


def main() -> None:
    """The command `fit-heads`."""
    from saetools.cli.process import start

    start("fit-heads")
