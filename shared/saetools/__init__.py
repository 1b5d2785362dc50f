"""What the saetools commands share: file formats, SAEs, scorers, metrics and the small CLI kit."""

from importlib.metadata import version

__version__ = version("saetools")
