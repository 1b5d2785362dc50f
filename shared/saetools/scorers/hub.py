"""SAEs on the Hugging Face hub: `hf://OWNER/NAME/FILE`, or `hf://OWNER/NAME/FOLDER` of SAELens."""

from __future__ import annotations

from pathlib import Path

from saetools.errors import UserError

HUB = "hf://"
FILE_SUFFIXES = (".h5", ".pt")
SAELENS_FILES = ("cfg.json", "sae_weights.safetensors")


def download(address: str) -> Path:
    """The file, or folder of SAELens, on this machine; fetched where the hub's cache does not have it.

    Raises UserError where the address is not one, the package huggingface_hub is not installed, or nothing can be
    fetched.
    """
    owner, _, rest = address.removeprefix(HUB).partition("/")
    name, _, inside = rest.partition("/")
    if not (owner and name):
        raise UserError(f"{address}: expected {HUB}OWNER/NAME/FILE, such as {HUB}owner/birds-sae/sae.h5")
    is_file = inside.endswith(FILE_SUFFIXES)
    wanted = [inside] if is_file else [f"{inside}/{file}".lstrip("/") for file in SAELENS_FILES]
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise UserError(
            f"{address}: the package huggingface_hub is not installed; install it with pip install huggingface_hub"
        ) from error
    try:
        found = [Path(hf_hub_download(f"{owner}/{name}", file)) for file in wanted]
    except (
        Exception
    ) as error:  # those of the hub's client, and of the client of HTTP below it, which has changed
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{address}: it could not be downloaded ({first_line});"
            " check the address and the network, or download the file yourself and load it by its path"
        ) from error
    return found[0] if is_file else found[0].parent
