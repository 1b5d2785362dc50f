"""AP tables: the rows of one scorer, the names that scorers are shown by, and mAP of groups of rows."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saetools.errors import UserError, some_of
from saetools.files.tables import check_columns, sidecar_path, sidecar_values, write_sidecar

if TYPE_CHECKING:
    import pandas as pd
    from pandas.core.groupby import SeriesGroupBy

SCORER_FILES = "scorer_files"  # in the sidecar of an AP table
SEED = "{seed}"  # in the path of a scorer file: each repeat has its own
_SEED_PART = re.compile(r"[-_.]?(seed[-_=]?)?\{seed\}")


def rows_of_scorer(
    path: Path,
    table: pd.DataFrame,
    *,
    uid: str,
    kind: str,
    n_prototypes: int,
    layer: int | None = None,
    file: Path | None = None,
) -> pd.DataFrame:
    """The rows of the AP table at `path` that belong to one scorer; at least one.

    uid, kind: the scorer's, as in the header of latents and in the provenance of a scorer file; n_prototypes: K.
    Since version 2, the table's sidecar lists the uid of each scorer file, and rows are selected by uid; rows of
    `const`, `units` and others without a file are selected by kind. In tables of version 1, and without a sidecar, rows
    are selected by kind and K (and `layer`, if it is given); if these have several checkpoints, by the name of `file`,
    the scorer's own file.
    Raises UserError where no row belongs to the scorer, or where several scorers are possible.
    """
    check_columns(path, table, ["scorer", "n_prototypes"], "finding the rows of a scorer")
    here = table[(table["scorer"] == kind) & (table["n_prototypes"] == n_prototypes)]
    if layer is not None and "layer" in here:
        here = here[here["layer"] == layer]
    listed = scorer_files(path)
    what = f"{kind} scorer with {n_prototypes} prototypes" + ("" if layer is None else f" on layer {layer}")
    if not len(here):
        raise UserError(
            f"{path}: no row is of a {what}; it holds {_held(table)};\ngive the AP table of the same scorer"
        )
    if listed is not None and len(uid) == 32:
        mine = [entry for entry in listed if entry["uid"] == uid and entry["kind"] == kind]
        kept = here[[any(_is_of(entry, row) for entry in mine) for row in here.to_dict("records")]]
        if not len(kept):
            raise UserError(
                f"{path}: its rows of a {what} are of another scorer than this one, whose uid is {uid};\n"
                "score its file with score-traits --scorer FILE, and give that table"
            )
        return kept
    if "checkpoint" in here and here["checkpoint"].nunique(dropna=False) > 1:
        if file is not None:
            here = here[[isinstance(one, str) and Path(one).name == file.name for one in here["checkpoint"]]]
        if here["checkpoint"].nunique(dropna=False) != 1:
            raise UserError(
                f"{path}: it holds several scorers of this kind and size; give a table of one, or score the file"
                " again with score-traits: the new table says which rows are whose"
            )
    return here


def scorer_files(path: Path) -> list[dict[str, Any]] | None:
    """The list of scorer files in the sidecar of the AP table at `path`; None for version 1, or without a sidecar.

    spec: as it was given (`checkpoint`, with `{seed}`), or `random:K` and the like for those that were saved; kind,
    n_prototypes and layer as in the rows; seed: None where one file is used for all; n_train: for `linear` only; uid.
    """
    if not sidecar_path(path).is_file():
        return None
    found = sidecar_values(path).get(SCORER_FILES)
    if found is None:
        return None
    needed = {"spec", "kind", "n_prototypes", "layer", "seed", "uid"}
    if not isinstance(found, list) or not all(
        isinstance(one, Mapping) and needed <= set(one) for one in found
    ):
        raise UserError(
            f"{sidecar_path(path)}: its {SCORER_FILES} are broken; write it again with score-traits"
        )
    return [dict(one) for one in found]


def list_scorer_files(path: Path, files: Sequence[Mapping[str, Any]]) -> None:
    """Update the list of scorer files of an existing AP table, where the same scorers were written to files again.

    Scorers that were saved with the table stay in the list. A table of version 1 is not changed.
    """
    before = scorer_files(path)
    if before is None:
        return

    def key(entry: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(entry.get(name) for name in ("spec", "kind", "layer", "seed", "n_train"))

    now = [*{key(entry): dict(entry) for entry in [*before, *files]}.values()]
    if now != before:
        write_sidecar(path, {**sidecar_values(path), SCORER_FILES: now})


def name_scorers(table: pd.DataFrame) -> list[str]:
    """The name to show for the scorer of each row: its kind, and the file's name if there are several files of a kind.

    Uses the column `scorer`, and `checkpoint` and `layer` if they exist. A file's name is its stem without `{seed}`,
    with its folders if two stems are equal; all without `layerL` of its own layer, so that one SAE per layer or per
    seed has one name. It never contains a uid.
    """
    kinds = [str(kind) for kind in table["scorer"]]
    if "checkpoint" not in table:
        return kinds
    layers = table["layer"] if "layer" in table else [None] * len(table)
    files = [
        _plain_path(one, layer) if isinstance(one, str) else None
        for one, layer in zip(table["checkpoint"], layers, strict=True)
    ]
    of_kind: dict[str, set[str | None]] = {}
    for kind, file in zip(kinds, files, strict=True):
        of_kind.setdefault(kind, set()).add(file)
    names = {
        (kind, file): kind if file is None or len(several) == 1 else f"{kind} {shortest_end(file, several)}"
        for kind, several in of_kind.items()
        for file in several
    }
    return [names[key] for key in zip(kinds, files, strict=True)]


def mean_ap(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """mAP of each group of an AP table's rows: traits (with an AP), map, and the quantiles ap_5 and ap_95 over traits.

    by: the columns that identify a group, such as those of a run; groups are in order of appearance.
    """
    import pandas as pd

    groups = table.groupby(list(by), sort=False, dropna=False)["ap"]
    return pd.DataFrame(
        {
            "traits": groups.count(),
            "map": groups.mean(),
            "ap_5": groups.quantile(0.05),
            "ap_95": groups.quantile(0.95),
        }
    )


def spread(groups: SeriesGroupBy) -> pd.Series:
    """The standard deviation of each group's values (over seeds, ...); NaN instead of 0 where all are equal."""
    return groups.std().where(groups.max() > groups.min())


