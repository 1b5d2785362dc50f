"""How every kernel is compiled: as the shared ones are."""

from saetools.kernels.flags import FAST

__all__ = ["FAST"]
