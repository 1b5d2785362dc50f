"""Ways in which bytes of a file go wrong on disks, in copies, and by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Damage = Callable[[np.random.Generator, bytearray], str]
REPLACED = "replaced by another file"
HEAD, TAIL = 8192, 4096  # where the structure of most formats is: half of the damage goes there


def damaged(rng: np.random.Generator, content: bytes, another: bytes) -> tuple[bytes, str]:
    """Other bytes than `content`, and what was done; another: the content of another file of the zoo."""
    while True:
        data = bytearray(content)
        if rng.random() < 0.02:
            data, what = bytearray(another), REPLACED
        elif not data:
            data, what = bytearray(rng.bytes(64)), "64 random bytes"
        else:
            ways = TEXT if content[:4096].isascii() and rng.random() < 0.5 else BYTES
            what = ways[int(rng.integers(len(ways)))](rng, data)
        if data != content:
            return bytes(data), what


def _place(rng: np.random.Generator, size: int, room: int = 1) -> int:
    """A place where `room` bytes fit: half of the time anywhere, otherwise near the beginning or the end."""
    last = max(0, size - room)
    where = rng.random()
    low, high = (
        (0, last) if where < 0.5 else (0, min(HEAD, last)) if where < 0.8 else (max(0, last - TAIL), last)
    )
    return int(rng.integers(low, high + 1))


def _block(rng: np.random.Generator, size: int) -> tuple[int, int]:
    """A block: a few bytes, or some kilobytes; half of them of whole words at aligned places."""
    length = min(size, int(2 ** rng.uniform(0, 13)))
    start = _place(rng, size, length)
    if rng.random() < 0.5 and size >= 16:
        length = max(8, length & ~7)
        start = min(start & ~7, (size - length) & ~7)
    return start, min(start + length, size)


def _flip(rng: np.random.Generator, data: bytearray) -> str:
    n = int(rng.integers(1, 9)) if rng.random() < 0.5 else 1
    places = [_place(rng, len(data)) for _ in range(n)]
    for place in places:
        data[place] ^= 1 << int(rng.integers(8))
    return f"{n} bits flipped, the first in byte {places[0]}"


def _fill(rng: np.random.Generator, data: bytearray) -> str:
    start, stop = _block(rng, len(data))
    kind = ("zeros", "ones", "random bytes")[int(rng.integers(3))]
    length = stop - start
    data[start:stop] = {"zeros": bytes(length), "ones": b"\xff" * length}.get(kind) or rng.bytes(length)
    return f"bytes {start} to {stop} are {kind}"


def _copy_over(rng: np.random.Generator, data: bytearray) -> str:
    start, stop = _block(rng, len(data))
    source = _place(rng, len(data), stop - start) & ~7
    data[start:stop] = data[source : source + stop - start].ljust(stop - start, b"\0")
    return f"bytes {start} to {stop} are those from {source} on"


def _swap(rng: np.random.Generator, data: bytearray) -> str:
    start, stop = _block(rng, len(data))
    length = stop - start
    if rng.random() < 0.5:  # neighbours, such as two words or two rows
        other = stop
    else:
        other = _place(rng, len(data), length) // max(1, length) * length + start % max(1, length)
    if other + length > len(data) or (start < other + length and other < stop):
        return "nothing"
    data[start:stop], data[other : other + length] = data[other : other + length], data[start:stop]
    return f"{length} bytes at {start} and {other} swapped"


def _truncate(rng: np.random.Generator, data: bytearray) -> str:
    kept = _place(rng, len(data))
    del data[kept:]
    return f"cut after {kept} bytes"


def _extend(rng: np.random.Generator, data: bytearray) -> str:
    length = int(2 ** rng.uniform(0, 13))
    more = (bytes(length), rng.bytes(length), bytes(data[:length]))[int(rng.integers(3))]
    data += more
    return f"{len(more)} bytes more at the end"


def _insert(rng: np.random.Generator, data: bytearray) -> str:
    start, stop = _block(rng, len(data))
    data[start:start] = data[start:stop] if rng.random() < 0.5 else rng.bytes(stop - start)
    return f"{stop - start} bytes more at {start}"


def _delete(rng: np.random.Generator, data: bytearray) -> str:
    start, stop = _block(rng, len(data))
    del data[start:stop]
    return f"bytes {start} to {stop} are gone"


def _digit(rng: np.random.Generator, data: bytearray) -> str:
    places = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if not places:
        return "nothing"
    place = places[int(rng.integers(len(places)))]
    data[place] = 48 + (data[place] - 48 + int(rng.integers(1, 10))) % 10
    return f"another digit in byte {place}"


def _lines(rng: np.random.Generator, data: bytearray) -> str:
    lines = bytes(data).splitlines(keepends=True)
    i, j = int(rng.integers(len(lines))), int(rng.integers(len(lines)))
    what = ("swapped", "repeated", "gone")[int(rng.integers(3))]
    if what == "swapped":
        lines[i], lines[j] = lines[j], lines[i]
    elif what == "repeated":
        lines.insert(j, lines[i])
    else:
        del lines[i]
    data[:] = b"".join(lines)
    return f"line {i} {what} (with {j})"


def _word(rng: np.random.Generator, data: bytearray) -> str:
    """A mark of the syntax is another: what an editor or a script gets wrong."""
    marks = b',;"{}[]:\n\r\t \\-.eE'
    places = [i for i, byte in enumerate(data) if byte in marks]
    if not places:
        return "nothing"
    place = places[int(rng.integers(len(places)))]
    data[place] = marks[int(rng.integers(len(marks)))]
    return f"another mark in byte {place}"


BYTES: tuple[Damage, ...] = (
    _flip,
    _flip,
    _fill,
    _fill,
    _copy_over,
    _swap,
    _swap,
    _truncate,
    _extend,
    _insert,
    _delete,
)
TEXT: tuple[Damage, ...] = (_digit, _digit, _lines, _word)