def _plain_path(checkpoint: str, layer: object) -> str:
    path = Path(_SEED_PART.sub("", checkpoint) or checkpoint)
    stem = path.stem if path.suffix in (".h5", ".pt") else path.name
    number = f"{layer:g}" if isinstance(layer, int | float) else str(layer)
    own_layer = re.compile(rf"[-_.]?layer[-_=]?{re.escape(number)}(?![0-9])")
    folders = [own_layer.sub("", part) for part in path.parent.parts]
    return str(Path(*filter(None, folders), own_layer.sub("", stem) or stem or checkpoint))


def shortest_end(file: str, several: Collection[str | None]) -> str:
    """The shortest end of the path that differs from those of the other files."""
    parts = Path(file).parts
    others = [Path(other).parts for other in several if other is not None and other != file]
    n = 1
    while n < len(parts) and any(other[-n:] == parts[-n:] for other in others):
        n += 1
    return "/".join(parts[-n:])


def _is_of(entry: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
    """Whether a row, of the entry's kind, belongs to the entry's file."""
    checkpoint = row.get("checkpoint")
    if isinstance(checkpoint, str):
        spec_fits = entry["spec"].removeprefix("untrained:") == checkpoint
    else:
        spec_fits = entry["spec"].partition(":")[0] == row["scorer"]
    return spec_fits and all(
        entry.get(name) is None or name not in row or entry[name] == row[name]
        for name in ("n_prototypes", "layer", "seed", "n_train")
    )


def _held(table: pd.DataFrame) -> str:
    pairs = table[["scorer", "n_prototypes"]].drop_duplicates()
    held: Sequence[str] = [f"{kind} ({k:g})" for kind, k in pairs.itertuples(index=False)]
    return some_of(held, 6) or "no rows"
