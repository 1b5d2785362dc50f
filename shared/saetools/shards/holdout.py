"""Numbers drawn for images by their paths alone, by which images are held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

HOLDOUT = b"holdout"  # train-sae --holdout
VALIDATION = b"validation"  # dump-acts --split-validation


def uniform_of_paths(paths: Iterable[str], person: bytes) -> np.ndarray:
    """float64 {N} in [0, 1), as good as random, and the same for a path everywhere.

    BLAKE2b-64 of the path in UTF-8, as a share of 2^64. The order and the number of images do not matter. person: for
    what it is drawn, at most 16 bytes: draws for two purposes are independent.
    """
    digests = (hashlib.blake2b(path.encode(), digest_size=8, person=person).digest() for path in paths)
    return np.array([int.from_bytes(digest, "little") / 2**64 for digest in digests])
