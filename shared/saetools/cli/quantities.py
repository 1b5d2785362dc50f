"""Large numbers as people write them: 100M tokens, 50GB."""

from __future__ import annotations

import re

from saetools.errors import UsageError

COUNT_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
BYTE_UNITS = {
    **{unit: 10 ** (3 * power) for power, unit in enumerate(("B", "kB", "MB", "GB", "TB"))},
    **{unit: 2 ** (10 * power) for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), start=1)},
}


def parse_count(option: str, text: str, minimum: int = 1) -> int:
    """`500k`, `1.5M`, `100M`, `2B` or a plain number, at least `minimum`; raises UsageError."""
    return _parse(option, text, COUNT_UNITS, "a number such as 500k or 100M", minimum)


def parse_bytes(option: str, text: str) -> int:
    """`500MB`, `2GB`, `1.5GiB`, at least 1 byte; raises UsageError."""
    return _parse(option, text, BYTE_UNITS, "a size such as 500MB, 2GB or 1.5GiB")


def format_bytes(count: float) -> str:
    """1234567 -> '1.23 MB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def _parse(option: str, text: str, units: dict[str, int], expected: str, minimum: int = 1) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    lower = {unit.lower(): size for unit, size in units.items()}
    unit = found and (units.get(found[2]) or lower.get(found[2].lower()))
    count = int(float(found[1]) * unit) if found and unit else -1
    if count < minimum:
        raise UsageError(f"{option} {text}: expected {expected}")
    return count
