"""Sparse autoencoders that find visual traits: activations, SAEs, latents and tables from Python. See docs/python.md.

>>> import saetools as st
>>> acts, sae = st.open_shards("acts/train"), st.load_sae("sae.h5")
>>> sae.encode(acts.read(images=slice(0, 8)))

What a name needs is imported when the name is first used, so that importing the package costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edit_latents.api import edit_latents as edit_latents
    from fit_heads.api import fit_heads as fit_heads
    from saetools.errors import UserError as UserError
    from saetools.files.tables import read_table as read_table
    from saetools.latents.reader import open_latents as open_latents
    from saetools.scorers.file import load_sae as load_sae
    from saetools.scorers.file import load_scorer as load_scorer
    from saetools.scorers.head import load_head as load_head
    from saetools.scorers.sae import SAE as SAE
    from saetools.shards.reader import open_shards as open_shards
    from saetools.vision.edits import edit as edit
    from saetools.vision.new_images import encode_image as encode_image
    from saetools.vision.new_images import load_model as load_model
    from saetools.vision.new_images import overlay as overlay
    from score_traits.api import score_traits as score_traits
    from train_sae.api import train_sae as train_sae
    from train_sae.config import SAETraining as SAETraining

    __version__: str

_MODULES = {
    "SAE": "saetools.scorers.sae",
    "SAETraining": "train_sae.config",
    "UserError": "saetools.errors",
    "edit": "saetools.vision.edits",
    "edit_latents": "edit_latents.api",
    "encode_image": "saetools.vision.new_images",
    "fit_heads": "fit_heads.api",
    "load_head": "saetools.scorers.head",
    "load_model": "saetools.vision.new_images",
    "load_sae": "saetools.scorers.file",
    "load_scorer": "saetools.scorers.file",
    "open_latents": "saetools.latents.reader",
    "open_shards": "saetools.shards.reader",
    "overlay": "saetools.vision.new_images",
    "read_table": "saetools.files.tables",
    "score_traits": "score_traits.api",
    "train_sae": "train_sae.api",
}
# Names that live in a tool, and the command of that tool
_COMMANDS = {
    "SAETraining": "train-sae",
    "edit_latents": "edit-latents",
    "fit_heads": "fit-heads",
    "score_traits": "score-traits",
    "train_sae": "train-sae",
}

__all__ = [
    "SAE",
    "SAETraining",
    "UserError",
    "edit",
    "edit_latents",
    "encode_image",
    "fit_heads",
    "load_head",
    "load_model",
    "load_sae",
    "load_scorer",
    "open_latents",
    "open_shards",
    "overlay",
    "read_table",
    "score_traits",
    "train_sae",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("saetools")
    if name not in _MODULES:
        raise AttributeError(f"module 'saetools' has no attribute {name!r}")
    try:
        found = getattr(import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        if error.name != _MODULES[name].split(".")[0]:
            raise
        raise ImportError(
            f"saetools.{name} is in the tool {_COMMANDS[name]}, which is not installed; install all of saetools with"
            f" pip install . at the root of the checkout, or that tool with pip install ./tools/{_COMMANDS[name]}"
        ) from error
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
