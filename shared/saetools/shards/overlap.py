"""Whether two sets of images share any: images to test on must not be those that were trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from saetools.errors import UserError
from saetools.shards.header import Examples


def check_no_overlap(
    train: Iterable[Examples],
    test: Iterable[Examples],
    where: Path,
    options: tuple[str, str] = ("--train", "--test"),
) -> None:
    """Raise UserError, with an example, where an image of `test` is an image of `train` too.

    An image is known by its path, and by the digest of its decoded picture where both sides recorded it: a copy under
    another name is the same picture.

    where: the file that the error names, one of the test side. options: how the user named the two sides.
    """
    train, test = list(train), list(test)
    first, second = options
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
    """How many images of `test` are images of `train` too, known as in `check_no_overlap`."""
    known = {name for pair in _paths(train) for name in pair if name}
    return sum(path in known or digest in known for path, digest in _paths(test))


def _paths(examples: Iterable[Examples]) -> Iterator[tuple[str, str]]:
    """(path, digest or nothing) of every image."""
    for some in examples:
        digests = [""] * len(some) if some.digest is None else map(_text, some.digest)
        yield from zip(map(str, some.path), digests, strict=True)


def _text(digest: bytes | str) -> str:
    return digest.decode("ascii") if isinstance(digest, bytes) else str(digest)
