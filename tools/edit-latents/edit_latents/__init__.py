"""edit-latents: latents changed inside a network, and what becomes of its predictions."""


def main() -> None:
    """The command `edit-latents`."""
    from saetools.cli.process import start

    start("edit-latents")
