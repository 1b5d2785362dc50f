"""The groups of options in the --help of dump-acts, and options that are more than a number or a word."""

from __future__ import annotations

from saetools.cli.app import parse_numbers
from saetools.errors import UsageError
from saetools.labels import IGNORED_LABEL

GROUPS = {
    "Images": "split split_validation layout on_bad_image",
    "Model": "model weights layers grid mean std precision",
    "Patch labels, from masks": "patch_label background ignore",
    "What is stored": "out dtype cls images_per_shard",
    "Running": "dry_run part max_disk batch_size workers",
}


def parse_channels(flag: str, text: str | None) -> list[float] | None:
    """Three numbers, for R, G and B; above 0 for --std."""
    values = parse_numbers(flag, text, float, 3) if text is not None else None
    if flag == "--std" and values is not None and min(values) <= 0:
        raise UsageError("--std: every value must be above 0")
    return values


def parse_mask_values(flag: str, text: str | None, default: list[int]) -> list[int]:
    """Mask values, sorted, each once."""
    values = parse_numbers(flag, text, int) if text is not None else default
    if min(values, default=0) < 0 or max(values, default=0) > IGNORED_LABEL:
        raise UsageError(f"{flag} {text}: mask values are from 0 to {IGNORED_LABEL}")
    return sorted(set(values))


def parse_grid(text: str) -> int | None:
    """None for the model's own grid, or the number of patches of `native:640`."""
    kind, _, number = text.partition(":")
    if text == "model":
        return None
    if kind == "native" and number.isdecimal() and int(number) > 0:
        return int(number)
    raise UsageError(
        f"--grid {text}: expected model, or native:P with the number of patches, such as native:640"
    )
