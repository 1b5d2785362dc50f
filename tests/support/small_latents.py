"""Small files of CSR latents that tests write themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import sparse

from saetools.files.formats import LATENTS
from saetools.files.provenance import Provenance
from saetools.latents.block import Latents
from saetools.latents.header import LatentsHeader, latents_name
from saetools.latents.writer import new_latents
from saetools.shards.header import Examples


def in_columns(z_nk: np.ndarray) -> Latents:
    """The latents {N, K} of N rows in memory."""
    csc = sparse.csc_array(z_nk)
    return Latents(csc.indptr.astype(np.int64), csc.indices.astype(np.int32), csc.data, len(z_nk))


def write_latents(
    folder: Path,
    f_npk: np.ndarray,
    *,
    labels_np: np.ndarray | None = None,
    targets: Sequence[int] | None = None,
    prefix: str = "a",
    n_shards: int = 2,
    scorer: str = "uid",
    dtype: str = "float32",
    digests: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    trained_on: Sequence[bool | None] | None = None,
) -> Path:
    """Write latents {N, P, K}, every non-zero of them, as complete files of one scorer.

    digests {N}: of the pictures; class_names {N}; trained_on {n_shards}: whether the scorer was made from each shard.
    """
    n_images, n_patches, n_latents = f_npk.shape
    folder.mkdir(parents=True, exist_ok=True)
    for index, rows in enumerate(np.array_split(np.arange(n_images), n_shards)):
        header = LatentsHeader(
            *(scorer, "sae", n_latents, n_patches, 3, {"model": "m"}, None, None, n_images, index, n_shards),
            trained_on_these=None if trained_on is None else trained_on[index],
        )
        examples = Examples(
            np.array([f"{prefix}/{row:04d}.jpg" for row in rows], object),
            rows,
            np.array([-1 if targets is None else targets[row] for row in rows]),
            np.tile([1, n_patches], (len(rows), 1)),
            np.stack([40 + rows, 60 + rows], axis=1),
            None if digests is None else np.array(digests)[rows],
            None if class_names is None else np.array(class_names)[rows],
        )
        f_bk = f_npk[rows].reshape(-1, n_latents)
        at = np.nonzero(f_bk)
        labels = None if labels_np is None else labels_np[rows]
        provenance = Provenance.of(LATENTS, "encode-acts", {"test": prefix})
        with new_latents(
            folder / latents_name(index), header, provenance, examples, labels, dtype=dtype
        ) as writer:
            writer.append((f_bk != 0).sum(axis=1), at[1].astype(np.int32), f_bk[at].astype(np.float32))
    return folder
