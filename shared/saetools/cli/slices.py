"""Parts of the work for job arrays: `--slice 3/16` is the third of sixteen."""

from __future__ import annotations

from dataclasses import dataclass

from saetools.errors import UsageError


@dataclass(frozen=True)
class Slice:
    """Part `number` of `count`, 1 <= number <= count."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def bounds(self, n: int) -> tuple[int, int]:
        """(start, stop) of this part of range(n); parts are consecutive and about equal."""
        return (self.number - 1) * n // self.count, self.number * n // self.count

    def takes(self, index: int) -> bool:
        """Whether item `index` belongs to the part, where parts take items in turn."""
        return index % self.count == self.number - 1


WHOLE = Slice(1, 1)


def parse_slice(option: str, text: str) -> Slice:
    """`3/16` -> the third of sixteen parts; raises UsageError."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(
            f"{option} {text!r}: expected I/N with 1 <= I <= N, such as 3/16 for the third of 16"
        )
    return Slice(int(number), int(count))
