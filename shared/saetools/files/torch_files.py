"""Reads and writes what torch.save writes: no pickled code is run, and checksums are compared."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from saetools.errors import UserError


def load_torch(path: Path, file: BinaryIO) -> Any:
    """The object in an open file, or in what is left of it, on the CPU.

    Files of torch 1.6 and later are zip archives, of which the CRC-32 of every entry is compared: torch itself does not
    do it. Older ones have no checksum. Raises UserError, naming `path`, where the file is broken.
    """
    content = file if file.tell() == 0 else io.BytesIO(file.read())
    try:
        is_zip = content.read(4) == b"PK\x03\x04"
        if is_zip:
            _check_zip(path, content)
        content.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on types of tensors that readers refuse, and of old files
            return torch.load(content, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch, pickle and zipfile raise errors of any kind on damaged files
        found = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{path}: torch.load could not read it ({found}); expected tensors saved with torch.save: get it again"
        ) from error


def _check_zip(path: Path, content: BinaryIO) -> None:
    with zipfile.ZipFile(content) as archive:
        entries = archive.infolist()
        if packed := next((entry for entry in entries if entry.compress_type != zipfile.ZIP_STORED), None):
            raise UserError(
                f"{path}: {packed.filename} in it is compressed, as torch.save never does; save it again"
            )
        # torch finds nothing in what says that it is a folder, and leaves the tensor as its memory was
        if any(entry.external_attr & 0x10 or entry.is_dir() for entry in entries) or len(entries) > len(
            {entry.filename for entry in entries}
        ):
            raise UserError(f"{path}: its list of contents is damaged; get the file again")
        if not any(entry.CRC for entry in entries):
            return  # saved after torch.serialization.set_crc32_options(False)
        if damaged := archive.testzip():
            raise UserError(f"{path}: {damaged} in it is damaged (its CRC-32 differs); get the file again")


def load_safetensors(path: Path, content: bytes | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file at `path`, or of its bytes, on the CPU; raises UserError where it is broken."""
    import safetensors.torch

    try:
        return safetensors.torch.load_file(path) if content is None else safetensors.torch.load(content)
    except Exception as error:  # it has more kinds of errors than its own
        raise UserError(f"{path}: not a safetensors file, or cut short: {error}; get it again") from error


def saved_by_torch(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """What torch.save writes. (A full disk under its own writing ends in an error that does not say so.)"""
    content = io.BytesIO()
    torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, content)
    return content.getvalue()
