"""render-visuals: pictures, one static page and plots of what latents fire on."""


def main() -> None:
    """The command `render-visuals`."""
    from saetools.cli.process import start

    start("render-visuals")
