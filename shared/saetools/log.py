"""The library's logger. A command shows its lines on stderr; in Python, `logging` decides."""

import logging

logger = logging.getLogger("saetools")
