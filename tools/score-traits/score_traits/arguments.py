"""Which arguments of `score_traits` fit each other; UsageError names those that do not."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from saetools.errors import UsageError
from saetools.labels.cub200 import CERTAIN


def check_labels(
    traits: str | Path | None,
    pairs: str | Path | None,
    patch_traits: bool,
    certainty: Collection[int],
    drop_not_visible: bool,
    missing_rows: str | None,
) -> None:
    """Where the labels come from: one of three places, with the options of that place."""
    if sum([traits is not None, pairs is not None, patch_traits]) != 1:
        raise UsageError("expected one of `traits`, `pairs` and `patch_traits`")
    if not set(certainty) <= {1, 2, 3, 4}:
        listed = ",".join(map(str, certainty))
        raise UsageError(f"`certainty` {listed}: CUB-200-2011's certainties are 1 to 4")
    if (drop_not_visible or tuple(certainty) != CERTAIN) and not (traits and Path(traits).is_dir()):
        raise UsageError("`certainty` and `drop_not_visible` need CUB-200-2011's folder as `traits`")
    if missing_rows is not None and traits is None:
        raise UsageError("`missing_rows` needs a table of traits as `traits`")


def check_settings(
    classes: bool, patch_traits: bool, repeats: int, pool: str, bootstrap: int, bootstrap_by: str, null: int
) -> None:
    """classes: whether each trait is a class of images."""
    if patch_traits and pool != "max":
        raise UsageError(f"`pool` {pool}: `patch_traits` scores patches, which are not pooled")
    if bootstrap_by not in ("image", "class"):
        raise UsageError(f"`bootstrap_by` {bootstrap_by}: expected image or class")
    if bootstrap_by == "class" and not bootstrap:
        raise UsageError("`bootstrap_by` class: it needs `bootstrap` R too, the number of resamples")
    if bootstrap_by == "class" and classes:
        raise UsageError(
            "`bootstrap_by` class: here each trait is a class, and resampled classes hold all of its images or none;"
            " use `bootstrap_by` image"
        )
    for name, value, smallest in (("repeats", repeats, 1), ("bootstrap", bootstrap, 0), ("null", null, 0)):
        if value < smallest:
            raise UsageError(f"`{name}` {value}: expected at least {smallest}")


def parse_size(size: int | str) -> int | None:
    """The number of training images: 16, "16" or "all" -> 16, 16 or None."""
    if size == "all":
        return None
    text = str(size).strip()
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise UsageError(f"`n_train` {size!r}: expected numbers of images of at least 1, or all")
    return int(text)
