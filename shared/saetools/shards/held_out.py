"""Which images are held out, and whether two sets of images share any."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from saetools.errors import UserError
from saetools.shards.header import Examples

HOLDOUT = b"holdout"  # train-sae --holdout
VALIDATION = b"validation"  # dump-acts --split-validation


def uniform_of_paths(paths: Iterable[str], person: bytes) -> np.ndarray:
    """A pseudo-random number for each image, from its path alone: float64 {N} in [0, 1).

    BLAKE2b-64 of the path in UTF-8, divided by 2^64. So a path has the same number on every machine and in every data
    set, whatever other images there are. person: BLAKE2's personalisation, at most 16 bytes: numbers drawn for two
    purposes are independent.
    """
    digests = (hashlib.blake2b(path.encode(), digest_size=8, person=person).digest() for path in paths)
    return np.array([int.from_bytes(digest, "little") / 2**64 for digest in digests])


def check_no_overlap(
    train: Iterable[Examples],
    test: Iterable[Examples],
    where: Path,
    names: tuple[str, str] = ("`train`", "`test`"),
) -> None:
    """Raise UserError, with an example, where an image of `test` is an image of `train` too.

    Two images are the same if they have one path, or if both sides recorded digests of the decoded pictures and these
    agree: so a copy under another name is found too.

    where: the file that the error names, one of the test side. names: what the error calls the two sides.
    """
    train, test = list(train), list(test)
    first, second = names
    if shared := {path for path, _ in _paths(train)} & {path for path, _ in _paths(test)}:
        raise UserError(
            f"{where}: {len(shared)} images are in {first} and {second}, for example {min(shared)!r};"
            " test on images that were not trained on"
        )
    path_of = {digest: path for path, digest in _paths(train) if digest}
    copies = [(path, path_of[digest]) for path, digest in _paths(test) if digest in path_of]
    if copies:
        path, other = copies[0]
        raise UserError(
            f"{where}: {len(copies)} images of {second} are the same pictures as images of {first}, for example"
            f" {path!r} as {other!r};\ntest on images that were not trained on"
        )


def count_overlap(train: Iterable[Examples], test: Iterable[Examples]) -> int:
    """The number of images of `test` that are images of `train` too, compared as in `check_no_overlap`."""
    known = {name for pair in _paths(train) for name in pair if name}
    return sum(path in known or digest in known for path, digest in _paths(test))


def _paths(examples: Iterable[Examples]) -> Iterator[tuple[str, str]]:
    """(path, digest or nothing) of every image."""
    for some in examples:
        digests = [""] * len(some) if some.digest is None else map(_text, some.digest)
        yield from zip(map(str, some.path), digests, strict=True)


def _text(digest: bytes | str) -> str:
    return digest.decode("ascii") if isinstance(digest, bytes) else str(digest)
