def main() -> None:
    """The command `audit-latents`."""
    from saetools.cli.process import start

    start("audit-latents")
