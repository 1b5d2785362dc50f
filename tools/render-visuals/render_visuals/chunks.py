"""Writes the page's data: scripts that hand over numbers and arrays, so that a page opened from disk may load them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from saetools.files.atomic import atomic_path

TYPES = {"<f2": "f2", "<f4": "f4", "|u1": "u1", "<u2": "u2", "<u4": "u4", "<i4": "i4"}


def write_chunk(site: Path, name: str, value: Any) -> None:
    """SITE/data/NAME.js, which calls `saetools.put(NAME, value)`; arrays inside become {"t": type, "b": base64}."""
    target = site / "data" / f"{name}.js"
    target.parent.mkdir(parents=True, exist_ok=True)
    # "</" would end the script of a page into which somebody pastes a chunk
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace(
        "</", "<\\/"
    )
    with atomic_path(target) as partial:
        partial.write_text(f"saetools.put({json.dumps(name)},{text});\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        little = np.ascontiguousarray(value, value.dtype.newbyteorder("<"))
        return {"t": TYPES[little.dtype.str], "b": base64.b64encode(little.tobytes()).decode("ascii")}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
