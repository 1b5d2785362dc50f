"""Labels as the solver takes them: classes are fitted together where the same rows have a label."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fit_probes.problem import Labels
from saetools.labels.rows import RowLabels


def label_groups(
    rows: RowLabels, classes: npt.NDArray[np.int64]
) -> list[tuple[npt.NDArray[np.int64], Labels]]:
    """(positions in `classes`, their labels) of each group of classes whose labels are known for the same rows."""
    if rows.ids is not None:
        labels = Labels.from_classes(rows.ids, rows.n_classes, ignore=-1, classes=classes)
        return [(np.arange(len(classes)), labels)]
    assert rows.table is not None and rows.known is not None
    known_nc = rows.known[:, classes]
    patterns, group_c = np.unique(np.packbits(known_nc, axis=0), axis=1, return_inverse=True)
    found = []
    for group in range(patterns.shape[1]):
        positions = np.flatnonzero(group_c.ravel() == group)
        keep_n = known_nc[:, positions[0]]
        found.append((positions, Labels.from_table(rows.table[:, classes[positions]], keep=keep_n)))
    return found
